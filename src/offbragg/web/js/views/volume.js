// The view Volume: a plane of S(Q), the three axial ones, cuts, and why a cell is as it is.

import {limits, ColourBar} from "../colourbar.js";
import {token} from "../colours.js";
import {el, fill, notice, put} from "../dom.js";
import {clock, fixed, number} from "../format.js";
import {AxialPlanes} from "../volume/axial.js";
import {Cache} from "../volume/cache.js";
import {PlaneCanvas} from "../volume/canvas.js";
import {Head, Toolbar} from "../volume/controls.js";
import {CutPanel, cutPath, snapped} from "../volume/cut.js";
import {basis, lengthOf} from "../volume/geometry.js";
import {pythonLines} from "../volume/python.js";
import * as planes from "../volume/plane.js";
import {crystal, Source} from "../volume/source.js";
import * as tiles from "../volume/tiles.js";
import {WhyPanel} from "../volume/why.js";

const SETTLE = 140;  // ms without a change, after which the fine level is asked for
const GROWS = 2_000;  // ms between looks at a growing volume
const LOOKS = 10_000;  // ms between looks at the list of volumes
const WRITE = 250;  // ms until the address is written: browsers allow few changes a second
const UNIT = "counts per weight";

/** Does one thing at a time, and again if it was asked for meanwhile: the newest wish counts. */
class Latest {
  #wanted = false;
  #running = false;
  constructor(task, refused) { Object.assign(this, {task, refused}); }
  async ask() {
    this.#wanted = true;
    if (this.#running) return;
    this.#running = true;
    while (this.#wanted) {
      this.#wanted = false;
      try {
        await this.task();
      } catch (error) {
        this.refused(error);
      }
    }
    this.#running = false;
  }
}

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
  #all = [];
  #auto = null;  // {name, low, high}: limits that the cells set
  #shown = false;
  #timers = {};
  #pointer = null;
  #asking = null;

  // ---- building -------------------------------------------------------------------------

