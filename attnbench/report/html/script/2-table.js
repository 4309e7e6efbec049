// A table that draws only the rows in sight: sorted by a click on a heading, filtered by words and by comparisons
// such as density<0.2.

const ROW_HEIGHT = 36;
const WINDOWED_FROM = 50;
const PRINTED = 150;
const SPARE = 4;
const COMPARISON = /^([^<>=]*)(<=|>=|<|>|=)([^<>=]*)$/, NUMBER = /^-?\d*\.?\d+(?:e[-+]?\d+)?/i, UNITS = ["", "×", "x", "ms", "mib", "db"];

class RowTable {
  // columns: {name, label, hint, value(row), show(row) -> text or node, numeric, hide}
  constructor(scroller, columns, { label, sort = null, onfilter = null } = {}) {
    Object.assign(this, { scroller, columns, onfilter, label, sort, words: "", rows: [], shown: [], texts: new Map(), complaint: "" });
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

  classOf(column) { return [column.numeric ? "number" : "", column.hide ? `hide-${column.hide}` : "", column.class || ""].filter(Boolean).join(" ") || null; }

  setRows(rows) { this.rows = rows; this.refresh(); }

  filterBy(words) { this.words = words; this.refresh(); }

  sortBy(place) {
    const [before, up] = this.sort || [];
    const first = !this.columns[place].numeric || Boolean(this.columns[place].rising);
    this.sort = [place, before === place ? !up : first];
    this.show(this.shown);
  }

  refresh() {
    this.complaint = "";
    const kept = this.words.trim() ? this.rows.filter(this.test()) : this.rows;
    if (!kept.length && this.rows.length && !this.complaint) this.complaint = `No row has all of “${this.words.trim()}”.`;
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

  // What the filter asks of a row: comparisons of columns, and words that stand anywhere in it. What cannot be understood
  // is left out and said.
  test() {
    const words = [], tests = [], unread = [];
    const joined = this.words.toLowerCase().replace(/,\s+|,$/g, " ").replace(/([^\s<>=])\s*(<=|>=|<|>|=)\s*(?=[^\s<>=])/g, "$1$2");
    for (const word of joined.split(/\s+/).filter(Boolean)) {
      if (!/[<>=]/.test(word)) { words.push(word); continue; }
      const found = this.comparison(word);
      if (typeof found === "string") unread.push(found);
      else tests.push(found);
    }
    if (unread.length) this.complaint = `Not understood: ${unread.join("; ")}.`;
    return (row) => tests.every((test) => test(row)) && words.every((word) => this.textOf(row).includes(word));
  }

  // The test of one comparison; or, as text, what is wrong with it and what would be right.
  comparison(word) {
    const [, name, sign, bound] = COMPARISON.exec(word) || [];
    if (!name || !bound) return `“${word}”: a column, then <, <=, >, >= or =, then a value, as in density<0.2, would be right`;
    const is = (each, text) => [each.name, each.label].some((one) => one.toLowerCase() === text);
    const column = this.columns.find((each) => is(each, name)) || this.columns.find((each) => each.label.toLowerCase().replace(/\W/g, "") === name.replace(/\W/g, ""));
    if (!column) return `“${name}” is none of the columns, which are ${this.columns.map((each) => each.label).join(", ")}`;
    if (!column.numeric) {
      if (sign === "=") return (row) => String(column.text ? column.text(row) : column.value(row) ?? "").toLowerCase().includes(bound);
      return `“${word}”: ${column.label} holds words, so ${name}=${bound} would be right`;
    }
    const digits = NUMBER.exec(bound);
    if (!digits || !UNITS.includes(bound.slice(digits[0].length))) return `“${bound}” in “${word}” is not a number: ${name}${sign}0.5 would be right`;
    const than = Number(digits[0]), holds = { "<": (a) => a < than, ">": (a) => a > than, "<=": (a) => a <= than, ">=": (a) => a >= than, "=": (a) => a === than }[sign];
    return (row) => { const value = column.value(row); return value !== null && value !== undefined && holds(value); };
  }

  textOf(row) {
    if (!this.texts.has(row)) this.texts.set(row, this.columns.map((column) => column.text ? column.text(row) : column.value(row) ?? "").join(" ").toLowerCase());
    return this.texts.get(row);
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
