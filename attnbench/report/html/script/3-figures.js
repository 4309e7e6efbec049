// Figures, drawn from their data: points and lines, bars, and maps of values. Colours are classes of the style sheet.

// Corners of the markers, in radii; a circle has none.
const armed = (turn) => [0, 1, 2, 3].flatMap((side) => [[-0.42, -1.2], [0.42, -1.2], [0.42, -0.42]].map(([x, y]) => {
  const angle = turn + (side * Math.PI) / 2, c = Math.cos(angle), d = Math.sin(angle);
  return [x * c - y * d, x * d + y * c];
}));
const CORNERS = {
  square: [[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]],
  triangle: [[0, -1.15], [1.1, 0.85], [-1.1, 0.85]],
  diamond: [[0, -1.3], [1.15, 0], [0, 1.3], [-1.15, 0]],
  nabla: [[0, 1.15], [1.1, -0.85], [-1.1, -0.85]],
  plus: armed(0),
  cross: armed(Math.PI / 4),
  hexagon: [[-1.15, 0], [-0.58, -1], [0.58, -1], [1.15, 0], [0.58, 1], [-0.58, 1]],
};
function outline(marker, x = 0, y = 0, r = 5) {
  const corners = CORNERS[marker];
  if (!corners) return `M${(x - r).toFixed(1)},${y.toFixed(1)}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0z`;
  return `M${corners.map(([a, b]) => `${(x + r * a).toFixed(1)},${(y + r * b).toFixed(1)}`).join("L")}z`;
}
// Where a figure shows one method several times, as by two engines: solid, hollow, with a hole; and the lines differ too.
const FILLS = ["", " hollow", " holed"], DASHES = ["", " dash1", " dash2", " dash3"];
const fillOf = (turn) => FILLS[turn % FILLS.length], dashOf = (turn) => DASHES[turn % DASHES.length];
const marking = (marker, turn, x = 0, y = 0) => outline(marker, x, y, turn % FILLS.length === 1 ? 4.4 : 5) + (turn % FILLS.length === 2 ? outline("circle", x, y, 2) : "");
function inTurn(series) {
  const met = new Map();
  return series.map((each) => {
    const turn = each.method ? met.get(each.method) || 0 : 0;
    met.set(each.method, turn + 1);
    return { ...each, turn };
  });
}
const TICK = 84, MOST_LINES = 60, MOST_MARKS = 120, MOST_SEGMENTS = 300, LINE_HEIGHT = 14;
const PARTS = ["permute", "pool", "score", "select", "index", "gather", "attend", "merge", "unpermute", "branch", "communicate", "other", "gap", "qk", "softmax", "av", "ideal", "loss", "gain", "unexplained", "total", "floor"];

function marksOf(methods) { return new Map(methods.map((method, place) => [method.name, { className: `c${place}`, marker: method.marker }])); }

function scaleOf(values, from, to, axis) {
  let low = Math.min(...values, axis.least ?? Infinity), high = Math.max(...values, axis.most ?? -Infinity);
  const log = axis.log && low > 0;
  if (low === high) { low = log ? low / 1.5 : low - (Math.abs(low) || 1) / 2; high = log ? high * 1.5 : high + (Math.abs(high) || 1) / 2; }
  const warp = log ? Math.log : (value) => value, pad = 0.06 * (warp(high) - warp(low));
  const a = axis.least === undefined ? warp(low) - pad : warp(low), b = warp(high) + pad;
  const scale = (value) => from + ((warp(value) - a) / (b - a)) * (to - from);
  scale.ticks = log ? logTicks(Math.exp(a), Math.exp(b)) : ticksOf(a, b);
  return scale;
}

function ticksOf(low, high, wanted = 5) {
  const rough = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((each) => each * power >= rough);
  const found = [];
  for (let at = Math.ceil(low / step); at * step <= high + step * 1e-9; at += 1) found.push(Number((at * step).toPrecision(12)));
  return found;
}

function logTicks(low, high) {
  if (high / low < 4) return ticksOf(low, high).filter((each) => each > 0);
  const steps = high / low > 500 ? [1] : high / low > 12 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 8], found = [];
  for (let power = 10 ** Math.floor(Math.log10(low)); power <= high; power *= 10) {
    for (const step of steps) if (step * power >= low * 0.999 && step * power <= high * 1.001) found.push(Number((step * power).toPrecision(12)));
  }
  return found;
}

