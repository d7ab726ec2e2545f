// Planes that were asked for: kept, asked for once, and the neighbours before they are wanted.

const KEPT = 96_000_000;  // bytes
const AT_ONCE = 2;  // that are prefetched at the same time: the server cuts two

export class Cache {
  #kept = new Map();
  #bytes = 0;
  #asked = new Map();
  #queue = [];
  #running = 0;

  /** @param {(path: string, signal: AbortSignal) => Promise<any>} fetch answers with a raster */
  constructor(fetch) { this.fetch = fetch; }

  /**
   * What is there, without waiting.
   * @param {string} path @param {number|string} version of the volume @returns {any|null}
   */
  peek(path, version) {
    const name = `${version} ${path}`;
    const found = this.#kept.get(name);
    if (found === undefined) return null;
    this.#kept.delete(name);
    this.#kept.set(name, found);  // the newest is last
    return found;
  }

  /**
   * Ask, or wait for the same question.
   * @param {string} path @param {number|string} version @returns {Promise<any>}
   */
  async get(path, version, {wanted = true} = {}) {
    const found = this.peek(path, version);
    if (found !== null) return found;
    const name = `${version} ${path}`;
    let asked = this.#asked.get(name);
    if (asked === undefined) {
      const control = new AbortController();
      asked = {control, wanted, answer: this.#ask(name, path, control.signal)};
      this.#asked.set(name, asked);
    }
    asked.wanted ||= wanted;
    return asked.answer;
  }

  async #ask(name, path, signal) {
    try {
      const raster = await this.fetch(path, signal);
      this.#keep(name, raster);
      return raster;
    } finally {
      this.#asked.delete(name);
    }
  }

  #keep(name, raster) {
    const size = (one) => one.values.byteLength * 3;  // with its rows and its picture
    this.#kept.set(name, raster);
    this.#bytes += size(raster);
    for (const [old, each] of this.#kept) {
      if (this.#bytes <= KEPT) break;
      this.#kept.delete(old);
      this.#bytes -= size(each);
    }
  }

  /**
   * Ask for neighbours, the nearest first, once nothing else is waited for; what was to be
   * prefetched before is left.
   * @param {{path: string, version: number|string}[]} wishes
   */
  prefetch(wishes) {
    this.#queue = wishes.filter(({path, version}) => !this.#kept.has(`${version} ${path}`));
    this.#next();
  }

  async #next() {
    if (this.#running >= AT_ONCE || !this.#queue.length) return;
    const {path, version} = this.#queue.shift();
    this.#running++;
    try {
      await this.get(path, version, {wanted: false});
    } catch {
      this.#queue = [];  // refused or away: whoever wants it hears why
    } finally {
      this.#running--;
    }
    this.#next();
  }
}
