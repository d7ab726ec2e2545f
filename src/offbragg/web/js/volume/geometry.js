// Where a plane's cells lie in Å⁻¹ and on the screen. Pure.

/**
 * The metric of reciprocal space with 2π, Å⁻².
 * @param {number[][]|null} UB Å⁻¹ without 2π, column j is a reciprocal basis vector
 * @returns {number[][]|null}
 */
export function metric(UB) {
  if (!UB) return null;
  const two = (2 * Math.PI) ** 2;
  return [0, 1, 2].map((i) => [0, 1, 2].map(
    (j) => two * UB.reduce((total, row) => total + row[i] * row[j], 0),
  ));
}

/**
 * The same of a lattice, where the orientation is not known.
 * @param {number[]|null} lattice a, b, c in Å, alpha, beta, gamma in degree
 * @returns {number[][]|null}
 */
export function metricOf(lattice) {
  if (!lattice) return null;
  const [a, b, c] = lattice;
  const [ca, cb, cg] = lattice.slice(3).map((angle) => Math.cos((angle * Math.PI) / 180));
  const G = [[a * a, a * b * cg, a * c * cb], [a * b * cg, b * b, b * c * ca], [a * c * cb, b * c * ca, c * c]];
  const cofactor = (i, j) => {
    const [p, q] = [0, 1, 2].filter((n) => n !== i);
    const [r, s] = [0, 1, 2].filter((n) => n !== j);
    return (-1) ** (i + j) * (G[p][r] * G[q][s] - G[p][s] * G[q][r]);
  };
  const determinant = [0, 1, 2].reduce((total, j) => total + G[0][j] * cofactor(0, j), 0);
  const two = (2 * Math.PI) ** 2;
  return [0, 1, 2].map((i) => [0, 1, 2].map((j) => (two * cofactor(j, i)) / determinant));
}

/** u · v. @param {number[][]} G */
export const product = (G, u, v) =>
  u.reduce((total, x, i) => total + x * v.reduce((inner, y, j) => inner + G[i][j] * y, 0), 0);

/** |Q| of a point, Å⁻¹; null without a metric. */
export const lengthOf = (G, hkl) => (G ? Math.sqrt(Math.max(0, product(G, hkl, hkl))) : null);

/**
 * A plane's axes on paper: u runs to the right, v up and, where the lattice is skew, at its angle.
 * x = u·ux + v·vx, y = v·vy, Å⁻¹; without a metric r.l.u.
 * @typedef {{ux: number, vx: number, vy: number, angle: number, inQ: boolean}} Basis
 * @param {number[][]|null} G @param {number[]} u @param {number[]} v @returns {Basis}
 */
export function basis(G, u, v) {
  if (!G) return {ux: Math.hypot(...u), vx: 0, vy: Math.hypot(...v), angle: 90, inQ: false};
  const [uu, uv, vv] = [product(G, u, u), product(G, u, v), product(G, v, v)];
  const ux = Math.sqrt(uu);
  const cosine = uv / Math.sqrt(uu * vv);
  const right = Math.abs(cosine) < 1e-3;  // refined: its rounding is not to be seen
  const vx = right ? 0 : uv / ux;
  return {
    ux, vx, vy: Math.sqrt(vv - vx * vx), angle: right ? 90 : (Math.acos(cosine) * 180) / Math.PI,
    inQ: true,
  };
}

/** @param {Basis} b @returns {[number, number]} x, y */
export const toXY = (b, u, v) => [u * b.ux + v * b.vx, v * b.vy];

/** @param {Basis} b @returns {[number, number]} u, v */
export function toUV(b, x, y) {
  const v = y / b.vy;
  return [(x - v * b.vx) / b.ux, v];
}

/** The smallest rectangle in x, y around a box in u, v. */
export function around(b, [u0, u1, v0, v1]) {
  const corners = [[u0, v0], [u1, v0], [u0, v1], [u1, v1]].map(([u, v]) => toXY(b, u, v));
  const [xs, ys] = [corners.map((c) => c[0]), corners.map((c) => c[1])];
  return [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
}
