// An image on canvas: colour map and limits, pan, zoom, hatching of what was not measured, axes.

import {drawAxes, hatching, within} from "./canvas.js";
import {ColourBar} from "./colourbar.js";
import {colour} from "./colours.js";
import {el, put} from "./dom.js";

export {hatching, ticks} from "./canvas.js";

const MARGIN = {left: 46, right: 8, top: 8, bottom: 36}; // px around the image, for the axes
const MOST = 64; // screen px of a pixel, at most

/**
 * @typedef {object} Picture
 * @property {number} width @property {number} height columns and rows; row 0 is on top
 * @property {Uint8ClampedArray} [rgba] colours already made, or
 * @property {Float32Array|Int32Array} [values] NaN = not measured; with `counts`, below 0 as well
 * @property {boolean} [counts]
 * @property {number} [low] @property {number} [high] @property {"log"|"linear"} [scale]
 * @property {string} [palette]
 * @property {{x: [number, number], y: [number, number]}} [extent] coordinates of the left and
 *   right edge, of the upper and lower edge; without: pixels
 * @property {number} [aspect] length of a unit of y over that of a unit of x
 * @property {{x: string, y: string}} [axes] labels with units; without: none are drawn
 */

export class ImagePanel {
  zoom = 1;
  /** @type {Picture|null} */ #picture = null;
  /** @type {HTMLCanvasElement|null} */ #cells = null;
  #detail = null;
  #overlay = null;
  #hover = null;
  #drag = null;
  #view = null;
  #limits = null;
  #centre = {x: 0, y: 0};
  #pointers = new Map();
  #moved = false;
  #frame = 0;
  #settled = 0;

