// Pixel and angle become Q, 2θ and hkl, as `offbragg.geometry` computes them.

/** @typedef {[number, number, number]} Vector */

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const times = (m, v) => m.map((row) => dot(row, v));
const transposed = (m) => m[0].map((_, column) => m.map((row) => row[column]));
const product = (a, b) => a.map((row) => transposed(b).map((column) => dot(row, column)));
const unit = (v) => {
  const length = Math.hypot(...v);
  return v.map((x) => x / length);
};

/** @param {number[][]} m @returns {number[][]|null} null if it is singular */
function inverse(m) {
  const [[a, b, c], [d, e, f], [g, h, i]] = m;
  const cofactors = [
    [e * i - f * h, c * h - b * i, b * f - c * e],
    [f * g - d * i, a * i - c * g, c * d - a * f],
    [d * h - e * g, b * g - a * h, a * e - b * d],
  ];
  const determinant = a * cofactors[0][0] + b * cofactors[1][0] + c * cofactors[2][0];
  if (!(Math.abs(determinant) > 1e-15)) return null;
  return cofactors.map((row) => row.map((x) => x / determinant));
}

/** Right-handed rotation about a unit vector (Rodrigues). @param {Vector} axis @param {number} degree */
function rotationAbout([x, y, z], degree) {
  const k = [
    [0, -z, y],
    [z, 0, -x],
    [-y, x, 0],
  ];
  const phi = (degree * Math.PI) / 180;
  const kk = product(k, k);
  return k.map((row, i) =>
    row.map(
      (value, j) => (i === j ? 1 : 0) + Math.sin(phi) * value + (1 - Math.cos(phi)) * kk[i][j],
    ),
  );
}

export class Geometry {
  /**
   * @param {any} mapping `geometry` of a start document: lab frame with z along the beam, mm
   * @param {number[][]|null} UB Å⁻¹ without 2π; null: no hkl
   */
  constructor(mapping, UB = null) {
    this.wavelength = mapping.wavelength;
    this.panel = mapping.panel;
    this.axes = mapping.axes;
    this.scanAxis = mapping.scan_axis;
    this.fromQ = UB && inverse(UB);
    const {fast, slow, origin} = this.panel;
    this.onPanel = inverse(transposed([fast, slow, origin]));
  }

  /** Where a point of the panel is, mm from the crystal. Column and row: corners are whole numbers. */
  lab(x, y) {
    const {origin, fast, slow, pixel_size: size} = this.panel;
    return origin.map((o, i) => o + x * size[0] * fast[i] + y * size[1] * slow[i]);
  }

  /** Goniometer rotation with the scan axis at an angle, degree. */
  rotation(angle) {
    let turned = [
      [1, 0, 0],
      [0, 1, 0],
      [0, 0, 1],
    ];
    for (const axis of this.axes) {
      // the innermost first
      turned = product(
        rotationAbout(unit(axis.vector), axis.name === this.scanAxis ? angle : axis.angle),
        turned,
      );
    }
    return turned;
  }

  /** s − s0 of a point of the panel in the lab, Å⁻¹ without 2π. */
  #transfer(x, y) {
    const s = unit(this.lab(x, y));
    return [s[0] / this.wavelength, s[1] / this.wavelength, (s[2] - 1) / this.wavelength];
  }

  /** Scattering vector fixed to the crystal, Å⁻¹ without 2π. */
  q(x, y, angle) {
    return times(transposed(this.rotation(angle)), this.#transfer(x, y));
  }

  /**
   * What a point of the panel sees.
   * @param {number} x @param {number} y column and row, pixel
   * @param {number|null} angle of the scan axis, degree; null: no hkl
   * @returns {{Q: number, d: number, twoTheta: number, hkl: Vector|null}} 1/Å with 2π, Å, degree, r.l.u.
   */
  at(x, y, angle) {
    const s = Math.hypot(...this.#transfer(x, y));
    const known = this.fromQ && typeof angle === "number";
    return {
      Q: 2 * Math.PI * s,
      d: 1 / s,
      twoTheta: (2 * Math.asin(Math.min(1, (s * this.wavelength) / 2)) * 180) / Math.PI,
      hkl: known ? times(this.fromQ, this.q(x, y, angle)) : null,
    };
  }

  /** Column and row where a ray along s meets the panel; null if it does not. */
  pixel(s) {
    if (!this.onPanel) return null;
    const [u, v, w] = times(this.onPanel, s);
    return w > 0 ? [u / w / this.panel.pixel_size[0], v / w / this.panel.pixel_size[1]] : null;
  }

  /** Where the direct beam meets the panel's plane: column, row; null if it never does. */
  get beamCentre() {
    return this.pixel([0, 0, 1]);
  }

  /**
   * Points of the ring of a lattice spacing, those where it meets the panel's plane.
   * @param {number} d Å @param {number} [n] of points
   * @returns {([number, number]|null)[]}
   */
  ring(d, n = 240) {
    const sine = this.wavelength / (2 * d);
    if (sine >= 1) return [];
    const theta2 = 2 * Math.asin(sine);
    return Array.from({length: n + 1}, (_, at) => {
      const azimuth = (2 * Math.PI * at) / n;
      return this.pixel([
        Math.sin(theta2) * Math.cos(azimuth),
        Math.sin(theta2) * Math.sin(azimuth),
        Math.cos(theta2),
      ]);
    });
  }

  /** The smallest and the largest d of the panel's corners and edges, Å. */
  get resolution() {
    const [rows, columns] = this.panel.shape;
    let finest = Infinity;
    for (const x of [0, columns / 2, columns]) {
      for (const y of [0, rows / 2, rows]) finest = Math.min(finest, this.at(x, y, null).d);
    }
    return finest;
  }
}

const ROUND = [
  20, 10, 7, 5, 4, 3, 2.5, 2, 1.7, 1.5, 1.3, 1.2, 1.1, 1, 0.9, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5,
  0.45, 0.4, 0.35, 0.3,
];

/**
 * Choose round spacings whose rings lie apart.
 * @param {Geometry} geometry @param {number} [most]
 * @returns {number[]} Å, the largest first
 */
export function ringsFor(geometry, most = 5) {
  const finest = geometry.resolution;
  const theta = (d) => Math.tan(2 * Math.asin(Math.min(1, geometry.wavelength / (2 * d))));
  const apart = theta(finest) / (most + 1);
  const chosen = [];
  let last = 0;
  for (const d of ROUND) {
    if (d < finest * 1.02) break;
    if (theta(d) - last >= apart) {
      chosen.push(d);
      last = theta(d);
    }
  }
  return chosen;
}
