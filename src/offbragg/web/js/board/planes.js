// Planes of many volumes: asked for a few at a time, the wanted ones first, and kept.

const PARALLEL = 3;  // requests at the same time: the server cuts two
const MOST = 200e6;  // bytes of answers that are kept
const GREY = 204;  // of what was not measured, in the server's pictures

/**
 * @typedef {{key: string, version: string|number, levels?: number[], grid?: {shape: number[]}}} Volume
 * @typedef {{direction: number[], first: number, last: number, step: number, count: number}} Axis
 * @typedef {{axes: Axis[], at: number[], level: number, shape: number[], low?: number,
 *   high?: number}} Cut
 */

export class Planes {
  /** @type {Map<string, {done: any, promise: Promise<any>}>} */
  #kept = new Map();
  #queue = [];
  #running = 0;
  #bytes = 0;

  /** @param {import("../api.js").Api} api */
  constructor(api) {
    this.api = api;
  }

  /** Forget questions that were not yet asked, as when another plane is chosen. */
  restart() {
    for (const task of this.#queue.splice(0)) {
      this.#kept.delete(task.id);
      task.fail(new DOMException("another plane was chosen", "AbortError"));
    }
  }

  /**
   * A picture of a plane; what was not measured is transparent.
   * @param {Volume} volume @param {{plane: string, level: number, low?: number, high?: number}} how
   * @param {number} urgency 0 is asked for first
   * @returns {Promise<{image: HTMLCanvasElement, cut: Cut}>}
   */
  picture(volume, how, urgency = 2) {
    return this.#get(`${address(volume, how)}&format=png`, volume.version, urgency, async (path) => {
      const {blob, headers} = await this.api.blob(path);
      return {image: await unmeasuredCleared(blob), cut: cutOf(headers)};
    });
  }

  /**
   * The intensities of a plane; the first axis runs along rows of `data`.
   * @param {Volume} volume @param {{plane: string, level: number}} how
   * @returns {Promise<{data: Float32Array, cut: Cut}>}
   */
  values(volume, how, urgency = 0) {
    const {plane, level} = how;
    const path = `${address(volume, {plane, level})}&format=float32`;
    return this.#get(path, volume.version, urgency, async (from) => {
      const {data, cut} = await this.api.array(from);
      return {data, cut};
    });
  }

  /** The intensities, if they are here already. */
  valuesAtHand(volume, {plane, level}) {
    const id = `${volume.version} ${address(volume, {plane, level})}&format=float32`;
    return this.#kept.get(id)?.done ?? null;
  }

  #get(path, version, urgency, read) {
    const id = `${version} ${path}`;
    const kept = this.#kept.get(id);
    if (kept) {
      const waiting = this.#queue.find((task) => task.id === id);
      if (waiting && urgency < waiting.urgency) waiting.urgency = urgency;
      this.#kept.delete(id);  // the last one that was wanted is the last to be forgotten
      this.#kept.set(id, kept);
      return kept.promise;
    }
    const entry = {done: null, promise: null, bytes: 0};
    entry.promise = new Promise((take, fail) => {
      this.#queue.push({id, path, urgency, read, entry, take, fail});
    });
    entry.promise.catch(() => { if (this.#kept.get(id) === entry) this.#kept.delete(id); });
    this.#kept.set(id, entry);
    this.#next();
    return entry.promise;
  }

  /** Keep an answer, and forget those that were not wanted for longest. */
  #keep(entry, answer) {
    entry.done = answer;
    entry.bytes = answer.data?.byteLength ?? 4 * answer.image.width * answer.image.height;
    this.#bytes += entry.bytes;
    for (const [id, old] of this.#kept) {
      if (this.#bytes <= MOST) break;
      if (old === entry || old.done === null) continue;
      this.#kept.delete(id);
      this.#bytes -= old.bytes;
    }
  }

  #next() {
    while (this.#running < PARALLEL && this.#queue.length) {
      const first = this.#queue.reduce((a, b) => (b.urgency < a.urgency ? b : a));
      this.#queue.splice(this.#queue.indexOf(first), 1);
      this.#running++;
      first.read(first.path).then((answer) => {
        this.#keep(first.entry, answer);
        first.take(answer);
      }, first.fail).finally(() => {
        this.#running--;
        this.#next();
      });
    }
  }
}

/** The coarsest level that still has a cell for each pixel of a side. */
export function levelFor(volume, pixels) {
  const cells = Math.max(...(volume.grid?.shape ?? [pixels]));
  const levels = [...(volume.levels ?? [1])].sort((a, b) => b - a);
  return levels.find((level) => cells / level >= pixels) ?? 1;
}

/** Two figures are enough for the end of a scale, and equal questions have equal answers. */
export const rounded = (x) => Number(x.toPrecision(2));

/**
 * The ends of a scale for all planes of a series, from the ends that the server finds for some of
 * them: the lowest tenth is not to be lost, and the strongest is not to be cut off.
 * @param {{low: number, high: number}[]} ends
 */
export function commonEnds(ends) {
  const lows = ends.map((one) => one.low).sort((a, b) => a - b);
  const low = rounded(lows[Math.floor(lows.length / 2)]);
  const high = rounded(Math.max(...ends.map((one) => one.high)));
  return {low, high: high > low ? high : rounded(low * 10)};
}

/** Up to `most` of a list, evenly spread, the first and the last among them. */
export function spread(list, most) {
  if (list.length <= most) return list;
  return Array.from({length: most}, (_, at) => list[Math.round((at * (list.length - 1)) / (most - 1))]);
}

function address(volume, {plane, level, low, high}) {
  const query = new URLSearchParams({plane, level: String(level)});
  if (low !== undefined && high !== undefined) {
    query.set("low", String(low));
    query.set("high", String(high));
  }
  return `/volumes/${encodeURIComponent(volume.key)}/plane?${query}`;
}

const cutOf = (headers) => JSON.parse(headers.get("x-offbragg-cut") ?? "null");

/** A picture of a plane as a canvas: what was not measured is hatched, no grey is taken for a value. */
export async function unmeasuredCleared(blob) {
  const bitmap = await createImageBitmap(blob);
  const image = document.createElement("canvas");
  image.width = bitmap.width;
  image.height = bitmap.height;
  const context = image.getContext("2d", {willReadFrequently: true});
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const pixels = context.getImageData(0, 0, image.width, image.height);
  const {data} = pixels;
  for (let at = 0; at < data.length; at += 4) {
    if (data[at] === GREY && data[at + 1] === GREY && data[at + 2] === GREY) data[at + 3] = 0;
  }
  context.putImageData(pixels, 0, 0);
  return image;
}