const tick = (value) => (Math.abs(value) >= 1e5 ? `${number(value / 1000)}k` : Number(value.toPrecision(6)).toLocaleString("en-US", { maximumFractionDigits: 6 }));
// Long names are cut in the middle, for what tells them apart is often at their end; like attnbench.report.words.shortened.
const cut = (text, most) => (text.length > most ? `${text.slice(0, (most - 1) >> 1)}…${text.slice(text.length - (most - 1 - ((most - 1) >> 1)))}` : text);
// How wide a text is in a figure, in pixels.
let ruler = null;
function widthOf(text) {
  if (!ruler) {
    ruler = document.createElement("canvas").getContext("2d");
    ruler.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  }
  return ruler.measureText(text).width + 1;
}
function fitted(text, room) {
  let most = text.length;
  while (most > 3 && widthOf(cut(text, most)) > room + 1) most -= 1;
  return cut(text, most);
}
function twoLines(text, most) {
  if (text.length <= most) return [text];
  const space = text.lastIndexOf(" ", most), at = space > Math.floor(most / 3) ? space : most;
  return [text.slice(0, at).trimEnd(), cut(text.slice(at).trim(), most)];
}
// The room that names of lines take at the left, for so many letters on each of their two lines.
const namesRoom = (lines, letters) => 12 + Math.max(...lines.map((line) => { const shown = twoLines(line, letters); return Math.max(...shown.map(widthOf)); }));
// The name of a line, left of it, on two lines where it is long.
function lineName(picture, text, letters, x, middle) {
  const lines = twoLines(text, letters);
  lines.forEach((line, place) => picture.append(draw("text", { class: lines.length > 1 ? "word small" : "word", x, y: middle + (lines.length > 1 ? 11 * place - 1 : 4), "text-anchor": "end" }, line)));
}

function canvas(figure, width, height) {
  return draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `${figure.title}. ${figure.words}` });
}

