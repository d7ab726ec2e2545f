// The controls of the volume view: which volume, temperature, plane, and how it is drawn.

import {el, fill, put} from "../dom.js";
import {fixed} from "../format.js";
import {crystal} from "./source.js";
import {fraction, NAMES, running, short, threePoints} from "./plane.js";

const PALETTES = ["viridis", "magma", "cividis", "grey"];
const signed = (text) => text.replace("-", "−");
const inK = (temperature) => (typeof temperature === "number" ? `${fixed(temperature, 2).replace(/\.?0+$/, "")} K` : "temperature not known");

/** Which volume, its state, and the temperatures of its series. */
export class Head {
  #rows = [];

  /** @param {{onChoose: (key: string) => void, onTemperature: (key: string, settled: boolean) => void}} options */
  constructor({onChoose, onTemperature}) {
    this.choice = el("select.volume-choice", {"aria-label": "Volume", onchange: () => onChoose(this.choice.value)});
    this.state = el("span.volume-state", {role: "status"});
    this.slider = el("input.volume-slider", {type: "range", min: 0, max: 0, step: 1, "aria-label": "Temperature, K",
      oninput: () => this.#moved(onTemperature, false), onchange: () => this.#moved(onTemperature, true)});
    this.value = el("output.volume-kelvin");
    this.marks = el("span.volume-marks", {"aria-hidden": "true"});
    this.temperature = el("div.volume-temperature", {}, el("span.muted", {}, "T"),
      el("span.volume-track", {}, this.slider, this.marks), this.value);
    this.root = el("header.volume-head", {}, this.choice, this.state, this.temperature);
  }

  #moved(onTemperature, settled) {
    const row = this.#rows[Number(this.slider.value)];
    if (row) onTemperature(row.key, settled);
  }

  /** @param {any[]} all the newest first @param {string} key */
  volumes(all, key) {
    const option = (row) => {
      const name = `${crystal(row.sample, row.label)} · ${inK(row.temperature)} · ${row.key.replace(/-[0-9a-f]{8}$/, "")}`
        + `${row.symmetry ? ` · ${row.symmetry}` : ""}${row.state === "finished" ? "" : ` · ${row.state}`}`;
      return el("option", {value: row.key, selected: row.key === key}, name);
    };
    fill(this.choice, ...all.map(option));
    if (all.every((row) => row.key !== key)) this.choice.prepend(el("option", {value: key, selected: true}, key));
    this.choice.value = key;
  }

  /** @param {any[]} rows of the same series, the coldest first @param {string} key */
  siblings(rows, key) {
    this.#rows = rows;
    const at = rows.findIndex((row) => row.key === key);
    this.slider.max = String(Math.max(rows.length - 1, 0));
    this.slider.value = String(Math.max(at, 0));
    this.slider.disabled = rows.length < 2;
    const few = rows.length > 1 && rows.length <= 12;
    fill(this.marks, ...(few ? rows.map((row) => el("span", {}, String(Math.round(row.temperature)))) : []));
    const row = rows[at];
    put(this.value, row ? inK(row.temperature) : "–");
    this.slider.setAttribute("aria-valuetext", row ? inK(row.temperature) : "");
    if (this.choice.value !== key) this.choice.value = key;
  }

  /** @param {import("./source.js").Volume} volume */
  about({state, completeness, frames, symmetry}) {
    const words = {growing: ["busy", "growing"], finished: ["ok", "finished"], missing: ["bad", "its file was deleted"], damaged: ["bad", "its file is damaged"]};
    const [kind, word] = words[state] ?? ["off", state];
    const parts = [word, typeof completeness === "number" ? `${(100 * completeness).toPrecision(2)} % measured` : null, symmetry || null];
    fill(this.state, el(`span.mark.mark-${kind}`, {"aria-hidden": "true"}), parts.filter(Boolean).join(" · "));
    this.state.title = `${frames ?? "–"} frames${symmetry ? `; the sums were made over the Laue class ${symmetry}` : ""}`;
  }
}

/** How the plane lies and is drawn. */
export class Toolbar {
  /** @param {(change: Partial<import("./plane.js").State>, how?: {refit?: boolean}) => void} onChange @param {any} more */
  constructor(onChange, {onCut, onZoom, onFit, onValue, onOblique, onFixed, onRefused}) {
    // what is typed is taken or refused in words; then the field has what is shown
    const taken = (field, take) => {
      const text = field.value.trim();
      const value = fraction(text);
      delete field.dataset.typed;
      if (value !== null) take(value);
      else if (text) onRefused(`“${text}” is not a number. Write it as 0.5 or 1/2, in r.l.u.`);
      field.value = field.dataset.shown;
    };
    const typed = (field) => { field.dataset.typed = ""; };
    const left = (field, event) => {
      if (event.key !== "Escape") return;
      delete field.dataset.typed;
      field.value = field.dataset.shown;
    };
    const button = (text, title, onclick, more = {}) => el("button.small", {type: "button", title, onclick, ...more}, text);
    this.planes = [2, 1, 0].map((fixed) => {
      const [a, b] = running(fixed).map((i) => NAMES[i]);
      return button(`${a}${b}`, `The ${a}${b} plane`, () => onFixed(fixed), {"aria-pressed": "false"});
    });
    this.oblique = button("oblique", "A plane through three points, or hhl", () => this.#openOblique(), {"aria-pressed": "false"});
    this.name = el("label.value-name", {for: "volume-value"}, "l =");
    this.value = el("input.value", {id: "volume-value", type: "text", inputmode: "decimal", autocomplete: "off",
      title: "Where the plane is cut, r.l.u. (↑ ↓: one cell)",
      oninput: () => typed(this.value),
      onchange: () => taken(this.value, onValue),
      onkeydown: (event) => {
        left(this.value, event);
        const step = {ArrowUp: 1, ArrowDown: -1}[event.key];
        if (!step) return;
        event.preventDefault();
        delete this.value.dataset.typed;
        onValue(null, step);
      }});
    this.points = el("input.points", {type: "text", autocomplete: "off", "aria-label": "Oblique plane: three points, or as hhl",
      placeholder: "0,0,0;1,1,0;0,0,1 or hhl", title: "Three points h,k,l with semicolons between, or a plane as hhl, or h,k,-h-k",
      onchange: () => {
        const text = this.points.value.trim();
        const points = threePoints(text);
        if (text) onOblique(points ? {points} : {text: text.replace(/\s/g, "")});
      }});
    this.thickness = el("input.value", {id: "volume-thickness", type: "text", inputmode: "decimal", autocomplete: "off",
      title: "Thickness over which the plane is averaged, r.l.u.; 0: one layer of cells",
      oninput: () => typed(this.thickness),
      onkeydown: (event) => left(this.thickness, event),
      onchange: () => {
        this.thickness.value ||= "0";
        taken(this.thickness, (value) => (value >= 0 ? onChange({thickness: value}) : onRefused("A thickness is not below 0.")));
      }});
    this.level = el("select", {id: "volume-level", title: "Cells of the volume along each edge of one that is drawn",
      onchange: () => onChange({level: Number(this.level.value)})});
    this.palette = el("select", {"aria-label": "Colour map", title: "Colour map", onchange: () => onChange({palette: this.palette.value})},
      ...PALETTES.map((name) => el("option", {value: name}, name)));
    this.log = button("log", "Logarithmic or linear (l)", () => onChange({scale: this.log.getAttribute("aria-pressed") === "true" ? "linear" : "log"}), {"aria-keyshortcuts": "l"});
    this.symmetry = button("symmetrise", "Average the equivalent cells (s)", () => onChange({symmetry: this.symmetry.getAttribute("aria-pressed") !== "true"}), {"aria-keyshortcuts": "s"});
    this.cut = button("cut", "Drag a line for a cut (c)", onCut, {"aria-keyshortcuts": "c", "aria-pressed": "false"});
    const group = (label, ...children) => el("span.group", {role: "group", "aria-label": label}, ...children);
    this.root = el("div.volume-tools", {role: "toolbar", "aria-label": "Plane"},
      group("Orientation", ...this.planes, this.oblique),
      group("Position", this.name, this.value, this.points,
        button("−", "One cell down (↓)", () => onValue(null, -1), {"aria-label": "One cell down"}),
        button("+", "One cell up (↑)", () => onValue(null, 1), {"aria-label": "One cell up"})),
      group("Thickness", el("label.muted", {for: "volume-thickness"}, "thick"), this.thickness),
      group("Drawing", this.log, this.symmetry, this.cut),
      group("Detail", el("label.muted", {for: "volume-level"}, "level"), this.level, this.palette),
      group("Zoom", button("−", "Zoom out (−)", () => onZoom(1 / 1.6), {"aria-label": "Zoom out"}),
        button("+", "Zoom in (+)", () => onZoom(1.6), {"aria-label": "Zoom in"}), button("all", "Show all of the plane (0)", onFit)));
  }

  #openOblique() {
    this.points.hidden = false;
    this.points.focus();
    this.points.select();
  }

