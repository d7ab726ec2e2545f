// The lines that make in Python what is shown.

import {planeName, short} from "./plane.js";

const quoted = (text) => JSON.stringify(text);
const tuple = (point) => `(${point.map(short).join(", ")})`;

/**
 * @param {string} origin @param {string} key @param {import("./plane.js").State} state
 * @returns {string}
 */
export function pythonLines(origin, key, state) {
  const lines = ["import offbragg", `volume = offbragg.connect(${quoted(origin)}).volume(${quoted(key)})`];
  const more = [];
  if (state.thickness) more.push(`thickness=${short(state.thickness)}`);
  if (state.level) more.push(`level=${state.level}`);
  if (state.symmetry) more.push('symmetry="sample"');
  const plane = "points" in state.kind ? `points=[${state.kind.points.map(tuple).join(", ")}]` : quoted(planeName(state));
  lines.push(`plane = volume.plane(${[plane, ...more].join(", ")})`);
  if (state.cut) lines.push(`cut = volume.cut(${tuple(state.cut.from)}, ${tuple(state.cut.to)}${state.symmetry ? ', symmetry="sample"' : ""})`);
  if (state.cell) lines.push(`origin = volume.why${tuple(state.cell)}`);
  return lines.join("\n");
}