  mount(host, ctx) {
    this.ctx = ctx;
    this.source = new Source(ctx.api);
    this.cache = new Cache((path, signal) => this.#fetch(path, signal));
    this.about = new Map();
    this.head = new Head({
      onChoose: (key) => this.#open(key, {...this.state, cut: null, cell: null, part: null}),
      onTemperature: (key, settled) => this.#toTemperature(key, settled),
    });
    this.tools = new Toolbar((change) => this.change(change), {
      onCut: () => this.#setCutting(this.image.mode !== "cut"),
      onZoom: (factor) => this.image.zoom(factor),
      onFit: () => this.#fit(),
      onValue: (value, steps) => this.#toValue(value, steps),
      onOblique: (kind) => this.change({kind, part: null, cut: null}),
      onFixed: (fixed) => this.#toFixed(fixed),
    });
    this.box = el("div.plane-box");
    this.message = el("p.plane-message", {role: "alert", hidden: true});
    this.note = el("span.plane-note", {role: "status"});
    this.readout = el("output.readout", {"aria-live": "off"}, " ");
    this.bar = new ColourBar({unit: UNIT, onLimits: (low, high) => this.change({range: [low, high]})});
    this.reset = el("button.small.bar-reset", {type: "button", title: "Ends of the colours from the 1st and 99.5th percentile of the measured cells",
      onclick: () => { this.#auto = null; this.change({range: null}); }}, "auto");
    this.bar.root.append(this.reset);
    this.axialHost = el("div.axials", {role: "group", "aria-label": "Planes along the axes"});
    this.whyHost = el("section.card.why", {"aria-label": "Why this cell"});
    this.cutHost = el("section.card.cut", {"aria-label": "Cut"});
    this.body = el("div.volume-body", {},
      el("div.volume-plane", {}, this.box, this.bar.root, this.readout),
      el("div.volume-side", {}, this.axialHost, this.whyHost, this.cutHost));
    this.empty = el("div.volume-empty", {hidden: true});
    fill(host, this.head.root, this.tools.root, this.body, this.empty);
    this.#buildPlane();
    this.#buildSide();
    this.whole = new Latest(() => this.#loadWhole(), (error) => this.#refused(error));
    this.fine = new Latest(() => this.#loadFine(), (error) => this.#refused(error));
    this.small = [0, 1, 2].map((fixed) => new Latest(() => this.#loadSmall(fixed), () => {}));
    ctx.store.addEventListener("link", () => { if (ctx.store.link.state !== "away" && this.#shown) this.#again(); });
  }

  #buildPlane() {
    this.image = new PlaneCanvas(this.box, {label: "Plane of S(Q)"});
    this.box.append(this.message, this.note);
    this.image.onHover = (place) => this.#hover(place);
    this.image.onPick = (place) => this.#pickAt(place);
    this.image.onCut = (from, to, done) => this.#drag(from, to, done);
    this.image.onView = () => { this.state.part = this.image.part; this.#settle(); this.#write(); };
    this.image.handles = () => this.#cutPlaces();
    this.image.drawOver = (context, screen) => this.#drawOver(context, screen);
  }

  #buildSide() {
    this.axial = new AxialPlanes(this.axialHost, {
      onMove: (at) => this.change({at}),
      onChoose: (fixed) => this.#toFixed(fixed),
    });
    this.cutPanel = new CutPanel(this.cutHost, {
      say: (text) => this.ctx.say(text), onClear: () => this.#clearCut(),
      onPoint: (row) => { this.cutPoint = row; this.image.paintOver(); },
    });
    this.whyPanel = new WhyPanel(this.whyHost, {
      onClear: () => this.#clearCell(),
      frameLink: (file, frame) => {
        const runs = this.volume?.runs ?? [];
        return runs.length === 1 ? `#/frames/${encodeURIComponent(runs[0])}?frame=${frame}` : null;
      },
    });
  }

  // ---- the page's calls -----------------------------------------------------------------

  async show({id, query}) {
    this.#shown = true;
    const {state, wrong} = planes.read(query);
    if (wrong.length) this.ctx.say(`Not understood in the address, left out: ${wrong.join(", ")}`, "error");
    this.#every("list", LOOKS, () => this.#list());
    const key = id || this.volume?.key;
    if (key && key === this.volume?.key) {
      if (id) this.#apply(state);
      this.#write();
      return;
    }
    if (key) await this.#open(key, state);
    else await this.#newest(state);
  }

  hide() {
    this.#shown = false;
    for (const timer of Object.values(this.#timers)) { clearTimeout(timer); clearInterval(timer); }
    this.#timers = {};
  }

  update() {}

  onKey(event) {
    if (this.volume === null) return false;
    const arrow = {ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0]}[event.key];
    if (arrow && event.shiftKey) return this.#stepCell(...arrow);
    if (arrow) {
      if (arrow[1]) this.#toValue(null, arrow[1]);
      else this.#stepTemperature(arrow[0]);
      return true;
    }
    const action = {
      l: () => this.change({scale: this.state.scale === "log" ? "linear" : "log"}),
      s: () => { if (!this.volume.symmetry) this.change({symmetry: !this.state.symmetry}); else this.ctx.say(`The sums of this volume were made over ${this.volume.symmetry} already.`); },
      c: () => this.#setCutting(this.image.mode !== "cut"),
      x: () => this.#toFixed(0), y: () => this.#toFixed(1), z: () => this.#toFixed(2),
      "+": () => this.image.zoom(1.6), "=": () => this.image.zoom(1.6), "-": () => this.image.zoom(1 / 1.6), 0: () => this.#fit(),
      w: () => { if (this.#pointer) this.#pickAt(this.#pointer); },
      Escape: () => this.#escape(),
    }[event.key];
    return action ? action() !== false : false;
  }

  python() { return this.volume ? pythonLines(location.origin, this.volume.key, this.state) : ""; }

  // ---- which volume ---------------------------------------------------------------------

  async #newest(state) {
    this.#blank(notice("Looking for volumes", "The newest one is shown.", "loading"));
    await this.#list();
    const newest = this.#all.find((row) => row.state === "growing") ?? this.#all[0];
    if (newest) return this.#open(newest.key, state);
    this.#blank(notice("No volume yet", "The first one appears here, and grows, as soon as offbragg live has reduced the first frames of a sweep; "
      + "offbragg reduce makes one of a finished sweep. This page looks every 3 s."));
    this.#later("wait", 3_000, () => { if (this.volume === null) this.#newest(state); });
  }

  async #list() {
    try {
      this.#all = await this.source.all();
    } catch (error) {
      if (this.volume === null) this.#fault(error);
      return;
    }
    if (this.volume) {
      this.head.volumes(this.#all, this.volume.key);
      await this.#findSiblings();
    }
  }

  async #open(key, state) {
    if (this.volume === null) this.#blank(notice("Opening the volume", key, "loading"));
    let found;
    try {
      found = await this.#know(key);
    } catch (error) {
      this.#fault(error, key);
      return;
    }
    this.#blank(null);
    this.#auto = null;
    this.#take(found);
    this.#apply(state);
    this.head.volumes(this.#all, key);
    this.#write();
    if (!this.#all.length) this.#list();
    else this.#findSiblings();
  }

  async #know(key) {
    const found = await this.source.about(key);
    this.about.set(key, found);
    return found;
  }

  #take(volume) {
    this.volume = volume;
    this.head.about(volume);
    this.head.siblings(this.siblings.some((row) => row.key === volume.key) ? this.siblings : [volume], volume.key);
    this.axial.frame(volume);
    if (volume.state === "growing") this.#every("grow", GROWS, () => this.#grow());
    else this.#stop("grow");
  }

  async #findSiblings() {
    const volume = this.volume;
    try {
      this.siblings = await this.source.siblings(volume);
    } catch {
      return;  // the slider stays as it is
    }
    if (volume === this.volume) this.head.siblings(this.siblings, volume.key);
    this.#settle();
  }

  async #grow() {
    const key = this.volume.key;
    try {
      const found = await this.#know(key);
      if (this.volume.key !== key || found.written === this.volume.written && found.state === this.volume.state) return;
      this.#take(found);
      if (this.state.range === null) this.#auto = null;
      this.#load();
      if (this.state.cut) this.#loadCut();
    } catch (error) {
      if (error.status === 404 || error.status === 410) this.#fault(error, key);
    }
  }

  /** Go on after the server was away. */
  #again() {
    if (this.volume) { this.#load(); this.#list(); }
    else this.show({id: "", query: new URLSearchParams()});
  }

  // ---- temperature ----------------------------------------------------------------------

  #stepTemperature(steps) {
    const at = this.siblings.findIndex((row) => row.key === this.volume.key);
    const row = this.siblings[at + steps];
    if (row) this.#toTemperature(row.key, true);
    else this.ctx.say(this.siblings.length > 1 ? `This is the ${steps < 0 ? "lowest" : "highest"} temperature of the series.` : "The series has no other volume of this crystal.");
  }

  #toTemperature(key) {
    if (key === this.volume.key) return;
    const row = this.siblings.find((each) => each.key === key);
    // what the list has of it is enough to draw; its lattice comes a moment later
    const known = this.about.get(key) ?? {...this.volume, ...row, sample: this.volume.sample, symmetry: row.symmetry ?? this.volume.symmetry, levels: row.levels ?? this.volume.levels};
    this.#clearCell();
    this.#take({...known, written: row.written ?? known.written, state: row.state ?? known.state});
    this.state = planes.onGrid(this.state, this.volume.grid);
    this.#load();
    this.#write();
    this.#later("know", SETTLE, async () => {
      if (this.volume.key === key && !this.about.has(key)) {
        const found = await this.#know(key).catch(() => null);
        if (found && this.volume.key === key) { this.#take(found); this.#frame(); }
      }
    });
    if (this.state.cut) this.#later("cut", SETTLE, () => this.#loadCut());
  }

  // ---- state ----------------------------------------------------------------------------

  /** Change what is shown. @param {Partial<import("../volume/plane.js").State>} change */
  change(change) {
    if (this.volume === null) return;
    const before = this.state;
    if ("scale" in change && change.scale !== before.scale) { change = {range: null, ...change}; this.#auto = null; }
    this.state = planes.onGrid({...before, ...change}, this.volume.grid);
    if ("kind" in change) this.image.look(null);
    if ("symmetry" in change && this.state.cut) this.#loadCut();
    const drawn = ["scale", "range", "palette"];
    if (Object.keys(change).every((name) => drawn.includes(name))) this.#colours();
    else this.#load();
    this.#tell();
    this.#write();
  }

  #apply(state) {
    this.state = planes.onGrid(state, this.volume.grid);
    if (this.volume.symmetry) this.state.symmetry = false;
    this.image.show([]);
    this.image.look(state.part);
    this.#tell();
    this.#load();
    if (state.cut) this.#loadCut();
    else this.cutPanel.clear();
    if (state.cell) this.#pick(state.cell);
    else this.whyPanel.clear();
  }

  #toFixed(fixed) {
    if (this.state.kind.fixed === fixed) return;
    this.#clearCut();
    this.change({kind: {fixed}, part: null});
  }

  #toValue(value, steps = 0) {
    if (value === null) {
      const moved = planes.moved(this.state, this.volume.grid, steps, this.image.layers[0]?.cut ?? null);
      this.#clearCut();
      this.change({at: moved.at, kind: moved.kind, part: this.state.part});
      return;
    }
    const axis = this.state.kind.fixed;
    const [low, high] = planes.ends(this.volume.grid, axis);
    if (value < low - 0.5 / this.volume.grid.per_unit[axis] || value > high + 0.5 / this.volume.grid.per_unit[axis]) {
      this.ctx.say(`${planes.NAMES[axis]} = ${planes.short(value)} is outside the volume, which reaches from ${planes.short(low)} to ${planes.short(high)} r.l.u.`, "error");
    }
    this.#clearCut();
    this.change({at: this.state.at.map((x, i) => (i === axis ? value : x))});
  }

  #fit() { this.image.look(null); this.state.part = null; this.#settle(); this.#write(); }

  #setCutting(on) {
    this.image.mode = on ? "cut" : "move";
    this.image.canvas.dataset.cursor = on ? "crosshair" : "grab";
    if (on) this.ctx.say("Drag a line across the plane.");
    this.#tell();
  }

  #escape() {
    if (this.image.mode === "cut") this.#setCutting(false);
    else if (this.state.cut) this.#clearCut();
    else if (this.state.cell) this.#clearCell();
    else return false;
    return true;
  }

