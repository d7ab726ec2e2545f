// Order parameter and lattice parameters against temperature.

import {Curve} from "../curves.js";
import {el, fill, put} from "../dom.js";
import {withError} from "../format.js";
import {errorOf, PARAMETERS, valueOf} from "./cell.js";
import {saveText, writeCsv} from "./csv.js";

/** @typedef {{temperature: number, intensity: number, sigma: number, sample: string, growing?: boolean}} OrderPoint */

export class OrderChart {
  #order = null;
  #name = "order-parameter";

  /** @param {HTMLElement} host @param {{at: (text: string) => void}} does  `at`: another point was typed */
  constructor(host, does) {
    this.field = el("input.at", {type: "text", size: 11, "aria-label": "Point of reciprocal space: h, k, l",
      title: "h, k, l in r.l.u.", onchange: () => does.at(this.field.value)});
    this.law = el("span");
    this.why = el("p.muted.chart-note");
    this.legend = el("ul.legend");
    this.save = el("button.small", {type: "button", title: "Points as a table", onclick: () => this.#csv()}, "CSV");
    const plot = el("div.chart-plot");
    this.root = el("section.card.chart", {"aria-label": "Order parameter"},
      el("header", {}, el("h3", {}, "Order parameter at"), this.field),
      el("p.law", {}, this.law, this.save), plot, this.legend, this.why);
    host.append(this.root);
    this.curve = new Curve(plot, {label: "Intensity", unit: "counts per weight", xLabel: "temperature", xUnit: "K", errors: true});
  }

  /** @param {{at: number[], points: OrderPoint[], law: any, why: string}} order @param {string[]} samples @param {string} name for files */
  show(order, samples, name) {
    this.#order = order;
    this.#name = name;
    if (document.activeElement !== this.field) this.field.value = order.at.map(String).join(", ");
    const {law} = order;
    legend(this.legend, samples);
    put(this.law, law ? `${samples.length > 1 && order.sample ? `${order.sample}: ` : ""}Tc = ${withError(law.Tc, law.Tc_error)}\u202fK, β = ${withError(law.beta, law.beta_error)}` : "\u00a0");
    put(this.why, order.why || growing(order.points));
    this.save.disabled = order.points.length === 0;
    this.curve.set({
      series: order.points.length === 0 ? [] : bySample(samples, order.points, (p) => [p.temperature, p.intensity, p.sigma]),
      marks: law ? [{x: law.Tc, label: "Tc"}] : [],
      line: curveOf(law, order.points),
    });
  }

  /** Write why there are no points. */
  refuse(text) { put(this.why, text); put(this.law, "\u00a0"); this.curve.set({series: []}); }

  #csv() {
    const rows = this.#order.points.map((p) => [p.sample, p.temperature, p.intensity, p.sigma, p.growing ? 1 : 0, p.volume]);
    const at = this.#order.at.join(" ");
    saveText(`${this.#name}.csv`, writeCsv(["sample", "temperature_K", `intensity_at_${at.replaceAll(" ", "_")}`, "sigma", "growing", "volume"], rows));
  }
}

export class LatticeChart {
  #board = null;
  #shown = "a";
  #name = "lattice";

