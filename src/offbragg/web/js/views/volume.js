// The view Volume: a plane of S(Q), the three axial ones, cuts, and why a cell is as it is.

import {ColourBar} from "../colourbar.js";
import {el, fill, notice, put} from "../dom.js";
import {fixed} from "../format.js";
import {AxialPlanes} from "../volume/axial.js";
import {PlaneCanvas} from "../volume/canvas.js";
import {Head, Toolbar} from "../volume/controls.js";
import {Picture} from "../volume/picture.js";
import * as planes from "../volume/plane.js";
import {Pointer} from "../volume/pointer.js";
import {pythonLines} from "../volume/python.js";
import {BEING_MADE, crystal, Source} from "../volume/source.js";
import {Timers} from "../volume/wishes.js";

const GROWS = 2_000;  // ms between looks at a growing volume
const LOOKS = 20_000;  // ms between looks at the list of volumes
const WAITS = 2_000;  // ms between looks while there is none
const KNOWS = 150;  // ms until the lattice of another temperature is asked for
const WRITE = 250;  // ms until the address is written: browsers allow few changes a second
const UNIT = "counts per weight";
const LOST = {missing: "The file of this volume was deleted.", damaged: "The file of this volume is damaged."};

class VolumeView {
  name = "volume";
  title = "Volume";
  key = "3";
  keys = [["↑ ↓", "plane by one cell"], ["← →", "temperature"], ["l", "log or linear"], ["s", "symmetrise"], ["c", "cut: drag a line"],
    ["x y z", "planes kl, hl, hk"], ["+ − 0", "zoom, all"], ["w", "why the cell at the pointer"],
    ["⇧ arrows", "the cell beside the chosen one"], ["Esc", "remove cut or cell"]];

  /** @type {import("../volume/source.js").Volume|null} */ volume = null;
  state = planes.initial();
  siblings = [];
  timers = new Timers();
  #all = [];
  #known = new Map();  // what the catalog says of volumes, by key
  #route = null;
  #shown = false;
  #failed = false;
  #lost = false;  // its file was deleted, or is damaged

