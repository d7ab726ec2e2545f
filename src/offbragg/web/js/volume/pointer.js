// What is done with the pointer on a plane: reading a cell, choosing one, drawing a cut.

import {token} from "../colours.js";
import {el, put} from "../dom.js";
import {fixed, number} from "../format.js";
import {CutPanel, cutPath, snapped} from "./cut.js";
import {lengthOf} from "./geometry.js";
import * as planes from "./plane.js";
import {crystal} from "./source.js";
import {symmetrises} from "./tiles.js";
import {WhyPanel} from "./why.js";

export class Pointer {
  #place = null;
  #asking = null;
  #cutPoint = null;

  /**
   * @param {any} view what is shown: `volume`, `state`, `picture`; `write()` keeps the address
   * @param {{ctx: any, image: any, readout: Element}} parts
   */
  constructor(view, {ctx, image, readout}) {
    Object.assign(this, {view, ctx, image, readout});
    this.whyHost = el("section.card.why", {"aria-label": "Why this cell"});
    this.cutHost = el("section.card.cut", {"aria-label": "Cut"});
    this.cutPanel = new CutPanel(this.cutHost, {
      say: (text) => ctx.say(text), onClear: () => this.clearCut(),
      onPoint: (row) => { this.#cutPoint = row; image.paintOver(); },
    });
    this.whyPanel = new WhyPanel(this.whyHost, {
      onClear: () => this.clearCell(),
      frameLink: (frame) => {
        const {runs = [], series} = view.volume ?? {};
        if (runs.length !== 1) return null;  // which run a file is of is not in the answer
        return `#/frames?${new URLSearchParams({...(series?.uid ? {series: series.uid} : {}), run: runs[0], frame: String(frame)})}`;
      },
    });
    image.onHover = (place) => this.#hover(place);
    image.onPick = (place) => this.#pickAt(place);
    image.onCut = (from, to, done) => this.#drag(from, to, done);
    image.handles = () => this.#ends();
    image.drawOver = (context, screen) => this.#drawOver(context, screen);
  }

  /** Show the cell and the cut of an address, or none. */
  restore() {
    const {cut, cell} = this.view.state;
    put(this.readout, " ");
    if (cut) this.loadCut();
    else this.cutPanel.clear();
    if (cell) this.pick(cell);
    else this.whyPanel.clear();
  }

  // ---- a cell ---------------------------------------------------------------------------

  #hover(place) {
    this.#place = place;
    const cell = place && this.image.cell(...place);
    if (!cell || this.view.volume === null) { put(this.readout, " "); return; }
    const hkl = planes.pointOn(cell.raster.cut, cell.u, cell.v);
    const q = lengthOf(this.view.volume.G, hkl);
    const level = cell.raster.level === 1 ? "" : ` · mean of ${cell.raster.level}³ cells`;
    const value = Number.isNaN(cell.value) ? "not measured" : `I = ${number(cell.value, 4)}`;
    const where = hkl.map((x, i) => `${planes.NAMES[i]} ${fixed(x, 3)}`).join("  ");
    put(this.readout, `${where} · ${value}${q === null ? "" : ` · |Q| = ${fixed(q, 3)} Å⁻¹`}${level}`);
  }

  /** Choose the cell under the pointer. */
  pickHere() { if (this.#place) this.#pickAt(this.#place); }

  #pickAt(place) {
    const cell = this.image.cell(...place);
    if (!cell) return;
    const {state: {kind, at}, volume: {grid}} = this.view;
    const hkl = planes.pointOn(cell.raster.cut, ...(cell.raster.level === 1 ? [cell.u, cell.v] : place));
    // a coarse cell holds several layers: the one that is named is meant
    const near = hkl.map((x, i) => (i === kind.fixed ? at[i] : planes.nearest(grid, i, x)));
    if ("fixed" in kind) this.view.change({at: near});
    this.pick(near);
  }

  /** Ask for what a cell holds and what made it. @param {number[]} hkl */
  async pick(hkl) {
    const {volume, state} = this.view;
    state.cell = hkl;
    this.image.paintOver();
    this.view.write();
    this.#asking?.abort();
    if (!planes.contains(volume.grid, hkl)) {
      this.whyPanel.begin(hkl, volume.G, {intensity: null, sigma: null});
      this.whyPanel.refuse("This point is outside the volume.");
      return;
    }
    const {signal} = this.#asking = new AbortController();
    this.whyPanel.begin(hkl, volume.G, null);
    const box = hkl.map((x, i) => [-0.2, 0.2].map((d) => (x + d / volume.grid.per_unit[i]).toFixed(7)).join(":")).join(",");
    const path = (kind, query) => `/volumes/${encodeURIComponent(volume.key)}/${kind}?${new URLSearchParams(query)}`;
    try {
      const together = symmetrises(volume, state);
      const one = await this.ctx.api.json(path("box", {box, sigma: "1", ...(together ? {symmetry: "sample"} : {}), format: "json"}), {signal});
      if (together) this.whyPanel.note("I is the mean of all equivalent cells; below is what this one holds.");
      this.whyPanel.value({intensity: one.intensity.flat(3)[0], sigma: one.sigma.flat(3)[0]});
      this.whyPanel.show(await this.ctx.api.json(path("why", {hkl: hkl.map(planes.short).join(",")}), {signal}));
    } catch (error) {
      if (error.name !== "AbortError") this.whyPanel.refuse(error.detail ?? error.message);
    }
  }

  /** The cell beside the chosen one, or the middle one: the plane with the keyboard. */
  stepCell(du, dv) {
    const [raster] = this.image.layers;
    if (!raster) return false;
    const {volume: {grid}, state} = this.view;
    const [u, v] = raster.cut.axes.map((axis) => axis.direction);
    const from = state.cell ?? planes.pointOn(raster.cut, ...this.image.centre()).map((x, i) => (i === state.kind.fixed ? state.at[i] : x));
    this.pick(from.map((x, i) => planes.nearest(grid, i, x + (u[i] * du + v[i] * dv) / grid.per_unit[i])));
    return true;
  }

  clearCell() {
    this.#asking?.abort();
    this.view.state.cell = null;
    this.whyPanel.clear();
    this.image.paintOver();
    this.view.write();
  }

  // ---- a cut ----------------------------------------------------------------------------

  #ends() {
    const {cut} = this.view.state;
    const [raster] = this.image.layers;
    return cut && raster ? {from: planes.placeOn(raster.cut, cut.from), to: planes.placeOn(raster.cut, cut.to)} : null;
  }

