// What a saved table needs to stand alone: what its rows were measured on, in columns before the others.

const FACETS = ["device", "shape", "direction", "dtype", "inputs", "model"];
const OF_A_ROW = [...FACETS, "method", "settings_given", "layer"];

// Returns a function that gives a table these columns, by its column selection, row_id or run_id, like
// attnbench.report.formats.flat.alone; the table of a figure also by the selections that the figure belongs to, or by its device alone where it is of no shape.
function identifier(data) {
  const tables = new Map((data.tables || []).map((table) => [table.name, table]));
  const selections = new Map((data.selections || []).map((each) => [each.place, each]));
  const records = (name, key) => {
    const { columns = [], rows = [] } = tables.get(name) || {}, names = columns.map((column) => column.name), at = names.indexOf(key);
    return new Map(rows.map((row) => [row[at], Object.fromEntries(names.map((each, place) => [each, row[place]]))]));
  };
  const measured = () => new Map(["means", "cells"].flatMap((name) => [...records(name, "row_id")]).map(([id, row]) => [id, { ...row, ...facetsOf([row.selection]) }]));
  const ways = { selection: [FACETS, () => selections], row_id: [OF_A_ROW, measured], run_id: [["device"], () => records("runs", "run_id")] };

  // What these selections have in common.
  function facetsOf(places) {
    const chosen = places.map((place) => selections.get(place));
    return Object.fromEntries(FACETS.filter((facet) => chosen.length && chosen.every((each) => each[facet] === chosen[0][facet])).map((facet) => [facet, chosen[0][facet]]));
  }

  // What a figure is of: clips, training and calibrations belong to a device, and to no shape that was timed.
  const factsOf = ({ device, selections: places = [] }) => (device ? { device } : facetsOf(places));

  function identified(table) {
    const names = table.columns.map((column) => column.name), shared = factsOf(table);
    if (table.device) return { ...table, columns: [{ name: "device" }, ...table.columns], rows: table.rows.map((row) => [table.device, ...row]) };
    const key = Object.keys(ways).find((name) => names.includes(name)), [given, known] = ways[key] || [Object.keys(shared), () => new Map()];
    const at = names.indexOf(key), kept = names.map((name, place) => place).filter((place) => names[place] !== "selection"), found = known();
    const added = (table.selections ? FACETS : given).filter((name) => !names.includes(name) && (name in shared || found.size));
    return {
      ...table, columns: [...added.map((name) => ({ name })), ...kept.map((place) => table.columns[place])],
      rows: table.rows.map((row) => { const of = { ...found.get(row[at]), ...shared }; return [...added.map((name) => of[name] ?? null), ...kept.map((place) => row[place])]; }),
    };
  }
  return { identified, factsOf };
}

const recordsOf = (table) => table.rows.map((row) => Object.fromEntries(table.columns.map((each, place) => [each.name, row[place]])));