  mount(host, ctx) {
    this.ctx = ctx;
    this.source = new Source(ctx.api);
    this.head = new Head({
      onChoose: (key) => this.#open(key, {...this.state, cut: null, cell: null, part: null}),
      onTemperature: (key) => this.#toTemperature(key),
    });
    this.tools = new Toolbar((change) => this.change(change), {
      onCut: () => this.#setCutting(this.image.mode !== "cut"),
      onZoom: (factor) => this.image.zoom(factor),
      onFit: () => this.#fit(),
      onValue: (value, steps) => this.#toValue(value, steps),
      onRefused: (text) => ctx.say(text, "error"),
      onOblique: (kind) => { this.pointer.clearCut(); this.change({kind, part: null}); },
      onFixed: (fixedAxis) => this.#toFixed(fixedAxis),
    });
    const box = el("div.plane-box");
    this.message = el("p.plane-message", {role: "alert", hidden: true});
    const note = el("span.plane-note", {role: "status"});
    const readout = el("output.readout", {"aria-live": "off"}, " ");
    const bar = new ColourBar({unit: UNIT, onLimits: (low, high) => this.change({range: [low, high]})});
    this.reset = el("button.small.bar-reset", {type: "button", title: "Ends of the colours from the 1st and 99.5th percentile of the measured cells",
      onclick: () => { this.picture.forget(); this.change({range: null}); this.picture.settle(); }}, "auto");
    bar.root.append(this.reset);
    const axials = el("div.axials", {role: "group", "aria-label": "Planes along the axes"});
    this.image = new PlaneCanvas(box, {label: "Plane of S(Q)"});
    box.append(this.message, note);
    this.axial = new AxialPlanes(axials, {onMove: (at) => this.change({at}), onChoose: (axis) => this.#toFixed(axis)});
    this.picture = new Picture(this, {
      api: ctx.api, image: this.image, axial: this.axial, bar, note,
      refused: (error) => this.#refused(error), changed: (arrived) => { if (arrived && !this.#lost) this.message.hidden = true; this.#tell(); },
    });
    this.pointer = new Pointer(this, {ctx, image: this.image, readout});
    this.image.onView = () => { this.state.part = this.image.part; this.picture.settle(); this.write(); };
    this.image.onSize = () => this.picture.settle();
    this.body = el("div.volume-body", {}, el("div.volume-plane", {}, box, bar.root, readout),
      el("div.volume-side", {}, axials, this.pointer.whyHost, this.pointer.cutHost));
    this.empty = el("div.volume-empty", {hidden: true});
    fill(host, this.head.root, this.tools.root, this.body, this.empty);
    ctx.store.addEventListener("link", () => { if (ctx.store.link.state !== "away" && this.#shown) this.#again(); });
  }

  // ---- the page's calls -----------------------------------------------------------------

  async show(route) {
    this.#shown = true;
    this.#route = route;
    const {state, wrong} = planes.read(route.query);
    if (wrong.length) this.ctx.say(`Not understood in the address, left out: ${wrong.join(", ")}`, "error");
    this.timers.every("list", LOOKS, () => this.#list());
    const key = route.id || this.volume?.key;
    if (this.volume && key === this.volume.key) {
      this.#follow(this.volume);
      if (route.id) this.#apply(state);
      this.write();
    } else if (key) await this.#open(key, state);
    else await this.#newest(state);
  }

  hide() {
    this.#shown = false;
    this.timers.clear();
  }

  onKey(event) {
    if (this.volume === null) return false;
    const arrow = {ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0]}[event.key];
    if (arrow && event.shiftKey) return this.pointer.stepCell(...arrow);
    if (arrow) {
      if (arrow[1]) this.#toValue(null, arrow[1]);
      else this.#stepTemperature(arrow[0]);
      return true;
    }
    const action = {
      l: () => this.change({scale: this.state.scale === "log" ? "linear" : "log"}),
      s: () => this.#symmetrise(),
      c: () => this.#setCutting(this.image.mode !== "cut"),
      x: () => this.#toFixed(0), y: () => this.#toFixed(1), z: () => this.#toFixed(2),
      "+": () => this.image.zoom(1.6), "=": () => this.image.zoom(1.6), "-": () => this.image.zoom(1 / 1.6), 0: () => this.#fit(),
      w: () => this.pointer.pickHere(),
      Escape: () => this.#escape(),
    }[event.key];
    return action ? action() !== false : false;
  }

  python() { return this.volume ? pythonLines(location.origin, this.volume.key, this.state) : ""; }

  // ---- which volume ---------------------------------------------------------------------

  async #newest(state) {
    if (!this.#all.length) this.#blank(notice("Looking for volumes", "The newest one is shown.", "loading"));
    await this.#list();
    if (this.volume || this.#failed) return;
    const newest = this.#all.find((row) => row.state === "growing") ?? this.#all[0];
    if (newest) { await this.#open(newest.key, state); return; }
    this.#blank(notice("No volume yet", "The first one appears here, and grows, as soon as offbragg live has reduced the first frames of a sweep; "
      + "offbragg reduce makes one of a finished sweep. This page looks every 2 s."));
    this.timers.later("wait", WAITS, () => { if (this.volume === null) this.#newest(state); });
  }

  async #list() {
    try {
      this.#all = await this.source.all();
    } catch (error) {
      if (this.volume === null) this.#fault(error);
      return;
    }
    if (this.volume === null) return;
    this.head.volumes(this.#all, this.volume.key);
    const row = this.#all.find((each) => each.key === this.volume.key);
    if (row && row.state in LOST) this.#judge(row.state);
    else if (row && this.#lost) this.#grow();  // there is a file again
    await this.#findSiblings();
  }

  async #open(key, state) {
    if (this.volume === null) this.#blank(notice("Opening the volume", key, "loading"));
    const route = this.#route;
    let found;
    try {
      found = await this.#know(key);
    } catch (error) {
      this.#fault(error, key);
      return;
    }
    if (route !== this.#route) return;  // another address was followed meanwhile
    this.#blank(null);
    this.picture.forget();
    this.#take(found);
    this.#apply(state);
    this.head.volumes(this.#all, key);
    this.write();
    if (!this.#all.length) this.#list();
    else this.#findSiblings();
  }

  async #know(key) {
    const found = await this.source.about(key);
    this.#known.set(key, found);
    return found;
  }

  #take(volume) {
    this.volume = volume;
    this.#judge(volume.state);
    this.head.siblings(this.siblings.some((row) => row.key === volume.key) ? this.siblings : [volume], volume.key);
    this.axial.frame(volume);
    this.#follow(volume);
  }

  /** Say whether its file is still there. @param {string} state @param {string} [why] */
  #judge(state, why = "") {
    const words = LOST[state];
    if (this.volume.state !== state) this.volume = {...this.volume, state};
    this.head.about(this.volume);
    if (this.#lost || words) this.message.hidden = !words;
    this.#lost = words !== undefined;
    if (words) put(this.message, [words, why, this.image.layers.length ? "What is shown was read before." : ""].filter(Boolean).join(" "));
  }

  #follow({state}) {
    if (state === "growing") this.timers.every("grow", GROWS, () => this.#grow());
    else this.timers.stop("grow");
  }

  async #findSiblings() {
    const {volume} = this;
    try {
      this.siblings = await this.source.siblings(volume, this.#all);
    } catch {
      return;  // the slider stays as it is
    }
    if (this.volume === null || volume.key !== this.volume.key) return;
    this.head.siblings(this.siblings, volume.key);
    this.picture.settle();
  }

  async #grow() {
    const {volume} = this;
    if (volume === null) return;
    try {
      const found = await this.#know(volume.key);
      if (volume !== this.volume || (found.written === volume.written && found.state === volume.state)) return;
      this.#take(found);
      if (this.state.range === null) this.picture.forget();
      this.picture.load();
      if (this.state.cut) this.pointer.loadCut();
    } catch (error) {
      if (volume === this.volume && (error.status === 404 || error.status === 410)) this.#refused(error);
    }
  }

  /** Go on after the server was away. */
  #again() {
    if (this.volume) { this.picture.load(); this.#list(); }
    else if (this.#failed && this.#route) this.show(this.#route);
  }

  // ---- temperature ----------------------------------------------------------------------

  #stepTemperature(steps) {
    const at = this.siblings.findIndex((row) => row.key === this.volume.key);
    const row = this.siblings[at + steps];
    if (row) this.#toTemperature(row.key);
    else this.ctx.say(this.siblings.length > 1 ? `This is the ${steps < 0 ? "lowest" : "highest"} temperature of the series.` : "The series has no other volume of this crystal.");
  }

  #toTemperature(key) {
    if (key === this.volume.key) return;
    const row = this.siblings.find((each) => each.key === key);
    // what the list has of it is enough to draw; its lattice comes a moment later
    const known = this.#known.get(key) ?? {...this.volume, ...row, sample: this.volume.sample, levels: row.levels ?? this.volume.levels};
    if (this.state.cell) this.pointer.clearCell();
    this.#take(row.written > known.written ? {...known, written: row.written, state: row.state} : known);
    this.state = planes.onGrid(this.state, this.volume.grid);
    this.#load();
    this.write();
    this.timers.later("know", KNOWS, async () => {
      if (this.volume?.key !== key || this.#known.has(key)) return;
      const found = await this.#know(key).catch(() => null);
      if (found && this.volume?.key === key) { this.#take(found); this.picture.frame(); }
    });
    if (this.state.cut) this.timers.later("cut", KNOWS, () => this.pointer.loadCut());
  }

  // ---- state ----------------------------------------------------------------------------

  /** Change what is shown. @param {Partial<import("../volume/plane.js").State>} change */
  change(change) {
    if (this.volume === null) return;
    const before = this.state;
    if ("scale" in change && change.scale !== before.scale) { change = {range: null, ...change}; this.picture.forget(); }
    this.state = planes.onGrid({...before, ...change}, this.volume.grid);
    if ("kind" in change) this.image.look(null);
    if (("symmetry" in change || "scale" in change) && this.state.cut) this.pointer.loadCut();
    const onlyColours = Object.keys(change).every((name) => ["scale", "range", "palette"].includes(name));
    if (!onlyColours) this.#load();
    else if ("scale" in change) this.picture.settle();
    if (onlyColours) this.picture.colours();
    this.#tell();
    this.write();
  }

  #load() {
    this.picture.load();
    this.axial.mark(this.state.at, this.state.kind.fixed ?? null);
  }

  #apply(state) {
    this.state = planes.onGrid(state, this.volume.grid);
    if (this.volume.symmetry) this.state.symmetry = false;
    this.image.show([]);
    this.image.look(null);
    this.#tell();
    this.#load();
    this.pointer.restore();
  }

  #toFixed(axis) {
    if (this.state.kind.fixed === axis) return;
    this.pointer.clearCut();
    this.change({kind: {fixed: axis}, part: null});
  }

  #toValue(value, steps = 0) {
    if (value === null) {
      this.pointer.clearCut();
      const {at, kind} = planes.moved(this.state, this.volume.grid, steps, this.image.layers[0]?.cut ?? null);
      const {part} = this.state;
      this.state = {...this.state, at, kind, part};
      this.change({at});
      return;
    }
    const axis = this.state.kind.fixed;
    const [low, high] = planes.ends(this.volume.grid, axis);
    const half = 0.5 / this.volume.grid.per_unit[axis];
    if (value < low - half || value > high + half) {
      this.ctx.say(`${planes.NAMES[axis]} = ${planes.short(value)} is outside the volume, which reaches from ${planes.short(low)} to ${planes.short(high)} r.l.u.`, "error");
      return;
    }
    this.pointer.clearCut();
    this.change({at: this.state.at.map((x, i) => (i === axis ? value : x))});
  }

  #symmetrise() {
    if (this.volume.symmetry) this.ctx.say(`The sums of this volume were made over ${this.volume.symmetry} already.`);
    else this.change({symmetry: !this.state.symmetry});
  }

  #fit() { this.image.look(null); this.state.part = null; this.picture.settle(); this.write(); }

  #setCutting(on) {
    this.image.mode = on ? "cut" : "move";
    this.image.canvas.dataset.cursor = on ? "crosshair" : "grab";
    if (on) this.ctx.say("Drag a line across the plane.");
    this.#tell();
  }

  #escape() {
    if (this.image.mode === "cut") this.#setCutting(false);
    else if (this.state.cut) this.pointer.clearCut();
    else if (this.state.cell) this.pointer.clearCell();
    else return false;
    return true;
  }

  /** Write the address, soon. */
  write() {
    this.timers.later("write", WRITE, () => {
      if (this.#shown && this.volume) this.ctx.replace(planes.write(this.state), this.volume.key);
    });
  }

  // ---- words ----------------------------------------------------------------------------

  /** Let controls, labels and the lines over the picture say what is shown. */
  #tell() {
    if (this.volume === null) return;
    const {state, volume} = this;
    this.tools.show(state, volume, {level: this.picture.level, cutting: this.image.mode === "cut"});
    this.axial.mark(state.at, state.kind.fixed ?? null);
    this.reset.disabled = state.range === null;
    const temperature = typeof volume.temperature === "number" ? ` at ${fixed(volume.temperature, 1)} K` : "";
    this.image.canvas.setAttribute("aria-label", `Plane ${planes.planeName(state)} of ${crystal(volume.sample?.name, volume.sample?.label)}${temperature}; `
      + "shift and arrows choose a cell, c draws a cut");
    this.image.paintOver();
  }

  #refused(error) {
    if (error.name === "AbortError" || this.volume === null) return;
    if (error.status === 404 || error.status === 410) {
      this.timers.stop("grow");
      this.#judge("missing", error.detail);
      return;
    }
    this.message.hidden = false;
    const [raster] = this.image.layers;
    const before = raster ? ` Shown is ${raster.plane.split(" ")[0]}, from before.` : "";
    put(this.message, error.status === 0 ? `The server is away: ${planes.planeName(this.state)} is fetched once it is back.${before}` : error.detail ?? error.message);
  }

  #fault(error, key = "") {
    const gone = error.status === 404 || error.status === 410;
    const title = gone ? "This volume does not exist" : error.status === 0 ? "The server is away" : error.status === 403 ? "This may not be read" : "The volume cannot be shown";
    const text = error.status === 0 ? "The volume is opened as soon as it is back." : `${error.detail ?? error.message}${gone && key ? ` (${key})` : ""}`;
    const box = notice(title, text, "error");
    if (gone) box.append(el("p", {}, el("a.button", {href: "#/volume"}, "Show the newest volume")));
    this.volume = null;
    this.#blank(error.status === BEING_MADE ? notice("Opening the volume", error.detail, "loading") : box);
    this.#failed = true;
    if (error.status === BEING_MADE) this.timers.later("wait", WAITS, () => { if (this.volume === null) this.show(this.#route); });
  }

  #blank(content) {
    this.#failed = false;
    this.empty.hidden = content === null;
    this.head.root.hidden = this.tools.root.hidden = this.body.hidden = content !== null;
    if (content) fill(this.empty, content);
  }
}

export const view = new VolumeView();
