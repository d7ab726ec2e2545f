// What is asked of the server: whole plane first and coarse, then the visible part as fine as the
// screen shows it. Pure.

import {planeName, running, short} from "./plane.js";

const FIRST = 256;  // cells along the longest axis of what is asked for first
const MOST = 1_500_000;  // cells of one answer: 6 MB
const BLOCK = 64;  // cells: parts begin and end at whole blocks, so that a small move asks for nothing

/** Cells along an axis at a level. */
export const cellsAt = (n, level) => Math.ceil(n / level);

/**
 * The level that is asked for first.
 *
 * The server makes a symmetrised plane of cells of level 1: the fine ones are there sooner.
 * @param {number[]} shape along the axes @param {number[]} levels
 */
export function firstLevel(shape, levels, symmetry = false) {
  const sorted = [...levels].sort((a, b) => a - b);
  const most = symmetry ? 3 * FIRST : FIRST;
  return sorted.find((level) => cellsAt(Math.max(...shape), level) <= most) ?? sorted[sorted.length - 1];
}

/**
 * The level of which one cell is at least about a pixel of the screen.
 * @param {number} pixels of one cell of level 1 @param {number[]} levels
 */
export function levelFor(pixels, levels) {
  const sorted = [...levels].sort((a, b) => a - b);
  return sorted.find((level) => pixels * level >= 0.9) ?? sorted[sorted.length - 1];
}

/**
 * The indices of the cells of a level that a range of labels touches, at whole blocks.
 * @param {{first: number[], shape: number[], per_unit: number[]}} grid
 * @returns {[number, number]} first and one past the last
 */
export function indices(grid, axis, [low, high], level) {
  const n = cellsAt(grid.shape[axis], level);
  const index = (x) => (x * grid.per_unit[axis] + 0.5 - grid.first[axis]) / level;
  const from = Math.floor(Math.floor(index(low)) / BLOCK) * BLOCK;
  const to = Math.ceil((Math.floor(index(high)) + 1) / BLOCK) * BLOCK;
  return [Math.min(Math.max(from, 0), n - 1), Math.max(Math.min(to, n), 1)];
}

/** Centre of a cell of a level, r.l.u.: the mean of the labels in it. */
export function centre(grid, axis, index, level) {
  const begin = index * level;
  const end = Math.min(begin + level, grid.shape[axis]) - 1;
  return (grid.first[axis] + (begin + end) / 2) / grid.per_unit[axis];
}

/** Whether the server is to average equivalent cells; a symmetrised volume has these sums already. */
export const symmetrises = (volume, {symmetry}) => symmetry && !volume.symmetry;

/**
 * The route of a whole plane.
 * @param {{key: string, symmetry: string}} volume @param {import("./plane.js").State} state
 */
export function planePath(volume, state, level) {
  const query = new URLSearchParams();
  query.set("points" in state.kind ? "points" : "plane", planeName(state));
  if (state.thickness) query.set("thickness", short(state.thickness));
  if (symmetrises(volume, state)) query.set("symmetry", "sample");
  if (level !== 1) query.set("level", String(level));
  query.set("format", "float32");
  return `/volumes/${encodeURIComponent(volume.key)}/plane?${query}`;
}

/** The route of a plane along an axis. @param {number} fixed which index stands still */
export const axialPath = (volume, state, fixed, level) => planePath(volume, {...state, kind: {fixed}, thickness: 0}, level);

/**
 * The route of the visible part of a plane along two axes; null: the whole one is to be asked for.
 *
 * A box holds cells as they are stored: a thick, oblique or symmetrised plane is made by the server
 * as a whole.
 * @param {number[]} part u0, u1, v0, v1, r.l.u.
 */
