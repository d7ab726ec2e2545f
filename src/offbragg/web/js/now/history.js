// Four short curves of the last minutes, and the values beside them.

import {Curve} from "../curves.js";
import {el, fill} from "../dom.js";
import {counts, fixed, number, quantity} from "../format.js";

const EVERY = 15_000; // ms between two readings of the history
const MINUTES = 15;

const CURVES = [
  {name: "temperature", label: "Temperature", unit: "K"},
  {name: "monitor", label: "Monitor", unit: "counts"},
  {name: "ring", label: "Ring current", unit: "mA"},
  {name: "stored", label: "Frames stored", unit: "frames", second: "behind"},
];
/** Values that have no curve of their own, in this order; any other one follows. */
const FIRST = ["phi", "shutter", "attenuator"];
/** Values of the last frame, which are shown as such. */
const PER_FRAME = ["angle", "weight"];

export class History {
  #timer = 0;
  #curves = {};

  /** @param {HTMLElement} host @param {any} ctx */
  constructor(host, ctx) {
    this.ctx = ctx;
    this.values = el("dl.values");
    this.plots = Object.fromEntries(
      CURVES.map(({name, label, unit}) => {
        const card = el("div.history-curve");
        return [name, {card, curve: new Curve(card, {label, unit, xUnit: "time", compact: true})}];
      }),
    );
    host.append(
      el("h2.sr", {}, `The last ${MINUTES} minutes`),
      this.values,
      ...CURVES.map(({name}) => this.plots[name].card),
    );
  }

  /** Read the history now and again until `stop`. */
  start() {
    this.stop();
    const read = async () => {
      try {
        this.#curves = (await this.ctx.api.json(`/now/history?minutes=${MINUTES}`)).curves ?? {};
        this.#draw();
      } catch {
        /* the banner says that the server is away; the curves stay */
      }
    };
    read();
    this.#timer = setInterval(read, EVERY);
  }

  stop() {
    clearInterval(this.#timer);
  }

  /** Add what is newer than the history. @param {any} now */
  update(now) {
    const {values = {}} = now.engine;
    for (const name of ["temperature", "monitor", "ring"])
      this.#append(name, values[name]?.time ?? now.time, values[name]?.value, values[name]);
    if (now.frames) {
      this.#append("stored", now.time, now.frames.stored);
      this.#append("behind", now.time, now.frames.behind);
    }
    this.#draw();
    const more = Object.keys(values).filter(
      (name) => ![...FIRST, ...PER_FRAME].includes(name) && !(name in this.plots),
    );
    fill(
      this.values,
      ...[...FIRST.filter((name) => name in values), ...more].slice(0, 4).map((name) => {
        const {value, unit, label} = values[name];
        const text =
          typeof value === "number"
            ? /^(°|deg(ree)?)$/.test(unit ?? "")
              ? `${fixed(value, 2)}°`
              : quantity(value, unit)
            : String(value ?? "–");
        return el("div", {}, el("dt", {}, label ?? name), el("dd", {}, text));
      }),
    );
  }

  #append(name, t, y, {set = null, window = null, label, unit} = {}) {
    if (typeof y !== "number" || typeof t !== "number") return;
    const curve = (this.#curves[name] ??= {
      label,
      unit,
      t: [],
      y: [],
      set: set === null ? null : [],
      window,
    });
    if (curve.t.length && t <= curve.t[curve.t.length - 1] + 0.2) return;
    curve.t.push(t);
    curve.y.push(y);
    curve.set?.push(set);
    while (curve.t[0] < t - MINUTES * 60) {
      curve.t.shift();
      curve.y.shift();
      curve.set?.shift();
    }
  }

  #draw() {
    for (const {name, unit, second} of CURVES) {
      const {curve} = this.plots[name];
      const one = this.#curves[name];
      if (!one?.t?.length) {
        curve.say("");
        curve.set({series: []});
        continue;
      }
      const other = second && this.#curves[second];
      const last = one.y.findLast((value) => value !== null);
      curve.set({
        series: [
          {label: name, x: one.t, y: one.y},
          ...(other?.t?.length ? [{label: second, x: other.t, y: other.y}] : []),
        ],
        set: one.set,
        window: one.window,
        focus: settling(last, one),
      });
      const behind = other?.y?.findLast((value) => value !== null);
      curve.say(
        name === "temperature"
          ? `${fixed(last, 2)}\u202fK`
          : name === "stored"
            ? `${last}${typeof behind === "number" ? `, ${behind} behind` : ""}`
            : `${name === "monitor" ? counts(last) : number(last)}\u202f${one.unit ?? unit}`,
      );
    }
  }
}

/** Near its set point a value is shown against its window, not against the way it came. */
function settling(value, {set, window}) {
  const asked = set?.findLast((each) => each !== null) ?? null;
  if (asked === null || !window || Math.abs(value - asked) > 3 * window) return null;
  return [asked - 4 * window, asked + 4 * window];
}
