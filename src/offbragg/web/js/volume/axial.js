// The three planes along the axes, small: where they cross is where the other two are cut, and
// dragging it moves them.

import {el, put} from "../dom.js";
import {PlaneCanvas} from "./canvas.js";
import {basis} from "./geometry.js";
import {ends, NAMES, nearest, running, short} from "./plane.js";
import {token} from "../colours.js";

const UNIT = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];

export class AxialPlanes {
  /**
   * @param {HTMLElement} host
   * @param {{onMove: (at: number[], done: boolean) => void, onChoose: (fixed: number) => void}} options
   */
  constructor(host, {onMove, onChoose}) {
    this.onMove = onMove;
    this.at = [0, 0, 0];
    this.fixed = 2;
    this.grid = null;
    this.panels = [2, 1, 0].map((fixed) => {
      const [a, b] = running(fixed);
      const box = el("div.axial-image");
      const choose = el("button.small.axial-name", {type: "button", title: `Show the ${NAMES[a]}${NAMES[b]} plane large`,
        onclick: () => onChoose(fixed)});
      const root = el("figure.axial", {}, box, choose);
      host.append(root);
      const image = new PlaneCanvas(box, {label: `${NAMES[a]}${NAMES[b]} plane, small`, small: true});
      image.canvas.setAttribute("role", "slider");
      const panel = {fixed, a, b, root, choose, image};
      image.drawOver = (context, screen) => this.#cross(panel, context, screen);
      this.#listen(panel);
      return panel;
    });
  }

  /** @param {import("./source.js").Volume} volume */
  frame(volume) {
    this.grid = volume.grid;
    for (const {a, b, image} of this.panels) {
      const [u, v] = [ends(volume.grid, a), ends(volume.grid, b)];
      const half = (axis) => 0.5 / volume.grid.per_unit[axis];
      image.frame(basis(volume.G, UNIT[a], UNIT[b]), [u[0] - half(a), u[1] + half(a), v[0] - half(b), v[1] + half(b)], [NAMES[a], NAMES[b]]);
    }
  }

  /** @param {number[]} at @param {number|null} fixed the large plane's; null: it is oblique */
  mark(at, fixed) {
    this.at = at;
    this.fixed = fixed;
    for (const panel of this.panels) {
      const value = short(at[panel.fixed]).replace("-", "−");
      put(panel.choose, `${NAMES[panel.a]}${NAMES[panel.b]}, ${NAMES[panel.fixed]} = ${value}`);
      panel.choose.setAttribute("aria-pressed", String(panel.fixed === fixed));
      const canvas = panel.image.canvas;
      canvas.setAttribute("aria-label", `${NAMES[panel.fixed]} of the ${NAMES[panel.a]}${NAMES[panel.b]} plane, r.l.u.`);
      canvas.setAttribute("aria-valuenow", short(at[panel.fixed]));
      if (this.grid) {
        const [low, high] = ends(this.grid, panel.fixed);
        canvas.setAttribute("aria-valuemin", short(low));
        canvas.setAttribute("aria-valuemax", short(high));
      }
      panel.image.paintOver();
    }
  }

  /** @param {number} fixed @param {any|null} raster */
  show(fixed, raster) {
    this.panels.find((panel) => panel.fixed === fixed).image.show(raster ? [raster] : []);
  }

  colours(colours) { for (const {image} of this.panels) image.colours(colours); }

  #cross({a, b, fixed}, context, screen) {
    if (this.grid === null) return;
    const [ua, ub] = [ends(this.grid, a), ends(this.grid, b)];
    const line = (axis, from, to) => {
      const strong = axis === this.fixed;
      for (const [style, width] of [[token("--ground"), strong ? 4 : 3], [token(strong ? "--accent" : "--text"), strong ? 2 : 1]]) {
        context.strokeStyle = style;
        context.lineWidth = width;
        context.beginPath();
        context.moveTo(...from);
        context.lineTo(...to);
        context.stroke();
      }
    };
    // the line along v stands at a value of a: that is where the plane of constant a is cut
    const lines = [[a, screen(this.at[a], ub[0]), screen(this.at[a], ub[1])], [b, screen(ua[0], this.at[b]), screen(ua[1], this.at[b])]];
    context.globalAlpha = fixed === this.fixed ? 0.6 : 1;
    for (const each of lines.sort((p) => (p[0] === this.fixed ? 1 : -1))) line(...each);
    context.globalAlpha = 1;
  }

  #listen(panel) {
    const {canvas} = panel.image;
    let held = false;
    const move = (event, done) => {
      const [u, v] = panel.image.toPlane(event.offsetX, event.offsetY);
      const at = [...this.at];
      at[panel.a] = nearest(this.grid, panel.a, u);
      at[panel.b] = nearest(this.grid, panel.b, v);
      this.onMove(at, done);
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (this.grid === null || event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      held = true;
      move(event, false);
    });
    canvas.addEventListener("pointermove", (event) => { if (held) move(event, false); });
    const end = (event) => { if (held) { held = false; move(event, true); } };
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", () => { held = false; });
    canvas.addEventListener("keydown", (event) => {
      const steps = {ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10}[event.key];
      if (steps === undefined || this.grid === null) return;
      event.preventDefault();
      const at = [...this.at];
      at[panel.fixed] = nearest(this.grid, panel.fixed, at[panel.fixed] + steps / this.grid.per_unit[panel.fixed]);
      this.onMove(at, true);
    });
  }
}
