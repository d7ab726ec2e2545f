// A plane on paper: cells with their true shape, axes in r.l.u. and Å⁻¹, what was not measured
// hatched, pan, zoom, and what is drawn over it. Knows no server.

import {colour, token} from "../colours.js";
import {el} from "../dom.js";
import {hatching, ticks} from "../image.js";
import {around, basis as flat, toUV, toXY} from "./geometry.js";
import {cellAt, placeOf} from "./tiles.js";

const MARGINS = {left: 52, right: 62, top: 40, bottom: 44};
const TIGHT = {left: 44, right: 32, top: 40, bottom: 40};  // of a phone
const NARROW = 420;  // px
const NONE = {left: 1, right: 1, top: 1, bottom: 1};
const NEAREST = 0.9;  // pixels of a cell below which it is smoothed
const CLOSEST = 60;  // pixels of a cell beyond which nothing is gained
const CLICK = 4;  // pixels that a pointer may move and still click

/** @typedef {{low: number, high: number, scale: "log"|"linear", palette: string}} Colours */

export class PlaneCanvas {
  /** What the pointer does: "move" the picture, "cut" a line. */
  mode = "move";
  onHover = (place) => {};
  onPick = (place) => {};
  /** @type {(from: [number, number], to: [number, number], done: boolean) => void} */
  onCut = () => {};
  onView = () => {};
  onSize = () => {};
  /** @type {(context: CanvasRenderingContext2D, screen: (u: number, v: number) => [number, number]) => void} */
  drawOver = () => {};
  /** Ends of the line that can be taken again. @returns {{from: [number, number], to: [number, number]}|null} */
  handles = () => null;

  #basis = flat(null, [1, 0, 0], [0, 1, 0]);
  #extent = [-1, 1, -1, 1];
  #corners = rectangle([-1, 1, -1, 1]);  // beyond them the volume has no cells
  #layers = [];
  #colours = {low: 1, high: 10, scale: "log", palette: "viridis"};
  #names = ["h", "k"];
  #view = null;  // {x, y, k}: middle, Å⁻¹, and pixels per Å⁻¹; null: all of it
  #painted = new WeakMap();
  #pending = 0;
  #pointers = new Map();
  #drag = null;
  #width = 0;  // CSS pixels; asking the element at each paint would lay the page out
  #height = 0;

