// Which plane of which volume is shown: its name, its neighbours, and the address that says all of
// it. Pure: no page, no server.

export const NAMES = ["h", "k", "l"];
export const LEVELS = [1, 2, 4, 8];

/**
 * @typedef {{first: number[], shape: number[], per_unit: number[]}} Grid cells along h, k, l; a
 *   label is (first + index) / per_unit
 * @typedef {{fixed: number}|{text: string}|{points: number[][]}} Kind which index stands still, or
 *   a plane as the server reads it (`hhl`), or three points
 * @typedef {{
 *   kind: Kind, at: number[], level: number, scale: "log"|"linear", range: number[]|null,
 *   palette: string, symmetry: boolean, thickness: number, part: number[]|null,
 *   cut: {from: number[], to: number[]}|null, cell: number[]|null,
 * }} State `at`: the point where the three axial planes meet, r.l.u.; `level` 0: as the zoom asks;
 *   `range` null: from the measured cells; `part`: visible u0, u1, v0, v1, r.l.u.
 */

/** @returns {State} */
export const initial = () => ({
  kind: {fixed: 2}, at: [0, 0, 0], level: 0, scale: "log", range: null, palette: "viridis",
  symmetry: false, thickness: 0, part: null, cut: null, cell: null,
});

/** A number as short as it can be: 0.5, −0.05. @param {number} x */
export const short = (x) => String(Number(x.toFixed(5)) + 0);

const triple = (point) => point.map(short).join(",");

/** @param {string|null} text @param {number} count @returns {number[]|null} finite numbers */
export function numbers(text, count, separator = ",") {
  const parts = (text ?? "").replaceAll("−", "-").split(separator).map((part) => part.trim());
  const found = parts.map((part) => (part === "" ? NaN : Number(part)));
  return found.length === count && found.every(Number.isFinite) ? found : null;
}

const PARTS = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4"};

/** Read one number: 0.5, 0,5, 1/2, −½. @param {string} text @returns {number|null} */
export function fraction(text) {
  const plain = text.trim().replace(/[½⅓⅔¼¾]/g, (sign) => PARTS[sign]).replace("−", "-").replace(",", ".");
  const found = /^([+-]?(?:\d+\.?\d*|\.\d+))(?:\s*\/\s*(\d+\.?\d*))?$/.exec(plain);
  const value = found ? Number(found[1]) / Number(found[2] ?? 1) : NaN;
  return Number.isFinite(value) ? value : null;
}

/** @param {string} text `0,0,0;1,1,0;0,0,1` @returns {number[][]|null} */
export function threePoints(text) {
  const points = text.split(";").map((part) => numbers(part, 3));
  return points.length === 3 && points.every((point) => point !== null) ? points : null;
}

const PLACE = String.raw`([+-]?\d+(?:\.\d+)?|[hkl])`;
const ALIGNED = new RegExp(`^${PLACE}${PLACE}${PLACE}$`);

/**
 * Read a plane of which one index stands still: hk0.5, h-1l, 0kl.
 * @param {string} text @returns {{fixed: number, value: number}|null} null: it is another one
 */
export function aligned(text) {
  const found = ALIGNED.exec(text.replace(/\s/g, "").replaceAll("−", "-"));
  if (found === null) return null;
  const places = found.slice(1);
  const fixed = places.findIndex((place) => !NAMES.includes(place));
  const rest = places.every((place, i) => (i === fixed ? !NAMES.includes(place) : place === NAMES[i]));
  return fixed >= 0 && rest ? {fixed, value: Number(places[fixed])} : null;
}

/** The two indices that run. @param {number} fixed @returns {number[]} */
export const running = (fixed) => [0, 1, 2].filter((i) => i !== fixed);

/** The plane as the server and a scientist write it: hk0.5. @param {State} state */
export function planeName({kind, at}) {
  if ("fixed" in kind) return NAMES.map((name, i) => (i === kind.fixed ? short(at[i]) : name)).join("");
  return "text" in kind ? kind.text : kind.points.map(triple).join(";");
}

/**
 * Read an address. What is not understood is left as it is by default, and said.
 * @param {URLSearchParams} query
 * @returns {{state: State, wrong: string[]}}
 */
