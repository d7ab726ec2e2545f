// What is drawn of a volume: whole planes and finer parts as they come, limits, neighbours.

import {limits} from "../colourbar.js";
import {put} from "../dom.js";
import {Cache} from "./cache.js";
import {basis} from "./geometry.js";
import * as planes from "./plane.js";
import * as tiles from "./tiles.js";
import {Latest} from "./wishes.js";

const SETTLE = 140;  // ms without a change, after which the fine level is asked for
const AHEAD = 60;  // volumes of a series that are fetched before they are wanted

/** What a plane is, whatever the volume. @param {import("./plane.js").State} state */
const planeOf = (state) => [planes.planeName(state), state.symmetry, state.thickness].join(" ");

export class Picture {
  #auto = null;  // {name, low, high}: limits that the cells set
  #whole;
  #fine;
  #small;

  /** @param {any} view what is shown: `volume`, `state`, `siblings`, `timers` @param {{api: any, image: any, axial: any, bar: any, note: Element, refused: (error: any) => void, changed: (arrived: boolean) => void}} parts */
  constructor(view, parts) {
    this.view = view;
    Object.assign(this, parts);
    this.cache = new Cache((path, signal) => this.#fetch(path, signal));
    this.#whole = new Latest(() => this.#loadWhole(), parts.refused);
    this.#fine = new Latest(() => this.#loadFine(), parts.refused);
    this.#small = [0, 1, 2].map((fixed) => new Latest(() => this.#loadSmall(fixed), () => {}));
  }

  /** The level that is drawn where it is fine enough. */
  get level() { return this.fineLevel ?? this.#firstLevel(); }

  /** Ask for all of what is shown. */
  load() {
    this.#whole.ask();
    for (const each of this.#small) each.ask();
    this.settle();
  }

  /** Once nothing has changed for a moment: the fine level, the limits, the neighbours. */
  settle() {
    this.view.timers.later("settle", SETTLE, () => {
      if (this.view.volume === null) return;
      this.#fine.ask();
      const [raster] = this.image.layers;
      if (raster) { this.#limits(raster); this.#drawBar(); }
      this.#prefetch();
    });
  }

  /** Let the cells set the limits again. */
  forget() { this.#auto = null; }

  async #fetch(path, signal) {
    const {grid} = this.view.volume;
    const answer = await this.api.array(path, {signal});
    const layer = path.includes("/box?") ? answer.cut.axes.findIndex((axis) => axis.count === 1) : null;
    return tiles.raster(answer, grid, layer);
  }

  /** Wait for a plane, and say so. */
  async #get(path, version, text) {
    const found = this.cache.peek(path, version);
    if (found !== null) return found;
    put(this.note, text);
    try {
      return await this.cache.get(path, version);
    } finally {
      put(this.note, "");
    }
  }

  /** Cells along the plane's axes at level 1; null: only the server knows. */
  #shape() {
    const {state: {kind}, volume: {grid}} = this.view;
    if ("fixed" in kind) return planes.running(kind.fixed).map((axis) => grid.shape[axis]);
    const [raster] = this.image.layers;
    return raster ? [raster.nu * raster.level, raster.nv * raster.level] : null;
  }

  #firstLevel(volume = this.view.volume) {
    const {kind} = this.view.state;
    if (!("fixed" in kind)) return Math.max(...volume.levels);
    return tiles.firstLevel(planes.running(kind.fixed).map((axis) => volume.grid.shape[axis]), volume.levels, tiles.symmetrises(volume, this.view.state));
  }

  async #loadWhole() {
    const {volume, state} = this.view;
    const path = tiles.planePath(volume, state, this.#firstLevel());
    const raster = await this.#get(path, volume.written, "loading …");
    raster.plane = planeOf(state);
    // the wish may be another one by now: this picture is on the way to it
    if (this.view.volume === null || volume.key !== this.view.volume.key) return;
    this.frame(raster);
    this.image.show([raster]);
    this.#limits(raster);
    this.colours();
    this.changed(true);
    // it came late: whoever waited for a quiet moment has found nothing to refine
    if (!this.view.timers.has("settle")) this.#fine.ask();
  }

  /** Level and route of what is drawn above the whole plane; null: that is fine enough. */
  #finePath() {
    const {volume, state} = this.view;
    const shape = this.#shape();
    const [raster] = this.image.layers;
    if (shape === null || !raster) return null;
    const first = this.#firstLevel();
    const cell = [raster.du / raster.level, raster.dv / raster.level];
    const wanted = state.level || tiles.levelFor(this.image.pixelsOf(cell), volume.levels);
    if (wanted === first || (wanted > first && !state.level)) return null;
    const part = this.image.part;
    const path = part ? tiles.partPath(volume, state, part, wanted) : null;
    if (path) return {path, level: wanted};
    const level = state.level || tiles.affordable(shape, wanted, volume.levels);
    return level === first ? null : {path: tiles.planePath(volume, state, level), level};
  }

