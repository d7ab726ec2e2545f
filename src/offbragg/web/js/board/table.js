// The phase diagram as a table: rows are samples, columns temperatures, one button a cell.

import {el, fill, put} from "../dom.js";
import {cellWidth, lineOf, move, nameOf, partsOf, warningsOf} from "./layout.js";

const NAMES = 116;  // px, the column of the samples' names

/** @typedef {import("./layout.js").Board} Board @typedef {import("./layout.js").Cell} Cell */

export class BoardTable {
  /** @type {Map<string, {button: any, image: any, note: any, marks: any, bars: any[]}>} */
  #cells = new Map();
  #shape = "";
  /** @type {Board|null} */
  #board = null;
  #current = "";
  #width = 0;

  /**
   * @param {HTMLElement} host
   * @param {{choose: (cell: Cell, event: Event) => void, look: (cell: Cell) => void,
   *   point: (cell: Cell|null) => void}} does
   *   what a click or Enter does, what happens when a cell becomes the current one, and when the
   *   pointer is on one
   */
  constructor(host, does) {
    this.does = does;
    this.table = el("table.board", {role: "grid", "aria-label": "Samples and temperatures"});
    this.scroll = el("div.board-scroll", {}, this.table);
    host.append(this.scroll);
    this.table.addEventListener("click", (event) => this.#on(event, (cell) => does.choose(cell, event)));
    this.table.addEventListener("focusin", (event) => this.#on(event, (cell) => does.look(cell)));
    this.table.addEventListener("pointerover", (event) => this.#on(event, does.point));
    this.table.addEventListener("pointerleave", () => does.point(null));
    new ResizeObserver(() => this.#fit()).observe(this.scroll);
  }

  /**
   * Show a state of the series; only what has changed is touched.
   * @param {Board} board
   */
  show(board) {
    this.#board = board;
    const shape = JSON.stringify([board.samples, board.temperatures, board.rows.map((row) => row.map(Boolean))]);
    if (shape !== this.#shape) {
      this.#shape = shape;
      this.#build(board);
    }
    for (const cell of board.rows.flat()) {
      if (cell) this.#update(cell);
    }
  }

  /** Mark the current cell, and those chosen to be compared. @param {string[]} chosen names */
  mark(current, chosen) {
    const moved = current !== this.#current;
    this.#current = current;
    // only what changes is touched: this runs at each step through temperature
    const places = new Map(chosen.map((name, at) => [name, String(at + 1)]));
    for (const [name, {button}] of this.#cells) {
      const is = name === current;
      if (button.classList.contains("current") !== is) {
        button.classList.toggle("current", is);
        button.tabIndex = is ? 0 : -1;
      }
      const place = places.get(name) ?? "";
      if ((button.dataset.place ?? null) !== place) {
        button.dataset.place = place;
        button.setAttribute("aria-label", labelOf(button.cell, place));
      }
    }
    if (moved) this.#reveal();
    if (!this.#cells.has(current)) this.#cells.values().next().value?.button.setAttribute("tabindex", "0");
  }

  /** Scroll the board, and nothing else, so that the current cell is seen. */
  #reveal() {
    const button = this.#cells.get(this.#current)?.button;
    if (!button) return;
    const [box, place] = [this.scroll.getBoundingClientRect(), button.getBoundingClientRect()];
    const names = this.table.querySelector("tbody th").offsetWidth;
    if (place.left < box.left + names) this.scroll.scrollLeft -= box.left + names + 8 - place.left;
    else if (place.right > box.right) this.scroll.scrollLeft += place.right - box.right + 8;
    if (place.top < box.top + 24) this.scroll.scrollTop -= box.top + 24 - place.top;
    else if (place.bottom > box.bottom) this.scroll.scrollTop += place.bottom - box.bottom + 8;
  }

  /** Mark between which temperatures the transition lies. @param {number|null} kelvin */
  markTransition(kelvin) {
    const all = this.#board?.temperatures ?? [];
    const after = kelvin === null ? -1 : all.findIndex((t) => t !== null && t > kelvin);
    for (const [at, head] of [...this.table.querySelectorAll("thead th[data-column]")].entries()) {
      head.classList.toggle("after-transition", at === after && after > 0);
      if (at === after && after > 0) head.title = `Tc = ${kelvin.toFixed(1)} K lies to the left`;
      else head.removeAttribute("title");
    }
  }

  /** Put a picture into a cell. @param {HTMLCanvasElement} image */
  picture(name, image) {
    const parts = this.#cells.get(name);
    if (!parts || parts.image.source === image) return;
    parts.image.source = image;
    parts.image.width = image.width;
    parts.image.height = image.height;
    parts.image.getContext("2d").drawImage(image, 0, 0);
    parts.button.classList.add("pictured");
  }

  /** Forget the pictures, as when another plane is chosen: no cell shows what it is not. */
  clearPictures() {
    for (const {image, button} of this.#cells.values()) {
      image.source = null;
      image.width = image.width;
      button.classList.remove("pictured");
    }
  }

  /** Pixels along a side of a thumbnail, of the screen. */
  get pixels() { return this.#width * Math.min(devicePixelRatio || 1, 2); }

  /** @returns {boolean} whether the key was one that moves */
  onKey(key) {
    const board = this.#board;
    if (!board) return false;
    let from = [0, -1];
    board.rows.forEach((row, r) => row.forEach((cell, c) => {
      if (cell && nameOf(cell) === this.#current) from = [r, c];
    }));
    const to = move(board, from, key);
    const cell = to && board.rows[to[0]]?.[to[1]];
    if (!cell) return to !== null;
    this.#cells.get(nameOf(cell)).button.focus({preventScroll: true});
    return true;
  }

  /** Put the keyboard on the current cell. */
  focus() { this.#cells.get(this.#current)?.button.focus(); }

  #on(event, action) {
    const button = event.target.closest?.("button.cell");
    if (button?.cell) action(button.cell);
  }

  #build(board) {
    this.#cells.clear();
    const head = el("tr", {}, el("th.corner", {scope: "col"}, el("span", {}, "sample"), el("span", {}, "T\u202f/\u202fK")),
      ...board.temperatures.map((t) => el("th", {scope: "col", "data-column": true}, t === null ? "?" : String(t))));
    const rows = board.samples.map((sample, r) => el("tr", {},
      el("th", {scope: "row", title: sample}, sample),
      ...board.rows[r].map((cell) => el("td", {role: "gridcell"}, cell ? this.#cell(cell) : null))));
    fill(this.table, el("thead", {}, head), el("tbody", {}, ...rows));
    this.#fit();
  }

  #cell(cell) {
    const parts = {
      image: el("canvas.cell-image", {width: 1, height: 1, "aria-hidden": "true"}),
      note: el("span.cell-note", {"aria-hidden": "true"}),
      marks: el("span.cell-marks", {"aria-hidden": "true"}),
      bars: [el("i.bar-stored"), el("i.bar-missing"), el("i.bar-rejected")],
    };
    const bar = el("span.cell-bar", {"aria-hidden": "true"}, ...parts.bars);
    const button = el("button.cell", {type: "button", tabindex: -1},
      el("span.cell-window", {}, parts.image, parts.note, parts.marks), bar);
    this.#cells.set(nameOf(cell), {...parts, button});
    return button;
  }

  #update(cell) {
    const {button, note, marks, bars} = this.#cells.get(nameOf(cell));
    button.cell = cell;
    button.dataset.state = cell.state;
    const warnings = warningsOf(cell);
    const label = labelOf(cell, button.dataset.place);
    if (button.getAttribute("aria-label") !== label) button.setAttribute("aria-label", label);
    const parts = partsOf(cell);
    [parts.stored, parts.missing, parts.rejected].forEach((part, at) => {
      const width = `${(100 * part).toFixed(2)}%`;
      if (bars[at].style.width !== width) bars[at].style.width = width;
      bars[at].classList.toggle("some", part > 0);
    });
    put(note, noteOf(cell, parts));
    const kinds = [
      ...(cell.state === "measuring" ? ["busy"] : []),
      ...(cell.state === "failed" ? ["bad"] : []),
      ...(warnings.length && cell.state !== "failed" ? ["warn"] : []),
    ];
    if (marks.dataset.kinds !== kinds.join()) {
      marks.dataset.kinds = kinds.join();
      fill(marks, ...kinds.map((kind) => el(`span.mark.mark-${kind}`)));
    }
  }

  #fit() {
    const columns = this.#board?.temperatures.length ?? 1;
    const narrow = this.scroll.clientWidth < 600;
    const width = cellWidth(this.#board?.samples.length ?? 1, columns, this.scroll.clientWidth - (narrow ? 76 : NAMES) - 8,
      narrow ? {least: 60, most: 92} : {});
    if (width === this.#width) return;
    this.#width = width;
    this.table.style.setProperty("--cell", `${width}px`);
    this.table.classList.toggle("small", width < 56);
  }
}

const labelOf = (cell, place) => `${lineOf(cell)}${place ? ` · compared, ${place}` : ""}`;

/** What stands in a cell that has no picture. */
function noteOf(cell, parts) {
  if (cell.state === "planned") return "";
  if (cell.state === "measuring" && !cell.volume) return `${Math.round(100 * parts.stored)}\u202f%`;
  if (!cell.volume) return cell.state === "failed" ? "failed" : "no S(Q)";
  return "";
}
