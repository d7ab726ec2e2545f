// The same plane of several volumes side by side, on one scale, with one crosshair.

import {token} from "../colours.js";
import {el, put} from "../dom.js";
import {number, quantity} from "../format.js";
import {ImagePanel} from "../image.js";
import {lengthOf} from "./cell.js";
import {lineOf, nameOf} from "./layout.js";
import {levelFor} from "./planes.js";

const QUICK = 96;  // px that a plane has at least while temperatures are run through
const REST = 140;  // ms at one temperature before its full resolution is asked for

/** @typedef {{cell: import("./layout.js").Cell, volume: import("./planes.js").Volume}} Shown */

export class Stage {
  /** @type {{panel: ImagePanel, root: any, title: any, state: any, shown: Shown|null}[]} */
  #places = [];
  #how = {plane: "hk0", low: 1, high: 10};
  #cross = null;
  #wait = 0;
  #turn = 0;

  /**
   * @param {HTMLElement} host
   * @param {{planes: import("./planes.js").Planes, limited: (low: number, high: number) => void,
   *   remove: (name: string) => void, address: (cell: any) => string}} does
   */
  constructor(host, does) {
    this.does = does;
    this.root = el("div.stage", {role: "group", "aria-label": "The plane at the chosen temperatures"});
    host.append(this.root);
  }