  #drag(from, to, done) {
    const [raster] = this.image.layers;
    if (!raster) return;
    const {state} = this.view;
    const cell = [raster.du / raster.level, raster.dv / raster.level];
    const at = raster.cut.at.map((x, i) => (i === state.kind.fixed ? state.at[i] : x));
    const line = snapped({...raster.cut, at}, cell, from, to, this.view.picture.basis);
    if (line === null) return;
    state.cut = line;
    this.image.paintOver();
    if (done) {
      this.loadCut();
      this.view.write();
    } else {
      const [a, b] = [line.from, line.to].map((point) => `(${point.map(planes.short).join(" ")})`.replaceAll("-", "−"));
      put(this.readout, `cut from ${a} to ${b}`);
    }
  }

  async loadCut() {
    const {volume, state} = this.view;
    const {cut} = state;
    this.cutPanel.wait("cutting …");
    try {
      const answer = await this.ctx.api.json(cutPath(volume, state));
      if (this.view.state.cut !== cut || this.view.volume?.key !== volume.key) return;
      this.cutPanel.show(answer, volume.G, state.scale, [
        `volume ${volume.key}, ${crystal(volume.sample?.name, volume.sample?.label)}, ${number(volume.temperature, 6)} K, runs ${volume.runs.join(" ")}`,
        `cut from ${cut.from.join(",")} to ${cut.to.join(",")} r.l.u.${state.symmetry ? ", symmetrised" : ""}; intensity and sigma in counts per weight; empty where nothing was measured`,
        `written ${new Date().toISOString()} from ${location.href}`,
      ]);
    } catch (error) {
      this.cutPanel.clear();
      this.cutPanel.wait(error.detail ?? error.message);
    }
    this.image.paintOver();
  }

  clearCut() {
    if (!this.view.state.cut) return;
    this.view.state.cut = null;
    this.#cutPoint = null;
    this.cutPanel.clear();
    this.image.paintOver();
    this.view.write();
  }

  #drawOver(context, screen) {
    const [raster] = this.image.layers;
    if (!raster) return;
    const twice = (draw) => {  // seen on dark and on light cells
      for (const [colour, width] of [[token("--ground"), 4], [token("--accent"), 1.8]]) {
        context.strokeStyle = colour;
        context.lineWidth = width;
        context.beginPath();
        draw();
        context.stroke();
      }
    };
    const dot = ([x, y], radius) => twice(() => context.arc(x, y, radius, 0, 2 * Math.PI));
    const ends = this.#ends();
    if (ends) {
      const [a, b] = [screen(...ends.from), screen(...ends.to)];
      twice(() => { context.moveTo(...a); context.lineTo(...b); });
      dot(a, 4);
      dot(b, 4);
      if (this.#cutPoint) dot(screen(...planes.placeOn(raster.cut, [this.#cutPoint.h, this.#cutPoint.k, this.#cutPoint.l])), 6);
    }
    const {cell} = this.view.state;
    if (!cell) return;
    const [u, v] = planes.placeOn(raster.cut, cell);
    const [du, dv] = [raster.du / raster.level / 2, raster.dv / raster.level / 2];
    const corners = [[u - du, v - dv], [u + du, v - dv], [u + du, v + dv], [u - du, v + dv]].map((place) => screen(...place));
    const [x, y] = screen(u, v);
    twice(() => {
      corners.forEach((corner, n) => (n ? context.lineTo(...corner) : context.moveTo(...corner)));
      context.closePath();
      for (const [p, q] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) { context.moveTo(x + 9 * p, y + 9 * q); context.lineTo(x + 15 * p, y + 15 * q); }
    });
  }
}
