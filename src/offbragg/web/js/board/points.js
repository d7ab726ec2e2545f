// Points with error bars against temperature, each series with a colour and a shape, as SVG.

import {el, fill, put} from "../dom.js";
import {number, withError} from "../format.js";

const SVG = "http://www.w3.org/2000/svg";
const SHAPES = [
  (x, y, r) => `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
  (x, y, r) => `M${x - r} ${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
  (x, y, r) => `M${x} ${y - 1.2 * r}L${x + 1.2 * r} ${y + r}H${x - 1.2 * r}z`,
  (x, y, r) => `M${x} ${y - 1.4 * r}L${x + 1.4 * r} ${y}L${x} ${y + 1.4 * r}L${x - 1.4 * r} ${y}z`,
  (x, y, r) => `M${x} ${y + 1.2 * r}L${x - 1.2 * r} ${y - r}H${x + 1.2 * r}z`,
  (x, y, r) => `M${x - r} ${y - 0.6 * r}L${x} ${y - 1.2 * r}L${x + r} ${y - 0.6 * r}V${y + 0.6 * r}L${x} ${y + 1.2 * r}L${x - r} ${y + 0.6 * r}z`,
];
const MARGIN = {left: 58, right: 12, top: 10, bottom: 34};

/**
 * @typedef {{x: number, y: number, sigma: number|null, open?: boolean, name?: string}} Point
 * @typedef {{name: string, points: Point[], shape?: number}} Points
 */

export class PointsPlot {
  #data = {series: [], marks: [], curves: []};
  #dots = [];
  #current = null;

  /**
   * @param {HTMLElement} host
   * @param {{label: string, y: string, height?: number, choose?: (name: string) => void}} about
   *   `y` is the label of the axis, with its unit; `choose` is called with the name of a point
   */
  constructor(host, {label, y, height = 220, choose = () => {}}) {
    this.about = {label, y, height, choose};
    this.svg = make("svg", {class: "points", height, role: "img"});
    this.readout = el("p.points-readout.muted");
    host.append(this.svg, this.readout);
    this.svg.addEventListener("pointermove", (event) => this.#point(event));
    this.svg.addEventListener("pointerleave", () => this.#read(null));
    this.svg.addEventListener("click", () => this.#near?.name && choose(this.#near.name));
    new ResizeObserver(() => this.#draw()).observe(this.svg);
  }
  #near = null;

  /**
   * Show points.
   * @param {{series: Points[], marks?: {x: number, text: string}[],
   *   curves?: [number, number][][], y?: string, range?: [number, number]}} data
   *   marks are vertical lines; curves are fitted laws
   */
  set(data) {
    this.#data = {marks: [], curves: [], ...data};
    if (data.y) this.about.y = data.y;
    this.#draw();
  }

  /** Show which temperature is the current one. @param {number|null} x */
  setCurrent(x) {
    if (x === this.#current) return;
    this.#current = x;
    this.#draw();
  }

  #draw() {
    const width = this.svg.clientWidth;
    const {height, label, y: name} = this.about;
    if (!width) return;
    const {series, marks, curves, range} = this.#data;
    const all = series.flatMap((one) => one.points);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("aria-label", `${label}: ${all.length} points`
      + (marks.length ? `; ${marks.map((one) => one.text).join(", ")}` : ""));
    const [x0, x1] = range ?? padded(extent(all.map((p) => p.x)), 0.03);
    const [y0, y1] = padded(extent([
      ...all.flatMap((p) => [p.y - (p.sigma ?? 0), p.y + (p.sigma ?? 0)]),
      ...(this.#data.zero ? [0] : []),
    ]), 0.06);
    const right = width - MARGIN.right;
    const bottom = height - MARGIN.bottom;
    const X = (x) => round(MARGIN.left + ((x - x0) / (x1 - x0)) * (right - MARGIN.left));
    const Y = (y) => round(bottom - ((y - y0) / (y1 - y0)) * (bottom - MARGIN.top));
    const parts = [make("path", {class: "frame", d: `M${MARGIN.left} ${MARGIN.top}V${bottom}H${right}`})];
    const few = Math.max(3, Math.floor((bottom - MARGIN.top) / 40));
    for (const tick of ticks(x0, x1, Math.max(3, Math.floor(width / 80)))) {
      parts.push(make("path", {class: "grid", d: `M${X(tick)} ${bottom}V${MARGIN.top}`}),
        text(X(tick), bottom + 14, number(tick, 6), "middle"));
    }
    for (const tick of ticks(y0, y1, few)) {
      parts.push(make("path", {class: "grid", d: `M${MARGIN.left} ${Y(tick)}H${right}`}),
        text(MARGIN.left - 6, Y(tick) + 4, number(tick, 6), "end"));
    }
    parts.push(text((MARGIN.left + right) / 2, height - 4, "temperature / K", "middle", "axis"));
    const up = text(0, 0, name, "middle", "axis");
    up.setAttribute("transform", `translate(12 ${(MARGIN.top + bottom) / 2}) rotate(-90)`);
    parts.push(up);
    for (const curve of curves) {
      const d = curve.map(([x, y], at) => `${at ? "L" : "M"}${X(x)} ${Y(y)}`).join("");
      parts.push(make("path", {class: "law", d}));
    }
    for (const {x, text: words} of marks) {
      if (x < x0 || x > x1) continue;
      const left = X(x) > (MARGIN.left + right) / 2;
      parts.push(make("path", {class: "transition", d: `M${X(x)} ${MARGIN.top}V${bottom}`}),
        text(X(x) + (left ? -5 : 5), MARGIN.top + 10, words, left ? "end" : "start", "transition-name"));
    }
    if (this.#current !== null && this.#current >= x0 && this.#current <= x1) {
      parts.push(make("path", {class: "current", d: `M${X(this.#current)} ${bottom}v-7`}));
    }
    this.#dots = [];
    series.forEach((one, at) => {
      const kind = one.shape ?? at;
      const group = make("g", {class: `series series-${kind % SHAPES.length}`});
      for (const point of one.points) {
        const [x, y] = [X(point.x), Y(point.y)];
        if (point.sigma) {
          const [low, high] = [Y(point.y - point.sigma), Y(point.y + point.sigma)];
          group.append(make("path", {class: "error", d: `M${x} ${low}V${high}M${x - 3} ${low}h6M${x - 3} ${high}h6`}));
        }
        group.append(make("path", {class: point.open ? "dot open" : "dot", d: SHAPES[kind % SHAPES.length](x, y, 3.5)}));
        this.#dots.push({x, y, point, series: one.name});
      }
      parts.push(group);
    });
    if (!all.length) parts.push(text((MARGIN.left + right) / 2, height / 2 - 8, "no points yet", "middle", "axis"));
    this.svg.replaceChildren(...parts);
    this.#read(null);
  }

  #point(event) {
    const box = this.svg.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let best = null;
    let least = 24 ** 2;
    for (const dot of this.#dots) {
      const distance = (dot.x - x) ** 2 + (dot.y - y) ** 2;
      if (distance < least) [best, least] = [dot, distance];
    }
    this.#read(best);
  }

  #read(dot) {
    this.#near = dot?.point ?? null;
    this.svg.classList.toggle("near", dot !== null);
    const growing = dot?.point.open ? " · still growing" : "";
    put(this.readout, dot ? `${dot.series} · ${dot.point.x}\u202fK · ${withError(dot.point.y, dot.point.sigma)}${growing}`
      : this.#data.note ?? "\u00a0");
  }
}

/** A legend of shapes and colours; they are the same in all plots of a view. */
export function legend(names) {
  return el("ul.legend", {}, ...names.map((name, at) => {
    const mark = make("svg", {width: 14, height: 14, "aria-hidden": "true", class: `series-${at % SHAPES.length}`});
    mark.append(make("path", {class: "dot", d: SHAPES[at % SHAPES.length](7, 7, 4)}));
    const item = el("li", {});
    item.append(mark, name);
    return item;
  }));
}

/** Ticks at round numbers. */
export function ticks(low, high, most) {
  const rough = (high - low) / Math.max(most, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((n) => n * power >= rough) ?? 10);
  const out = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) {
    out.push(Number((at * step).toPrecision(12)));
  }
  return out;
}

function extent(values) {
  const known = values.filter(Number.isFinite);
  return known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
}

function padded([low, high], part) {
  const size = high - low || Math.max(Math.abs(high), 1) * 0.02;
  return [low - part * size - (high === low ? size / 2 : 0), high + part * size + (high === low ? size / 2 : 0)];
}

const round = (x) => Math.round(10 * x) / 10;

function make(tag, properties) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(properties)) element.setAttribute(name, String(value));
  return element;
}

function text(x, y, words, anchor, kind = "tick") {
  const element = make("text", {x, y, "text-anchor": anchor, class: kind});
  element.textContent = words;
  return element;
}
