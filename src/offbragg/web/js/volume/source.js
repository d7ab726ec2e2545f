// Volumes as the catalog has them: what each is, its neighbours in temperature, and its growth.

import {ApiError} from "../api.js";
import {metric, metricOf} from "./geometry.js";

/** Status of what `about` raises while a volume is being published. */
export const BEING_MADE = 409;
const WANTED = ["state", "written", "frames", "sample", "temperature", "series", "runs", "completeness",
  "symmetry", "grid", "UB", "levels", "file"];
const SELECT = `{${WANTED.map((name) => `${name}:${name}`).join(",")}}`;
const MOST = 200;  // volumes of one answer
const TOGETHER = 0.005;  // K: a volume of the same temperature is another measurement of it

/**
 * @typedef {{key: string, state: string, written: number, frames: number, sample: any,
 *   temperature: number|null, series: any, runs: string[], completeness: number, symmetry: string,
 *   grid: import("./plane.js").Grid, levels: number[], G: number[][]|null, file: string}} Volume
 *   G: metric with 2π, Å⁻²
 */

export class Source {
  /** @param {import("../api.js").Api} api */
  constructor(api) { this.api = api; }

  /**
   * What a volume is. @param {string} key @returns {Promise<Volume>}
   */
  async about(key, {signal} = {}) {
    const query = new URLSearchParams({select_metadata: SELECT});
    const answer = await this.api.json(`/api/v1/metadata/volumes/${encodeURIComponent(key)}?${query}`, {signal});
    const found = answer.data.attributes.metadata?.selected ?? answer.data.attributes.metadata;
    // a node that is being made has its grid last
    if (!found?.grid) throw new ApiError(BEING_MADE, "This volume is being published; it is shown in a moment.");
    return {...found, key, G: metric(found.UB) ?? metricOf(found.sample?.lattice), levels: found.levels ?? [1], symmetry: found.symmetry ?? ""};
  }

  /**
   * The volumes of the same series and sample, the coldest first.
   * @param {Volume} volume @param {any[]} all what `all` has found: if that is all there is, it serves
   * @returns {Promise<any[]>}
   */
  async siblings(volume, all, {signal} = {}) {
    const label = volume.sample?.label ?? null;
    const series = volume.series?.uid ?? null;
    const name = volume.sample?.name ?? null;
    const same = (row) => (row.label ?? null) === label && (row.series ?? null) === series && (row.sample ?? null) === name;
    if (all.length && all.length < MOST && all.some((row) => row.key === volume.key)) return byTemperature(all.filter(same), volume);
    const query = new URLSearchParams({limit: String(MOST)});
    if (name) query.set("sample", name);
    if (series) query.set("series", series);
    const {volumes} = await this.api.json(`/volumes?${query}`, {signal});
    return byTemperature(volumes.filter((row) => row.grid && same(row)), volume);
  }

  /** All volumes, the newest first. @returns {Promise<any[]>} */
  async all({signal} = {}) {
    return (await this.api.json(`/volumes?limit=${MOST}`, {signal})).volumes.filter((row) => row.grid);
  }
}

/** A crystal in a word or two: LSMO-140 crystal1. */
export const crystal = (name, label) => [name, label].filter(Boolean).join(" ") || "unnamed crystal";

/**
 * One volume for each temperature: of several the one that is shown, or that has the same grid,
 * or the newest.
 */
export function byTemperature(rows, shown) {
  const alike = (row) => row.key === shown.key || sameGrid(row.grid, shown.grid);
  const better = (a, b) => (b.key === shown.key) - (a.key === shown.key)
    || alike(b) - alike(a)
    || sameKind(b.key, shown.key) - sameKind(a.key, shown.key)
    || (b.written ?? 0) - (a.written ?? 0);
  const known = rows.filter((row) => typeof row.temperature === "number");
  const sorted = [...known].sort((a, b) => a.temperature - b.temperature || better(a, b));
  const found = [];
  for (const row of sorted) {
    const last = found[found.length - 1];
    if (last && Math.abs(last.temperature - row.temperature) <= TOGETHER) {
      if (better(last, row) > 0) found[found.length - 1] = row;
    } else found.push(row);
  }
  if (!found.some((row) => row.key === shown.key)) return [{...shown}];
  return found;
}

const sameGrid = (a, b) => JSON.stringify([a?.first, a?.shape, a?.per_unit]) === JSON.stringify([b?.first, b?.shape, b?.per_unit]);
// a key is the name of the file and eight digits of its path
const sameKind = (a, b) => a.replace(/-[0-9a-f]{8}$/, "") === b.replace(/-[0-9a-f]{8}$/, "");
