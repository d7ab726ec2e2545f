// The unit cell: lengths of scattering vectors, and parameters as people write them.

const NAMES = ["a", "b", "c", "alpha", "beta", "gamma"];
/** How a parameter is written, and its unit. */
export const PARAMETERS = {
  a: ["a", "Å"], b: ["b", "Å"], c: ["c", "Å"], alpha: ["α", "°"], beta: ["β", "°"], gamma: ["γ", "°"],
};

/**
 * The length of a scattering vector, Å⁻¹ with 2π; null without a lattice.
 * @param {Record<string, [number, number]|number>|null} lattice  a, b, c in Å, angles in degree
 * @param {number[]} hkl
 */
export function lengthOf(lattice, hkl) {
  const values = NAMES.map((name, at) => valueOf(lattice?.[name]) ?? (at > 2 ? 90 : null));
  if (values.includes(null)) return null;
  const lengths = values.slice(0, 3);
  const cos = values.slice(3).map((angle) => Math.cos((angle * Math.PI) / 180));
  // metric tensor of the direct cell; its inverse is that of the reciprocal one
  const [a, b, c] = lengths;
  const g = [
    [a * a, a * b * cos[2], a * c * cos[1]],
    [a * b * cos[2], b * b, b * c * cos[0]],
    [a * c * cos[1], b * c * cos[0], c * c],
  ];
  const cofactor = (i, j) => g[(i + 1) % 3][(j + 1) % 3] * g[(i + 2) % 3][(j + 2) % 3]
    - g[(i + 1) % 3][(j + 2) % 3] * g[(i + 2) % 3][(j + 1) % 3];
  const volume = [0, 1, 2].reduce((sum, j) => sum + g[0][j] * cofactor(0, j), 0);
  let square = 0;
  for (let i = 0; i < 3; i++) {
    for (let j = 0; j < 3; j++) square += (hkl[i] * hkl[j] * cofactor(i, j)) / volume;
  }
  return 2 * Math.PI * Math.sqrt(Math.max(square, 0));
}

/** A parameter's value, whether it has an error or not. */
export const valueOf = (entry) => (Array.isArray(entry) ? entry[0] : entry) ?? null;
/** Its standard deviation; null if it is not known. */
export const errorOf = (entry) => (Array.isArray(entry) ? entry[1] : null) || null;
