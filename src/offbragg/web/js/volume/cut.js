// A line cut: its curve with error bars, its table, and both to take home.

import {Curve} from "../curves.js";
import {copy, el, fill, put} from "../dom.js";
import {counts, fixed, plural, withError} from "../format.js";
import {lengthOf} from "./geometry.js";
import {directionName, NAMES, pointOn, short} from "./plane.js";
import {symmetrises} from "./tiles.js";

const MOST_FACTOR = 4;  // of a direction in the plane: beyond it few cells lie on the line
const PLAIN = 0.05;  // radian that a direction may be off for each unit that it is simpler
const DECADES = 20;  // largest over smallest intensity, from which on a logarithmic axis shows more
const MOST_ROWS = 400;  // that the table shows; copy and download have all

/**
 * @typedef {{h: number, k: number, l: number, x: number, q: number|null, intensity: number|null,
 *   sigma: number|null}} Row x: along the cut, r.l.u. of its direction from its first point
 */

/**
 * Turn a dragged line so that cells lie on it: its direction in the plane becomes one of small
 * whole numbers, its first point the centre of a cell.
 * @param {{axes: any[], at: number[]}} cut the plane @param {import("./plane.js").Grid} grid
 * @param {[number, number]} from u, v @param {[number, number]} to
 * @param {import("./geometry.js").Basis} basis angles are those on paper
 * @returns {{from: number[], to: number[]}|null} points, r.l.u.; null: shorter than a cell
 */
export function snapped(cut, [du, dv], from, to, basis) {
  const start = [Math.round(from[0] / du) * du, Math.round(from[1] / dv) * dv];
  const wanted = [to[0] - start[0], to[1] - start[1]];
  const paper = ([u, v]) => [u * basis.ux + v * basis.vx, v * basis.vy];
  const [x, y] = paper(wanted);
  const length = Math.hypot(x, y);
  let best = null;
  for (let a = -MOST_FACTOR; a <= MOST_FACTOR; a++) {
    for (let b = -MOST_FACTOR; b <= MOST_FACTOR; b++) {
      if ((a === 0 && b === 0) || divisor(a, b) !== 1) continue;
      const [p, q] = paper([a, b]);
      const cosine = (x * p + y * q) / (length * Math.hypot(p, q));
      // a simple direction is meant rather than a close one of large numbers
      const score = Math.acos(Math.min(1, cosine)) + PLAIN * Math.max(Math.abs(a), Math.abs(b));
      if (best === null || score < best.score) best = {score, a, b, along: (length * cosine) / Math.hypot(p, q)};
    }
  }
  if (best === null || !(best.along > 0)) return null;
  const step = divisorOf([best.a / du, best.b / dv]);
  const n = Math.round(best.along * step) / step;
  if (!(n > 0)) return null;
  return {from: pointOn(cut, ...start).map(tidy), to: pointOn(cut, start[0] + n * best.a, start[1] + n * best.b).map(tidy)};
}

const divisor = (a, b) => { [a, b] = [Math.abs(a), Math.abs(b)]; while (b) [a, b] = [b, a % b]; return a; };
const divisorOf = ([a, b]) => divisor(Math.round(a), Math.round(b)) || 1;
const tidy = (x) => Number(x.toFixed(6)) + 0;

/** The route of a cut. */
export function cutPath(volume, {cut: {from, to}, symmetry}) {
  const query = new URLSearchParams({points: [from, to].map((point) => point.map(short).join(",")).join(";"), sigma: "1"});
  if (symmetrises(volume, {symmetry})) query.set("symmetry", "sample");
  query.set("format", "json");
  return `/volumes/${encodeURIComponent(volume.key)}/line?${query}`;
}

/** @param {any} answer of the route, JSON @param {number[][]|null} G @returns {Row[]} */
export function rowsOf(answer, G) {
  const [along] = answer.axes.map((axis) => axis.direction);
  return answer.values[0].map((x, n) => {
    const [h, k, l] = along.map((d, i) => tidy(answer.at[i] + x * d));
    return {h, k, l, x, q: lengthOf(G, [h, k, l]), intensity: answer.intensity[n], sigma: answer.sigma?.[n] ?? null};
  });
}

/** The table as text. @param {Row[]} rows @param {string[]} about lines of a comment */
export function csv(rows, about) {
  const cell = (x) => (x === null || x === undefined ? "" : String(x));
  const line = (row) => [row.h, row.k, row.l, row.q === null ? null : Number(row.q.toPrecision(7)), row.intensity, row.sigma].map(cell).join(",");
  return [...about.map((text) => `# ${text}`), "h,k,l,Q_per_angstrom,intensity,sigma", ...rows.map(line)].join("\n") + "\n";
}

export class CutPanel {
  /** @type {Row[]} */ rows = [];
  #about = [];

