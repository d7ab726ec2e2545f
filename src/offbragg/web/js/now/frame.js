// The last frame, or any other of a run: counts, rings, what the pointer is over, stepping.

import {limits} from "../colourbar.js";
import {PALETTES} from "../colours.js";
import {el, fill, put} from "../dom.js";
import {clock, counts, fixed, since} from "../format.js";
import {Geometry, ringsFor} from "../geometry.js";
import {ImagePanel} from "../image.js";
import {FramesOf} from "./frames_of.js";
import {drawBeam, drawRings} from "./rings.js";

const AGAIN = 400; // ms between two live frames, at least

export class FramePanel {
  /** @type {import("./frames_of.js").Frame|null} */ frame = null;
  /** @type {string|null} */ #run = null;
  /** @type {string|null} uid of the run of `frame` */ #shown = null;
  #about = null;
  /** @type {number|"last"} */ #index = "last";
  #scale = "log";
  #palette = "magma";
  #rings = true;
  #ends = null;
  #geometry = null;
  #spacings = [];
  #busy = false;
  #again = false;

  /** @param {HTMLElement} host @param {any} ctx @param {() => void} changed after the frame or how it is shown */
  constructor(host, ctx, changed) {
    this.ctx = ctx;
    this.changed = changed;
    this.frames = new FramesOf(ctx.api);
    this.title = el("h2.frame-title", {}, "Last frame");
    this.about = el("span.muted.frame-about");
    const button = (text, title, action) =>
      el(
        "button.small",
        {type: "button", title, "aria-label": /[a-z]/i.test(text) ? null : title, onclick: action},
        text,
      );
    this.live = button("● Live", "Follow the last frame (End)", () => this.go("last"));
    this.logButton = button("log", "Logarithmic or linear (l)", () => this.toggleScale());
    this.ringButton = button("rings", "Resolution rings (r)", () => this.toggleRings());
    this.field = el("input.frame-index", {
      type: "text",
      inputmode: "numeric",
      "aria-label": "Frame index",
      onchange: () => this.#typed(),
    });
    this.of = el("span.muted");
    this.palette = el(
      "select.small",
      {
        "aria-label": "Colour map",
        onchange: () => {
          this.#palette = this.palette.value;
          this.#draw();
        },
      },
      ...Object.keys(PALETTES).map((name) => el("option", {value: name}, name)),
    );
    this.bar = el(
      "div.frame-bar.controls",
      {},
      el(
        "span.frame-steps",
        {},
        button("◀", "Previous frame (←)", () => this.step(-1)),
        this.field,
        this.of,
        button("▶", "Next frame (→)", () => this.step(1)),
        this.live,
      ),
      el(
        "span.frame-looks",
        {},
        this.logButton,
        this.ringButton,
        this.palette,
        button("fit", "Show all of it (0)", () => this.panel.fit()),
      ),
    );
    this.stage = el("div.frame-stage");
    this.notice = el("div.frame-notice", {role: "status"});
    host.append(el("div.frame-head", {}, this.title, this.about), this.bar, this.stage);
    this.panel = new ImagePanel(this.stage, {
      label: "The last frame",
      unit: "counts",
      hint: "Point at a pixel: counts, Q, d, 2θ, hkl. Wheel or + − to zoom, drag to move.",
    });
    this.stage.append(this.notice);
    this.panel.overlay((context, toScreen) => this.#overlay(context, toScreen));
    this.panel.onHover((x, y, value) => this.describe(x, y, value));
    this.panel.onLimits((low, high) => {
      this.#ends = {low, high};
      this.changed();
    });
    this.#buttons();
  }

  /** What makes this picture again, for the address. */
  get query() {
    const query = {};
    if (this.#index !== "last") query.frame = String(this.#index);
    if (this.#scale !== "log") query.scale = this.#scale;
    if (this.#palette !== "magma") query.palette = this.#palette;
    if (this.#ends) {
      query.low = this.#ends.low.toPrecision(3);
      query.high = this.#ends.high.toPrecision(3);
    }
    if (!this.#rings) query.rings = "0";
    return query;
  }

  /** Show a run as an address states it. @param {string} run uid; "" if there is none */
  show(run, query) {
    const index = query.get("frame");
    this.#index = index !== null && /^\d+$/.test(index) ? Number(index) : "last";
    this.#scale = query.get("scale") === "linear" ? "linear" : "log";
    this.#palette = query.get("palette") in PALETTES ? query.get("palette") : "magma";
    this.#rings = query.get("rings") !== "0";
    const [low, high] = [query.get("low"), query.get("high")].map((text) =>
      text === null ? NaN : Number(text),
    );
    this.#ends = high > low ? {low, high} : null;
    this.#buttons();
    this.setRun(run);
    this.load();
  }

  /** Show another run; what is shown stays until a frame of it is here. @param {string} run uid */
  setRun(run) {
    if (run === this.#run) return;
    this.#run = run;
    if (!run) this.#say("No frame yet", "The first frame that is stored appears here.");
  }

  get run() {
    return this.#run ?? "";
  }
  /** The row of the shown run, as `/runs` has it; null until it is known. */
  get row() {
    return this.#about?.row ?? null;
  }
  get index() {
    return this.#index;
  }
  get isLive() {
    return this.#index === "last";
  }

  /** What is known of a run; null if the catalog does not have it yet. */
  async #readAbout(run) {
    if (this.#about?.uid === run) return this.#about;
    try {
      return {...(await this.ctx.api.json(`/runs/${encodeURIComponent(run)}`)), uid: run};
    } catch (error) {
      if (!error.away && error.status !== 404) this.ctx.say(error.detail ?? error.message, "error");
      return null;
    }
  }

  #takeAbout(about) {
    if (about !== null && about === this.#about) return;
    this.#about = about;
    const geometry = about?.geometry ?? about?.start?.geometry;
    this.#geometry = geometry ? new Geometry(geometry, about.start?.sample?.UB ?? null) : null;
    this.#spacings = this.#geometry ? ringsFor(this.#geometry) : [];
  }

  /** Go to a frame. @param {number|"last"} index */
  go(index) {
    this.#index = index;
    this.#buttons();
    this.changed();
    this.load();
  }

  /** Go some frames forth or back. */
  step(by) {
    const n = this.frame?.n ?? this.#about?.row?.n_frames ?? Infinity;
    const from = this.#index === "last" ? (this.frame?.index ?? 0) : this.#index;
    this.go(Math.max(0, Math.min(n - 1, from + by)));
  }

  #typed() {
    const index = Number(this.field.value);
    if (/^\d+$/.test(this.field.value.trim())) this.go(index);
    else this.#buttons();
    this.field.blur();
  }

  toggleScale() {
    this.#scale = this.#scale === "log" ? "linear" : "log";
    this.#ends = null;
    this.#buttons();
    this.#draw();
    this.changed();
  }

  toggleRings() {
    this.#rings = !this.#rings;
    this.#buttons();
    this.panel.overlay((context, toScreen) => this.#overlay(context, toScreen));
    this.changed();
  }

  /** Read what is to be shown; one request at a time, and then the newest wish. */
  async load() {
    if (!this.#run) return;
    if (this.#busy) {
      this.#again = true;
      return;
    }
    this.#busy = true;
    const [run, index] = [this.#run, this.#index];
    if (!this.frame) this.#say("Loading", "The frame is on its way.");
    try {
      const [frame, about] = await Promise.all([this.frames.read(run, index), this.#readAbout(run)]);
      if (run === this.#run && (index === this.#index || (index === "last" && this.isLive))) {
        const first = this.#shown !== run;
        this.#shown = run;
        this.#takeAbout(about);
        this.frame = frame;
        put(this.notice, "");
        this.#draw(first);
        if (!this.isLive) this.#prefetch(run, frame.index);
      }
    } catch (error) {
      if (run === this.#run) await this.#failed(error, run, index);
    } finally {
      this.#busy = false;
      if (this.#again) {
        this.#again = false;
        const changed = run !== this.#run || index !== this.#index;
        setTimeout(() => this.load(), changed ? 0 : AGAIN);
      }
    }
  }

  #prefetch(run, index) {
    for (const next of [index + 1, index - 1]) {
      if (next >= 0 && next < this.frame.n) this.frames.read(run, next).catch(() => {});
    }
  }

  async #failed(error, run, index) {
    if (error.name === "AbortError" || (error.away && this.frame)) return;
    if (error.status === 404 && index === "last") {
      this.#say(
        "No frame yet",
        "Nothing of this run is stored so far; the first frame appears here.",
      );
    } else if (error.status === 404) {
      this.#takeAbout(await this.#readAbout(run));
      this.#shown = run;
      this.#blank(index);
      this.#say(`Frame ${index} is not there`, error.detail);
    } else {
      this.#say("The frame could not be read", error.detail ?? error.message, "error");
    }
  }

  /** A frame that is not stored is hatched, not the picture of another one. */
  #blank(index) {
    const shape =
      this.#about?.geometry?.panel?.shape ??
      (this.frame && [this.frame.height, this.frame.width]);
    if (!shape) return;
    const [height, width] = shape;
    const n = this.#about?.row?.n_frames ?? this.frame?.n ?? 0;
    this.frame = {
      values: new Int32Array(width * height).fill(-1),
      width,
      height,
      index,
      n,
      angle: null,
      time: null,
      file: "",
    };
    this.#draw();
  }

  #say(title, text, kind = "empty") {
    fill(
      this.notice,
      el(
        `div.frame-said${kind === "error" ? ".error" : ""}`,
        {},
        el("b", {}, title),
        el("span", {}, text),
      ),
    );
  }

  #draw(first = false) {
    const {frame} = this;
    if (!frame) return;
    if (
      !this.#ends &&
      (first || !this.autoEnds || this.autoEnds.scale !== this.#scale || this.autoEnds.high <= 4)
    ) {
      this.autoEnds = {
        ...limits(frame.values, {scale: this.#scale, counts: true}),
        scale: this.#scale,
      };
    }
    const {low, high} = this.#ends ?? this.autoEnds;
    this.panel.draw({
      width: frame.width,
      height: frame.height,
      values: frame.values,
      counts: true,
      low,
      high,
      scale: this.#scale,
      palette: this.#palette,
      axes: {x: "fast / pixel", y: "slow / pixel"},
    });
    this.#words();
    this.#buttons();
    this.changed();
  }

  #words() {
    const row = this.#about?.row;
    const {frame} = this;
    put(this.title, this.isLive ? "Last frame" : `Frame ${frame?.index ?? this.#index}`);
    const parts = [];
    if (row)
      parts.push(
        `#${row.scan_id ?? "–"} ${row.sample ?? ""}`,
        ...(row.temperature === null || row.temperature === undefined
          ? []
          : [`${row.temperature}\u202fK`]),
      );
    if (frame?.angle !== null && frame?.angle !== undefined)
      parts.push(`${row?.axis ?? this.#geometry?.scanAxis ?? "angle"} ${fixed(frame.angle, 2)}°`);
    if (frame?.time) parts.push(`${clock(frame.time)} (${since(frame.time)})`);
    put(this.about, parts.join(" · "));
    this.panel.canvas.setAttribute(
      "aria-label",
      frame
        ? `Frame ${frame.index} of ${frame.n}, ${parts.join(", ")}; ${frame.width} × ${frame.height} pixels; hatched where pixels do not count`
        : "No frame",
    );
  }

  #buttons() {
    this.live.setAttribute("aria-pressed", String(this.isLive));
    this.logButton.setAttribute("aria-pressed", String(this.#scale === "log"));
    this.ringButton.setAttribute("aria-pressed", String(this.#rings));
    this.palette.value = this.#palette;
    if (document.activeElement !== this.field)
      this.field.value = String(
        this.frame && this.isLive ? this.frame.index : this.#index === "last" ? "" : this.#index,
      );
    put(this.of, `/ ${this.frame ? this.frame.n - 1 : "–"}`);
  }

  /** What is known of a point of the panel, as one line. */
  describe(x, y, value) {
    const parts = [
      `fast ${String(Math.floor(x)).padStart(4, "\u2007")}  slow ${String(Math.floor(y)).padStart(4, "\u2007")}`,
      value === null
        ? ""
        : value < 0
          ? "does not count"
          : `${value < 1e6 ? value : counts(value)} ${value === 1 ? "count" : "counts"}`,
    ];
    if (this.#geometry) {
      const seen = this.#geometry.at(x, y, this.frame?.angle ?? null);
      parts.push(
        `Q ${fixed(seen.Q, 3)}\u202fÅ⁻¹`,
        `d ${fixed(seen.d, 3)}\u202fÅ`,
        `2θ ${fixed(seen.twoTheta, 2)}°`,
      );
      if (seen.hkl) parts.push(`hkl ${seen.hkl.map((each) => fixed(each, 2)).join(" ")}`);
    }
    return parts.filter(Boolean).join("   ");
  }

  #overlay(context, toScreen) {
    if (!this.#geometry || !this.frame) return;
    drawBeam(context, toScreen, this.#geometry.beamCentre);
    if (!this.#rings) return;
    const {clientWidth, clientHeight} = this.panel.wrap;
    const {width, height} = this.frame;
    drawRings(context, toScreen, this.#geometry, this.#spacings, {
      panel: [width, height],
      sight: [clientWidth, clientHeight],
    });
  }

  /** Keys of the frame; true if taken. */
  onKey(event) {
    const by = event.shiftKey ? 10 : 1;
    if (event.key === "ArrowLeft") this.step(-by);
    else if (event.key === "ArrowRight") this.step(by);
    else if (event.key === "Home") this.go(0);
    else if (event.key === "End") this.go("last");
    else if (event.key === "l") this.toggleScale();
    else if (event.key === "r") this.toggleRings();
    else if (event.key === "0") this.panel.fit();
    else if (event.key === "+" || event.key === "=") this.panel.zoomBy(1.5);
    else if (event.key === "-") this.panel.zoomBy(1 / 1.5);
    else if (event.key === "m") {
      const names = Object.keys(PALETTES);
      this.#palette = names[(names.indexOf(this.#palette) + 1) % names.length];
      this.#draw();
    } else return false;
    return true;
  }
}