  /** @param {HTMLElement} host */
  constructor(host) {
    this.choice = el("span.controls", {role: "group", "aria-label": "Lattice parameter"});
    this.save = el("button.small", {type: "button", title: "Lattice parameters as a table", onclick: () => this.#csv()}, "CSV");
    this.plot = el("div.chart-plot");
    this.value = el("span");
    this.root = el("section.card.chart", {"aria-label": "Lattice parameters"},
      el("header", {}, el("h3", {}, "Lattice"), this.choice),
      el("p.law", {}, this.value, this.save), this.plot);
    host.append(this.root);
    this.curves = new Map();
  }

  /** @param {import("./layout.js").Board} board @param {string} name for files */
  show(board, name) {
    this.#board = board;
    this.#name = name;
    this.root.hidden = this.#cells().length === 0;  // nothing was refined: offbragg index does
    if (this.root.hidden) return;
    const groups = groupsOf(this.#cells());
    if (!groups.some((group) => group.includes(this.#shown))) this.#shown = groups[0]?.[0] ?? "a";
    const key = JSON.stringify([groups, this.#shown]);
    if (this.choice.dataset.key !== key) {
      this.choice.dataset.key = key;
      fill(this.choice, ...groups.map((group) => el("button.small", {
        type: "button", "aria-pressed": String(group.includes(this.#shown)),
        onclick: () => { this.#shown = group[0]; this.show(this.#board, this.#name); },
      }, group.map((one) => PARAMETERS[one][0]).join(" = "))));
    }
    this.#draw();
  }

  /** Write the parameters of a cell above the curve. */
  look(cell) {
    const groups = cell?.lattice ? groupsOf(this.#cells()).filter((group) => group[0].length === 1) : [];
    put(this.value, groups.length ? `${groups.map((group) => [...group.map((name) => PARAMETERS[name][0]),
      withError(valueOf(cell.lattice[group[0]]), errorOf(cell.lattice[group[0]]))].join(" = ")).join(", ")}\u202fÅ` : "\u00a0");
  }

  #cells() { return this.#board.rows.flat().filter((cell) => cell?.lattice); }

  #draw() {
    const [letter, unit] = PARAMETERS[this.#shown];
    if (!this.curves.has(this.#shown)) {
      const host = el("div.chart-plot");
      this.curves.set(this.#shown, {host, curve: new Curve(host, {label: letter, unit, xLabel: "temperature", xUnit: "K", errors: true})});
    }
    const {host, curve} = this.curves.get(this.#shown);
    if (!host.isConnected) fill(this.plot, host);
    const cells = this.#cells();
    curve.set({series: bySample(this.#board.samples, cells, (cell) => {
      const entry = cell.lattice[this.#shown];
      return [cell.temperature, valueOf(entry), errorOf(entry)];
    })});
  }

  #csv() {
    const names = Object.keys(PARAMETERS);
    const rows = this.#cells().map((cell) => [cell.sample, cell.temperature,
      ...names.flatMap((name) => [valueOf(cell.lattice[name]), errorOf(cell.lattice[name])])]);
    saveText(`${this.#name}-lattice.csv`, writeCsv(["sample", "temperature_K",
      ...names.flatMap((name) => [`${name}_${name.length > 1 ? "deg" : "angstrom"}`, `${name}_sigma`])], rows));
  }
}

/** Lengths that are equal in all cells are one button; angles of 90° and 120° are not of interest. */
export function groupsOf(cells) {
  const groups = [];
  for (const name of Object.keys(PARAMETERS)) {
    const values = cells.map((cell) => valueOf(cell.lattice[name]));
    if (values.every((value) => value === null)) continue;
    if (name.length > 1 && values.every((value) => value === null || value === 90 || value === 120)) continue;
    const same = groups.find((group) => name.length === 1 && cells.every((cell) => (
      Math.abs(valueOf(cell.lattice[group[0]]) - valueOf(cell.lattice[name])) < 1e-6)));
    if (same) same.push(name);
    else groups.push([name]);
  }
  return groups;
}

/** The fitted law, I = scale (1 − T/Tc)^2β below Tc and 0 above, between the points. */
function curveOf(law, points) {
  if (!law?.scale || points.length < 2) return undefined;
  const all = points.map((p) => p.temperature);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const below = Array.from({length: 60}, (_, n) => law.Tc - (law.Tc - low) * (1 - n / 59) ** 3);  // dense at Tc
  return {
    x: [...below, Math.max(high, law.Tc)],
    y: [...below.map((t) => law.scale * Math.max(1 - t / law.Tc, 0) ** (2 * law.beta)), 0],
  };
}

function bySample(samples, items, read) {
  return samples.map((sample) => {
    const own = items.filter((item) => item.sample === sample).map(read)
      .filter(([x, y]) => x !== null && y !== null).sort((a, b) => a[0] - b[0]);
    return {label: sample, x: own.map((p) => p[0]), y: own.map((p) => p[1]), sigma: own.map((p) => p[2])};
  });
}

/** Which shape is which sample, where there are several. */
function legend(list, samples) {
  if (list.dataset.key === samples.join()) return;
  list.dataset.key = samples.join();
  fill(list, ...(samples.length > 1 ? samples : []).map((sample, at) => (
    el("li", {}, el(`span.point.point-${at % 6}`, {"aria-hidden": "true"}), sample))));
}

function growing(points) {
  const n = points.filter((p) => p.growing).length;
  return n ? `${n} of ${points.length} points still ${n === 1 ? "grows" : "grow"}` : "";
}
