// What the board shows: one series, or the newest ones as the rows of one board.

export const ALL = "all";
const MOST = 12;  // series of one board

export class SeriesReader {
  /** @type {Map<string, {key: string, series: any}>} series that have ended, as they were read */
  #ended = new Map();

  /** @param {import("../api.js").Api} api */
  constructor(api) {
    this.api = api;
  }

  /**
   * Read a series, all of them together, or the newest one.
   * @param {string} id a uid; `ALL`; "" is the newest
   * @returns {Promise<{series: any, list: any[], volumes: any[]}>}
   */
  async read(id) {
    if (id !== ALL) {
      const [series, {series: list}] = await Promise.all([
        this.api.json(`/series/${encodeURIComponent(id || "latest")}`), this.api.json("/series")]);
      // runs without a series are shown by their day: their volumes are of no series
      const of = series.uid.startsWith("day-") ? "" : `series=${encodeURIComponent(series.uid)}&`;
      const {volumes} = await this.api.json(`/volumes?${of}limit=500`);
      return {series, list, volumes};
    }
    const [{series: list}, {volumes}] = await Promise.all([this.api.json("/series"), this.api.json("/volumes?limit=500")]);
    const all = await Promise.all(list.slice(0, MOST).map((entry) => this.#one(entry)));
    return {series: merged(all), list, volumes};
  }

  async #one(entry) {
    const key = `${entry.runs} ${entry.last} ${entry.state}`;
    const kept = this.#ended.get(entry.uid);
    if (kept?.key === key) return kept.series;
    const series = await this.api.json(`/series/${encodeURIComponent(entry.uid)}`);
    if (series.state !== "running") this.#ended.set(entry.uid, {key, series});
    return series;
  }

  /**
   * Read the order parameter at a point; its law is that of one sample.
   * @param {any} series as `read` has returned it @param {string} at "h,k,l" @param {string} sample
   */
  async order(series, at, sample) {
    const of = (uid, more) => this.api.json(`/series/${encodeURIComponent(uid)}/order?${new URLSearchParams({at, ...more})}`);
    const uids = [...new Set(series.cells.map((cell) => cell.series ?? series.uid))];
    const all = await Promise.all(uids.map((uid) => {
      const known = series.cells.some((cell) => cell.sample === sample && (cell.series ?? series.uid) === uid);
      return of(uid, known ? {sample} : {});
    }));
    const shown = new Set(series.cells.map((cell) => cell.volume));
    const own = all.find((one) => one.points.some((point) => point.sample === sample)) ?? all[0];
    return {...own, points: all.flatMap((one) => one.points).filter((point) => shown.has(point.volume))};
  }
}

/** One board of several series, the newest first: of two cells at one place the newer one is shown. */
export function merged(all) {
  const cells = new Map();
  for (const series of all) {
    for (const cell of series.cells) {
      const place = `${cell.sample}@${cell.temperature}`;
      if (!cells.has(place) || (cells.get(place).state === "planned" && cell.state !== "planned")) {
        cells.set(place, {...cell, series: series.uid});
      }
    }
  }
  const running = all.find((series) => series.state === "running");
  return {
    uid: ALL, state: running ? "running" : "ended", time: all[0]?.time ?? null, left: running?.left ?? null,
    samples: [...new Set(all.flatMap((series) => series.samples))], temperatures: [], cells: [...cells.values()],
  };
}
