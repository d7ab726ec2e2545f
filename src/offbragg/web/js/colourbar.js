// The colour bar: a histogram of what is shown, and the two ends of the colours to drag or type.

import {PALETTES, token} from "./colours.js";
import {el} from "./dom.js";
import {number} from "./format.js";

const BINS = 96;
const LOOKED_AT = 50_000; // values of a histogram, at most

/**
 * Find limits that Bragg peaks and dead pixels do not set: the 1st and 99.5th percentile.
 * @param {Float32Array|Int32Array} values @param {{scale?: "log"|"linear", counts?: boolean}} how
 * @returns {{low: number, high: number}}
 */
export function limits(values, {scale = "log", counts = false} = {}) {
  const sample = sampled(values, counts);
  if (sample.length === 0) return {low: scale === "log" ? 1 : 0, high: 10};
  const at = (share, of) => of[Math.min(of.length - 1, Math.floor(share * of.length))];
  const high = at(0.995, sample);
  if (counts) {
    // a count of 0 has the first colour, a count of 1 another one
    return {low: scale === "log" ? 0.5 : 0, high: Math.max(high, 4)};
  }
  if (scale === "linear") {
    const low = at(0.01, sample);
    return {low, high: high > low ? high : low + 1};
  }
  const positive = sample.subarray(sample.findIndex((value) => value > 0));
  if (!(positive[0] > 0)) return {low: 1e-3, high: 1};
  const low = Math.max(at(0.01, positive), high * 1e-6);
  return {low, high: high > low ? high : low * 10};
}

/** At most LOOKED_AT of the measured values, in order. */
function sampled(values, counts) {
  const stride = Math.max(1, Math.ceil(values.length / LOOKED_AT));
  const found = new Float32Array(Math.ceil(values.length / stride));
  let n = 0;
  for (let at = 0; at < values.length; at += stride) {
    const value = values[at];
    if (value === value && !(counts && value < 0)) found[n++] = value;
  }
  return found.subarray(0, n).sort();
}

export class ColourBar {
  #picture = null;
  #sample = new Float32Array();
  #smallest = 0; // of the values above 0
  #ends = [0, 1];
  #dragged = null;