// Points and lines. Returns the picture and its spots: places with words, for pointer and keys.
function drawPoints(figure, width, marks, kept) {
  const given = inTurn(figure.series || []), dropped = new Set(given.filter((each) => each.method && each.look === "line").slice(MOST_LINES));
  const series = given.filter((each) => !dropped.has(each)).map((each) => ({ ...each, points: each.points.filter((point) => !kept || !point.row || kept.has(point.row)) })).filter((each) => each.points.length);
  const margin = marginOfEnds(figure, series, width, marks), right = margin ? margin + 16 : 14;
  const height = Math.round(Math.min(420, Math.max(270, width * 0.62))), bottom = figure.x.ticks ? 58 : 44, top = 26;
  const picture = canvas(figure, width, height), spots = [];
  const every = series.flatMap((each) => each.points);
  if (!series.some((each) => each.points.some((point) => point.row)) && given.some((each) => each.points.some((point) => point.row))) return { picture, spots }; // guides alone say nothing
  if (!every.length) return { picture, spots };
  const y = scaleOf(every.flatMap((point) => [point.y, point.lo ?? point.y, point.hi ?? point.y]), height - bottom, top, figure.y || { label: "" });
  const left = Math.max(52, ...y.ticks.map((at) => widthOf(tick(at)) + 10)), onAxis = (value) => Math.min(value, figure.x.cut ?? Infinity), scale = scaleOf(every.map((point) => onAxis(point.x)), left, width - right, figure.x);
  const x = Object.assign((value) => scale(onAxis(value)), { ticks: scale.ticks });
  axes(picture, x, y, figure, { left, right: width - right, top, bottom: height - bottom, width, height });
  const marked = [], tails = [], taken = [], guides = [], unnamed = [], drawn = [];
  for (const each of series) {
    const mark = marks.get(each.method), className = mark ? mark.className : "guide";
    const path = each.points.map((point) => [x(point.x), y(point.y)]);
    const look = each.look || "points";
    if (look === "band" && each.points.some((point) => point.lo !== undefined)) {
      const edge = [...each.points.map((point) => [x(point.x), y(point.hi ?? point.y)]), ...each.points.map((point) => [x(point.x), y(point.lo ?? point.y)]).reverse()];
      picture.append(draw("path", { class: `area ${className}`, d: `M${edge.map((place) => place.map((v) => v.toFixed(1)).join(",")).join("L")}z` }));
    }
    if (look !== "points" && path.length > 1) {
      for (let at = 1; at < path.length && drawn.length < MOST_SEGMENTS; at += 1) {
        const [from, to] = [path[at - 1], path[at]], corner = [to[0], from[1]];
        drawn.push(...(look === "steps" ? [[from, corner, each], [corner, to, each]] : [[from, to, each]]));
      }
      const d = look === "steps" ? path.map(([px, py], place) => (place ? `H${px.toFixed(1)}V${py.toFixed(1)}` : `M${px.toFixed(1)},${py.toFixed(1)}`)).join("") : `M${path.map((place) => place.map((v) => v.toFixed(1)).join(",")).join("L")}`;
      picture.append(draw("path", { class: `line ${look} ${className}${each.dashed ? " dashed" : dashOf(each.turn)}`, d }));
    }
    const [px, py] = path[path.length - 1];
    if (isLine(each) || (look === "guide" && !each.method)) tails.push({ px, py, each, className });
    if (look === "guide" || look === "steps" || look === "band") {
      if (look === "band") each.points.forEach((point, place) => spots.push({ x: path[place][0], y: path[place][1], words: () => [each.name, `${axisWord(figure.x)} ${number(point.x)}`, `${axisWord(figure.y)} ${number(point.y)}`] }));
      if (look === "guide" && !each.method) guides.push([each, path]);
      continue;
    }
    const whiskers = each.points.map((point, place) => (point.lo === undefined || point.hi === undefined ? "" : `M${path[place][0].toFixed(1)},${y(point.lo).toFixed(1)}V${y(point.hi).toFixed(1)}`)).join("");
    if (whiskers) picture.append(draw("path", { class: `whisker ${className}`, d: whiskers }));
    each.points.forEach((point, place) => {
      const [px, py] = path[place];
      if (point.lo !== undefined && point.hi !== undefined) drawn.push([[px, y(point.hi)], [px, y(point.lo)], each]);
      marked.push({ px, py, className, marker: mark ? mark.marker : "circle", point, each });
    });
  }
  const many = marked.length > MOST_MARKS, outlines = new Map();
  for (const { px, py, className, marker, point, each } of marked) {
    const shape = marking(marker, each.turn, px, py), look = `${className}${fillOf(each.turn)}${point.apart ? " apart" : ""}`;
    if (many) outlines.set(look, `${outlines.get(look) || ""}${shape}`);
    else picture.append(draw("path", { class: `mark ${look}`, d: shape }));
    taken.push([px - 7, py - 7, px + 7, py + 7]);
    const words = () => {
      const [value, ends] = withInterval(point.y, point.lo ?? null, point.hi ?? null);
      return [point.label || each.name, placeWord(figure.x, point.x), `${axisWord(figure.y)} ${value}${ends ? ` (${ends})` : ""}`];
    };
    spots.push({ x: px, y: py, row: point.row, words });
  }
  for (const [look, d] of outlines) picture.append(draw("path", { class: `mark ${look}`, d }));
  const box = { left, right: width - right, top, bottom: height - bottom };
  const edge = Math.max(...tails.map((tail) => tail.px)), named = nameEnds(picture, margin ? tails.filter((tail) => tail.px > edge - 8) : [], margin, box);
  for (const [each, path] of guides) if (!named.has(each)) placeGuide(picture, each, path, box, taken, drawn);
  // Points of the frontier are named first, so that each has a place; what lies beyond the axis is named with its value.
  const best = new Set(series.filter((each) => each.look === "steps").flatMap((each) => each.points.map((point) => point.row))), leading = (point) => Boolean(point.row) && best.has(point.row);
  const called = ({ point, each }) => `${point.label || each.name}${onAxis(point.x) < point.x ? ` ${number(point.x)} →` : ""}`;
  const words = [...marked.filter(({ point }) => leading(point)).map((mark) => ({ ...mark, name: called(mark), must: true })),
    ...tails.filter(({ each }) => isLine(each) && !named.has(each) && !leading(each.points[each.points.length - 1])).map((tail) => ({ ...tail, name: tail.each.name })),
    ...marked.filter(({ each, point }) => !isLine(each) && !leading(point)).map((mark) => ({ ...mark, name: called(mark) }))];
  // A roofline has many points of one name: what follows it, as in "moba: attend", stands there, and the legend names.
  const leads = figure.section === "roofline";
  const close = (told, px, py) => leads && here.some(([word, x, y]) => word === told && Math.hypot(x - px, y - py) < 90), here = [];
  for (const { px, py, name, must } of words) {
    const told = leads ? name.split(": ").pop() : name;
    if (close(told, px, py)) continue;
    here.push([told, px, py]);
    const tries = must ? [[told, drawn], [told.split(" · ")[0], drawn], [told.split(" · ")[0], []]] : [[told, drawn]];
    if (told && (many || !tries.some(([text, lines]) => place(picture, cut(text, 30), px, py, box, taken, lines)))) unnamed.push(name);
  }
  const several = series.filter((each) => marks.has(each.method));
  const legend = unnamed.length || leads ? several : [];
  return { picture, spots, hidden: dropped.size, legend: legend.slice(0, 40).map((each) => ({ name: each.name, turn: each.turn, joined: isLine(each), apart: each.points.every((point) => point.apart), ...marks.get(each.method) })) };
}

