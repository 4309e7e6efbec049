"use strict";
// Elements, numbers and files: what the other parts are made of. Text is only ever set as text.

const SVG = "http://www.w3.org/2000/svg";
const NONE = "–";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children) if (child !== null && child !== undefined && child !== "") node.append(child);
  return node;
}
const el = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
const draw = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

const listed = (words, last = "and") => (words.length > 1 ? `${words.slice(0, -1).join(", ")} ${last} ${words[words.length - 1]}` : words.join(""));

function places(value, digits = 3) {
  return value ? Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value)))) : 0;
}

const formats = new Map();
function fixed(value, decimals) {
  if (!formats.has(decimals)) {
    formats.set(decimals, new Intl.NumberFormat("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals }));
  }
  return formats.get(decimals).format(value);
}

function number(value, digits = 3) {
  if (value === null || value === undefined) return NONE;
  if (typeof value !== "number") return String(value);
  if (value && Math.abs(value) < 0.001) return value.toExponential(1);
  return fixed(value, Math.min(places(value, digits), 12));
}

// Digits follow intervals: as many as the width of the interval allows, three at least.
function withInterval(value, low, high) {
  if (value === null || value === undefined) return [NONE, ""];
  if (low === null || high === null || !(high - low > 1e-7 * Math.abs(high))) return [number(value), ""];
  const decimals = Math.min(Math.max(places(Math.max(Math.abs(value), high - low), 3), places(high - low, 1)), 12);
  return [fixed(value, decimals), `${fixed(low, decimals)} – ${fixed(high, decimals)}`];
}

function csvOf(table) {
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    let text = typeof value === "boolean" ? (value ? "True" : "False") : String(value);
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = [table.columns.map((column) => column.name), ...table.rows];
  return lines.map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
}

function save(name, text, type) {
  const link = el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// Two buttons that save a table, and the same as JSON: its records, or what it was made of.
function savers(name, table, title = name, whole = () => recordsOf(table())) {
  return el("span", { class: "savers" },
    el("button", { type: "button", title: `${title}, as CSV`, "aria-label": `${name} as CSV`, onclick: () => save(`${name}.csv`, csvOf(table()), "text/csv") }, "CSV"),
    el("button", { type: "button", title: `${title}, as JSON`, "aria-label": `${name} as JSON`, onclick: () => save(`${name}.json`, JSON.stringify(whole(), null, 1), "application/json") }, "JSON"));
}
