// Why this cell: what it holds, and which frames made it.

import {el, fill, put} from "../dom.js";
import {counts, fixed, number, plural, withError} from "../format.js";
import {lengthOf} from "./geometry.js";
import {short} from "./plane.js";

const MOST = 60;  // frames that are listed

/**
 * Count what a cell's origin has by frame.
 * @param {any} origin answer of `why`
 * @returns {{file: string, frame: number, pixels: number, counts: number, state: string}[]} those
 *   that count first, by file and frame
 */
export function frames(origin) {
  const found = new Map();
  for (const pixel of origin.pixels) {
    const name = `${pixel.file} ${pixel.frame}`;
    const entry = found.get(name) ?? {file: pixel.file, frame: pixel.frame, pixels: 0, counts: 0, state: ""};
    if (pixel.state === "counted") {
      entry.pixels++;
      entry.counts += pixel.counts;
    } else if (entry.pixels === 0) entry.state = pixel.state;
    found.set(name, entry);
  }
  for (const entry of found.values()) if (entry.pixels) entry.state = "counted";
  return [...found.values()].sort((a, b) => (b.pixels > 0) - (a.pixels > 0) || a.file.localeCompare(b.file) || a.frame - b.frame);
}

export class WhyPanel {
  /** @param {HTMLElement} host @param {{onClear: () => void, frameLink: (frame: number) => string|null}} options */
  constructor(host, {onClear, frameLink}) {
    this.frameLink = frameLink;
    this.title = el("h3", {}, "Why this cell");
    this.close = el("button.small", {type: "button", title: "Forget the cell (Esc)", "aria-label": "Forget the cell", onclick: onClear}, "✕");
    this.body = el("div.why-body", {"aria-live": "polite"});
    fill(host, el("div.card-head", {}, this.title, this.close), this.body);
    this.clear();
  }

  clear() {
    put(this.title, "Why this cell");
    this.close.hidden = true;
    fill(this.body, el("p.muted", {}, "Click a cell: its intensity ± σ, its weight, and the frames that made it."));
  }

  /**
   * What is known at once.
   * @param {number[]} hkl @param {number[][]|null} G
   * @param {{intensity: number|null, sigma: number|null}|null} value null: on its way
   */
  begin(hkl, G, value) {
    put(this.title, `Cell (${hkl.map(short).join(" ").replaceAll("-", "−")})`);
    this.close.hidden = false;
    const q = lengthOf(G, hkl);
    this.facts = el("dl.why-facts");
    this.more = el("div.why-more", {}, el("p.muted", {}, "looking for its frames …"));
    this.remark = el("p.muted", {hidden: true});
    fill(this.body, this.facts, this.remark, this.more);
    this.#fact("I ± σ", value === null ? "…" : value.intensity === null ? "not measured" : withError(value.intensity, value.sigma), "intensity");
    if (q !== null) this.#fact("|Q|", `${fixed(q, 4)} Å⁻¹, d = ${q > 0 ? fixed((2 * Math.PI) / q, 3) : "∞"} Å`, "q");
  }

  #fact(name, text, id) {
    const there = this.facts.querySelector(`[data-fact="${id}"]`);
    if (there) put(there, text);
    else this.facts.append(el("dt", {}, name), el("dd", {"data-fact": id}, text));
  }

  /** @param {string} text what is to be known of the intensity */
  note(text) { this.remark.hidden = false; put(this.remark, text); }

  value({intensity, sigma}) {
    this.#fact("I ± σ", intensity === null ? "not measured" : withError(intensity, sigma), "intensity");
  }

  /** @param {any} origin */
  show(origin) {
    const list = frames(origin);
    const made = list.filter((each) => each.pixels > 0);
    if (list.length) this.#fact("counts", `${counts(origin.counts)} in ${plural(made.reduce((n, each) => n + each.pixels, 0), "pixel")}`, "counts");
    if (list.length) this.#fact("weight", number(origin.weight, 4), "weight");
    if (list.length) this.#fact("frames", plural(made.length, "frame"), "frames");
    if (origin.cells?.length > 1) this.#fact("cells", `${origin.cells.length} equivalent cells, summed`, "cells");
    const rows = list.slice(0, MOST).map((each) => {
      const name = `${each.file.replace(/^.*\//, "")} #${each.frame}`;
      const href = this.frameLink(each.frame);
      return el("tr", {}, el("td", {}, href ? el("a", {href}, name) : name),
        el("td.number", {}, each.pixels ? String(each.pixels) : "–"),
        el("td.number", {}, each.pixels ? counts(each.counts) : "–"), el("td", {}, each.state));
    });
    const verdict = origin.verdict ? el("p", {}, `${origin.verdict[0].toUpperCase()}${origin.verdict.slice(1)}.`) : null;
    const exact = origin.exact ? null : el("p.error", {}, "The file does not hold exactly these sums.");
    const table = rows.length ? el("table", {}, el("thead", {}, el("tr", {},
      ...["frame", "pixels", "counts", "state"].map((name) => el("th", {scope: "col"}, name)))), el("tbody", {}, ...rows)) : null;
    const rest = list.length > MOST ? el("p.muted", {}, `… and ${list.length - MOST} more`) : null;
    fill(this.more, list.length ? null : verdict, exact, table, rest);
  }

  /** @param {string} text why its frames are not known */
  refuse(text) { fill(this.more, el("p.muted", {}, text)); }
}

