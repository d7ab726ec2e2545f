// One run: what it is, what became of its frames, pictures, files, and the lines for Python.

import {copy, el, fill, mark, notice, put} from "../dom.js";
import {bytes, clock, moment, number, plural, span, withError} from "../format.js";
import {drawLedger} from "./ledger_strip.js";
import {Notes} from "./notes.js";
import {unmeasuredCleared} from "./planes.js";
import {exitOf} from "./runs_table.js";

const KEV_ANGSTROM = 12.398419843;  // h c
const THUMB = 168;  // px along the longest edge of a frame
const REASONS = 6;  // lines of the ledger that are shown
const PLANES = ["hk0", "hk0.5"];

export class RunPanel {
  /** @type {any} the newest answer of `/runs/UID` */
  run = null;
  #uid = "";
  #pictures = "";
  #abort = new AbortController();

  /** @param {HTMLElement} host @param {{api: any, say: Function, close: () => void, loaded: () => void}} does */
  constructor(host, does) {
    this.does = does;
    this.root = el("aside.run", {"aria-label": "Run", tabindex: -1, hidden: true});
    host.append(this.root);
    document.addEventListener("themechange", () => this.ledger && this.#strip());
  }

  /** Show a run, or nothing. @param {string} uid */
  async show(uid) {
    if (uid === this.#uid) return;
    this.#uid = uid;
    this.run = this.ledger = null;
    this.#pictures = "";
    this.#abort.abort();
    this.#abort = new AbortController();
    this.root.hidden = uid === "";
    if (!uid) return;
    fill(this.root, this.#head(null), notice("Loading the run", `uid ${uid}`, "loading"));
    await this.refresh();
  }

  /** Ask again, as while it is measured. */
  async refresh() {
    const uid = this.#uid;
    if (!uid) return;
    const {signal} = this.#abort;
    try {
      const [run, ledger] = await Promise.all([
        this.does.api.json(`/runs/${encodeURIComponent(uid)}`, {signal}),
        this.does.api.json(`/runs/${encodeURIComponent(uid)}/ledger`, {signal}).catch((error) => ({error})),
      ]);
      if (uid !== this.#uid) return;
      this.run = run;
      this.ledger = ledger;
      if (this.#pictures) this.#update();
      else this.#build();
      this.does.loaded();
    } catch (error) {
      if (error.name === "AbortError" || uid !== this.#uid || this.run) return;
      fill(this.root, this.#head(null), notice(error.status === 404 ? "This run is not here" : "The run could not be read",
        error.detail ?? error.message, "error"));
    }
  }

  get isGrowing() { return this.run?.row.exit_status === "running" || (this.run && !this.run.row.complete); }

  #head(row) {
    const [kind, word] = exitOf(row ?? {});
    return el("header", {},
      el("h2", {}, row ? `${row.scan_id == null ? "" : `#${row.scan_id} `}${row.sample ?? ""}${row.temperature == null ? "" : ` · ${row.temperature}\u202fK`}` : "Run"),
      row ? mark(kind, word) : null,
      el("button.small", {type: "button", "aria-label": "Close the run (Esc)", title: "Close (Esc)", onclick: this.does.close}, "✕"));
  }

  #build() {
    const {row, start} = this.run;
    this.headHost = el("div");
    this.facts = el("dl.facts");
    this.strip = el("canvas.ledger-strip", {role: "img"});
    this.counts = el("p.ledger-counts");
    this.reasons = el("ul.reasons");
    this.frames = el("div.thumbs");
    this.planes = el("div.thumbs");
    this.files = el("ul.files");
    this.notes = new Notes(this.does);
    const code = el("pre.lines", {tabindex: 0}, this.python());
    fill(this.root, this.headHost, this.facts,
      el("h3", {}, "Frames"), this.strip, this.counts, this.reasons, this.frames,
      el("h3", {}, "S(Q)"), this.planes,
      el("h3", {}, "Notes"), this.notes.root,
      el("h3", {}, "In Python", el("button.small.copy-lines", {type: "button", onclick: async () => {
        this.does.say(await copy(this.python()) ? "Python lines copied" : "The browser does not allow copying");
      }}, "Copy")), code,
      el("p.muted.small-note", {}, "The key for reading is in OFFBRAGG_KEY, or a second argument of connect; ",
        el("code", {}, "offbragg key"), " makes one."),
      el("h3", {}, "Files"), this.files,
      el("details.metadata", {}, el("summary", {}, `Start document, ${plural(flattened(start).length, "entry", "entries")}`), metadataTable(start)));
    new ResizeObserver(() => this.#strip()).observe(this.strip);
    this.root.dataset.uid = row.uid;
    this.#update();
  }

  #update() {
    fill(this.headHost, this.#head(this.run.row));
    fill(this.facts, ...factsOf(this.run).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
    this.#drawLedger();
    this.#drawFiles();
    this.notes.show(this.run.row.uid, this.run.row.proposal ?? null);
    const {frames, n_frames: n} = this.run.row;
    const key = `${Math.floor((10 * (frames?.stored ?? 0)) / (n || 1))} ${this.run.volumes.join()} ${this.run.row.complete}`;
    if (key !== this.#pictures) {
      this.#pictures = key;
      this.#drawFrames();
      this.#drawPlanes();
    }
  }

  // ---- ledger ----------------------------------------------------------------------------

  #drawLedger() {
    const {error, counts = {}, reasons = {}, n} = this.ledger;
    if (error) {
      put(this.counts, error.detail ?? error.message);
      return;
    }
    const words = ["stored", "missing", "rejected", "pending"].filter((name) => counts[name] || name === "stored");
    put(this.counts, `${words.map((name) => `${counts[name] ?? 0} ${name}`).join(" · ")} of ${plural(n, "frame")}`);
    this.strip.setAttribute("aria-label", `Ledger: ${this.counts.textContent}`);
    const lines = Object.entries(reasons);
    const uid = this.run.row.uid;
    fill(this.reasons, ...lines.slice(0, REASONS).map(([index, reason]) => el("li", {},
      el("a", {href: `#/now/${uid}?frame=${index}`}, `frame ${index}`), ` ${reason}`)),
    lines.length > REASONS ? el("li", {}, el("a", {href: `#/frames/${uid}`}, `all ${lines.length} reasons`)) : null);
    this.#strip();
  }

  #strip() {
    if (this.ledger && !this.ledger.error) drawLedger(this.strip, this.ledger);
  }

  // ---- pictures --------------------------------------------------------------------------

  /** The first, the middle and the last frame that are stored. */
  #drawFrames() {
    const {uid} = this.run.row;
    const stored = storedOf(this.ledger);
    const wanted = [...new Set([stored[0], stored[Math.floor(stored.length / 2)], stored.at(-1)])].filter((index) => index !== undefined);
    if (!wanted.length) {
      fill(this.frames, el("p.muted", {}, "No frame is stored yet: the first one appears here within two seconds."));
      return;
    }
    fill(this.frames, ...wanted.map((index) => this.#thumb(
      `/runs/${uid}/frames/${index}?format=png&size=${2 * THUMB}&scale=log&palette=magma`,
      `#/now/${uid}?frame=${index}`, `frame ${index}${angleOf(this.ledger, index)}`)));
  }

  #drawPlanes() {
    const [volume] = this.run.volumes;
    if (!volume) {
      fill(this.planes, el("p.muted", {}, "No volume was made of this run yet: ", el("code", {}, "offbragg live"), " or ", el("code", {}, "offbragg reduce"), " makes one."));
      return;
    }
    const key = encodeURIComponent(volume);
    fill(this.planes, ...PLANES.map((plane) => this.#thumb(`/volumes/${key}/plane?plane=${plane}&level=2`,
      `#/volume/${key}?plane=${plane}`, plane)));
  }