export function partPath(volume, state, part, level) {
  if (!("fixed" in state.kind) || state.thickness || symmetrises(volume, state)) return null;
  const {grid} = volume;
  const [a, b] = running(state.kind.fixed);
  const [i0, i1] = indices(grid, a, [part[0], part[1]], level);
  const [j0, j1] = indices(grid, b, [part[2], part[3]], level);
  const whole = cellsAt(grid.shape[a], level) * cellsAt(grid.shape[b], level);
  if ((i1 - i0) * (j1 - j0) > 0.6 * whole) return null;
  const layer = Math.floor((Math.round(state.at[state.kind.fixed] * grid.per_unit[state.kind.fixed]) - grid.first[state.kind.fixed]) / level);
  const limits = [null, null, null];
  limits[a] = between(grid, a, i0, i1, level);
  limits[b] = between(grid, b, j0, j1, level);
  limits[state.kind.fixed] = between(grid, state.kind.fixed, layer, layer + 1, level);
  const query = new URLSearchParams({box: limits.join(",")});
  if (level !== 1) query.set("level", String(level));
  query.set("format", "float32");
  return `/volumes/${encodeURIComponent(volume.key)}/box?${query}`;
}

/** Limits that hold the centres of some cells and no other. */
function between(grid, axis, from, to, level) {
  const margin = 0.2 / grid.per_unit[axis];
  const low = centre(grid, axis, from, level) - margin;
  const high = centre(grid, axis, to - 1, level) + margin;
  return `${exact(low)}:${exact(high)}`;
}

const exact = (x) => String(Number(x.toFixed(9)) + 0);

/** The finest level that is not more than one answer holds. */
export const affordable = (shape, level, levels) => [...levels].sort((a, b) => a - b).find(
  (each) => each >= level && cellsAt(shape[0], each) * cellsAt(shape[1], each) <= MOST,
) ?? Math.max(...levels);

/**
 * A plane of numbers and where its cells are: `values[i * nv + j]`, i along u, j along v.
 * @typedef {{values: Float32Array, sigma: Float32Array|null, nu: number, nv: number, u0: number,
 *   du: number, v0: number, dv: number, level: number, cut: any}} Raster u0, v0: edges of the first
 *   cell, r.l.u.
 */

/**
 * Read an answer of `plane`, or of a `box` that is one layer thick.
 * @param {{data: Float32Array, cut: any}} answer
 * @param {import("./plane.js").Grid} grid
 * @param {number|null} layer of a box: which index stands still
 * @returns {Raster}
 */
export function raster({data, cut}, grid, layer = null) {
  const axes = layer === null ? cut.axes : cut.axes.filter((_, i) => i !== layer);
  const at = layer === null ? cut.at : cut.axes.map((axis, i) => (i === layer ? axis.first : 0));
  const size = axes[0].count * axes[1].count;
  const [du, dv] = axes.map((axis) => {
    // the last cell of a level may hold fewer, and its centre is nearer
    const which = axis.direction.findIndex((x) => x !== 0);
    const alone = axis.direction.every((x, i) => x === (i === which ? 1 : 0));
    return alone || axis.count < 3 ? cut.level / grid.per_unit[which] : axis.step;
  });
  return {
    values: data.subarray(0, size),
    sigma: data.length >= 2 * size ? data.subarray(size, 2 * size) : null,
    nu: axes[0].count, nv: axes[1].count, u0: axes[0].first - du / 2, du,
    v0: axes[1].first - dv / 2, dv, level: cut.level, cut: {...cut, axes, at},
  };
}

/** Index of the cell at u, v in a raster; −1 outside. @param {Raster} r */
export function cellAt(r, u, v) {
  const i = Math.floor((u - r.u0) / r.du);
  const j = Math.floor((v - r.v0) / r.dv);
  return i >= 0 && i < r.nu && j >= 0 && j < r.nv ? i * r.nv + j : -1;
}

/** Where an index of a raster is: centre, r.l.u. along u and v. @param {Raster} r */
export const placeOf = (r, index) => [
  r.u0 + (Math.floor(index / r.nv) + 0.5) * r.du, r.v0 + ((index % r.nv) + 0.5) * r.dv,
];
