// The filter above a table: words that begin a word of its rows, and comparisons of columns such as density<0.2.

const COMPARISON = /^([^<>=]*)(<=|>=|<|>|=)([^<>=]*)$/, NUMBER = /^-?\d*\.?\d+(?:e[-+]?\d+)?/i, UNITS = ["", "x", "ms", "mib", "db"];
const HOLDS = { "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "=": (a, b) => looksLike(a, b) };
// What a reader typed, as it is told back: never longer than a line.
const echo = (text) => (text.length > 60 ? `${text.slice(0, 59)}…` : text);
// Whether a value is the one that was typed, at the precision that tables show: .2503 is 0.250.
const looksLike = (value, typed) => value === typed || number(value) === number(typed);
const plainly = (text) => String(text ?? "").toLowerCase().replaceAll("×", "x");

// Whether a word of the text begins like this: "40 heads" is not in "140 heads", nor "moba" in "vmoba".
function begins(text, word) {
  for (let at = text.indexOf(word); at >= 0; at = text.indexOf(word, at + 1)) {
    if (!at || !/[\p{L}\p{N}.]/u.test(text[at - 1]) || !/[\p{L}\p{N}]/u.test(word[0])) return true;
  }
  return false;
}

// What is typed, in parts: quoted words stay together, and so does a number with the word behind it, as in 40 heads.
function partsOf(text) {
  const joined = text.toLowerCase().replace(/[“”]/g, "\"").replace(/,\s+|,$/g, " ").replace(/([^\s<>=])\s*(<=|>=|<|>|=)\s*(?=[^\s<>=])/g, "$1$2");
  const parts = [];
  for (const part of joined.match(/(?:"[^"]*"|[^\s"])+/g) || []) {
    const word = part.replaceAll("\"", "").trim(), before = parts.length - 1;
    if (before >= 0 && /^\d+$/.test(parts[before]) && /^[a-z][^<>=]*$/.test(word)) parts[before] += ` ${word}`;
    else if (word) parts.push(word);
  }
  return parts;
}

class Filter {
  // columns: those of a RowTable. Words are looked for in the text of columns that are not aside; comparisons take any
  // column, also those of more, which the table does not show. elsewhere: where a reader may look for what no row has.
  constructor(columns, { more = [], elsewhere = "" } = {}) {
    Object.assign(this, { columns: [...columns, ...more], elsewhere, texts: new Map() });
    this.searched = columns.filter((column) => !column.numeric && !column.aside);
  }

  textOf(column, row) { return plainly(column.text ? column.text(row) : column.value(row)); }

  has(row, word) {
    if (!this.texts.has(row)) this.texts.set(row, this.searched.map((column) => this.textOf(column, row)));
    return this.texts.get(row).some((text) => begins(text, word));
  }

  // The test of a row, or null if nothing is asked, and what of the words could not be understood or found.
  of(words, rows) {
    const tests = [], unread = [], absent = [];
    for (const part of partsOf(words)) {
      const found = /[<>=]/.test(part) ? this.comparison(part) : (row) => this.has(row, plainly(part));
      if (typeof found === "string") { unread.push(found); continue; }
      const word = !/[<>=]/.test(part) && !rows.some(found), named = word && this.columns.find((column) => [column.name, column.label].includes(part));
      if (named) { unread.push(`“${echo(part)}” is a column, so ${part}${named.numeric ? "<0.5" : "=…"} would be right`); continue; }
      tests.push(found);
      if (word) absent.push(this.absence(part, rows));
    }
    const said = [...(unread.length ? [`Not understood: ${unread.join("; ")}.`] : []), ...absent];
    return { test: tests.length ? (row) => tests.every((test) => test(row)) : null, said: said.join(" ") };
  }

  absence(word, rows) {
    const found = this.columns.filter((column) => !column.numeric && !this.searched.includes(column) && rows.some((row) => begins(this.textOf(column, row), plainly(word))));
    const where = `No row has “${echo(word)}” in ${listed(this.searched.map((column) => column.label), "or")}.`;
    if (found.length) return `${where} For ${found[0].label}, ${found[0].label}=${/\s/.test(word) ? `"${echo(word)}"` : echo(word)} would be right.`;
    return `${where}${this.elsewhere ? ` ${this.elsewhere}` : ""}`;
  }

  // The test of one comparison; or, as text, what is wrong with it and what would be right.
  comparison(part) {
    const [, name, sign, bound] = COMPARISON.exec(part) || [];
    if (!name || !bound) return `“${echo(part)}”: a column, then <, <=, >, >= or =, then a value, as in density<0.2, would be right`;
    const is = (each, text) => [each.name, each.label].some((one) => one.toLowerCase() === text);
    const column = this.columns.find((each) => is(each, name)) || this.columns.find((each) => each.label.toLowerCase().replace(/\W/g, "") === name.replace(/\W/g, ""));
    if (!column) return `“${echo(name)}” is none of the columns, which are ${this.columns.map((each) => each.label).join(", ")}`;
    if (!column.numeric) {
      if (sign === "=") return (row) => begins(this.textOf(column, row), plainly(bound));
      return `“${echo(part)}”: ${column.label} holds words, so ${name}=${echo(bound)} would be right`;
    }
    const digits = NUMBER.exec(bound);
    if (!digits || !UNITS.includes(plainly(bound.slice(digits[0].length)))) return `“${echo(bound)}” in “${echo(part)}” is not a number: ${name}${sign}0.5 would be right`;
    const holds = HOLDS[sign], than = Number(digits[0]);
    return (row) => { const value = column.value(row); return value !== null && value !== undefined && holds(value, than); };
  }
}