  /**
   * @param {HTMLElement} host
   * @param {{label: string, unit?: string, bar?: boolean, hint?: string}} options `unit` of the values
   */
  constructor(host, {label, unit = "", bar = true, hint = ""}) {
    this.label = label;
    this.canvas = el("canvas.image-canvas", {tabindex: "0", role: "img", "aria-label": label});
    this.wrap = el("div.image-wrap", {}, this.canvas);
    this.text = el("output.readout", {"aria-live": "off"}, hint);
    this.hint = hint;
    this.bar = bar
      ? new ColourBar({unit, onLimits: (low, high) => this.#limited(low, high)})
      : null;
    this.root = el("div.image-panel", {}, this.wrap, this.bar?.root ?? null, this.text);
    this.root.panel = this; // for the console, and tests
    host.append(this.root);
    new ResizeObserver(() => this.#size()).observe(this.wrap);
    document.addEventListener("themechange", () => this.#later());
    this.#listen();
  }

  /** Show a picture; the place looked at stays if its extent does. @param {Picture} picture */
  draw(picture) {
    const before = this.#picture;
    this.#picture = {scale: "log", palette: "viridis", aspect: 1, ...picture};
    this.#detail = null;
    const box = this.extent;
    if (!before || JSON.stringify(extentOf(before)) !== JSON.stringify(box)) this.fit();
    this.#paint();
    this.bar?.set(this.#picture);
  }

  /** Show a finer part above the picture. @param {Picture|null} part with its own extent */
  detail(part) {
    this.#detail = part && {picture: part, cells: this.#cellsOf({...this.#picture, ...part})};
    this.#later();
  }

  /** Draw above the image at each redraw. @param {((context: CanvasRenderingContext2D, toScreen: (x: number, y: number) => [number, number]) => void)|null} draw */
  overlay(draw) {
    this.#overlay = draw;
    this.#later();
  }

  /** What the pointer is over. @param {(x: number, y: number, value: number|null) => string|undefined} text */
  onHover(text) {
    this.#hover = text;
  }

  /** Take drags for oneself: ({x, y} from, {x, y} to, done); null: dragging pans. */
  onDrag(callback) {
    this.#drag = callback;
    this.canvas.classList.toggle("crosshair", callback !== null);
  }

  /** What is looked at, after it changed: {x: [left, right], y: [top, bottom], scale: screen px a unit of x}. */
  onView(callback) {
    this.#view = callback;
  }

  /** The ends of the colours were changed by hand. @param {(low: number, high: number) => void} callback */
  onLimits(callback) {
    this.#limits = callback;
  }

  /** Show all of it. */
  fit() {
    this.zoom = 1;
    const {x, y} = this.extent;
    this.#centre = {x: (x[0] + x[1]) / 2, y: (y[0] + y[1]) / 2};
    this.#changed();
  }

  /** Zoom about a point of the data; the middle if not given. */
  zoomBy(factor, at = this.#centre) {
    const before = this.#scale();
    const most = Math.max(1, (MOST / this.#base()) * this.#cell());
    this.zoom = Math.min(Math.max(this.zoom * factor, 1), most);
    const ratio = before / this.#scale();
    this.#centre = {
      x: at.x + (this.#centre.x - at.x) * ratio,
      y: at.y + (this.#centre.y - at.y) * ratio,
    };
    this.#inside();
    this.#changed();
  }

  get extent() {
    return extentOf(this.#picture);
  }
  /** The picture that is shown; null before the first one. */
  get shown() {
    return this.#picture;
  }

  /** Write the line below the image. */
  readout(text) {
    put(this.text, text || this.hint);
  }

  /** @returns {[number, number]} CSS px on the canvas of a point of the data */
  toScreen(x, y) {
    const s = this.#scale();
    const {middle, sign} = this.#place();
    return [
      middle[0] + (x - this.#centre.x) * s * sign[0],
      middle[1] + (y - this.#centre.y) * s * sign[1] * this.#picture.aspect,
    ];
  }

  /** @returns {{x: number, y: number}} the point of the data at CSS px of the canvas */
  toData(left, top) {
    const s = this.#scale();
    const {middle, sign} = this.#place();
    return {
      x: this.#centre.x + (left - middle[0]) / s / sign[0],
      y: this.#centre.y + (top - middle[1]) / s / sign[1] / this.#picture.aspect,
    };
  }

  /** The value of the picture at a point of the data; null outside, NaN where not measured. */
  valueAt(x, y) {
    const of = (picture) => {
      const {
        x: [left, right],
        y: [top, bottom],
      } = extentOf(picture);
      const column = Math.floor(((x - left) / (right - left)) * picture.width);
      const row = Math.floor(((y - top) / (bottom - top)) * picture.height);
      if (column < 0 || row < 0 || column >= picture.width || row >= picture.height) return null;
      return picture.values ? picture.values[row * picture.width + column] : null;
    };
    if (!this.#picture) return null;
    return (this.#detail && of(this.#detail.picture)) ?? of(this.#picture);
  }

  // ---- drawing -----------------------------------------------------------------------

  #cellsOf(picture) {
    const cells = document.createElement("canvas");
    cells.width = picture.width;
    cells.height = picture.height;
    const rgba = picture.rgba ?? colour(picture.values, picture);
    cells.getContext("2d").putImageData(new ImageData(rgba, picture.width, picture.height), 0, 0);
    return cells;
  }

  #paint() {
    this.#cells = this.#cellsOf(this.#picture);
    if (this.#detail) this.detail(this.#detail.picture);
    this.#later();
  }

  #limited(low, high) {
    if (!this.#picture) return;
    Object.assign(this.#picture, {low, high});
    if (this.#detail) Object.assign(this.#detail.picture, {low, high});
    if (this.#picture.values) this.#paint();
    this.#limits?.(low, high);
  }

  #later() {
    if (!this.#frame)
      this.#frame = requestAnimationFrame(() => {
        this.#frame = 0;
        this.#redraw();
      });
  }

  #size() {
    const ratio = devicePixelRatio || 1;
    const {clientWidth: width, clientHeight: height} = this.wrap;
    if (width === 0 || height === 0) return;
    if (
      this.canvas.width !== Math.round(width * ratio) ||
      this.canvas.height !== Math.round(height * ratio)
    ) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
      this.#redraw();
      this.#changed();
    }
  }

  #margin() {
    return this.#picture?.axes ? MARGIN : {left: 0, right: 0, top: 0, bottom: 0};
  }

  #place() {
    const m = this.#margin();
    const {clientWidth: w, clientHeight: h} = this.wrap;
    const {x, y} = this.extent;
    return {
      middle: [(m.left + w - m.right) / 2, (m.top + h - m.bottom) / 2],
      size: [w - m.left - m.right, h - m.top - m.bottom],
      sign: [x[1] >= x[0] ? 1 : -1, y[1] >= y[0] ? 1 : -1],
    };
  }

  /** CSS px of a unit of x where all is shown. */
  #base() {
    const {x, y} = this.extent;
    const {size} = this.#place();
    return Math.max(
      Math.min(
        size[0] / Math.abs(x[1] - x[0]),
        size[1] / (Math.abs(y[1] - y[0]) * (this.#picture?.aspect ?? 1)),
      ),
      1e-9,
    );
  }

  #scale() {
    return this.#base() * this.zoom;
  }

  /** Units of x of a cell. */
  #cell() {
    const {x} = this.extent;
    return this.#picture ? this.#picture.width / Math.abs(x[1] - x[0]) : 1;
  }

  #redraw() {
    const context = this.canvas.getContext("2d");
    const ratio = devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.wrap.clientWidth, this.wrap.clientHeight);
    if (!this.#picture) return;
    const {middle, size} = this.#place();
    const left = middle[0] - size[0] / 2;
    const top = middle[1] - size[1] / 2;
    context.save();
    context.beginPath();
    context.rect(left, top, size[0], size[1]);
    context.clip();
    const box = (picture) => {
      const {x, y} = extentOf(picture);
      const [x0, y0] = this.toScreen(x[0], y[0]);
      const [x1, y1] = this.toScreen(x[1], y[1]);
      return [x0, y0, x1 - x0, y1 - y0];
    };
    context.fillStyle = hatching(context);
    context.fillRect(...box(this.#picture));
    const place = box(this.#picture);
    context.imageSmoothingEnabled = place[2] * ratio < this.#picture.width;
    context.imageSmoothingQuality = "medium";
    context.drawImage(this.#cells, ...place);
    if (this.#detail) {
      const finer = box(this.#detail.picture);
      context.clearRect(...finer);
      context.fillStyle = hatching(context);
      context.fillRect(...finer);
      context.imageSmoothingEnabled = finer[2] * ratio < this.#detail.picture.width;
      context.drawImage(this.#detail.cells, ...finer);
    }
    context.restore();
    context.save();
    context.beginPath();
    context.rect(...within(place, [left, top, ...size]));
    context.clip();
    this.#overlay?.(context, (x, y) => this.toScreen(x, y));
    context.restore();
    if (this.#picture.axes) drawAxes(context, this, this.#picture.axes, left, top, size);
  }

  // ---- looking -----------------------------------------------------------------------

  #inside() {
    const {x, y} = this.extent;
    const clamp = (v, [a, b]) => Math.min(Math.max(v, Math.min(a, b)), Math.max(a, b));
    this.#centre = {x: clamp(this.#centre.x, x), y: clamp(this.#centre.y, y)};
    if (this.zoom === 1) this.#centre = {x: (x[0] + x[1]) / 2, y: (y[0] + y[1]) / 2};
  }

  #changed() {
    this.canvas.classList.toggle("zoomed", this.zoom > 1);
    this.#later();
    clearTimeout(this.#settled);
    this.#settled = setTimeout(() => {
      if (!this.#picture || !this.#view || !this.wrap.clientWidth) return;
      const {middle, size} = this.#place();
      const a = this.toData(middle[0] - size[0] / 2, middle[1] - size[1] / 2);
      const b = this.toData(middle[0] + size[0] / 2, middle[1] + size[1] / 2);
      this.#view({x: [a.x, b.x], y: [a.y, b.y], scale: this.#scale(), zoom: this.zoom});
    }, 150);
  }

  #point(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  #listen() {
    const canvas = this.canvas;
    canvas.addEventListener(
      "wheel",
      (event) => {
        if (!this.#picture) return;
        event.preventDefault();
        this.zoomBy(2 ** (-event.deltaY / 240), this.toData(...this.#point(event)));
      },
      {passive: false},
    );
    canvas.addEventListener("dblclick", () => this.fit());
    canvas.addEventListener("keydown", (event) => {
      if (event.key === "+" || event.key === "=") this.zoomBy(1.5);
      else if (event.key === "-") this.zoomBy(1 / 1.5);
      else if (event.key === "0") this.fit();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    canvas.addEventListener("pointerdown", (event) => {
      if (!this.#picture || event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      this.#pointers.set(event.pointerId, this.#point(event));
      this.#moved = false;
      this.from = this.toData(...this.#point(event));
      this.#move(event); // a finger points without moving
    });
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    const end = (event) => {
      if (!this.#pointers.delete(event.pointerId)) return;
      if (this.#drag && this.#moved && event.type === "pointerup") {
        this.#drag(this.from, this.toData(...this.#point(event)), true);
      }
    };
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
    canvas.addEventListener("pointerleave", () => this.readout(""));
  }

  #move(event) {
    if (!this.#picture) return;
    const here = this.#point(event);
    const last = this.#pointers.get(event.pointerId);
    if (last && this.#pointers.size === 2) {
      const other = [...this.#pointers].find(([id]) => id !== event.pointerId)[1];
      const distance = (a) => Math.hypot(a[0] - other[0], a[1] - other[1]);
      this.zoomBy(
        distance(here) / Math.max(distance(last), 1),
        this.toData((here[0] + other[0]) / 2, (here[1] + other[1]) / 2),
      );
      this.#pointers.set(event.pointerId, here);
      return;
    }
    if (last) {
      this.#moved ||= Math.hypot(here[0] - last[0], here[1] - last[1]) > 3;
      if (this.#drag && !event.shiftKey) {
        if (this.#moved) this.#drag(this.from, this.toData(...here), false);
      } else if (this.zoom > 1) {
        const a = this.toData(...last);
        const b = this.toData(...here);
        this.#centre = {x: this.#centre.x + a.x - b.x, y: this.#centre.y + a.y - b.y};
        this.#inside();
        this.#changed();
        this.#pointers.set(event.pointerId, here);
      }
    }
    const {x, y} = this.toData(...here);
    const value = this.valueAt(x, y);
    const {x: ex, y: ey} = this.extent;
    const inside = (x - ex[0]) * (x - ex[1]) <= 0 && (y - ey[0]) * (y - ey[1]) <= 0;
    const text = inside ? this.#hover?.(x, y, value) : "";
    if (text !== undefined) this.readout(text);
  }
}

/** @param {Picture|null} picture */
function extentOf(picture) {
  return picture?.extent ?? {x: [0, picture?.width ?? 1], y: [0, picture?.height ?? 1]};
}
