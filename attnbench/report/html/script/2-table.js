// A table that draws only the rows in sight, sorted by a click on a heading and filtered by what is typed above it.

const ROW_HEIGHT = 36;
const WINDOWED_FROM = 50;
const PRINTED = 150;
const SPARE = 4;

class RowTable {
  // columns: {name, label, hint, value(row), show(row) -> text or node, numeric, aside}
  constructor(scroller, columns, { label, sort = null, onfilter = null, more = [], elsewhere = "" } = {}) {
    Object.assign(this, { scroller, columns, onfilter, label, sort, words: "", rows: [], shown: [], complaint: "", filter: new Filter(columns, { more, elsewhere }) });
    this.heads = columns.map((column, place) => {
      const button = el("button", { type: "button", title: column.hint || null, onclick: () => this.sortBy(place) }, column.label);
      return el("th", { scope: "col", class: this.classOf(column), "aria-colindex": place + 1 }, button);
    });
    this.body = el("tbody");
    this.table = el("table", { "aria-label": label, "aria-colcount": columns.length }, el("thead", {}, el("tr", { "aria-rowindex": 1 }, ...this.heads)), this.body);
    scroller.replaceChildren(this.table);
    scroller.addEventListener("scroll", () => this.paint());
    this.table.addEventListener("keydown", (event) => this.move(event));
    addEventListener("beforeprint", () => this.paint(true));
    addEventListener("afterprint", () => this.paint());
  }

  classOf(column) { return [column.numeric ? "number" : "", column.class || ""].filter(Boolean).join(" ") || null; }

  setRows(rows) { this.rows = rows; this.refresh(); }

  filterBy(words) { this.words = words; this.refresh(); }

  sortBy(place) {
    const [before, up] = this.sort || [];
    const first = !this.columns[place].numeric || Boolean(this.columns[place].rising);
    this.sort = [place, before === place ? !up : first];
    this.show(this.shown);
  }

  refresh() {
    const { test, said } = this.filter.of(this.words, this.rows), kept = test ? this.rows.filter(test) : this.rows;
    this.complaint = said || (kept.length || !this.rows.length ? "" : `No row has all of “${echo(this.words.trim())}”.`);
    this.show(kept);
    if (this.onfilter) this.onfilter(kept);
  }

  show(kept) {
    this.shown = this.sort ? this.ordered(kept) : [...kept];
    this.heads.forEach((head, place) => {
      if (this.sort && this.sort[0] === place) head.setAttribute("aria-sort", this.sort[1] ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
    this.table.setAttribute("aria-rowcount", kept.length + 1);
    this.scroller.scrollTop = 0;
    this.paint();
  }

  // Rows without a value come last, whichever way the others are sorted.
  ordered(rows) {
    const [place, up] = this.sort, value = this.columns[place].value, sign = up ? 1 : -1, known = [], unknown = [];
    for (const row of rows) {
      const key = value(row);
      if (key === null || key === undefined) unknown.push(row);
      else known.push({ key, row });
    }
    known.sort((one, other) => (one.key < other.key ? -sign : one.key > other.key ? sign : 0));
    return [...known.map((each) => each.row), ...unknown];
  }

  paint(whole = false) {
    const total = this.shown.length, all = total <= WINDOWED_FROM;
    const seen = Math.ceil((this.scroller.clientHeight || 600) / ROW_HEIGHT);
    const first = all || whole ? 0 : Math.max(0, Math.floor(this.scroller.scrollTop / ROW_HEIGHT) - SPARE);
    const last = all ? total : Math.min(total, whole ? PRINTED : first + seen + 2 * SPARE);
    const held = document.activeElement && this.body.contains(document.activeElement) ? document.activeElement.closest("tr").ariaRowIndex : null;
    const spacer = (count) => {
      if (!count) return null;
      const cell = el("td", { colspan: this.columns.length });
      cell.style.height = `${count * ROW_HEIGHT}px`;
      return el("tr", { class: "spacer", "aria-hidden": "true" }, cell);
    };
    const lines = this.shown.slice(first, last).map((row, place) => this.line(row, first + place));
    this.table.classList.toggle("whole", all);
    this.body.replaceChildren(...[spacer(first), ...lines, spacer(whole ? 0 : total - last)].filter(Boolean));
    if (held !== null) this.focus(Number(held) - 2);
  }

  line(row, place) {
    const cells = this.columns.map((column, at) => el(at ? "td" : "th", { class: this.classOf(column), scope: at ? null : "row" }, column.show(row)));
    return el("tr", { "aria-rowindex": place + 2 }, ...cells);
  }

  focus(place) {
    const line = this.body.querySelector(`tr[aria-rowindex="${place + 2}"] button`);
    if (line) line.focus({ preventScroll: true });
  }

  // Arrow keys, Home and End go from row to row.
  move(event) {
    const line = event.target.closest("tbody tr[aria-rowindex]");
    if (!line) return;
    const at = Number(line.getAttribute("aria-rowindex")) - 2, last = this.shown.length - 1;
    const to = { ArrowDown: Math.min(at + 1, last), ArrowUp: Math.max(at - 1, 0), Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (last < WINDOWED_FROM) { this.focus(to); document.activeElement.scrollIntoView({ block: "nearest" }); return; }
    const top = to * ROW_HEIGHT, height = this.scroller.clientHeight - 2 * ROW_HEIGHT;
    if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
    if (top > this.scroller.scrollTop + height) this.scroller.scrollTop = top - height;
    this.paint();
    this.focus(to);
  }
}