export function read(query) {
  const state = initial();
  const wrong = [];
  const take = (name, parse, put) => {
    if (!query.has(name)) return;
    const value = parse(query.get(name));
    if (value === null || value === undefined) wrong.push(`${name}=${query.get(name)}`);
    else put(value);
  };
  const oneOf = (allowed) => (text) => (allowed.includes(text) ? text : null);
  take("at", (text) => numbers(text, 3), (at) => { state.at = at; });
  take("plane", (text) => text, (text) => {
    const found = aligned(text);
    if (found === null) state.kind = {text: text.replace(/\s/g, "")};
    else {
      state.kind = {fixed: found.fixed};
      state.at = state.at.map((x, i) => (i === found.fixed ? found.value : x));
    }
  });
  take("points", threePoints, (points) => { state.kind = {points}; });
  take("level", (text) => (text === "auto" ? 0 : LEVELS.find((n) => String(n) === text)), (n) => { state.level = n; });
  take("scale", oneOf(["log", "linear"]), (scale) => { state.scale = scale; });
  take("range", (text) => rising(numbers(text, 2, ":")), (range) => { state.range = range; });
  take("palette", oneOf(["viridis", "magma", "cividis", "grey"]), (palette) => { state.palette = palette; });
  take("symmetry", oneOf(["sample", "none"]), (text) => { state.symmetry = text === "sample"; });
  take("thickness", (text) => positive(numbers(text, 1)), (thickness) => { state.thickness = thickness; });
  take("part", (text) => box(text), (part) => { state.part = part; });
  take("cell", (text) => numbers(text, 3), (cell) => { state.cell = cell; });
  take("cut", readCut, (cut) => { state.cut = cut; });
  return {state, wrong};
}

/**
 * Write an address, without what is so by default.
 * @param {State} state @returns {URLSearchParams}
 */
export function write(state) {
  const query = new URLSearchParams();
  const plain = initial();
  if ("points" in state.kind) query.set("points", planeName(state));
  else query.set("plane", planeName(state));
  const others = state.at.map((x, i) => ("fixed" in state.kind && i === state.kind.fixed ? 0 : x));
  if (others.some((x) => x !== 0)) query.set("at", triple(state.at));
  if (state.level) query.set("level", String(state.level));
  if (state.range) query.set("range", state.range.map(digits).join(":"));
  query.set("scale", state.scale);
  if (state.palette !== plain.palette) query.set("palette", state.palette);
  if (state.symmetry) query.set("symmetry", "sample");
  if (state.thickness) query.set("thickness", short(state.thickness));
  if (state.part) query.set("part", `${short(state.part[0])}:${short(state.part[1])},${short(state.part[2])}:${short(state.part[3])}`);
  if (state.cell) query.set("cell", triple(state.cell));
  if (state.cut) query.set("cut", `${triple(state.cut.from)}:${triple(state.cut.to)}`);
  return query;
}

const digits = (x) => String(Number(x.toPrecision(4)));
const rising = (pair) => (pair !== null && pair[0] < pair[1] ? pair : null);
const positive = (one) => (one !== null && one[0] >= 0 ? one[0] : null);

function box(text) {
  const pairs = text.split(",").map((part) => rising(numbers(part, 2, ":")));
  return pairs.length === 2 && pairs.every((pair) => pair !== null) ? pairs.flat() : null;
}

function readCut(text) {
  const points = text.split(":").map((part) => numbers(part, 3));
  return points.length === 2 && points[0] && points[1] ? {from: points[0], to: points[1]} : null;
}

/** First and last label along an axis, r.l.u. @param {Grid} grid @param {number} axis */
export const ends = (grid, axis) => [
  grid.first[axis] / grid.per_unit[axis],
  (grid.first[axis] + grid.shape[axis] - 1) / grid.per_unit[axis],
];

/** The label of the cell in which a value lies; of the first or last one beyond. */
export function nearest(grid, axis, value) {
  const label = Math.floor(value * grid.per_unit[axis] + 0.5);
  const last = grid.first[axis] + grid.shape[axis] - 1;
  return Math.min(Math.max(label, grid.first[axis]), last) / grid.per_unit[axis];
}