  async #loadFine() {
    const {volume, state} = this.view;
    const fine = this.#finePath();
    this.fineLevel = fine?.level ?? null;
    this.changed(false);
    const first = this.#firstLevel();
    const coarse = this.cache.peek(tiles.planePath(volume, state, first), volume.written);
    if (coarse === null) return;
    if (fine === null) {
      if (this.image.layers.length > 1) this.image.show([coarse]);
      return;
    }
    const raster = await this.#get(fine.path, volume.written, "loading finer cells …");
    // a coarser one was asked for by its number: nothing finer is to shine through
    if (volume === this.view.volume && this.#finePath()?.path === fine.path) this.image.show(fine.level > first ? [raster] : [coarse, raster]);
  }

  async #loadSmall(fixed) {
    const {volume, state} = this.view;
    const shape = planes.running(fixed).map((axis) => volume.grid.shape[axis]);
    const level = tiles.firstLevel(shape.map((n) => 2 * n), volume.levels, tiles.symmetrises(volume, state));
    const raster = await this.cache.get(tiles.axialPath(volume, state, fixed, level), volume.written);
    if (volume.key === this.view.volume?.key) this.axial.show(fixed, raster);
  }

  #prefetch() {
    const {state, volume, siblings} = this.view;
    const at = siblings.findIndex((row) => row.key === volume.key);
    const others = siblings.map((row, n) => ({row, far: Math.abs(n - at)})).filter(({far}) => far > 0).sort((a, b) => a.far - b.far);
    const along = others.slice(0, AHEAD).map(({row}) => {
      const level = this.#firstLevel({...volume, ...row, levels: row.levels ?? volume.levels});
      return {path: tiles.planePath(row, state, level), version: row.written};
    });
    const beside = [1, -1, 2, -2].map((n) => planes.moved(state, volume.grid, n)).filter((each) => each !== state)
      .map((each) => ({path: tiles.planePath(volume, each, this.#firstLevel()), version: volume.written}));
    this.cache.prefetch([...along.slice(0, 2), ...beside, ...along.slice(2)]);
  }

  /** Let the axes be those of a plane. */
  frame(raster = this.image.layers[0]) {
    if (!raster) return;
    const {volume: {grid, G}, state} = this.view;
    const [u, v] = raster.cut.axes.map((axis) => axis.direction);
    this.basis = basis(G, u, v);
    let extent = [raster.u0, raster.u0 + raster.nu * raster.du, raster.v0, raster.v0 + raster.nv * raster.dv];
    let outline = null;
    // of a coarse level the last cell may hold fewer: the plane ends where the volume does
    if ("fixed" in state.kind) {
      extent = planes.running(state.kind.fixed).flatMap((axis) => {
        const [low, high] = planes.ends(grid, axis);
        return [low - 0.5 / grid.per_unit[axis], high + 0.5 / grid.per_unit[axis]];
      });
    } else {
      const corners = planes.outlineOn(grid, raster.cut);
      if (corners.length) {
        outline = corners;
        extent = [0, 1].flatMap((i) => [Math.min(...corners.map((c) => c[i])), Math.max(...corners.map((c) => c[i]))]);
      }
    }
    this.image.frame(this.basis, extent, raster.cut.axes.map((axis) => planes.directionName(axis.direction)), outline);
    if (state.part && this.image.part === null) this.image.look(state.part);
  }

  /** Limits from the measured cells; they stay while the temperature changes, so that it compares. */
  #limits(raster) {
    const {state, timers} = this.view;
    const name = `${raster.plane} ${state.scale}`;
    if (this.#auto?.name === name || raster.plane !== planeOf(state)) return;
    // while the plane moves the colours stay, too: they follow once it stands
    if (this.#auto !== null && timers.has("settle")) return;
    this.#auto = {name, ...limits(raster.values, {scale: state.scale})};
    this.colours();
  }

  #ends() {
    const {range, scale} = this.view.state;
    if (range && !(scale === "log" && range[0] <= 0)) return range;
    return this.#auto ? [this.#auto.low, this.#auto.high] : range ?? [1, 10];
  }

  /** Draw with the colours that are asked for. */
  colours() {
    const [low, high] = this.#ends();
    const {scale, palette} = this.view.state;
    for (const each of [this.image, this.axial]) each.colours({low, high, scale, palette});
    if (!this.view.timers.has("settle")) this.#drawBar();
  }

  #drawBar() {
    const [raster] = this.image.layers;
    const [low, high] = this.#ends();
    const {scale, palette} = this.view.state;
    if (raster) this.bar.set({values: raster.values, low, high, scale, palette});
  }
}