  /** Write what is shown into a field, unless something is being typed there. */
  #put(field, text) {
    field.dataset.shown = text;
    if (!("typed" in field.dataset)) field.value = text;
  }

  /**
   * @param {import("./plane.js").State} state @param {import("./source.js").Volume} volume
   * @param {{level: number, cutting: boolean}} now
   */
  show(state, volume, {level, cutting}) {
    const fixed = "fixed" in state.kind ? state.kind.fixed : null;
    [2, 1, 0].forEach((axis, n) => this.planes[n].setAttribute("aria-pressed", String(axis === fixed)));
    this.oblique.setAttribute("aria-pressed", String(fixed === null));
    this.name.hidden = this.value.hidden = fixed === null;
    this.points.hidden = fixed !== null && document.activeElement !== this.points;
    if (fixed !== null) {
      put(this.name, `${NAMES[fixed]} =`);
      this.#put(this.value, signed(short(state.at[fixed])));
    } else if (document.activeElement !== this.points) {
      this.points.value = "text" in state.kind ? state.kind.text : state.kind.points.map((point) => point.map(short).join(",")).join(";");
    }
    this.#put(this.thickness, short(state.thickness));
    const wanted = `${volume.levels.join()} ${state.level} ${level}`;
    if (this.level.dataset.shown !== wanted) {
      this.level.dataset.shown = wanted;
      fill(this.level, el("option", {value: "0"}, state.level ? "auto" : `auto (${level})`),
        ...volume.levels.map((each) => el("option", {value: String(each)}, String(each))));
      this.level.value = String(state.level);
    }
    this.palette.value = state.palette;
    this.log.setAttribute("aria-pressed", String(state.scale === "log"));
    this.symmetry.setAttribute("aria-pressed", String(state.symmetry || volume.symmetry !== ""));
    this.symmetry.disabled = volume.symmetry !== "";
    this.symmetry.title = volume.symmetry ? `The sums of this volume were made over ${volume.symmetry} already` : "Average the equivalent cells (s)";
    this.cut.setAttribute("aria-pressed", String(cutting));
  }
}