const isLine = (each) => (each.look === "line" || each.look === "band") && each.points.length > 1;

// Lines that end at the right are named beside their ends, in a margin of this width; 0 where a legend does better.
function marginOfEnds(figure, series, width, marks) {
  const lines = figure.section === "trade-off" || figure.section === "roofline" ? [] : series.filter(isLine), named = [...lines, ...series.filter((each) => each.look === "guide")];
  if (!lines.length || (width < 520 && lines.every((each) => marks.has(each.method)))) return 0;
  return Math.min(Math.max(...named.map((each) => widthOf(each.name))), 0.3 * width);
}

// Names beside the ends of lines, moved apart where ends are close, with a thin line to the end then. Returns the series
// that have a name.
function nameEnds(picture, ends, margin, box) {
  const room = Math.floor((box.bottom - box.top) / LINE_HEIGHT), shown = ends.slice(0, room).sort((one, other) => one.py - other.py);
  const places = shown.map((end) => end.py);
  for (let turn = 0; turn < 200; turn += 1) {
    for (let at = 1; at < places.length; at += 1) {
      const close = LINE_HEIGHT - (places[at] - places[at - 1]);
      if (close > 0) { places[at - 1] -= close / 2; places[at] += close / 2; }
    }
    if (places.length) { places[0] = Math.max(places[0], box.top); places[places.length - 1] = Math.min(places[places.length - 1], box.bottom); }
  }
  shown.forEach(({ px, py, each, className }, at) => {
    picture.append(draw("path", { class: `leader ${className}`, d: `M${(px + 7).toFixed(1)},${py.toFixed(1)}L${(box.right + 8).toFixed(1)},${places[at].toFixed(1)}` }));
    picture.append(draw("text", { class: each.method ? "word" : "guide-word", x: (box.right + 11).toFixed(1), y: (places[at] + 4).toFixed(1) }, fitted(each.name, margin)));
  });
  return new Set(shown.map(({ each }) => each));
}

// Names keep away from what they do not name, so that none seems to belong to the point of another.
const around = ([a, b, c, d]) => [a - 4, b - 1, c + 4, d + 1];
const holds = ([a, b, c, d], x, y) => a < x && x < c && b < y && y < d;
const overlap = (one, other) => one[0] < other[2] && other[0] < one[2] && one[1] < other[3] && other[1] < one[3];