  /** A picture that leads to where it is seen in full. */
  #thumb(path, address, words) {
    const window = el("span.thumb-window");
    const link = el("a.thumb", {href: address}, window, el("span", {}, words));
    this.does.api.blob(path, {signal: this.#abort.signal}).then(async ({blob}) => {
      fill(window, await unmeasuredCleared(blob));
    }).catch((error) => {
      if (error.name === "AbortError") return;
      link.classList.add("no-picture");
      link.title = error.detail ?? error.message;
      put(link.lastChild, `${words}: no picture`);
    });
    return link;
  }

  // ---- files -----------------------------------------------------------------------------

  #drawFiles() {
    const {row, files} = this.run;
    const key = JSON.stringify(files);
    if (this.files.dataset.key === key) return;
    this.files.dataset.key = key;
    fill(this.files, ...files.map(({name, size, whole}) => {
      const address = `../files/${encodeURIComponent(row.uid)}/${encodeURIComponent(name)}`;
      return el("li", {},
        whole ? el("a", {href: address, download: name}, name) : el("span", {}, name),
        el("span.muted", {}, bytes(size)),
        whole ? el("a.small-link", {href: `${address}.sha256`, download: `${name}.sha256`}, "SHA-256") : el("span.muted", {}, "is being written"));
    }), files.length ? null : el("li.muted", {}, "No file yet."));
  }

  /** Three lines that read the run from anywhere. */
  python() {
    if (!this.run) return "";
    const {row} = this.run;
    const image = row.frames?.stored ? "run.frames[-1]" : "run.ledger";
    return [
      "from offbragg import connect",
      `run = connect("${location.origin}").runs["${row.uid.slice(0, 8)}"]`,
      this.run.volumes.length ? `image, plane = ${image}, run.volume.plane("hk0.5")` : `image, table = ${image}, run.table()`,
    ].join("\n");
  }
}