  #write() {
    this.#later("write", WRITE, () => {
      if (!this.#shown || this.volume === null) return;
      this.ctx.replace(planes.write(this.state), this.volume.key);
    });
  }

  // ---- loading --------------------------------------------------------------------------

  async #fetch(path, signal) {
    const answer = await this.ctx.api.array(path, {signal});
    const flat = path.includes("/box?");
    const layer = flat ? answer.cut.axes.findIndex((axis) => axis.count === 1) : null;
    return tiles.raster(answer, this.volume.grid, layer);
  }

  /** Cells along the plane's axes at level 1; null: only the server knows. */
  #shape() {
    const {kind} = this.state;
    if ("fixed" in kind) return planes.running(kind.fixed).map((axis) => this.volume.grid.shape[axis]);
    const raster = this.image.layers[0];
    return raster ? [raster.nu * raster.level, raster.nv * raster.level] : null;
  }

  #firstLevel(volume = this.volume) {
    const {kind} = this.state;
    if (!("fixed" in kind)) return Math.max(...volume.levels);
    return tiles.firstLevel(planes.running(kind.fixed).map((axis) => volume.grid.shape[axis]), volume.levels);
  }

  #load() {
    this.whole.ask();
    for (const each of this.small) each.ask();
    this.axial.mark(this.state.at, this.state.kind.fixed ?? null);
    this.#settle();
  }

  async #loadWhole() {
    const {volume, state} = this;
    const path = tiles.planePath(volume.key, state, this.#firstLevel());
    const waiting = this.cache.peek(path, volume.written) === null;
    if (waiting) put(this.note, "loading …");
    const raster = await this.cache.get(path, volume.written);
    put(this.note, "");
    // the wish may have changed meanwhile: this picture is on the way to it
    if (volume.key !== this.volume.key) return;
    this.message.hidden = true;
    this.#frame(raster);
    this.image.show([raster]);
    this.#limits(raster);
    this.#colours();
  }

  /** Level and route of what is drawn above the whole plane; null: it is fine enough. */
  #finePath() {
    const {volume, state} = this;
    const shape = this.#shape();
    const [raster] = this.image.layers;
    if (shape === null || !raster) return null;
    const cell = [raster.du / raster.level, raster.dv / raster.level];
    const wanted = state.level || tiles.levelFor(this.image.pixelsOf(cell), volume.levels);
    const part = this.image.part;
    const partly = (level) => (part ? tiles.partPath(volume.key, state, volume.grid, part, level) : null);
    if (wanted >= this.#firstLevel() && !(state.level > this.#firstLevel())) return null;
    const path = partly(wanted);
    if (path) return {path, level: wanted};
    const level = state.level || tiles.affordable(shape, wanted, volume.levels);
    return level === this.#firstLevel() ? null : {path: tiles.planePath(volume.key, state, level), level};
  }

  async #loadFine() {
    const {volume, state} = this;
    const fine = this.#finePath();
    this.level = fine?.level ?? this.#firstLevel();
    this.tools.show(state, volume, {level: this.level, cutting: this.image.mode === "cut"});
    const coarse = this.cache.peek(tiles.planePath(volume.key, state, this.#firstLevel()), volume.written);
    if (coarse === null) return;
    if (fine === null) {
      if (this.image.layers.length > 1) this.image.show([coarse]);
      return;
    }
    if (this.cache.peek(fine.path, volume.written) === null) put(this.note, "loading finer cells …");
    const raster = await this.cache.get(fine.path, volume.written);
    put(this.note, "");
    if (volume === this.volume && state === this.state) this.image.show(state.level > this.#firstLevel() ? [raster] : [coarse, raster]);
  }

  async #loadSmall(fixed) {
    const {volume, state} = this;
    const level = tiles.firstLevel(planes.running(fixed).map((axis) => volume.grid.shape[axis]).map((n) => 2 * n), volume.levels);
    const path = tiles.axialPath(volume.key, fixed, state.at[fixed], level, state.symmetry);
    const raster = await this.cache.get(path, volume.written);
    if (volume.key === this.volume.key) this.axial.show(fixed, raster);
  }

  /** Nothing has changed for a moment: the fine level, the limits, the neighbours. */
  #settle() {
    this.#later("settle", SETTLE, () => {
      if (this.volume === null) return;
      this.fine.ask();
      const [raster] = this.image.layers;
      if (raster) { this.#limits(raster); this.#bar(); }
      this.#prefetch();
    });
  }

  #prefetch() {
    const {state, volume} = this;
    const at = this.siblings.findIndex((row) => row.key === volume.key);
    const others = this.siblings.map((row, n) => ({row, far: Math.abs(n - at)})).filter(({far}) => far > 0).sort((a, b) => a.far - b.far);
    const wish = (path, version) => ({path, version});
    const planesOf = others.slice(0, 60).map(({row}) => wish(tiles.planePath(row.key, state, this.#firstLevel({...volume, ...row, levels: row.levels ?? volume.levels})), row.written));
    const steps = [1, -1, 2, -2].map((n) => planes.moved(state, volume.grid, n, null)).filter((each) => each !== state)
      .map((each) => wish(tiles.planePath(volume.key, each, this.#firstLevel()), volume.written));
    this.cache.prefetch([...planesOf.slice(0, 2), ...steps, ...planesOf.slice(2)]);
  }

  #frame(raster = this.image.layers[0]) {
    if (!raster) return;
    const {grid, G} = this.volume;
    const [u, v] = raster.cut.axes.map((axis) => axis.direction);
    this.basis = basis(G, u, v);
    let extent = [raster.u0, raster.u0 + raster.nu * raster.du, raster.v0, raster.v0 + raster.nv * raster.dv];
    if ("fixed" in this.state.kind) {
      extent = planes.running(this.state.kind.fixed).flatMap((axis) => {
        const [low, high] = planes.ends(grid, axis);
        return [low - 0.5 / grid.per_unit[axis], high + 0.5 / grid.per_unit[axis]];
      });
    }
    this.image.frame(this.basis, extent, raster.cut.axes.map((axis) => planes.directionName(axis.direction)));
    if (this.state.part && this.image.part === null) this.image.look(this.state.part);
  }

  // ---- colours --------------------------------------------------------------------------

  /** Limits from the measured cells; they stay while the temperature changes, so that it compares. */
  #limits(raster) {
    const {state} = this;
    const name = [planes.planeName(state), state.scale, state.symmetry, state.thickness].join(" ");
    if (this.#auto?.name === name) return;
    const first = this.#auto === null;
    // while the plane moves the colours stay, too: they follow once it stands
    if (!first && this.#timers.settle) return;
    this.#auto = {name, ...limits(raster.values, {scale: state.scale})};
    this.#colours();
  }

  #ends() {
    const {range, scale} = this.state;
    if (range && !(scale === "log" && range[0] <= 0)) return range;
    return this.#auto ? [this.#auto.low, this.#auto.high] : range ?? [1, 10];
  }

  #colours() {
    const [low, high] = this.#ends();
    const colours = {low, high, scale: this.state.scale, palette: this.state.palette};
    this.image.colours(colours);
    this.axial.colours(colours);
    if (!this.#timers.settle) this.#bar();
    this.reset.disabled = this.state.range === null;
  }

  #bar() {
    const [raster] = this.image.layers;
    const [low, high] = this.#ends();
    if (raster) this.bar.set({values: raster.values, low, high, scale: this.state.scale, palette: this.state.palette});
  }

  // ---- pointer: hover, cell, cut --------------------------------------------------------

  #hover(place) {
    this.#pointer = place;
    const cell = place && this.image.cell(...place);
    if (!cell) { put(this.readout, " "); return; }
    const hkl = planes.pointOn(cell.raster.cut, cell.u, cell.v);
    const q = lengthOf(this.volume.G, hkl);
    const level = cell.raster.level === 1 ? "" : ` · mean of ${cell.raster.level}³ cells`;
    const value = Number.isNaN(cell.value) ? "not measured" : `I = ${number(cell.value, 4)}`;
    const where = hkl.map((x, i) => `${planes.NAMES[i]} ${fixed(x, 3)}`).join("  ");
    put(this.readout, `${where} · ${value}${q === null ? "" : ` · |Q| = ${fixed(q, 3)} Å⁻¹`}${level}`);
  }

  /** Choose the cell of the volume at a place of the plane. */
  #pickAt(place) {
    const cell = this.image.cell(...place);
    if (!cell) return;
    const hkl = planes.pointOn(cell.raster.cut, ...(cell.raster.level === 1 ? [cell.u, cell.v] : place));
    const near = hkl.map((x, i) => planes.nearest(this.volume.grid, i, x));
    const at = "fixed" in this.state.kind ? near.map((x, i) => (i === this.state.kind.fixed ? this.state.at[i] : x)) : this.state.at;
    this.change({at});
    this.#pick(near);
  }

  async #pick(hkl) {
    const {volume} = this;
    this.state.cell = hkl;
    this.image.paintOver();
    this.#write();
    if (!planes.contains(volume.grid, hkl)) {
      this.whyPanel.begin(hkl, volume.G, {intensity: null, sigma: null});
      this.whyPanel.refuse("This point is outside the volume.");
      return;
    }
    this.#asking?.abort();
    const asking = this.#asking = new AbortController();
    this.whyPanel.begin(hkl, volume.G, null);
    const point = hkl.map(planes.short).join(",");
    const box = hkl.map((x, i) => [x - 0.2 / volume.grid.per_unit[i], x + 0.2 / volume.grid.per_unit[i]].map((y) => y.toFixed(7)).join(":")).join(",");
    const path = (kind, query) => `/volumes/${encodeURIComponent(volume.key)}/${kind}?${new URLSearchParams(query)}`;
    try {
      const one = await this.ctx.api.json(path("box", {box, sigma: "1", format: "json"}), {signal: asking.signal});
      this.whyPanel.value({intensity: one.intensity.flat(3)[0], sigma: one.sigma.flat(3)[0]});
      this.whyPanel.show(await this.ctx.api.json(path("why", {hkl: point}), {signal: asking.signal}));
    } catch (error) {
      if (error.name !== "AbortError") this.whyPanel.refuse(error.detail ?? error.message);
    }
  }

  #stepCell(du, dv) {
    const [raster] = this.image.layers;
    if (!raster) return false;
    const {grid} = this.volume;
    const [u, v] = raster.cut.axes.map((axis) => axis.direction);
    const from = this.state.cell ?? planes.pointOn(raster.cut, ...this.image.toPlane(this.box.clientWidth / 2, this.box.clientHeight / 2));
    const step = (direction, n) => direction.map((x, i) => (x * n) / grid.per_unit[i]);
    const [a, b] = [step(u, du), step(v, dv)];
    this.#pick(from.map((x, i) => planes.nearest(grid, i, x + a[i] + b[i])));
    return true;
  }

  #clearCell() {
    this.#asking?.abort();
    this.state.cell = null;
    this.whyPanel.clear();
    this.image.paintOver();
    this.#write();
  }

  #cutPlaces(cut = this.state.cut) {
    const [raster] = this.image.layers;
    if (!cut || !raster) return null;
    return {from: planes.placeOn(raster.cut, cut.from), to: planes.placeOn(raster.cut, cut.to)};
  }

  #drag(from, to, done) {
    const [raster] = this.image.layers;
    if (!raster) return;
    const cell = [raster.du / raster.level, raster.dv / raster.level];
    // the layer of level 1 that the plane names; a coarse one lies between layers
    const at = "fixed" in this.state.kind ? raster.cut.at.map((x, i) => (i === this.state.kind.fixed ? this.state.at[i] : x)) : raster.cut.at;
    const line = snapped({...raster.cut, at}, cell, from, to, this.basis);
    if (line === null) return;
    this.state.cut = {...line, width: 0};
    this.image.paintOver();
    if (!done) {
      put(this.readout, `cut from (${line.from.map(planes.short).join(" ")}) to (${line.to.map(planes.short).join(" ")})`.replaceAll("-", "−"));
      return;
    }
    this.#loadCut();
    this.#write();
  }

  async #loadCut() {
    const {volume, state} = this;
    const {cut} = state;
    this.cutPanel.wait("cutting …");
    try {
      const answer = await this.ctx.api.json(cutPath(volume.key, cut, state.symmetry));
      if (this.state.cut !== cut) return;
      this.cutPanel.show(answer, volume.G, [
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

  #clearCut() {
    if (!this.state.cut) return;
    this.state.cut = null;
    this.cutPoint = null;
    this.cutPanel.clear();
    this.image.paintOver();
    this.#write();
  }

  #drawOver(context, screen) {
    const [raster] = this.image.layers;
    if (!raster) return;
    const twice = (draw) => {  // light on dark and dark on light
      for (const [colour, width] of [[token("--ground"), 4], [token("--accent"), 1.8]]) {
        context.strokeStyle = colour;
        context.lineWidth = width;
        context.beginPath();
        draw();
        context.stroke();
      }
    };
    const cut = this.#cutPlaces();
    if (cut) {
      const [a, b] = [screen(...cut.from), screen(...cut.to)];
      twice(() => { context.moveTo(...a); context.lineTo(...b); });
      for (const [x, y] of [a, b]) twice(() => context.arc(x, y, 4, 0, 2 * Math.PI));
      if (this.cutPoint) {
        const [x, y] = screen(...planes.placeOn(raster.cut, [this.cutPoint.h, this.cutPoint.k, this.cutPoint.l]));
        twice(() => context.arc(x, y, 6, 0, 2 * Math.PI));
      }
    }
    if (this.state.cell) {
      const [u, v] = planes.placeOn(raster.cut, this.state.cell);
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

  // ---- words ----------------------------------------------------------------------------

  /** Let controls, labels and the lines over the picture say what is shown. */
  #tell() {
    if (this.volume === null) return;
    const {state, volume} = this;
    this.tools.show(state, volume, {level: this.level ?? this.#firstLevel(), cutting: this.image.mode === "cut"});
    this.axial.mark(state.at, state.kind.fixed ?? null);
    const temperature = typeof volume.temperature === "number" ? ` at ${fixed(volume.temperature, 1)} K` : "";
    this.image.canvas.setAttribute("aria-label", `Plane ${planes.planeName(state)} of ${crystal(volume.sample?.name, volume.sample?.label)}${temperature}; `
      + "shift and arrows choose a cell, c draws a cut");
    this.image.paintOver();
  }

  #refused(error) {
    put(this.note, "");
    if (error.name === "AbortError") return;
    this.message.hidden = false;
    if (error.status === 0) put(this.message, `The server is away. ${this.image.layers.length ? `What is shown is from before ${clock(Date.now() / 1000)}; it` : "The plane"} is asked for again when it is back.`);
    else if (error.status === 404 || error.status === 410) this.#fault(error, this.volume.key);
    else put(this.message, error.detail ?? error.message);
  }

  #fault(error, key = "") {
    const gone = error.status === 404 || error.status === 410;
    const title = gone ? "This volume does not exist" : error.status === 0 ? "The server is away" : error.status === 403 ? "This may not be read" : "The volume cannot be shown";
    const text = error.status === 0 ? "The volume is opened as soon as it is back." : `${error.detail ?? error.message}${gone && key ? ` (${key})` : ""}`;
    const box = notice(title, text, "error");
    if (gone) box.append(el("p", {}, el("a.button", {href: "#/volume"}, "Show the newest volume")));
    this.volume = null;
    this.#blank(box);
  }

  #blank(content) {
    this.empty.hidden = content === null;
    this.head.root.hidden = this.tools.root.hidden = this.body.hidden = content !== null;
    if (content) fill(this.empty, content);
  }

  #later(name, wait, action) {
    clearTimeout(this.#timers[name]);
    this.#timers[name] = setTimeout(() => { delete this.#timers[name]; action(); }, wait);
  }

  #every(name, wait, action) {
    if (this.#timers[name] === undefined) this.#timers[name] = setInterval(action, wait);
  }

  #stop(name) { clearInterval(this.#timers[name]); delete this.#timers[name]; }
}

export const view = new VolumeView();