// The name of a guide line, above or below it, where it covers neither a point, a name nor another line.
function placeGuide(picture, guide, path, box, taken, drawn) {
  const wide = widthOf(guide.name), others = drawn.filter(([, , each]) => each !== guide), spare = [];
  const along = (share) => { const at = share * (path.length - 1), from = path[Math.floor(at)], to = path[Math.ceil(at)]; return from.map((value, axis) => value + (at % 1) * (to[axis] - value)); };
  for (const share of [1, 0, 0.75, 0.5, 0.25]) {
    for (const down of [-5, 15, -20]) {
      const [px, py] = along(share), a = Math.max(box.left, Math.min(px, box.right) - wide * share), area = [a, py + down - 10, a + wide, py + down + 3];
      if (area[1] < box.top - 12 || area[3] > box.bottom + 2 || taken.some((each) => overlap(area, each))) continue;
      spare.push([a, py + down, area, others.filter((line) => crosses(line, area)).length]);
    }
  }
  const [best] = spare.sort((one, other) => one[3] - other[3]);
  if (!best) return;
  picture.append(draw("text", { class: "guide-word", x: best[0].toFixed(1), y: best[1].toFixed(1) }, guide.name));
  taken.push(best[2]);
}

const placeWord = (axis, value) => `${axisWord(axis)} ${(((axis || {}).ticks || []).find(([at]) => at === value) || [0, number(value)])[1]}`;
const axisWord = (axis) => (axis && axis.label ? axis.label.split(/[,:]/)[0] : "");

function axes(picture, x, y, figure, box) {
  const named = [];
  for (const [at, words] of (figure.x || {}).ticks || []) {
    const [before] = named.slice(-1), middle = (tick) => within(tick[1].split(" ")[0], x(tick[0]), box.width);
    if (!before || middle([at, words]) - middle(before) >= TICK) named.push([at, words]);
  }
  const close = (ticks) => ticks.some((at, place) => place && within(tick(at), x(at), box.width) - within(tick(ticks[place - 1]), x(ticks[place - 1]), box.width) < (widthOf(tick(at)) + widthOf(tick(ticks[place - 1]))) / 2 + 5);
  let every = 1;
  while (close(x.ticks.filter((at, place) => place % every === 0))) every += 1;
  for (const at of named.length ? named.map(([at]) => at) : x.ticks) {
    picture.append(draw("path", { class: "grid", d: `M${x(at).toFixed(1)},${box.top}V${box.bottom}` }));
    if (!named.length && x.ticks.indexOf(at) % every === 0) tickAt(picture, tick(at), x(at), box.bottom + 16, box.width);
  }
  for (const [at, words] of named) {
    const [day, ...commit] = words.split(" ");
    [day, commit.join(" ")].forEach((text, line) => tickAt(picture, text, x(at), box.bottom + 14 + 12 * line, box.width));
  }
  for (const at of y ? y.ticks : []) {
    picture.append(draw("path", { class: "grid", d: `M${box.left},${y(at).toFixed(1)}H${box.right}` }));
    picture.append(draw("text", { class: "tick", x: box.left - 7, y: (y(at) + 4).toFixed(1), "text-anchor": "end" }, tick(at)));
  }
  const better = { higher: " →", lower: "← " }[(figure.x || {}).better] || "";
  picture.append(draw("text", { class: "axis", x: box.right, y: box.height - 8, "text-anchor": "end" }, better === "← " ? `← ${figure.x.label}` : `${figure.x.label}${better}`));
  if (y && figure.y) picture.append(draw("text", { class: "axis", x: 2, y: 13 }, `${figure.y.label}${figure.y.better === "higher" ? " ↑" : figure.y.better === "lower" ? " ↓" : ""}`));
}

// The words of a tick, below it; moved inwards where the picture ends.
function within(text, x, width) { const half = widthOf(text) / 2; return Math.max(half, Math.min(x, width - half)); }
function tickAt(picture, text, x, y, width) { picture.append(draw("text", { class: "tick", x: within(text, x, width).toFixed(1), y, "text-anchor": "middle" }, text)); }