/** What people ask first of a run: pairs of a name and a value with its unit. */
export function factsOf({row, start, stop}) {
  const {sample = {}, temperature = {}, sweep = {}} = start;
  const settled = temperature.settled;
  const end = row.stop_time ?? stop?.time;
  const last = sweep.n_frames ? sweep.start + sweep.step * sweep.n_frames : null;
  const cell = sample.lattice;
  const facts = [
    ["Sample", [row.sample, sample.label, row.formula ?? sample.formula].filter(Boolean).join(" · ")],
    ["Cell", cell && `${cell.slice(0, 3).map((x) => number(x, 6)).join(", ")} Å; ${cell.slice(3).map((x) => number(x, 5)).join(", ")}°${sample.space_group ? ` · ${sample.space_group}` : ""}`],
    ["Temperature", row.temperature == null ? null
      : `${row.temperature} K${settled ? `, settled at ${withError(settled.mean, settled.std)} K` : ""}${temperature.direction ? `, ${temperature.direction}` : ""}`],
    ["Sweep", sweep.n_frames ? `${sweep.axis} ${number(sweep.start)} → ${number(last, 6)}°, ${plural(sweep.n_frames, "frame")} of ${number(sweep.exposure)} s${row.sweep ? ` · ${row.sweep} of ${row.sweeps ?? "?"}` : ""}` : null],
    ["Begun", `${moment(row.time)}${end ? `, ${span(end - row.time)} long` : ""}`],
    ["Beam", start.wavelength ? `${number(start.wavelength, 5)} Å, ${number(KEV_ANGSTROM / start.wavelength, 4)} keV${start.attenuation == null ? "" : ` · transmission ${number(start.attenuation.transmission ?? start.attenuation)}`}` : null],
    ["Plan", [row.plan, row.purpose, (start.detectors ?? []).join(", "), start.proposal].filter(Boolean).join(" · ")],
    ["Series", row.series && el("a", {href: `#/experiment/${encodeURIComponent(row.series)}`}, row.series.slice(0, 8))],
    ["uid", el("code", {}, row.uid)],
    ["Reason", row.exit_status === "success" ? null : stop?.reason],
  ];
  return facts.filter(([, value]) => value);
}

/** Indices of the frames that are stored, from a run-length ledger. */
export function storedOf(ledger) {
  const found = [];
  let at = 0;
  for (const [status, n] of ledger?.status ?? []) {
    if (status === "stored") for (let i = 0; i < n; i++) found.push(at + i);
    at += n;
  }
  return found;
}

function angleOf(ledger, index) {
  const [first, step] = ledger?.angles ?? [];
  return first === undefined ? "" : ` · ${number(first + step * index, 5)}°`;
}

/** A document as pairs of a path and a value. */
export function flattened(value, path = "") {
  if (value !== null && typeof value === "object" && !isShortList(value)) {
    return Object.entries(value).flatMap(([key, each]) => flattened(each, path ? `${path}.${key}` : key));
  }
  return [[path, typeof value === "string" ? value : JSON.stringify(value)]];
}

const isShortList = (value) => Array.isArray(value) && value.every((x) => x === null || typeof x !== "object" || isShortList(x));

function metadataTable(start) {
  const rows = flattened(start).map(([path, value]) => el("tr", {}, el("th", {scope: "row"}, path), el("td", {}, value)));
  const field = el("input", {type: "search", placeholder: "filter", "aria-label": "Filter the start document", oninput: () => {
    const word = field.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(word);
  }});
  return el("div", {}, field, el("table", {}, el("tbody", {}, ...rows)));
}
