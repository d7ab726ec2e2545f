// The table of runs: newest first, pages below, new runs above without a jump.

import {el, fill, mark} from "../dom.js";
import {clock, day, moment, plural, zone} from "../format.js";

/** Exit states in words, each with its mark. */
const EXITS = {
  running: ["busy", "measuring"], success: ["ok", "complete"], abort: ["warn", "aborted"],
  fail: ["bad", "failed"], abandoned: ["bad", "abandoned"],
};

/** How a run ended, as mark and words: a run that lacks frames is not complete. @param {any} row */
export function exitOf({exit_status: exit, frames}) {
  const faults = ["missing", "rejected"].filter((name) => frames?.[name]).map((name) => `${frames[name]} ${name}`);
  if (exit === "success" && faults.length) return ["warn", faults.join(", ")];
  return EXITS[exit] ?? ["off", exit ?? "?"];
}

/** @typedef {Record<string, any>} Row as `/runs` gives it */

export class RunsTable {
  /** @type {Map<string, {tr: any, key: string}>} */
  #lines = new Map();
  /** @type {Row[]} */
  rows = [];
  #selected = "";

  /**
   * @param {HTMLElement} host
   * @param {{open: (uid: string) => void, more: (rows: number) => void, address: (uid: string) => string}} does
   *   `more` is called with how many rows are wanted below
   */
  constructor(host, does) {
    this.does = does;
    const heads = [["#", "id number"], ["Begun", "when"], ["Sample", "sample"], ["T\u202f/\u202fK", "kelvin number"],
      ["Purpose", "purpose spare"], ["Sweep", "turn spare number"], ["Frames", "tally"], ["State", "exit"], ["uid", "uid spare"]];
    this.body = el("tbody");
    this.table = el("table.runs", {}, el("thead", {}, el("tr", {}, ...heads.map(([text, kind = ""]) => (
      el("th", {scope: "col", class: kind}, text, kind === "when" ? el("span.wide", {}, `, ${zone()}`) : null))))), this.body);
    this.space = el("div.runs-space", {}, this.table);
    this.scroll = el("div.runs-scroll", {tabindex: -1}, this.space);
    host.append(this.scroll);
    this.body.addEventListener("click", (event) => {
      const line = event.target.closest("tr");
      if (!line || event.target.closest("a") || getSelection()?.toString()) return;
      does.open(line.dataset.uid);
    });
    this.scroll.addEventListener("scroll", () => this.#need(), {passive: true});
    new ResizeObserver(() => this.#need()).observe(this.scroll);
  }

  /** There are so many rows in all: their places are there before they are, so nothing moves. */
  set total(total) {
    const row = this.body.firstElementChild?.offsetHeight;
    if (row) this.space.style.height = `${this.table.tHead.offsetHeight + total * row}px`;
    this.#total = total;
    this.#need();
  }
  #total = 0;

  /** Ask for rows whose places are seen, or will be soon. */
  #need() {
    const row = this.body.firstElementChild?.offsetHeight;
    if (!row || this.rows.length >= this.#total) return;
    const seen = (this.scroll.scrollTop + 2 * this.scroll.clientHeight) / row;
    if (seen > this.rows.length) this.does.more(Math.ceil(seen - this.rows.length));
  }

  /** Begin with other rows. @param {Row[]} rows */
  show(rows) {
    this.rows = rows;
    this.#lines.clear();
    fill(this.body, ...rows.map((row) => this.#line(row)));
    this.scroll.scrollTop = 0;
    this.select(this.#selected);
  }

  /** Add older rows below. @param {Row[]} rows */
  append(rows) {
    const fresh = rows.filter((row) => !this.#lines.has(row.uid));
    this.rows.push(...fresh);
    this.body.append(...fresh.map((row) => this.#line(row)));
  }

  /**
   * Bring rows up to date; those that are new come on top, and what is looked at stays in place.
   * @param {Row[]} rows the newest ones
   */
  update(rows) {
    const fresh = [];
    for (const row of rows) {
      if (this.#lines.has(row.uid)) this.#write(row);
      else if (fresh.length === 0 || this.rows.length === 0 || row.time >= this.rows[0].time) fresh.push(row);
    }
    if (!fresh.length) return;
    const before = this.table.offsetHeight;
    this.rows.unshift(...fresh);
    this.body.prepend(...fresh.map((row) => this.#line(row)));
    if (this.scroll.scrollTop > 0) this.scroll.scrollTop += this.table.offsetHeight - before;
  }

  /** Mark the run that is open. */
  select(uid) {
    this.#lines.get(this.#selected)?.tr.removeAttribute("aria-current");
    this.#selected = uid;
    this.#lines.get(uid)?.tr.setAttribute("aria-current", "true");
  }

  /** The run that is open in the table, and the way to the next. @param {number} by */
  neighbour(by) {
    const at = this.rows.findIndex((row) => row.uid === this.#selected);
    return this.rows[at < 0 ? 0 : Math.min(Math.max(at + by, 0), this.rows.length - 1)]?.uid ?? "";
  }

  /** Scroll to the run that is open. */
  reveal() { this.#lines.get(this.#selected)?.tr.scrollIntoView({block: "nearest"}); }

  #line(row) {
    const tr = el("tr", {"data-uid": row.uid});
    this.#lines.set(row.uid, {tr, key: ""});
    this.#write(row);
    return tr;
  }

  #write(row) {
    const line = this.#lines.get(row.uid);
    const key = JSON.stringify(row);
    if (line.key === key) return;
    line.key = key;
    const at = this.rows.findIndex((one) => one.uid === row.uid);
    if (at >= 0) this.rows[at] = row;
    const [kind, word] = exitOf(row);
    line.tr.title = row.what ?? "";
    fill(line.tr,
      el("th.number", {scope: "row"}, el("a", {href: this.does.address(row.uid), title: moment(row.time)}, row.scan_id == null ? "–" : `#${row.scan_id}`)),
      el("td.when", {}, when(row.time)),
      el("td.sample", {}, row.sample ?? "–"),
      el("td.number", {}, row.temperature == null ? "–" : String(Number(row.temperature.toFixed(2)))),
      el("td.spare", {}, row.purpose ?? "–"),
      el("td.number.spare", {}, row.sweep == null ? "–" : `${row.sweep}${row.sweeps ? `/${row.sweeps}` : ""}`),
      el("td.tally", {}, framesBar(row)),
      el("td.exit", {title: word}, mark(kind, word)),
      el("td.uid.spare", {}, row.uid.slice(0, 8)));
  }
}

/** Time of day, with the date where it is another day. */
function when(time) {
  if (time == null) return "–";
  const [hours, minutes, seconds] = clock(time).split(" ").pop().split(":");
  const today = day(time) === day(Date.now() / 1000);
  return el("time", {datetime: new Date(1000 * time).toISOString()},
    today ? null : el("span.muted.date", {}, `${day(time).slice(5)} `), `${hours}:${minutes}`, el("span.wide", {}, `:${seconds}`));
}

/** Stored, missing and rejected frames as a bar, with the numbers. */
export function framesBar(row) {
  const frames = row.frames;
  if (!frames || !row.n_frames) return el("span.muted", {}, "–");
  const part = (name) => {
    const piece = el(`i.bar-${name}`);
    piece.style.width = `${(100 * (frames[name] ?? 0)) / row.n_frames}%`;
    piece.classList.toggle("some", frames[name] > 0);
    return piece;
  };
  const wrong = [["missing", "✕"], ["rejected", "▲"]].filter(([name]) => frames[name]);
  return el("span.tally-bar", {},
    el("span.cell-bar", {"aria-hidden": "true"}, part("stored"), part("missing"), part("rejected")),
    el("span.tally-count", {}, `${frames.stored ?? 0}/${row.n_frames}`),
    ...wrong.map(([name, sign]) => el(`span.tally-${name}`, {title: plural(frames[name], `frame ${name}`, `frames ${name}`),
      "aria-label": `${frames[name]} ${name}`, role: "img"}, `${sign}${frames[name]}`)));
}