// A name beside a point, at the first place where it covers nothing, no line either: near it, else further away with a
// thin line to it. Returns whether there is such a place.
function place(picture, text, px, py, box, taken, drawn) {
  const wide = widthOf(text);
  const near = [[10, 4, "start"], [-10, 4, "end"], [0, -11, "middle"], [0, 19, "middle"], [9, -8, "start"], [-9, -8, "end"], [9, 16, "start"], [-9, 16, "end"]];
  const far = [24, 40].flatMap((away) => [[away, -away, "start"], [-away, -away, "end"], [away, away + 8, "start"], [-away, away + 8, "end"], [0, -away - 4, "middle"], [0, away + 12, "middle"]]);
  for (const [right, down, anchor] of [...near, ...far]) {
    const x = px + right, y = py + down, a = anchor === "start" ? x : anchor === "end" ? x - wide : x - wide / 2, area = [a, y - 11, a + wide, y + 3];
    if (area[0] < box.left || area[2] > box.right + 8 || area[1] < box.top - 14 || area[3] > box.bottom) continue;
    if (taken.some((each) => overlap(holds(each, px, py) ? area : around(area), each)) || drawn.some((line) => crosses(line, area))) continue;
    if (Math.hypot(right, down) > 30) picture.append(draw("path", { class: "leader", d: `M${px.toFixed(1)},${py.toFixed(1)}L${(x - Math.sign(right) * 2).toFixed(1)},${(down < 0 ? y + 3 : y - 9).toFixed(1)}` }));
    picture.append(draw("text", { class: "word", x: x.toFixed(1), y: y.toFixed(1), "text-anchor": anchor }, text));
    taken.push(area);
    return true;
  }
  return false;
}

// Whether a line from one point to another passes through an area (Liang and Barsky).
function crosses([[x0, y0], [x1, y1]], [left, top, right, bottom]) {
  let from = 0, to = 1;
  for (const [step, room] of [[x0 - x1, x0 - left], [x1 - x0, right - x0], [y0 - y1, y0 - top], [y1 - y0, bottom - y0]]) {
    if (step === 0) { if (room < 0) return false; } else if (step < 0) from = Math.max(from, room / step); else to = Math.min(to, room / step);
  }
  return from <= to;
}

// Horizontal bars with parts.
function drawBars(figure, width, marks) {
  const lines = new Map(), names = new Set(figure.bars.map((bar) => bar.line)), shown = new Set([...names].slice(0, MOST_LINES));
  for (const bar of figure.bars.filter((each) => shown.has(each.line))) { if (!lines.has(bar.line)) lines.set(bar.line, []); lines.get(bar.line).push(bar); }
  const longest = Math.max(...[...lines.keys()].map((line) => line.length)), letters = Math.min(longest, Math.max(12, Math.floor(width * 0.36 / 6.6)));
  const totalOf = (bars) => (bars.length > 1 ? bars.reduce((sum, bar) => sum + bar.size, 0) : bars[0].size);
  const left = namesRoom([...lines.keys()], letters), right = Math.max(62, ...[...lines.values()].map((bars) => widthOf(number(totalOf(bars))) + 12)), row = 26, top = 8, bottom = top + lines.size * row, height = bottom + 42;
  const picture = canvas(figure, width, height), spots = [];
  const x = scaleOf([...lines.values()].flat().flatMap((bar) => [bar.start, bar.start + bar.size, ...(figure.section === "quality" ? [bar.hi ?? 0] : []), 0]), left, width - right, figure.x);
  axes(picture, x, null, figure, { left, right: width - right, top, bottom, width, height });
  let at = top;
  for (const [line, bars] of lines) {
    lineName(picture, line, letters, left - 8, at + row / 2);
    let reach = -Infinity;
    for (const bar of bars) {
      const a = x(bar.start), b = x(bar.start + bar.size), mark = marks.get(bar.part);
      const part = mark ? mark.className : `p-${PARTS.includes(bar.part) ? bar.part : "other"}`;
      const box = { x: Math.min(a, b).toFixed(1), y: at + 5, width: Math.max(0.8, Math.abs(b - a)).toFixed(1), height: 16 };
      picture.append(draw("rect", { class: `bar ${part}`, ...box }));
      if (["modelled", "ablated", "instrumented", "floor"].includes(bar.provenance)) picture.append(draw("rect", { fill: "url(#hatch)", ...box }));
      if (!mark && Math.abs(b - a) > bar.part.length * 6.4 + 8 && bars.length > 1) picture.append(draw("text", { class: "inside", x: ((a + b) / 2).toFixed(1), y: at + 17, "text-anchor": "middle" }, bar.part));
      if (bar.lo !== undefined && bar.hi !== undefined && (figure.section === "quality" || bar.part === "unexplained")) picture.append(draw("path", { class: "ends", d: `M${x(bar.lo).toFixed(1)},${at + 13}H${x(bar.hi).toFixed(1)}M${x(bar.lo).toFixed(1)},${at + 9}v8M${x(bar.hi).toFixed(1)},${at + 9}v8` }));
      reach = Math.max(reach, a, b, figure.section === "quality" && bar.hi !== undefined ? x(bar.hi) : 0);
      spots.push({ x: (a + b) / 2, y: at + 13, row: bar.row, words: () => [line, bar.label || `${bar.part} ${number(bar.size)}`] });
    }
    picture.append(draw("text", { class: "tick", x: (reach + 6).toFixed(1), y: at + 17 }, number(totalOf(bars))));
    at += row;
  }
  const parts = [...new Set(figure.bars.map((bar) => bar.part))].filter((part) => !marks.has(part));
  const several = new Set(figure.bars.map((bar) => bar.line)).size < figure.bars.length;
  return { picture, spots, hidden: names.size - shown.size, legend: several ? parts.map((part) => ({ name: part, className: `p-${PARTS.includes(part) ? part : "other"}` })) : [] };
}