  /** @param {{unit?: string, onLimits: (low: number, high: number) => void}} options */
  constructor({unit = "", onLimits}) {
    this.unit = unit;
    this.onLimits = onLimits;
    const field = (name) =>
      el("input.limit", {
        type: "text",
        inputmode: "decimal",
        "aria-label": `${name} end of the colours, ${unit}`,
        title: `${name} end of the colours`,
        onchange: () => this.#typed(),
      });
    this.high = field("Upper");
    this.low = field("Lower");
    this.canvas = el("canvas.bar-canvas", {
      role: "img",
      "aria-label": `Histogram and colour bar, ${unit}`,
    });
    this.wrap = el("div.bar-wrap", {}, this.canvas);
    this.root = el(
      "div.colour-bar",
      {},
      this.high,
      this.wrap,
      this.low,
      el("span.bar-unit", {}, unit),
    );
    new ResizeObserver(() => this.#draw()).observe(this.wrap);
    document.addEventListener("themechange", () => this.#draw());
    this.canvas.addEventListener("pointerdown", (event) => {
      if (!this.#picture) return;
      this.canvas.setPointerCapture(event.pointerId);
      const value = this.#valueAt(event.offsetY);
      const place = (v) => this.#place(v);
      this.#dragged =
        Math.abs(place(value) - place(this.#picture.low)) <
        Math.abs(place(value) - place(this.#picture.high))
          ? "low"
          : "high";
      this.#drag(event);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (this.#dragged) this.#drag(event);
    });
    this.canvas.addEventListener("pointerup", () => {
      this.#dragged = null;
      if (this.#picture) {
        this.#measure();
        this.#draw();
      }
    });
    this.canvas.addEventListener("dblclick", () => {
      if (!this.#picture?.values) return;
      const {low, high} = limits(this.#picture.values, this.#picture);
      this.#change(low, high);
    });
  }

  /** @param {import("./image.js").Picture} picture */
  set(picture) {
    if (picture.values !== this.#picture?.values || picture.scale !== this.#picture?.scale) {
      this.#sample = picture.values ? sampled(picture.values, picture.counts) : new Float32Array();
      this.#smallest = this.#sample.find((value) => value > 0) ?? picture.low;
    }
    this.#picture = picture;
    this.#measure();
    this.#show();
    this.#draw();
  }

  #show() {
    const {low, high} = this.#picture;
    if (document.activeElement !== this.low) this.low.value = number(low, 3);
    if (document.activeElement !== this.high) this.high.value = number(high, 3);
  }

  /** The values at the ends of the bar: all that is shown, and the ends of the colours. */
  #measure() {
    const {scale, low, high} = this.#picture;
    const s = this.#sample;
    const top = s.length ? Math.max(s[s.length - 1], high) : high;
    this.#ends =
      scale === "log"
        ? [Math.min(low, Math.max(this.#smallest, top * 1e-7)), top * 1.05]
        : [
            Math.min(s[0] ?? low, low),
            Math.min(top + (top - low) * 0.02, low + (high - low) * 2.5),
          ]; // not up to a Bragg peak
  }

  /** 0 at the lower, 1 at the upper end of the bar. */
  #place(value) {
    const [a, b] = this.#ends;
    if (this.#picture.scale === "log") return Math.log(Math.max(value, a) / a) / Math.log(b / a);
    return (value - a) / (b - a);
  }

  #valueAt(top) {
    const [a, b] = this.#ends;
    const place = Math.min(Math.max(1 - top / this.wrap.clientHeight, 0), 1);
    return this.#picture.scale === "log" ? a * (b / a) ** place : a + (b - a) * place;
  }

  #drag(event) {
    const value = this.#valueAt(event.offsetY);
    const {low, high, scale} = this.#picture;
    const apart = scale === "log" ? 1.05 : undefined;
    if (this.#dragged === "low")
      this.#change(Math.min(value, apart ? high / apart : high - 1e-9), high);
    else this.#change(low, Math.max(value, apart ? low * apart : low + 1e-9));
  }

  #typed() {
    const read = (field) =>
      Number(
        field.value
          .replace("−", "-")
          .replace(/\s*×\s*10/, "e")
          .replace(/[⁰¹²³⁴-⁹⁻]/g, (c) =>
            "⁰¹²³⁴⁵⁶⁷⁸⁹".indexOf(c) >= 0 ? String("⁰¹²³⁴⁵⁶⁷⁸⁹".indexOf(c)) : "-",
          ),
      );
    let [low, high] = [read(this.low), read(this.high)];
    if (this.#picture.scale === "log" && !(low > 0)) low = this.#picture.low;
    if (!(high > low)) high = this.#picture.high > low ? this.#picture.high : low * 2 + 1;
    this.#change(low, high);
    this.low.blur();
    this.high.blur();
    this.#show();
  }

  #change(low, high) {
    Object.assign(this.#picture, {low, high});
    if (this.#dragged === null) this.#measure();
    this.#show();
    this.#draw();
    this.onLimits(low, high);
  }

  #draw() {
    const {clientWidth: width, clientHeight: height} = this.wrap;
    if (!width || !height) return;
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    if (!this.#picture) return;
    const map = PALETTES[this.#picture.palette] ?? PALETTES.viridis;
    const bar = 14;
    const {low, high} = this.#picture;
    const [y0, y1] = [low, high].map((value) => height * (1 - this.#place(value)));
    for (let y = 0; y < height; y++) {
      const at = Math.max(0, Math.min(255, Math.floor(((y0 - y) / Math.max(y0 - y1, 1e-6)) * 256)));
      context.fillStyle = `rgb(${map[3 * at]} ${map[3 * at + 1]} ${map[3 * at + 2]})`;
      context.fillRect(width - bar, y, bar, 1);
    }
    const bins = new Float64Array(BINS);
    const log = this.#picture.scale === "log";
    for (const value of this.#sample) {
      if (log && !(value > 0)) continue;
      bins[Math.min(BINS - 1, Math.max(0, Math.floor(this.#place(value) * BINS)))]++;
    }
    const most = Math.log1p(Math.max(...bins));
    context.fillStyle = token("--muted");
    if (most > 0) {
      bins.forEach((n, at) => {
        const length = (Math.log1p(n) / most) * (width - bar - 6);
        context.fillRect(
          width - bar - 3 - length,
          height * (1 - (at + 1) / BINS),
          length,
          Math.max(height / BINS - 0.5, 1),
        );
      });
    }
    context.fillStyle = context.strokeStyle = token("--text");
    for (const y of [y0, y1]) {
      const at = Math.min(Math.max(Math.round(y), 1), height - 1);
      context.fillRect(0, at - 0.5, width, 1);
      context.beginPath();
      context.moveTo(0, at - 5);
      context.lineTo(7, at);
      context.lineTo(0, at + 5);
      context.fill();
    }
  }
}
