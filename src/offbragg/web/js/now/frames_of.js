// Frames of a run as they were counted: read whole, kept for stepping back and forth.

/**
 * @typedef {object} Frame
 * @property {Int32Array} values counts, row after row; below 0: the pixel does not count
 * @property {number} width @property {number} height @property {number} index
 * @property {number} n frames of the run @property {number|null} angle midpoint, degree
 * @property {number|null} time POSIX s @property {string} file
 */

const KEPT = 8;

/**
 * Put counts together from the planes of their bytes, the lowest first.
 * @param {Uint8Array} planes @param {number} width bytes of a count, little-endian and signed
 * @returns {Int32Array}
 */
export function fromPlanes(planes, width) {
  const n = planes.length / width;
  const shift = 32 - 8 * width;
  const counts = new Int32Array(n);
  for (let plane = 0; plane < width; plane++) {
    const bits = 8 * plane + shift;
    const offset = plane * n;
    for (let at = 0; at < n; at++) counts[at] |= planes[offset + at] << bits;
  }
  if (shift) for (let at = 0; at < n; at++) counts[at] >>= shift;
  return counts;
}

export class FramesOf {
  /** @type {Map<string, Frame>} */ #kept = new Map();
  #asking = new Map();

  /** @param {import("../api.js").Api} api */
  constructor(api) {
    this.api = api;
  }

  /**
   * Read a frame.
   * @param {string} run uid @param {number|"last"} index
   * @returns {Promise<Frame>} rejects with ApiError 404 and the reason if it is not stored
   */
  async read(run, index, {signal} = {}) {
    const key = `${run} ${index}`;
    if (this.#kept.has(key)) return this.#kept.get(key);
    if (!this.#asking.has(key)) {
      this.#asking.set(
        key,
        this.#read(run, index, signal).finally(() => this.#asking.delete(key)),
      );
    }
    return this.#asking.get(key);
  }

  async #read(run, index, signal) {
    const {blob, headers} = await this.api.blob(
      `/runs/${encodeURIComponent(run)}/frames/${index}?format=bytes`,
      {signal},
    );
    const about = JSON.parse(headers.get("x-offbragg-frame"));
    const [height, width] = about.shape;
    const frame = {
      ...about,
      width,
      height,
      values: fromPlanes(new Uint8Array(await blob.arrayBuffer()), about.width),
    };
    this.#kept.set(`${run} ${frame.index}`, frame);
    while (this.#kept.size > KEPT) this.#kept.delete(this.#kept.keys().next().value);
    return frame;
  }
}