  /** @param {HTMLElement} host @param {{label: string, small?: boolean}} options */
  constructor(host, {label, small = false}) {
    this.small = small;
    this.margins = small ? NONE : MARGINS;
    this.canvas = el("canvas.plane-image", {role: "img", "aria-label": label, tabindex: 0});
    this.over = el("canvas.plane-over", {"aria-hidden": "true"});
    host.append(this.canvas, this.over);
    this.host = host;
    new ResizeObserver(() => this.#resize()).observe(host);
    document.addEventListener("themechange", () => this.paint());
    if (!small) this.#listen();
  }

  /**
   * Say what the axes are.
   * @param {import("./geometry.js").Basis} basis @param {number[]} extent u0, u1, v0, v1, r.l.u.
   * @param {string[]} names of u and v
   * @param {[number, number][]|null} corners of the part that has cells; null: all of the extent
   */
  frame(basis, extent, names, corners = null) {
    this.#basis = basis;
    this.#extent = extent;
    this.#corners = corners ?? rectangle(extent);
    this.#names = names;
    this.paint();
  }

  /** @param {import("./tiles.js").Raster[]} layers the coarse ones first */
  show(layers) { this.#layers = layers; this.paint(); }

  /** @param {Colours} colours */
  colours(colours) { this.#colours = colours; this.paint(); }

  get layers() { return this.#layers; }

  /** What is visible, r.l.u. along u and v: u0, u1, v0, v1; null: all of it. */
  get part() {
    if (this.#view === null) return null;
    const {x0, x1, y0, y1} = this.#area();
    const corners = [[x0, y0], [x1, y0], [x0, y1], [x1, y1]].map(([x, y]) => this.toPlane(x, y));
    const [us, vs] = [corners.map((c) => c[0]), corners.map((c) => c[1])];
    return [Math.min(...us), Math.max(...us), Math.min(...vs), Math.max(...vs)];
  }

  /** Show a part, or all with null. @param {number[]|null} part */
  look(part) {
    if (part === null) this.#view = null;
    else {
      const [x0, x1, y0, y1] = around(this.#basis, part);
      const {width, height} = this.#area();
      this.#view = {x: (x0 + x1) / 2, y: (y0 + y1) / 2, k: Math.min(width / (x1 - x0), height / (y1 - y0))};
    }
    this.paint();
  }

  /** Pixels of the screen that a cell of level 1 has, the narrower way. @param {number[]} cell du, dv */
  pixelsOf([du, dv]) {
    const {k} = this.#now();
    return Math.min(du * this.#basis.ux, dv * this.#basis.vy) * k * devicePixelRatio;
  }

  /** @param {number} factor @param {[number, number]} [at] screen */
  zoom(factor, at = this.#middle()) {
    const now = this.#now();
    const all = this.#fit().k;
    const cell = this.#layers[0] ? Math.min(this.#layers[0].du / this.#layers[0].level * this.#basis.ux, this.#layers[0].dv / this.#layers[0].level * this.#basis.vy) : 0.01;
    const k = Math.min(Math.max(now.k * factor, all), Math.max(CLOSEST / cell, all));
    if (k <= all * 1.0001) this.#view = null;
    else {
      const {ox, oy} = this.#origin();
      const [x, y] = [now.x + (at[0] - ox) / now.k, now.y - (at[1] - oy) / now.k];
      this.#view = {x: x - (at[0] - ox) / k, y: y + (at[1] - oy) / k, k};
    }
    this.#moved();
  }

  /** Move the picture by pixels. */
  pan(dx, dy) {
    const now = this.#now();
    const [x0, x1, y0, y1] = around(this.#basis, this.#extent);
    const within = (value, low, high) => Math.min(Math.max(value, low), high);
    this.#view = {x: within(now.x - dx / now.k, x0, x1), y: within(now.y + dy / now.k, y0, y1), k: now.k};
    this.#moved();
  }

  #moved() { this.paint(); this.onView(); }

  /** u, v in the middle of what is visible. @returns {[number, number]} */
  centre() { return this.toPlane(...this.#middle()); }

  /** u, v at a place on the screen (CSS pixels of the canvas). @returns {[number, number]} */
  toPlane(x, y) {
    const {x: cx, y: cy, k} = this.#now();
    const {ox, oy} = this.#origin();
    return toUV(this.#basis, cx + (x - ox) / k, cy - (y - oy) / k);
  }

  /** @returns {[number, number]} CSS pixels of the canvas */
  toScreen(u, v) {
    const {x: cx, y: cy, k} = this.#now();
    const {ox, oy} = this.#origin();
    const [x, y] = toXY(this.#basis, u, v);
    return [ox + (x - cx) * k, oy - (y - cy) * k];
  }

  /**
   * The finest cell at a place. @returns {{value: number, u: number, v: number, raster: any}|null}
   */
  cell(u, v) {
    if (!holds(this.#corners, u, v)) return null;
    for (let n = this.#layers.length - 1; n >= 0; n--) {
      const raster = this.#layers[n];
      const index = cellAt(raster, u, v);
      if (index < 0) continue;
      const [cu, cv] = placeOf(raster, index);
      return {value: raster.values[index], u: cu, v: cv, raster};
    }
    return null;
  }

  /** Draw soon, once a frame of the screen. */
  paint() {
    if (this.#pending) return;
    this.#pending = requestAnimationFrame(() => { this.#pending = 0; this.#paint(); });
  }

  #resize() {
    const {clientWidth: width, clientHeight: height} = this.host;
    if (!width || !height) return;
    [this.#width, this.#height] = [width, height];
    if (!this.small) this.margins = width < NARROW ? TIGHT : MARGINS;
    for (const canvas of [this.canvas, this.over]) {
      canvas.width = Math.round(width * devicePixelRatio);
      canvas.height = Math.round(height * devicePixelRatio);
    }
    this.paint();
    this.onSize();
  }

  #area() {
    const {left, right, top, bottom} = this.margins;
    const [w, h] = [this.#width, this.#height];
    return {x0: left, x1: Math.max(w - right, left + 1), y0: top, y1: Math.max(h - bottom, top + 1),
      width: Math.max(w - left - right, 1), height: Math.max(h - top - bottom, 1)};
  }

  #origin() {
    const {x0, x1, y0, y1} = this.#area();
    return {ox: (x0 + x1) / 2, oy: (y0 + y1) / 2};
  }

  #middle() { const {ox, oy} = this.#origin(); return [ox, oy]; }

  #fit() {
    const [x0, x1, y0, y1] = around(this.#basis, this.#extent);
    const {width, height} = this.#area();
    return {x: (x0 + x1) / 2, y: (y0 + y1) / 2, k: Math.min(width / (x1 - x0), height / (y1 - y0))};
  }

  #now() { return this.#view ?? this.#fit(); }

  #paint() {
    if (!this.#width) return;
    const context = this.canvas.getContext("2d");
    const scale = devicePixelRatio;
    const {x0, y0, width, height} = this.#area();
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, this.#width, this.#height);
    context.save();
    context.beginPath();
    context.rect(x0, y0, width, height);
    context.clip();
    this.#outline(context, this.#corners);
    context.clip();
    if (this.#layers.length) this.#hatch(context, this.#extent);
    for (const raster of this.#layers) this.#cells(context, raster);
    context.restore();
    if (!this.small) this.#axes(context);
    this.paintOver();
  }

  /** Draw what lies over the picture: lines and marks. */
  paintOver() {
    const context = this.over.getContext("2d");
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, this.#width, this.#height);
    const {x0, y0, width, height} = this.#area();
    context.save();
    context.beginPath();
    context.rect(x0, y0, width, height);
    context.clip();
    this.drawOver(context, (u, v) => this.toScreen(u, v));
    context.restore();
  }

  #outline(context, corners) {
    context.beginPath();
    corners.forEach(([u, v], n) => {
      const [x, y] = this.toScreen(u, v);
      if (n) context.lineTo(x, y);
      else context.moveTo(x, y);
    });
    context.closePath();
  }

  #hatch(context, box) {
    this.#outline(context, rectangle(box));
    context.fillStyle = hatching(context);
    context.fill();
  }

  #cells(context, raster) {
    const {nu, nv, u0, du, v0, dv} = raster;
    const [l, t, r, b] = this.#extent;
    const box = [Math.max(u0, l), Math.min(u0 + nu * du, t), Math.max(v0, r), Math.min(v0 + nv * dv, b)];
    if (raster !== this.#layers[0]) this.#hatch(context, box);  // the coarse ones do not shine through
    const {ux, vx, vy} = this.#basis;
    const {k} = this.#now();
    const [x, y] = this.toScreen(u0, v0);
    const scale = devicePixelRatio;
    context.save();
    this.#outline(context, rectangle(box));
    context.clip();
    context.setTransform(scale * k * du * ux, 0, scale * k * dv * vx, -scale * k * dv * vy, scale * x, scale * y);
    context.imageSmoothingEnabled = k * Math.min(du * ux, dv * vy) * scale < NEAREST;
    context.drawImage(this.#picture(raster), 0, 0);
    context.restore();
  }

  /** The cells of a raster, one pixel each; painted once for the same colours. */
  #picture(raster) {
    const {low, high, scale, palette} = this.#colours;
    const which = `${low} ${high} ${scale} ${palette}`;
    const kept = this.#painted.get(raster);
    if (kept?.which === which) return kept.canvas;
    const canvas = kept?.canvas ?? document.createElement("canvas");
    [canvas.width, canvas.height] = [raster.nu, raster.nv];
    const rgba = colour(acrossFirst(raster), this.#colours);
    canvas.getContext("2d").putImageData(new ImageData(rgba, raster.nu, raster.nv), 0, 0);
    this.#painted.set(raster, {which, canvas});
    return canvas;
  }

  #axes(context) {
    const {x0, x1, y0, y1, width, height} = this.#area();
    const basis = this.#basis;
    const {x: cx, y: cy, k} = this.#now();
    const {ox, oy} = this.#origin();
    context.strokeStyle = token("--line");
    context.strokeRect(x0 + 0.5, y0 + 0.5, width - 1, height - 1);
    context.fillStyle = token("--text");
    context.strokeStyle = token("--muted");
    context.font = `12px ${getComputedStyle(this.host).fontFamily}`;
    context.lineWidth = 1;
    const line = (a, b, c, d) => { context.beginPath(); context.moveTo(a, b); context.lineTo(c, d); context.stroke(); };
    const write = (text, x, y, align, base) => { context.textAlign = align; context.textBaseline = base; context.fillText(text, x, y); };
    // r.l.u.: u along the lower edge, where it is cut there; v along the left one
    const count = (size) => Math.max(3, Math.round(size / 44));
    const [left, lower] = [this.toPlane(x0, y1), this.toPlane(x1, y1)];
    for (const {at, text} of ticks(left[0], lower[0], count(width))) {
      const [x] = this.toScreen(at, left[1]);
      line(x, y1, x, y1 + 5);
      write(text, x, y1 + 7, "center", "top");
    }
    for (const {at, text} of ticks(left[1], this.toPlane(x0, y0)[1], count(height))) {
      const [, y] = this.toScreen(left[0], at);
      line(x0 - 5, y, x0, y);
      write(text, x0 - 8, y, "right", "middle");
    }
    this.#title(context, `${this.#names[0]} / r.l.u.`, ox, y1 + 26);
    this.#title(context, `${this.#names[1]} / r.l.u.`, 12, oy, true);
    if (!basis.inQ) return;
    context.fillStyle = token("--muted");
    for (const {at, text} of ticks(cx + (x0 - ox) / k, cx + (x1 - ox) / k, count(width))) {
      const x = ox + (at - cx) * k;
      line(x, y0 - 5, x, y0);
      write(text, x, y0 - 7, "center", "bottom");
    }
    for (const {at, text} of ticks(cy - (y1 - oy) / k, cy - (y0 - oy) / k, count(height))) {
      const y = oy - (at - cy) * k;
      line(x1, y, x1 + 5, y);
      write(text, x1 + 8, y, "left", "middle");
    }
    const skew = basis.vx !== 0;
    this.#title(context, `Q ∥ ${this.#names[0]} / Å⁻¹`, ox, 8);
    if (this.margins !== TIGHT) this.#title(context, `Q ${skew ? `⊥ ${this.#names[0]}` : `∥ ${this.#names[1]}`} / Å⁻¹`, this.#width - 6, oy, true);
  }

  #title(context, text, x, y, upright = false) {
    context.save();
    context.translate(x, y);
    if (upright) context.rotate(-Math.PI / 2);
    context.textAlign = "center";
    context.textBaseline = upright ? (x < 40 ? "middle" : "alphabetic") : "top";
    context.fillText(text, 0, 0);
    context.restore();
  }

  // ---- pointer ------------------------------------------------------------------------

  #listen() {
    const canvas = this.canvas;
    const place = (event) => [event.offsetX, event.offsetY];
    const inside = ([x, y]) => { const {x0, x1, y0, y1} = this.#area(); return x >= x0 && x <= x1 && y >= y0 && y <= y1; };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      const at = place(event);
      canvas.setPointerCapture(event.pointerId);
      this.#pointers.set(event.pointerId, at);
      if (this.#pointers.size === 2) { this.#drag = {kind: "pinch", apart: this.#apart()}; return; }
      const end = this.#grabbed(at);
      const cutting = inside(at) && (end !== null || this.mode === "cut" || event.shiftKey);
      this.#drag = {kind: cutting ? "cut" : "move", from: end ?? this.toPlane(...at), at, start: at, far: false, again: end !== null};
    });
    canvas.addEventListener("pointermove", (event) => {
      const at = place(event);
      if (this.#pointers.has(event.pointerId)) this.#pointers.set(event.pointerId, at);
      const drag = this.#drag;
      if (drag === null) {
        this.#cursor(at);
        this.onHover(inside(at) ? this.toPlane(...at) : null);
        return;
      }
      if (drag.kind === "pinch") {
        if (this.#pointers.size < 2) return;
        const apart = this.#apart();
        this.zoom(apart.length / drag.apart.length, apart.middle);
        this.pan(apart.middle[0] - drag.apart.middle[0], apart.middle[1] - drag.apart.middle[1]);
        drag.apart = apart;
        return;
      }
      drag.far ||= Math.hypot(at[0] - drag.start[0], at[1] - drag.start[1]) > CLICK;
      if (!drag.far) return;
      if (drag.kind === "move") this.pan(at[0] - drag.at[0], at[1] - drag.at[1]);
      else this.onCut(drag.from, this.toPlane(...at), false);
      drag.at = at;
      this.onHover(inside(at) ? this.toPlane(...at) : null);
    });
    const up = (event) => {
      if (!this.#pointers.delete(event.pointerId) || this.#drag === null) return;
      const drag = this.#drag;
      if (drag.kind === "pinch") { if (!this.#pointers.size) this.#drag = null; return; }
      this.#drag = null;
      const at = place(event);
      if (event.type === "pointercancel") return;
      if (drag.kind === "cut" && drag.far) this.onCut(drag.from, this.toPlane(...at), true);
      else if (!drag.far && inside(at)) this.onPick(this.toPlane(...at));
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("pointerleave", () => { if (this.#drag === null) this.onHover(null); });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-Math.max(-100, Math.min(100, event.deltaY)) / 250), place(event));
    }, {passive: false});
    canvas.addEventListener("dblclick", (event) => { event.preventDefault(); this.zoom(2, place(event)); });
  }

  /** The other end of a line whose end is at a place: that one stays. */
  #grabbed([x, y]) {
    const line = this.handles();
    if (line === null) return null;
    const near = (place) => { const [a, b] = this.toScreen(...place); return Math.hypot(a - x, b - y) < 10; };
    return near(line.to) ? line.from : near(line.from) ? line.to : null;
  }

  #cursor(at) {
    const style = this.#grabbed(at) ? "pointer" : this.mode === "cut" ? "crosshair" : "grab";
    this.canvas.dataset.cursor = style;
  }

  #apart() {
    const [[a, b], [c, d]] = [...this.#pointers.values()];
    return {length: Math.max(Math.hypot(a - c, b - d), 1), middle: [(a + c) / 2, (b + d) / 2]};
  }
}

const rectangle = ([u0, u1, v0, v1]) => [[u0, v0], [u1, v0], [u1, v1], [u0, v1]];

/** Whether a place lies within a convex outline. @param {[number, number][]} corners */
function holds(corners, u, v) {
  const sides = corners.map(([a, b], n) => {
    const [c, d] = corners[(n + 1) % corners.length];
    return (c - a) * (v - b) - (d - b) * (u - a);
  });
  return sides.every((side) => side >= -1e-9) || sides.every((side) => side <= 1e-9);
}

/** The values row by row as a picture has them: u to the right. Kept beside the raster. */
function acrossFirst(raster) {
  if (raster.rows === undefined) {
    const {values, nu, nv} = raster;
    const rows = new Float32Array(nu * nv);
    for (let i = 0; i < nu; i++) for (let j = 0; j < nv; j++) rows[j * nu + i] = values[i * nv + j];
    raster.rows = rows;
  }
  return raster.rows;
}