// The cells of a map, those of its strips included, like attnbench.report.data.figure.heat_cells.
function heatCells(figure) {
  return [...(figure.cells || []), ...(figure.strips || []).flatMap((strip) => strip.values.map((value, place) => ({ line: strip.line, at: figure.places[place], value })))];
}

// A map of values: lines by places.
function drawHeat(figure, width) {
  const cells = heatCells(figure), lines = [...new Set(cells.map((cell) => cell.line))], across = [...new Set(cells.map((cell) => cell.at))];
  const letters = Math.min(Math.max(...lines.map((line) => line.length)), Math.max(12, Math.floor(width * 0.3 / 6.6)));
  const left = namesRoom(lines, letters), top = 24, row = Math.min(26, Math.max(8, Math.floor(546 / lines.length))), wide = Math.min(120, (width - left - 8) / across.length), height = top + lines.length * row + 12;
  const picture = canvas(figure, width, height), spots = [];
  across.forEach((at, place) => { if (wide > 44 || place % Math.ceil(44 / wide) === 0) tickAt(picture, wide > 52 ? at : at.replace(/\D+/g, " ").trim(), left + (place + 0.5) * wide, 15, width); });
  lines.forEach((line, place) => { if (place % Math.ceil(14 / row) === 0) lineName(picture, line, letters, left - 8, top + place * row + row / 2); });
  for (const cell of cells) {
    if (cell.value === null || cell.value === undefined) continue;
    const px = left + across.indexOf(cell.at) * wide, py = top + lines.indexOf(cell.line) * row;
    picture.append(draw("rect", { class: "heat", x: px + 1, y: py + 1, width: Math.max(1, wide - 2), height: row - 2, "fill-opacity": (0.06 + 0.84 * Math.min(1, cell.value)).toFixed(3) }));
    if (wide > 40) picture.append(draw("text", { class: cell.value > 0.5 ? "inside" : "word", x: px + wide / 2, y: py + 17, "text-anchor": "middle" }, number(cell.value)));
    spots.push({ x: px + wide / 2, y: py + row / 2, words: () => [cell.line, cell.at, number(cell.value)] });
  }
  return { picture, spots };
}

function drawFigure(figure, width, marks, kept) {
  if (figure.kind === "bars") return drawBars(figure, width, marks);
  return figure.kind === "heat" ? drawHeat(figure, width) : drawPoints(figure, width, marks, kept);
}

// The data behind a figure as a table, like attnbench.report.data.figure.table_of.
function tableOf(figure) {
  const named = (names, rows) => ({ name: figure.name, columns: names.map((name) => ({ name })), rows, selections: figure.selections, device: figure.device });
  if (figure.kind === "bars") return named(["line", "part", "start", "size", "lo", "hi", "provenance", "label", "row_id"], figure.bars.map((bar) => [bar.line, bar.part, bar.start, bar.size, bar.lo, bar.hi, bar.provenance || "measured", bar.label, bar.row]));
  if (figure.kind === "heat") return named(["line", "at", "value"], heatCells(figure).map((cell) => [cell.line, cell.at, cell.value]));
  return named(["series", "method", "x", "y", "lo", "hi", "label", "row_id"], figure.series.flatMap((each) => each.points.map((point) => [each.name, each.method || "", point.x, point.y, point.lo, point.hi, point.label || "", point.row || ""])));
}