  /** @param {HTMLElement} host @param {{say: (text: string) => void, onClear: () => void, onPoint: (row: Row|null) => void}} options */
  constructor(host, {say, onClear, onPoint}) {
    this.title = el("h3", {}, "Cut");
    this.hint = el("p.muted.cut-hint", {}, "Press c, then drag a line across the plane. Or hold shift and drag.");
    this.area = el("div.cut-curve");
    this.body = el("tbody");
    this.caption = el("caption.muted");
    this.table = el("div.cut-table", {tabindex: 0, role: "region", "aria-label": "Values of the cut"},
      el("table", {}, this.caption, el("thead", {}, el("tr", {},
        ...["h", "k", "l", "Q / Å⁻¹", "I ± σ"].map((name) => el("th", {scope: "col"}, name)))), this.body));
    const button = (text, title, onclick) => el("button.small", {type: "button", title, onclick}, text);
    this.tools = el("span.cut-tools", {},
      button("Copy", "Copy the table as CSV", async () => say(await copy(this.csv()) ? `${plural(this.rows.length, "row")} copied` : "The browser does not allow copying")),
      button("CSV", "Download the table as CSV", () => this.#download()),
      button("✕", "Remove the cut (Esc)", onClear));
    this.tools.lastChild.setAttribute("aria-label", "Remove the cut");
    fill(host, el("div.card-head", {}, this.title, this.tools), this.hint, this.area, this.table);
    this.curve = new Curve(this.area, {label: "Intensity along the cut", unit: "counts per weight", errors: true});
    this.curve.onPoint = (point) => onPoint(point === null ? null : this.rows.find((row) => row.x + this.offset === point.x) ?? null);
    this.clear();
  }

  clear() {
    this.rows = [];
    put(this.title, "Cut");
    this.hint.hidden = false;
    put(this.hint, "Press c, then drag a line across the plane. Or hold shift and drag.");
    this.area.hidden = this.table.hidden = this.tools.hidden = true;
  }

  /** @param {string} text why there is nothing, or that it is on its way */
  wait(text) {
    this.hint.hidden = false;
    put(this.hint, text);
  }

  /**
   * @param {any} answer @param {number[][]|null} G @param {"log"|"linear"} scale
   * @param {string[]} about lines of a comment
   */
  show(answer, G, scale, about) {
    this.#about = about;
    this.rows = rowsOf(answer, G);
    const [{direction}] = answer.axes;
    const axis = direction.findIndex((x) => x !== 0);
    // the curve runs in the first index that changes, so that a peak is found where it is
    const single = direction.filter((x) => x !== 0).length === 1;
    const value = (row) => (single ? row[NAMES[axis]] : row.x);
    this.offset = this.rows.length ? value(this.rows[0]) - this.rows[0].x : 0;
    const ends = [this.rows[0], this.rows[this.rows.length - 1]];
    const name = single
      ? `${NAMES.map((n, i) => (i === axis ? n : fixed(ends[0]?.[n] ?? 0, 3).replace(/\.?0+$/, ""))).join(" ")}`
      : ends.map((row) => `(${[row.h, row.k, row.l].map(short).join(" ").replaceAll("-", "−")})`).join(" → ");
    put(this.title, `Cut ${name}`);
    this.hint.hidden = true;
    this.area.hidden = this.table.hidden = this.tools.hidden = false;
    this.curve.options.xLabel = single ? NAMES[axis] : `along ${directionName(direction)}`;
    this.curve.options.xUnit = "r.l.u.";
    const positive = this.rows.map((row) => row.intensity).filter((x) => x > 0);
    const log = scale === "log" && Math.max(...positive) > DECADES * Math.min(...positive);
    this.curve.set({log, x: this.rows.map(value), y: this.rows.map((row) => row.intensity), sigma: this.rows.map((row) => row.sigma)});
    const shown = this.rows.slice(0, MOST_ROWS);
    const number = (x) => el("td", {}, short(x).replace("-", "−"));
    fill(this.body, ...shown.map((row) => el("tr", {}, number(row.h), number(row.k), number(row.l),
      el("td", {}, row.q === null ? "–" : fixed(row.q, 4)),
      row.intensity === null ? el("td.muted", {}, "not measured") : el("td", {}, withError(row.intensity, row.sigma)))));
    const measured = this.rows.filter((row) => row.intensity !== null).length;
    put(this.caption, `${plural(this.rows.length, "cell")}, ${measured} measured`
      + (shown.length < this.rows.length ? `; the first ${counts(shown.length)} are listed, copy and CSV have all` : ""));
  }

  csv() { return csv(this.rows, this.#about); }

  #download() {
    const link = el("a", {download: "cut.csv", href: URL.createObjectURL(new Blob([this.csv()], {type: "text/csv"}))});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }
}