  /**
   * Show planes; the first one is that of the current cell, the others were chosen.
   * @param {Shown[]} all @param {{plane: string, low: number, high: number}} how
   */
  show(all, how) {
    this.#how = how;
    while (this.#places.length < all.length) this.#places.push(this.#place(this.#places.length));
    for (const place of this.#places.splice(all.length)) place.root.remove();
    this.root.dataset.count = String(all.length);
    const turn = ++this.#turn;
    all.forEach((shown, at) => this.#show(this.#places[at], shown, turn));
    clearTimeout(this.#wait);
    this.#wait = setTimeout(() => this.#refine(turn), REST);
  }

  /** Ask for the planes that are likely to be wanted next. @param {import("./planes.js").Volume[]} volumes nearest first */
  prefetch(volumes) {
    volumes.forEach((volume, at) => {
      const how = {plane: this.#how.plane, level: levelFor(volume, QUICK)};
      this.does.planes.values(volume, how, at < 2 ? 1 : 3).catch(() => {});
    });
  }

  #place(at) {
    const title = el("a.stage-title");
    const state = el("span.muted");
    const away = at === 0 ? null : el("button.small.stage-remove", {type: "button", "aria-label": "Compare no longer",
      title: "Compare no longer", onclick: () => place.shown && this.does.remove(nameOf(place.shown.cell))}, "✕");
    const window = el("div.stage-window");
    const root = el("figure.stage-panel", {}, el("figcaption", {}, title, state, away), window);
    this.root.append(root);
    const panel = new ImagePanel(window, {label: "Plane of S(Q)", unit: "counts / weight", bar: at === 0,
      hint: at === 0 ? "Wheel: zoom · drag: move" : ""});
    const place = {panel, root, title, state, shown: null, cut: null};
    panel.onHover((x, y) => {
      this.#cross = {x, y};
      this.#read();
      return undefined;
    });
    panel.canvas.addEventListener("pointerleave", () => { this.#cross = null; this.#read(); });
    panel.overlay((context, toScreen) => this.#drawCross(context, toScreen));
    panel.onLimits((low, high) => this.does.limited(low, high));
    return place;
  }

  async #show(place, shown, turn) {
    const {cell, volume} = shown;
    const same = place.shown && nameOf(place.shown.cell) === nameOf(cell);
    place.shown = shown;
    put(place.title, `${cell.sample} · ${cell.temperature ?? "?"}\u202fK`);
    place.title.href = this.does.address(cell);
    put(place.state, cell.state === "measured" ? "" : cell.state);
    place.panel.canvas.setAttribute("aria-label", `Plane ${this.#how.plane} of S(Q): ${lineOf(cell)}`);
    const how = {plane: this.#how.plane, level: levelFor(volume, QUICK)};
    const here = this.does.planes.valuesAtHand(volume, how);
    if (here) {
      this.#draw(place, here);
      return;
    }
    if (!same) place.root.classList.add("waiting");
    try {
      const answer = await this.does.planes.values(volume, how, 0);
      if (turn === this.#turn) this.#draw(place, answer);
    } catch (error) {
      if (turn !== this.#turn || error.name === "AbortError") return;
      put(place.state, error.detail ?? error.message);
    }
  }

  #draw(place, answer) {
    place.root.classList.remove("waiting");
    place.cut = answer.cut;
    const {low, high} = this.#how;
    place.panel.draw({...pictureOf(answer, place.shown.cell.lattice), low, high, scale: "log", palette: "viridis"});
    this.#read();
  }

  #refine(turn) {
    for (const place of this.#places) {
      const {volume, cell} = place.shown;
      const level = levelFor(volume, place.panel.wrap.clientWidth * (devicePixelRatio || 1));
      if (level >= levelFor(volume, QUICK)) continue;
      this.does.planes.values(volume, {plane: this.#how.plane, level}, 1).then((answer) => {
        if (turn !== this.#turn) return;
        const {low, high} = this.#how;
        place.panel.detail({...pictureOf(answer, cell.lattice), low, high, scale: "log", palette: "viridis"});
      }).catch(() => {});
    }
  }

  /** Write the value at the crosshair below each plane. */
  #read() {
    for (const [at, place] of this.#places.entries()) {
      place.panel.overlay((context, toScreen) => this.#drawCross(context, toScreen));
      if (!this.#cross || !place.cut) {
        place.panel.readout("");
        continue;
      }
      const {x, y} = this.#cross;
      const value = place.panel.valueAt(x, y);
      const intensity = value === null ? "outside" : Number.isNaN(value) ? "not measured" : number(value, 3);
      const hkl = hklAt(place.cut, x, y);
      const length = lengthOf(place.shown.cell.lattice, hkl);
      const where = `${hkl.map((index) => index.toFixed(2).replace("-", "−")).join(" ")}`
        + (length === null ? "" : ` · ${quantity(length, "Å⁻¹", 3)}`);
      place.panel.readout(at === 0 ? `${where} · ${intensity}` : intensity);
    }
  }

  #drawCross(context, toScreen) {
    if (!this.#cross) return;
    const [x, y] = toScreen(this.#cross.x, this.#cross.y);
    context.strokeStyle = token("--text");
    context.lineWidth = 1;
    context.beginPath();
    for (const [a, b] of [[4, 12], [-4, -12]]) {
      context.moveTo(x + a, y);
      context.lineTo(x + b, y);
      context.moveTo(x, y + a);
      context.lineTo(x, y + b);
    }
    context.stroke();
  }
}

/** h, k, l where the axes of a cut are x and y. */
export const hklAt = (cut, x, y) => cut.at.map((index, n) => (
  index + x * cut.axes[0].direction[n] + y * cut.axes[1].direction[n]));

/** The label of an axis: `h / r.l.u.`, or `[1 1 0] / r.l.u.`. */
export function axisName(direction) {
  const found = ["1,0,0", "0,1,0", "0,0,1"].indexOf(direction.join());
  const name = found >= 0 ? "hkl"[found] : `[${direction.join(" ").replaceAll("-", "−")}]`;
  return `${name} / r.l.u.`;
}

const pictures = new WeakMap();

/** A plane as a picture: the first axis to the right, the second one up. */
function pictureOf({data, cut}, lattice) {
  const [across, up] = cut.axes;
  if (!pictures.has(data)) {
    const [columns, rows] = cut.shape;
    const values = new Float32Array(data.length);
    for (let i = 0; i < columns; i++) {
      for (let j = 0; j < rows; j++) values[(rows - 1 - j) * columns + i] = data[i * rows + j];
    }
    pictures.set(data, {width: columns, height: rows, values});
  }
  const ratio = lengthOf(lattice, up.direction) / lengthOf(lattice, across.direction);
  const half = [across.step / 2 || 0.5, up.step / 2 || 0.5];
  return {
    ...pictures.get(data),
    extent: {x: [across.first - half[0], across.last + half[0]], y: [up.last + half[1], up.first - half[1]]},
    aspect: ratio > 0 ? ratio : 1,
    axes: {x: axisName(across.direction), y: axisName(up.direction)},
  };
}
