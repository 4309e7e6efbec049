// The page: selectors, verdict, trade-off and ranked table, the sections below, and all cells.

function start() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const figures = (data.figures || []).map((figure) => ({ option: "", selections: [], ...figure })), tables = new Map((data.tables || []).map((table) => [table.name, table]));
  const marks = marksOf(data.methods || []), selections = data.selections || [];
  const { identified, factsOf } = identifier(data);
  const state = { selection: selections.length ? 0 : null, option: {}, kept: null };
  const find = (id) => document.getElementById(id);
  const rowsOf = (name) => {
    const table = tables.get(name), at = Object.fromEntries((table ? table.columns : []).map((column, place) => [column.name, place]));
    return { table, at, rows: table ? table.rows : [] };
  };
  const means = rowsOf("means"), cells = rowsOf("cells"), runs = rowsOf("runs");
  const bySelection = new Map(selections.map((each) => [each.place, []]));
  for (const row of means.rows) bySelection.get(row[means.at.selection]).push(row);
  document.documentElement.classList.add("scripted");

  const tip = el("div", { id: "tip", role: "status", hidden: true });
  document.body.append(tip);

  // --- figures

  const widths = new Map();

  const mineOf = (name) => figures.filter((figure) => figure.section === name && (!figure.selections.length || figure.selections.includes(state.selection)));

  // A section without a figure for the selection is absent, and so is the link to it.
  function presence(name) {
    const section = find(name), link = document.querySelector(`nav a[href="#${name}"]`);
    const empty = !mineOf(name).length && !section.classList.contains("always");
    section.hidden = empty;
    if (link) link.parentElement.hidden = empty;
  }

  // Parts of a section belong to selections, as figures do: those of another device are hidden, and a line leads to them.
  const placesOf = (part) => part.dataset.selections.split(" ").map(Number);
  function showParts() {
    for (const section of parted) {
      const parts = [...section.querySelectorAll("[data-selections]")], away = parts.filter((part) => !placesOf(part).includes(state.selection));
      for (const part of parts) part.hidden = away.includes(part);
      const devices = new Map(away.map((part) => [part.dataset.device, placesOf(part)]));
      const links = [...devices].map(([device, places]) => el("button", { type: "button", class: "copy", onclick: () => { select(nearest(places).place); section.scrollIntoView(); } }, device));
      section.querySelector(".elsewhere").replaceChildren(...(links.length ? [away.length < parts.length ? "More was measured on " : `Not measured on ${selections[state.selection].device}, but on `, ...links] : []));
    }
  }
  const parted = [...document.querySelectorAll("section")].filter((section) => section.querySelector("[data-selections]"));
  for (const section of parted) section.append(el("p", { class: "elsewhere quiet" }));

  // The picture follows after the table has been painted, so that typing does not wait for it.
  let due = null;
  function soon(name) {
    if (due !== null) return;
    due = requestAnimationFrame(() => setTimeout(() => { due = null; showSection(name); }, 0));
  }

  // One figure of a section is shown at a time, with buttons or a list to choose which.
  function showSection(name) {
    const section = find(name), holder = section && section.querySelector(".figure");
    if (!holder) return;
    const mine = mineOf(name);
    presence(name);
    if (!mine.length) { holder.replaceChildren(); return; }
    const chosen = mine.find((figure) => figure.option === state.option[name]) || mine[0], of = section.querySelector("h2 .of");
    if (of) of.textContent = chosen.selections.length === 1 ? ofWords(chosen.selections[0]) : "";
    holder.replaceChildren(...[chooser(name, mine, chosen), paneOf(chosen, name), captionOf(chosen)].filter(Boolean));
  }

  function chooser(name, mine, chosen) {
    if (mine.length < 2) return el("div", { class: "choose" }, saversOf(chosen));
    const choose = (option) => { state.option[name] = option; showSection(name); };
    const few = mine.length <= 4 && mine.every((each) => each.option.length < 24);
    const chosenBy = few
      ? el("span", { class: "buttons", role: "group", "aria-label": `What ${name} shows` }, ...mine.map((each) => el("button", { type: "button", "aria-pressed": String(each === chosen), onclick: () => { choose(each.option); find(name).querySelector('.buttons [aria-pressed="true"]').focus(); } }, each.option)))
      : el("label", {}, el("span", { class: "away" }, `What ${name} shows`), listOf(mine, chosen, (option) => { choose(option); find(name).querySelector("select").focus(); }));
    return el("div", { class: "choose" }, chosenBy, saversOf(chosen));
  }

  const saversOf = (figure) => savers(figure.name, () => identified(tableOf(figure)), figure.title, () => ({ ...figure, selections: undefined, ...factsOf(figure) }));
  const listOf = (mine, chosen, choose) => el("select", { onchange: (event) => choose(event.target.value) }, ...mine.map((each) => el("option", { value: each.option, selected: each === chosen }, each.option)));

  function paneOf(figure, name) {
    if (!widths.has(name)) widths.set(name, Math.max(320, Math.min(980, find(name).querySelector(".figure").clientWidth || 640)));
    const width = widths.get(name);
    const { picture, spots, hidden = 0, legend = [] } = drawFigure(figure, width, marks, name === "trade-off" ? state.kept : null);
    const pane = el("div", { class: "pane", tabindex: 0, role: "group", "aria-label": `${figure.title}; arrow keys go through its values` }, picture);
    let at = -1;
    const show = (spot) => {
      if (!spot) { tip.hidden = true; return; }
      const [lead, ...words] = spot.words();
      tip.replaceChildren(el("b", {}, lead), ...words.map((word) => el("span", {}, word)));
      tip.hidden = false;
      const box = picture.getBoundingClientRect(), ratio = box.width / width;
      const x = box.left + scrollX + spot.x * ratio, y = box.top + scrollY + spot.y * ratio;
      tip.style.left = `${Math.max(8, Math.min(x + 12, scrollX + document.documentElement.clientWidth - tip.offsetWidth - 8))}px`;
      tip.style.top = `${y + 14}px`;
    };
    pane.addEventListener("pointermove", (event) => {
      const box = picture.getBoundingClientRect(), ratio = width / box.width;
      const px = (event.clientX - box.left) * ratio, py = (event.clientY - box.top) * ratio;
      const far = (spot) => (spot.x - px) ** 2 + (spot.y - py) ** 2;
      const nearest = spots.reduce((best, spot) => (!best || far(spot) < far(best) ? spot : best), null);
      at = spots.indexOf(nearest);
      show(nearest && far(nearest) < 1600 ? nearest : null);
    });
    pane.addEventListener("pointerleave", () => show(null));
    pane.addEventListener("blur", () => show(null));
    pane.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") show(null);
      if (event.key === "Enter" && spots[at] && spots[at].row) openRow(spots[at].row);
      if (!step || !spots.length) return;
      event.preventDefault();
      at = (at + step + spots.length) % spots.length;
      show(spots[at]);
    });
    pane.addEventListener("click", () => { if (spots[at] && spots[at].row && !tip.hidden) openRow(spots[at].row); });
    const more = hidden ? el("p", { class: "quiet" }, `${hidden} more lines are in the CSV.`) : null;
    if (!legend.length) return more ? el("div", {}, pane, more) : pane;
    const keys = legend.map((each) => el("li", {}, each.marker ? keyOf(each) : draw("svg", { class: "key", viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true" }, draw("rect", { class: each.className, width: 12, height: 12 })), each.name));
    return el("div", {}, pane, el("ul", { class: "legend" }, ...keys), ...(more ? [more] : []));
  }

  const captionOf = (figure) => el("p", { class: "quiet" }, figure.section === "trade-off" || figure.section === "waterfall" ? figure.caption : `${figure.title}. ${figure.caption}`);

  // --- the ranked table

  const keyOf = ({ className, marker, turn = 0, joined = false, apart = false }) => draw("svg", { class: "key", viewBox: joined ? "-14 -8 28 16" : "-8 -8 16 16", width: joined ? 25 : 14, height: 14, "aria-hidden": "true" }, joined ? draw("path", { class: `line ${className}${dashOf(turn)}`, d: "M-14,0H14" }) : null, draw("path", { class: `mark ${className}${fillOf(turn)}${apart ? " apart" : ""}`, d: marking(marker, turn) }));

  // In the ranked table a row has the mark that it has in the picture beside it.
  const turns = new Map(figures.filter((figure) => figure.section === "trade-off").flatMap((figure) => inTurn(figure.series || [])).filter((each) => each.method).flatMap((each) => each.points.map((point) => [point.row, each.turn])));
  const mark = (method, turn = 0, apart = false) => {
    const found = marks.get(method);
    return found ? keyOf({ ...found, turn, apart }) : null;
  };
  const flagged = new Map((data.flags || []).map((flag) => [flag.name, flag]));
  const badgeOf = (name) => (flagged.get(name) || { badge: name }).badge;
  const meanings = new Map((data.traits || []).map((trait) => [trait.name, trait.meaning]));
  function trust(verdict, flags, reason, traits) {
    const found = el("span", { class: "badges" });
    if (verdict !== "ok") return fill(found, {}, [el("span", { class: "badge bad", title: reason || null }, verdict), reason ? el("span", { class: "why" }, ` ${reason}`) : null]);
    found.append(el("span", { class: "badge good", title: "checked against exact attention of the same pairs, and timed" }, "verified"));
    for (const flag of (flags || "").split(",").filter(Boolean)) found.append(el("span", { class: "badge warn", title: (flagged.get(flag) || {}).meaning || null }, badgeOf(flag)));
    for (const trait of (traits || "").split(",").filter(Boolean)) found.append(el("span", { class: "badge trait", title: meanings.get(trait) || null }, trait));
    return found;
  }
  const badgeWords = (flags) => (flags || "").split(",").map(badgeOf).join(" ");
  const trustText = (verdict, flags, traits) => `${verdict === "ok" ? "verified" : verdict} ${badgeWords(flags)} ${(traits || "").replace(",", " ")}`;

  function column(source, name, label, { digits = 3, rising, low, high, unit = "", hint, whole } = {}) {
    const at = source.at[name], about = source.table.columns[at] || {};
    return {
      name, label, rising, numeric: true, hint: hint || about.meaning, value: (row) => row[at],
      show: (row) => {
        const value = row[at];
        if (low === undefined || value === null) return value === null ? NONE : whole ? String(value) : `${number(value, digits)}${unit}`;
        const [main, ends] = withInterval(value, row[source.at[low]], row[source.at[high]]);
        return el("span", {}, `${main}${unit}`, ends ? el("small", { class: "ends" }, ends) : null);
      },
    };
  }
  const words = (source, name, label, aside) => ({ name, label, aside, hint: (source.table.columns[source.at[name]] || {}).meaning, value: (row) => row[source.at[name]], show: (row) => row[source.at[name]] ?? NONE });

  // Settings as a reader would type them: tile 6×8×8.
  const settingsColumn = (source) => ({ ...words(source, "settings", "settings"), text: (row) => settingsWords(row[source.at.settings]) });
  function settingsWords(text) {
    try { return Object.entries(JSON.parse(text)).map(([name, value]) => `${name} ${[value].flat(2).join("×")}`).join(", "); } catch { return text; }
  }

  // The name of a row, and below it the engine that ran, where the name does not say it: words of both are looked for.
  function nameColumn(source, labelName) {
    const { label, method, row_id, settings, engine, traits } = { ...source.at, label: source.at[labelName] };
    const below = (row) => (labelName === "label" && row[engine] && !row[label].split(" · ").includes(row[engine]) ? row[engine] : "");
    return {
      name: "method", label: "method", class: "name", hint: "open a row for its command, settings and figures",
      value: (row) => row[label], text: (row) => `${row[label]} ${below(row)}`,
      show: (row) => el("button", { type: "button", title: `${row[label]} ${row[settings]}`, onclick: () => openRow(row[row_id]) }, mark(row[method], labelName === "label" ? turns.get(row[row_id]) : 0, labelName === "label" && Boolean(row[traits])), el("span", { class: row[label].length > 20 ? "long" : null }, row[label], below(row) ? el("small", { class: "ends" }, below(row)) : null)),
    };
  }
  function densityColumn(source) {
    const found = column(source, "density", "density", { rising: true });
    found.show = (row) => {
      const value = row[source.at.density];
      if (value === null) return NONE;
      const bar = el("i", { "aria-hidden": "true" });
      bar.style.width = `${Math.max(2, 100 * Math.min(1, value))}%`;
      return el("span", { class: "density" }, number(value), bar);
    };
    return found;
  }
  // Below it, what it was in each of several runs, the newest first.
  function speedupColumn(source) {
    const found = column(source, "speedup", "speed-up", { low: "speedup_lo", high: "speedup_hi", unit: "×" }), { show } = found;
    found.show = (row) => {
      const shown = show(row), runs = row[source.at.run_speedups];
      if (runs && shown.append) shown.append(el("small", { class: "ends" }, `${runs.split(",").length} runs: ${runs}`));
      return shown;
    };
    return found;
  }
  // What is ranked; below it, of a method with a state, what a step takes between refreshes.
  function timeColumn(source) {
    const found = column(source, "charged_ms", "ms", { rising: true, low: "charged_lo_ms", high: "charged_hi_ms", hint: "latency: median with a cold cache, and its interval; of a method with a state the mean of a step, with what making the state anew costs" });
    const { show } = found;
    found.show = (row) => {
      const shown = show(row);
      if (row[source.at.refresh_ms] !== null && shown.append) shown.append(el("small", { class: "ends" }, `${number(row[source.at.latency_ms])} between refreshes`));
      return shown;
    };
    return found;
  }
  const trustColumn = (source) => {
    const of = (row) => ["verdict", "flags", "traits"].map((name) => row[source.at[name]]), reason = (row) => row[source.at.reason];
    return {
      name: "trust", label: "trust", class: "trust", hint: "verified: checked and timed; then what spoils the latency, and what limits the error",
      value: (row) => trustText(...of(row)), text: (row) => `${trustText(...of(row))} ${reason(row) ?? ""}`, show: (row) => trust(row[source.at.verdict], row[source.at.flags], reason(row), row[source.at.traits]),
    };
  };
  const baselineColumn = (source) => ({
    name: "baseline", label: "baseline", aside: true, hint: "the dense baseline of the row's run, its latency in ms, and what spoils its latency",
    value: (row) => row[source.at.baseline], text: (row) => `${row[source.at.baseline] ?? ""} ${badgeWords(row[source.at.baseline_flags])}`,
    show: (row) => {
      const name = row[source.at.baseline], flags = badgeWords(row[source.at.baseline_flags]);
      return name === null ? NONE : el("span", { title: name }, `${name.replace(/^full\//, "")}${row[source.at.baseline_ms] === null ? "" : ` ${number(row[source.at.baseline_ms])}`}`, flags ? el("small", { class: "ends" }, flags) : null);
    },
  });
  const has = (source, name) => source.rows.some((row) => row[source.at[name]] !== null);

  const clipModels = listed([...new Set(means.rows.map((row) => row[means.at.psnr_model]))].filter(Boolean));

  let ranked = null, all = null;
  if (means.table) {
    ranked = new RowTable(find("ranked"), [
      nameColumn(means, "label"),
      speedupColumn(means),
      timeColumn(means),
      densityColumn(means),
      trustColumn(means),
      column(means, "ideal", "ideal", { unit: "×" }),
      column(means, "approximation_error", "error", { rising: true, hint: "relative error of the output against full attention" }),
      column(means, "mass_recall", "recall", { hint: "share of full attention's weights that is kept" }),
      ...(has(means, "psnr") ? [column(means, "psnr", `PSNR (${clipModels})`, { hint: "PSNR in dB of clips made with the same method and settings. Their model and size are others: see What clips lost" })] : []),
      ...(has(means, "peak_extra_mib") ? [column(means, "peak_extra_mib", "MiB", { rising: true, hint: "peak memory beyond inputs and output" })] : []),
      baselineColumn(means),
    ], { label: "Methods, ranked", sort: [1, false], more: [settingsColumn(means), words(means, "engine", "engine"), column(means, "latency_ms", "latency_ms"), column(means, "selection_ms", "selection_ms"), column(means, "refresh_ms", "refresh_ms"), column(means, "other_ms", "other_ms")], elsewhere: "Device, shape, direction, dtype, inputs and model are chosen above.", onfilter: (kept) => {
      state.kept = kept.length < ranked.rows.length ? new Set(kept.map((row) => row[means.at.row_id])) : null;
      find("ranked-count").textContent = `${kept.length} of ${ranked.rows.length} methods and settings`;
      find("ranked-said").textContent = ranked.complaint;
      if (state.drawn) soon("trade-off");
    } });
    find("ranked-filter").addEventListener("input", (event) => ranked.filterBy(event.target.value));
  }
  if (cells.table) {
    all = new RowTable(find("all-cells"), [
      nameColumn(cells, "method"),
      column(cells, "speedup", "speed-up", { low: "speedup_lo", high: "speedup_hi", unit: "×" }),
      timeColumn(cells),
      densityColumn(cells),
      column(cells, "layer", "layer", { rising: true, whole: true }),
      words(cells, "engine", "engine"),
      column(cells, "approximation_error", "error", { rising: true }),
      column(cells, "numerical_error", "numerical", { rising: true, digits: 2 }),
      ...(has(cells, "peak_extra_mib") ? [column(cells, "peak_extra_mib", "MiB", { rising: true })] : []),
      trustColumn(cells),
      { name: "selection", label: "selection", hint: "what it was measured on", value: (row) => row[cells.at.selection], text: (row) => ofWords(row[cells.at.selection]), show: (row) => ofWords(row[cells.at.selection]) },
      words(cells, "run_id", "run", true),
    ], { label: "All cells", more: [settingsColumn(cells), words(cells, "baseline", "baseline"), column(cells, "latency_ms", "latency_ms"), column(cells, "selection_ms", "selection_ms"), column(cells, "refresh_ms", "refresh_ms"), column(cells, "other_ms", "other_ms")], onfilter: (kept) => { find("all-count").textContent = `${kept.length.toLocaleString("en-US")} of ${all.rows.length.toLocaleString("en-US")} cells`; find("all-said").textContent = all.complaint; } });
    find("all-filter").addEventListener("input", (event) => all.filterBy(event.target.value));
    find("all-here").addEventListener("change", () => showCells());
  }
  const ofWords = (place) => selections[place].words;
  function showCells() {
    if (!all) return;
    const here = find("all-here").checked;
    all.setRows(here ? cells.rows.filter((row) => row[cells.at.selection] === state.selection) : cells.rows);
    find("all-savers").replaceChildren(savers(here ? `cells-${selections[state.selection].name}` : "cells", () => identified({ ...cells.table, rows: all.shown })));
  }

  // --- one row in full

  const dialog = find("row");
  function openRow(id) {
    const source = [means, cells].find((each) => each.table && each.rows.some((row) => row[each.at.row_id] === id));
    if (!source || !dialog) return;
    const row = source.rows.find((each) => each[source.at.row_id] === id), value = (name) => row[source.at[name]];
    const run = runs.rows.find((each) => each[runs.at.run_id] === value("run_id"));
    const layers = source === means ? cells.rows.filter((each) => each[cells.at.run_id] === value("run_id") && each[cells.at.method] === value("method") && each[cells.at.settings_given] === value("settings_given") && each[cells.at.engine_asked] === value("engine_asked") && each[cells.at.selection] === value("selection")) : [row];
    const places = (data.source || []).filter((place) => place && place !== "results" || data.source.length > 1);
    const repro = (each) => ["attnbench repro", each, ...places.map(quoted)].join(" ");
    const facts = source.table.columns.map((each, at) => [each, row[at]]).filter(([each, found]) => found !== null && found !== "" && !["selection", "label", "current", "command"].includes(each.name));
    dialog.replaceChildren(...[
      el("header", {}, el("h2", { id: "row-title" }, mark(value("method")), ` ${source === means ? value("label") : value("method")}`), el("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => dialog.close() }, "✕")),
      el("p", { class: "quiet" }, ofWords(value("selection"))),
      el("h3", {}, "Command that measures it again"),
      command(value("command"), ""),
      command(repro(id), ""),
      el("p", { class: "quiet" }, "The second prints the first, and says whether the commit differs; with --run it measures the row again and compares."),
      layers.length > 1 ? el("p", { class: "quiet" }, "Layers: ", ...layers.map((each) => el("button", { type: "button", class: "copy", onclick: () => openRow(each[cells.at.row_id]) }, `layer ${each[cells.at.layer]}`))) : null,
      run && run[runs.at.command] ? el("div", {}, el("h3", {}, "Its run was made by"), command(run[runs.at.command], "")) : null,
      el("h3", {}, "Every figure", savers(`row-${id}`, () => identified({ ...source.table, rows: [row] }), undefined, () => recordsOf(identified({ ...source.table, rows: [row] }))[0])),
      el("dl", { class: "facts" }, ...facts.map(([each, found]) => el("div", {}, el("dt", { title: each.meaning || null }, each.name), el("dd", {}, typeof found === "number" && !Number.isInteger(found) ? number(found, 4) : String(found), each.name === "layers" ? el("small", { class: "ends" }, each.meaning) : null)))),
    ].filter((each) => each !== null));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  }
  const quoted = (text) => (/^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
  function command(text, note) {
    const copy = el("button", { type: "button", class: "copy", onclick: () => navigator.clipboard && navigator.clipboard.writeText(text).then(() => { copy.textContent = "copied"; }, () => { copy.textContent = "select it"; }) }, "copy");
    return el("p", { class: "command" }, note ? el("span", { class: "quiet" }, `${note} `) : null, el("code", {}, text), copy);
  }
  if (dialog) dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

  // --- selectors

  // The bar of links stays in sight, and with it what is shown, to be changed from anywhere.
  const list = selections.length > 1 ? el("select", { onchange: (event) => select(Number(event.target.value)) }, ...[...selections].sort((one, other) => one.tokens - other.tokens).map((each) => el("option", { value: each.place }, each.words))) : null;
  if (list) find("here").replaceChildren(el("label", {}, el("span", { class: "facet-name" }, "shown"), list));
  function showSelectors() {
    const now = selections[state.selection];
    const fixed = [], several = [];
    for (const facet of FACETS) {
      const values = [...new Set([...selections].sort((one, other) => one.tokens - other.tokens).map((each) => each[facet]))];
      if (values.length === 1) { fixed.push(el("div", { class: "facet one" }, el("span", { class: "facet-name" }, facet), el("span", { class: "only" }, values[0]))); continue; }
      const count = (value) => selections.filter((each) => each[facet] === value && FACETS.every((other) => other === facet || each[other] === now[other])).reduce((sum, each) => sum + each.methods, 0);
      const total = (value) => selections.filter((each) => each[facet] === value).reduce((sum, each) => sum + each.methods, 0);
      const options = values.map((value) => el("option", { value, selected: value === now[facet] }, `${value} (${count(value) || `elsewhere ${total(value)}`})`));
      several.push(el("div", { class: "facet" }, el("label", {}, el("span", { class: "facet-name" }, facet), el("select", { "data-facet": facet, title: "in brackets: how many methods and settings", onchange: (event) => choose(facet, event.target.value) }, ...options)), el("span", { class: "printed" }, now[facet])));
    }
    if (list) list.value = String(state.selection);
    find("selectors").replaceChildren(...several, ...(fixed.length ? [el("div", { class: "fixed" }, ...fixed)] : []));
  }
  // The one of these places which shares most with the present selection.
  function nearest(places) {
    const now = selections[state.selection];
    const shared = (each) => FACETS.reduce((sum, other, place) => sum + (each[other] === now[other] ? 2 ** (FACETS.length - place) : 0), 0);
    return places.map((place) => selections[place]).sort((one, other) => shared(other) - shared(one))[0];
  }
  function choose(facet, value) {
    const now = selections[state.selection], next = nearest(selections.filter((each) => each[facet] === value).map((each) => each.place));
    const moved = FACETS.filter((other) => other !== facet && next[other] !== now[other]);
    const told = `Nothing was measured for ${value} with ${listed(moved.map((other) => now[other]))}. Shown instead: ${listed(moved.map((other) => `${other} ${next[other]}`))}.`;
    select(next.place, moved.length ? told : "");
    const again = document.querySelector(`#selectors select[data-facet="${facet}"]`);
    if (again) again.focus({ preventScroll: true });
  }

  function select(place, told = "") {
    state.selection = place;
    find("jump").textContent = told;
    const bar = document.querySelector("nav").getBoundingClientRect(), stuck = bar.top <= 0;
    const at = (section) => section.getBoundingClientRect(), read = stuck ? [...document.querySelectorAll("section")].find((section) => !section.hidden && at(section).bottom > bar.bottom) : null;
    const before = read ? at(read).top : 0;
    show();
    if (read && !read.hidden) scrollBy(0, at(read).top - before); // what is being read stays where it is
    remember();
  }

  // The selection stands in the address as #at=NAME, with &to=SECTION where a link leads further down.
  function remember(section = "") {
    const hash = `#at=${encodeURIComponent(selections[state.selection].name)}${section ? `&to=${section}` : ""}`;
    if (location.hash !== hash) location.hash = hash;
  }
  function recall() {
    const asked = new URLSearchParams(location.hash.slice(1)), name = asked.get("at"), section = asked.get("to");
    if (name === null && location.hash) return;
    const found = name === null ? selections[0] : selections.find((each) => each.name === name), names = selections.slice(0, 6).map((each) => each.name);
    if (!found) find("jump").textContent = `This report has nothing named “${name}”. It has ${listed([...names, ...(selections.length > 6 ? ["more"] : [])])}.`;
    else if (found.place !== state.selection) { state.selection = found.place; find("jump").textContent = ""; show(); }
    if (section && find(section)) find(section).scrollIntoView();
  }

  const paragraphs = (id, texts) => find(id).replaceChildren(...texts.filter(Boolean).map((text) => el("span", {}, `${text} `)));
  function show() {
    const now = selections[state.selection];
    if (now) {
      showSelectors();
      find("verdict").textContent = now.sentence;
      find("verdict").className = `verdict ${now.outcome.replace(/\W/g, "-")}`;
      paragraphs("density-note", [now.density]);
      paragraphs("quality-note", [now.quality]);
      paragraphs("errors-note", [now.errors]);
      paragraphs("trust-note", [now.trust, ...(now.caveats || [])]);
      paragraphs("baseline-note", [now.baselines]);
      paragraphs("missing-note", now.remarks || []);
      state.kept = null;
      state.drawn = false;
      ranked.setRows(bySelection.get(state.selection));
      find("ranked-savers").replaceChildren(savers(`means-${now.name}`, () => identified({ ...means.table, rows: ranked.shown })));
      if (find("all-here").checked) showCells();
    }
    showParts();
    saveTables();
    for (const name of sections) {
      if (name === "trade-off" || !waiting) { showSection(name); continue; }
      presence(name);
      lazy.add(name);
      waiting.unobserve(find(name));
      waiting.observe(find(name));
    }
    state.drawn = true;
  }

  // Sections out of sight are drawn when they come near.
  const sections = [...new Set(figures.map((figure) => figure.section))].filter(find), lazy = new Set(sections.filter((name) => name !== "trade-off"));
  const waiting = "IntersectionObserver" in window ? new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting && lazy.delete(entry.target.id)) showSection(entry.target.id);
  }, { rootMargin: "600px" }) : null;
  const drawAll = () => { for (const name of [...lazy]) { lazy.delete(name); showSection(name); } };

  // The rows of a table that the section around its buttons shows, and its name: those of the selection where rows are of
  // cells, else not those of devices whose parts are hidden.
  const cellOf = new Map(cells.rows.map((row) => [row[cells.at.row_id], row[cells.at.selection]]));
  const deviceOf = new Map(runs.rows.map((row) => [row[runs.at.run_id], row[runs.at.device]]));
  function here(table, holder) {
    const at = (name) => table.columns.findIndex((column) => column.name === name), device = at("device"), run = at("run_id"), id = at("row_id");
    if (id >= 0 && selections.length) return { ...table, name: `${table.name}-${selections[state.selection].name}`, rows: table.rows.filter((row) => cellOf.get(row[id]) === state.selection) };
    const away = new Set([...holder.closest("section").querySelectorAll("[data-selections][hidden]")].map((part) => part.dataset.device));
    if (!away.size) return table;
    const name = `${table.name}-${selections[state.selection].device.replace(/[^\p{L}\p{N}]+/gu, "-").toLowerCase()}`;
    return { ...table, name, rows: table.rows.filter((row) => !away.has(device < 0 ? deviceOf.get(row[run]) : row[device])) };
  }
  function saveTables() {
    for (const holder of document.querySelectorAll("[data-table]")) {
      const table = tables.get(holder.dataset.table);
      if (table) holder.replaceChildren(savers(here(table, holder).name, () => identified(here(table, holder)), table.title));
    }
  }
  for (const scroller of document.querySelectorAll(".scroll")) watchSideways(scroller);
  if (find("everything")) find("everything").replaceChildren(el("button", { type: "button", onclick: () => save("report.json", JSON.stringify(data), "application/json") }, "all data as JSON"));
  addEventListener("beforeprint", drawAll);
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; widths.clear(); for (const name of sections) if (!lazy.has(name)) showSection(name); } });
  for (const link of selections.length ? document.querySelectorAll("nav a") : []) {
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      remember(link.hash.slice(1));
      find(link.hash.slice(1)).scrollIntoView();
    });
  }
  if (selections.length) addEventListener("hashchange", recall);
  show();
  showCells();
  if (selections.length && location.hash) recall();
}
if (document.getElementById("data")) start();