/** Whether a point lies in a cell of the grid. @param {Grid} grid @param {number[]} point */
export const contains = (grid, point) => point.every((x, axis) => {
  const index = Math.floor(x * grid.per_unit[axis] + 0.5) - grid.first[axis];
  return index >= 0 && index < grid.shape[axis];
});

/**
 * The part of a plane that lies in the grid: a convex outline. A coarse raster reaches past it.
 * @param {Grid} grid @param {{axes: {direction: number[]}[], at: number[]}} cut
 * @returns {[number, number][]} corners u, v; none: the plane does not meet the grid
 */
export function outlineOn(grid, cut) {
  const far = 1e4;
  let corners = [[-far, -far], [far, -far], [far, far], [-far, far]];
  const [u, v] = cut.axes.map((axis) => axis.direction);
  for (const axis of [0, 1, 2]) {
    const half = 0.5 / grid.per_unit[axis];
    const [low, high] = ends(grid, axis);
    for (const [sign, limit] of [[1, low - half], [-1, high + half]]) {
      const depth = ([a, b]) => sign * (cut.at[axis] + a * u[axis] + b * v[axis] - limit);
      corners = corners.flatMap((corner, n) => {
        const before = corners.at(n - 1);
        const [d, e] = [depth(before), depth(corner)];
        const edge = d < 0 === e < 0 ? [] : [before.map((x, i) => x + ((corner[i] - x) * d) / (d - e))];
        return e < 0 ? edge : [...edge, corner];
      });
    }
  }
  return corners;
}

/** Put a state on the cells of a grid: what it names exists. @param {State} state @param {Grid} grid @returns {State} */
export const onGrid = (state, grid) => ({...state, at: state.at.map((x, i) => nearest(grid, i, x))});

/**
 * The neighbouring plane, one cell up (+1) or down (−1).
 * @param {State} state @param {Grid} grid
 * @param {{axes: {direction: number[]}[], at: number[]}|null} cut what the server said of an oblique plane
 * @returns {State}
 */
export function moved(state, grid, steps, cut = null) {
  if ("fixed" in state.kind) {
    const axis = state.kind.fixed;
    const value = nearest(grid, axis, state.at[axis] + steps / grid.per_unit[axis]);
    return {...state, at: state.at.map((x, i) => (i === axis ? value : x))};
  }
  if (cut === null) return state;
  const [u, v] = cut.axes.map((axis) => axis.direction);
  const axis = across(u, v);
  const origin = cut.at.map((x, i) => x + (i === axis ? steps / grid.per_unit[i] : 0));
  return {...state, kind: {points: [origin, sum(origin, u), sum(origin, v)]}};
}

/** Normal of two directions. */
export const cross = (u, v) => [
  u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0],
];

/** The index along which a step leaves an oblique plane by least. */
function across(u, v) {
  const normal = cross(u, v).map(Math.abs);
  const smallest = Math.min(...normal.filter((n) => n > 0));
  return normal.lastIndexOf(smallest);
}

const sum = (a, b) => a.map((x, i) => x + b[i]);

/** The point at u, v of a cut, r.l.u. @param {{axes: {direction: number[]}[], at: number[]}} cut */
export const pointOn = (cut, u, v) =>
  cut.at.map((x, i) => x + u * cut.axes[0].direction[i] + v * cut.axes[1].direction[i]);

/** u and v of the point of a plane that is nearest, as the indices are measured. */
export function placeOn(cut, point) {
  const [a, b] = cut.axes.map((axis) => axis.direction);
  const d = point.map((x, i) => x - cut.at[i]);
  const dot = (p, q) => p.reduce((total, x, i) => total + x * q[i], 0);
  const [aa, ab, bb, ad, bd] = [dot(a, a), dot(a, b), dot(b, b), dot(a, d), dot(b, d)];
  const scale = aa * bb - ab * ab;
  return [(bb * ad - ab * bd) / scale, (aa * bd - ab * ad) / scale];
}

/** A direction as one writes it: (1 1 0); along an axis its letter. @param {number[]} direction */
export function directionName(direction) {
  const used = direction.flatMap((x, i) => (x ? [i] : []));
  if (used.length === 1 && direction[used[0]] === 1) return NAMES[used[0]];
  return `(${direction.map((x) => String(x).replace("-", "−")).join(" ")})`;
}
