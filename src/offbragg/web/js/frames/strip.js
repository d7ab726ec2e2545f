// A sweep as a strip: one tick a frame. Stored is a thin tick, missing a gap with a red foot,
// rejected a cross, pending a faint foot: shape and colour.

import {token} from "../colours.js";
import {el} from "../dom.js";

const HEIGHT = 28; // CSS px
const NEAR = 5; // px: a fault this near is what was pointed at

/**
 * Draw the shapes of a ledger.
 * @param {CanvasRenderingContext2D} context @param {import("./ledger.js").Ledger} ledger
 * @param {number} width @param {number} height CSS px @param {number|null} [chosen] index
 */
export function drawStrip(context, ledger, width, height, chosen = null) {
  context.clearRect(0, 0, width, height);
  const step = width / ledger.n;
  const thin = Math.max(1, Math.min(2, step * 0.4));
  const [top, foot] = [4, height - 4];
  const gap = (from, to) => [from * step, Math.max((to - from) * step, 2)];
  for (const {status, from, to} of ledger.spans) {
    const [left, wide] = gap(from, to);
    if (status === "stored") {
      context.fillStyle = token("--stored");
      if (step < 2.5) context.fillRect(left, top + 4, wide, foot - top - 8);
      else
        for (let i = from; i < to; i++)
          context.fillRect(Math.round((i + 0.5) * step - thin / 2), top + 4, thin, foot - top - 8);
    } else if (status === "pending") {
      context.fillStyle = token("--off");
      context.globalAlpha = 0.45;
      if (step < 2.5) context.fillRect(left, foot - 7, wide, 1.5);
      else
        for (let i = from; i < to; i++)
          context.fillRect(Math.round((i + 0.5) * step - thin / 2), foot - 8, thin, 3);
      context.globalAlpha = 1;
    }
  }
  // faults last: they stay in sight where a pixel has several frames
  for (const {status, from, to} of ledger.spans) {
    if (status !== "missing") continue;
    const [left, wide] = gap(from, to);
    context.clearRect(left, 0, wide, height);
    context.fillStyle = token("--bad");
    const size = Math.max(wide, 4);
    if (step < 10) context.fillRect(left + (wide - size) / 2, height - 6, size, 5);
    else for (let i = from; i < to; i++) context.fillRect((i + 0.5) * step - 4, height - 6, 8, 5);
  }
  for (const {status, from, to} of ledger.spans) {
    if (status !== "rejected") continue;
    const [left, wide] = gap(from, to);
    context.clearRect(left, top, wide, foot - top);
    const n = Math.max(1, Math.min(to - from, Math.floor(wide / 11)));
    for (let i = 0; i < n; i++) cross(context, left + (wide * (i + 0.5)) / n, height / 2);
  }
  if (chosen !== null) {
    const x = (chosen + 0.5) * step;
    context.fillStyle = token("--accent");
    context.fillRect(x - 1, 0, 2, height);
    context.beginPath();
    context.moveTo(x - 5, 0);
    context.lineTo(x + 5, 0);
    context.lineTo(x, 6);
    context.fill();
  }
}

/** A cross with a rim of the ground, so that it stands out among ticks. */
function cross(context, x, y) {
  for (const [wide, colour] of [
    [5, "--surface"],
    [2, "--warn"],
  ]) {
    context.lineWidth = wide;
    context.strokeStyle = token(colour);
    context.beginPath();
    context.moveTo(x - 4, y - 4.5);
    context.lineTo(x + 4, y + 4.5);
    context.moveTo(x + 4, y - 4.5);
    context.lineTo(x - 4, y + 4.5);
    context.stroke();
  }
}

/** One strip with its canvas; tells which frame is pointed at or chosen. */
export class Strip {
  /** @type {import("./ledger.js").Ledger|null} */ ledger = null;
  chosen = null;

  /**
   * @param {{pointed: (index: number|null) => void, choose: (index: number) => void}} options
   */
  constructor({pointed, choose}) {
    this.canvas = el("canvas.strip", {
      tabindex: "0",
      role: "slider",
      "aria-label": "Frames of the sweep",
      "aria-valuemin": "0",
      "aria-valuenow": "0",
      "aria-valuemax": "0",
    });
    this.root = el("div.strip-wrap", {}, this.canvas);
    new ResizeObserver(() => this.draw()).observe(this.root);
    document.addEventListener("themechange", () => this.draw());
    this.canvas.addEventListener("pointermove", (event) => pointed(this.indexAt(event.offsetX)));
    this.canvas.addEventListener("pointerleave", () => pointed(null));
    this.canvas.addEventListener("click", (event) => {
      const index = this.indexAt(event.offsetX);
      if (index !== null) choose(index);
    });
    this.canvas.addEventListener("keydown", (event) => {
      if (!this.ledger) return;
      const by = {ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10}[event.key];
      const from = this.chosen ?? 0;
      let to = null;
      if (by) to = this.chosen === null ? 0 : Math.max(0, Math.min(this.ledger.n - 1, from + by));
      else if (event.key === "Home") to = 0;
      else if (event.key === "End") to = this.ledger.n - 1;
      else if (event.key === "n" || event.key === "p")
        to = this.ledger.fault(this.chosen ?? -1, event.key === "n" ? 1 : -1);
      else return;
      event.preventDefault();
      event.stopPropagation();
      if (to !== null) choose(to);
    });
  }

  /** @param {import("./ledger.js").Ledger} ledger @param {string} label */
  set(ledger, label) {
    this.ledger = ledger;
    this.canvas.setAttribute("aria-label", label);
    this.canvas.setAttribute("aria-valuemax", String(ledger.n - 1));
    this.#value();
    this.draw();
  }

  /** @param {number|null} index */
  choose(index) {
    this.chosen = index;
    this.#value();
    this.draw();
  }

  #value() {
    this.canvas.setAttribute("aria-valuenow", String(this.chosen ?? 0));
    if (!this.ledger) return;
    this.canvas.setAttribute(
      "aria-valuetext",
      this.chosen === null
        ? this.ledger.words
        : `frame ${this.chosen}, ${this.ledger.status(this.chosen)} ${this.ledger.reason(this.chosen)}`,
    );
  }

  /** The frame at CSS px from the left: a fault that is near, where ticks are narrower than that. */
  indexAt(left) {
    if (!this.ledger) return null;
    const step = this.root.clientWidth / this.ledger.n;
    const index = Math.max(0, Math.min(this.ledger.n - 1, Math.floor(left / step)));
    if (step >= NEAR) return index;
    const distance = (each) => Math.abs((each + 0.5) * step - left);
    const near = this.ledger.faults.reduce(
      (best, each) => (distance(each) < distance(best) ? each : best),
      Infinity,
    );
    return distance(near) <= NEAR ? near : index;
  }

  draw() {
    const width = this.root.clientWidth;
    if (!width || !this.ledger) return;
    const ratio = devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(HEIGHT * ratio);
    }
    const context = this.canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    drawStrip(context, this.ledger, width, HEIGHT, this.chosen);
  }
}
