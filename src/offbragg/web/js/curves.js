// Curves with uPlot: units on the axes, error bars, marks, a set point with its window.

import {token} from "./colours.js";
import {el, put} from "./dom.js";
import {clock, number, powerOfTen} from "./format.js";

/** @typedef {{label?: string, x: number[], y: (number|null)[], sigma?: (number|null)[]}} Points */

const SHAPES = ["circle", "square", "triangle", "diamond", "down", "plus"];
const COLOURS = ["--accent", "--series-2", "--series-3", "--series-4", "--series-5", "--series-6"];

export class Curve {
  #plot = null;
  #data = {};
  #aligned = null;

  /**
   * @param {HTMLElement} host
   * @param {{label: string, unit?: string, xLabel?: string, xUnit?: string, errors?: boolean, compact?: boolean}} options
   *   `xUnit` "time": POSIX s, shown local; `errors`: points with bars, otherwise a line
   */
  constructor(host, options) {
    this.options = {unit: "", xUnit: "", xLabel: "", errors: false, compact: false, ...options};
    const {label, unit, compact} = this.options;
    this.value = el("b.curve-value");
    this.title = el(
      "figcaption.curve-title",
      {},
      el("span", {}, unit ? `${label} / ${unit}` : label),
      this.value,
    );
    this.area = el("div.curve-area");
    this.empty = el("span.curve-empty.muted", {}, "no values");
    this.area.append(this.empty);
    this.root = el(
      `figure.curve${compact ? ".curve-compact" : ""}`,
      {role: "img", "aria-label": label},
      this.title,
      this.area,
    );
    host.append(this.root);
    new ResizeObserver(() => this.#size()).observe(this.area);
    document.addEventListener("themechange", () => this.#build());
  }

  /**
   * @param {Partial<Points> & {series?: Points[], marks?: {x: number, label?: string}[],
   *   line?: {x: number[], y: number[]}, log?: boolean, set?: (number|null)[]|null,
   *   window?: number|null, focus?: [number, number]|null}} data
   *   `line`: a fitted law, drawn through; `set` and `window`: the value asked for, and ±;
   *   `focus`: the ends of y, whatever lies beyond them
   */
  set(data) {
    this.#data = {
      ...data,
      series: data.series ?? [{x: data.x ?? [], y: data.y ?? [], sigma: data.sigma}],
    };
    this.empty.hidden = this.#data.series.some((each) => each.x.length > 0);
    this.#build();
  }

  /** Add a point to the first series. */
  append(x, y, sigma = null) {
    const [first] = this.#data.series ?? [{x: [], y: [], sigma: []}];
    first.x.push(x);
    first.y.push(y);
    first.sigma?.push(sigma);
    this.set({...this.#data, series: this.#data.series ?? [first]});
  }

  /** Say the newest value beside the title. */
  say(text) {
    put(this.value, text);
  }

  /** What the plot holds now, for tables and tests. */
  get data() {
    return this.#data;
  }

  /** Powers of ten that the y axis leaves to its label: 0, or 3, 4, 5 … where the values are large. */
  #power() {
    if (this.#data.log) return 0;
    let most = 0;
    for (const each of this.#data.series ?? [])
      for (const y of each.y) if (y !== null) most = Math.max(most, Math.abs(y));
    return most >= 1e5 || (most > 0 && most < 1e-2) ? Math.floor(Math.log10(most)) : 0;
  }

  #size() {
    const {clientWidth: width, clientHeight: height} = this.area;
    if (!width || !height) return;
    if (this.#plot) this.#plot.setSize({width, height});
    else this.#build();
  }

  #build() {
    const {clientWidth: width, clientHeight: height} = this.area;
    const {series} = this.#data;
    if (!series || !width || !height) return;
    if (series.length === 0) {
      this.#plot?.destroy();
      this.#plot = null;
      return;
    }
    const joined = globalThis.uPlot.join(
      series.map((each) => {
        const order = each.x.map((_, at) => at).sort((a, b) => each.x[a] - each.x[b]);
        const along = (values) => order.map((at) => values?.[at] ?? null);
        return [along(each.x), along(each.y), along(each.sigma)];
      }),
    );
    // uPlot draws the y columns; the sigma columns lie between them, not shown
    const key = `${series.length} ${series.map((each) => `${each.label} ${each.x.length < 2}`).join(" ")} ${this.#power()} ${this.options.xLabel} ${this.#data.log ?? false}`;
    this.#aligned = joined;
    if (this.#plot && this.#plot.key === key && this.#plot.theme === token("--text")) {
      this.#plot.setData(joined);
      return;
    }
    this.#plot?.destroy();
    this.#plot = new globalThis.uPlot(this.#options(width, height, series), joined, this.area);
    Object.assign(this.#plot, {key, theme: token("--text")});
  }

  #options(width, height, series) {
    const {unit, xUnit, xLabel, errors, compact} = this.options;
    const [text, line] = [token("--muted"), token("--line")];
    const font = `11px ${getComputedStyle(document.body).fontFamily}`;
    const power = this.#power();
    const units = power ? `${powerOfTen(power)} ${unit}` : unit;
    const [name] = this.title.children;
    put(name, units ? `${this.options.label} / ${units}` : this.options.label);
    const axis = {
      stroke: text,
      font,
      grid: {stroke: line, width: 1},
      ticks: {stroke: line, width: 1, size: 4},
      gap: 4,
    };
    const colours = COLOURS.map(token);
    const time = xUnit === "time";
    const yText = (self, values) => values.map((value) => (value === null ? "" : number(value, 6)));
    return {
      width,
      height,
      legend: {show: false},
      cursor: {y: false, points: {size: 6}},
      // a point at the end of the axis is drawn whole
      scales: {
        x: {time, ...this.#across(time)},
        y: {distr: this.#data.log ? 3 : 1, range: (self, low, high) => this.#range(low, high)},
      },
      axes: [
        {
          ...axis,
          size: compact ? 22 : 40,
          space: time ? 60 : 50,
          ...(time
            ? {
                values: (self, values) => {
                  const seconds = values[values.length - 1] - values[0] < 240;
                  return values.map((value) => clock(value, {seconds}).split(" ").pop());
                },
              }
            : {
                label: compact ? undefined : `${xLabel}${xUnit ? ` / ${xUnit}` : ""}`,
                labelSize: 16,
                labelFont: font,
                values: yText,
              }),
        },
        {
          ...axis,
          size: compact ? 54 : 56,
          space: compact ? 18 : 36,
          values: (self, values) =>
            values.map((value) => (value === null ? "" : number(value / 10 ** power, 6))),
          label: compact || !units ? undefined : units,
          labelSize: 14,
          labelFont: font,
          ...(this.#data.log ? {splits: (self, at, low, high) => decades(low, high), filter: (self, splits) => splits} : {}),
        },
      ],
      series: [
        {},
        ...series.flatMap((each, at) => [
          {
            label: each.label ?? this.options.label,
            stroke: colours[at % colours.length],
            width: errors ? 0 : 1.5,
            spanGaps: false,
            points: errors ? {show: false} : {show: each.x.length < 2, size: 4},
          },
          {show: false},
        ]),
      ],
      hooks: {
        drawClear: [(plot) => this.#under(plot)],
        draw: [(plot) => this.#over(plot, colours)],
        setCursor: [(plot) => this.#pointed(plot)],
      },
    };
  }

  /** The ends of x: a minute at least, and room for the points that have errors. */
  #across(time) {
    if (time) {
      // of the data: uPlot gives a single point a day
      return {
        range: ({data: [x]}) => {
          const end = x[x.length - 1] ?? 60;
          return [Math.min(x[0] ?? 0, end - 60), end];
        },
      };
    }
    return this.options.errors ? {range: (self, low, high) => widened(low, high)} : {};
  }

  #range(low, high) {
    let [a, b] = [low ?? Infinity, high ?? -Infinity];
    const {series = [], set, window, line, focus} = this.#data;
    if (focus) return focus;
    for (const each of series) {
      each.sigma?.forEach((sigma, at) => {
        if (sigma === null || each.y[at] === null) return;
        a = Math.min(a, each.y[at] - sigma);
        b = Math.max(b, each.y[at] + sigma);
      });
    }
    for (const value of [...(set ?? []), ...(line?.y ?? [])]) {
      if (value === null) continue;
      a = Math.min(a, value - (window ?? 0));
      b = Math.max(b, value + (window ?? 0));
    }
    if (this.#data.log) return this.#logRange(b);
    if (!(b >= a)) return [0, 1];
    const room = b > a ? (b - a) * 0.08 : Math.max(Math.abs(a) * 1e-3, 1e-6) || 1;
    return [a - room, b + room];
  }

  /** From the smallest value above 0; what is not above it has no place on a logarithmic axis. */
  #logRange(high) {
    const positive = this.#data.series.flatMap((each) => each.y.filter((value) => value > 0));
    if (!positive.length) return [0.1, 1];
    return [Math.min(...positive) / 1.5, Math.max(high, ...positive) * 1.3];
  }

  #under(plot) {
    const {set, window, series} = this.#data;
    if (!set) return;
    const {ctx} = plot;
    const x = series[0].x;
    ctx.save();
    ctx.beginPath();
    ctx.rect(plot.bbox.left, plot.bbox.top, plot.bbox.width, plot.bbox.height);
    ctx.clip();
    const at = (value, scale) => plot.valToPos(value, scale, true);
    if (window) {
      ctx.fillStyle = token("--window");
      set.forEach((value, n) => {
        if (value === null) return;
        const left = at(x[n], "x");
        const right = n + 1 < x.length ? at(x[n + 1], "x") : plot.bbox.left + plot.bbox.width;
        const top = at(value + window, "y");
        ctx.fillRect(left, top, right - left, at(value - window, "y") - top);
      });
    }
    ctx.strokeStyle = token("--muted");
    ctx.setLineDash([4, 4]);
    ctx.beginPath();
    let pen = false;
    set.forEach((value, n) => {
      if (value === null) {
        pen = false;
        return;
      }
      if (pen) ctx.lineTo(at(x[n], "x"), at(set[n - 1] ?? value, "y"));
      ctx[pen ? "lineTo" : "moveTo"](at(x[n], "x"), at(value, "y"));
      pen = true;
    });
    ctx.stroke();
    ctx.restore();
  }

  #over(plot, colours) {
    const {ctx} = plot;
    const ratio = devicePixelRatio || 1;
    const at = (value, scale) => plot.valToPos(value, scale, true);
    ctx.save();
    ctx.beginPath();
    ctx.rect(plot.bbox.left, plot.bbox.top, plot.bbox.width, plot.bbox.height);
    ctx.clip();
    const {line, marks, series} = this.#data;
    if (line) {
      ctx.strokeStyle = token("--muted");
      ctx.lineWidth = ratio;
      ctx.beginPath();
      line.x.forEach((x, n) => ctx[n ? "lineTo" : "moveTo"](at(x, "x"), at(line.y[n], "y")));
      ctx.stroke();
    }
    for (const {x, label} of marks ?? []) {
      const place = at(x, "x");
      ctx.strokeStyle = ctx.fillStyle = token("--text");
      ctx.setLineDash([2 * ratio, 3 * ratio]);
      ctx.lineWidth = ratio;
      ctx.beginPath();
      ctx.moveTo(place, plot.bbox.top);
      ctx.lineTo(place, plot.bbox.top + plot.bbox.height);
      ctx.stroke();
      ctx.setLineDash([]);
      ctx.font = `${11 * ratio}px ${getComputedStyle(document.body).fontFamily}`;
      const after = place < plot.bbox.left + plot.bbox.width * 0.75;
      ctx.textAlign = after ? "left" : "right";
      if (label) ctx.fillText(label, place + (after ? 4 : -4) * ratio, plot.bbox.top + 12 * ratio);
    }
    if (this.options.errors) {
      series.forEach((each, n) => {
        ctx.strokeStyle = ctx.fillStyle = colours[n % colours.length];
        ctx.lineWidth = 1.2 * ratio;
        each.x.forEach((x, m) => {
          if (each.y[m] === null) return;
          const [left, top] = [at(x, "x"), at(each.y[m], "y")];
          const sigma = each.sigma?.[m];
          if (sigma) {
            const lowest = this.#data.log ? plot.scales.y.min : -Infinity;
            const [low, high] = [
              at(Math.max(each.y[m] - sigma, lowest), "y"),
              at(each.y[m] + sigma, "y"),
            ];
            ctx.beginPath();
            for (const y of [low, high]) {
              ctx.moveTo(left - 3 * ratio, y);
              ctx.lineTo(left + 3 * ratio, y);
            }
            ctx.moveTo(left, low);
            ctx.lineTo(left, high);
            ctx.stroke();
          }
          point(ctx, SHAPES[n % SHAPES.length], left, top, 3.2 * ratio);
        });
      });
    }
    ctx.restore();
  }

  #pointed(plot) {
    const index = plot.cursor.idx;
    this.onPoint?.(
      index === null || index === undefined
        ? null
        : {x: this.#aligned[0][index], y: this.#aligned[1][index], sigma: this.#aligned[2][index]},
    );
  }
}

/** Powers of ten between two values; with 2 and 5 of each where there are few. */
function decades(low, high) {
  const factors = Math.log10(high / low) < 2 ? [1, 2, 5] : [1];
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const factor of factors) {
      const value = Number(`${factor}e${power}`);
      if (value >= low && value <= high) found.push(value);
    }
  }
  return found;
}

/** A point of its own shape for each series: colour is not the only difference. */
function point(ctx, shape, x, y, r) {
  ctx.beginPath();
  if (shape === "circle") ctx.arc(x, y, r, 0, 2 * Math.PI);
  else if (shape === "square") ctx.rect(x - r, y - r, 2 * r, 2 * r);
  else if (shape === "plus") {
    ctx.rect(x - 1.2 * r, y - 0.4 * r, 2.4 * r, 0.8 * r);
    ctx.rect(x - 0.4 * r, y - 1.2 * r, 0.8 * r, 2.4 * r);
  } else if (shape === "down") {
    ctx.moveTo(x, y + 1.3 * r);
    ctx.lineTo(x + 1.2 * r, y - r);
    ctx.lineTo(x - 1.2 * r, y - r);
    ctx.closePath();
  } else {
    ctx.moveTo(x, y - 1.3 * r);
    ctx.lineTo(x + 1.2 * r, shape === "diamond" ? y : y + r);
    if (shape === "diamond") ctx.lineTo(x, y + 1.3 * r);
    ctx.lineTo(x - 1.2 * r, shape === "diamond" ? y : y + r);
    ctx.closePath();
  }
  ctx.fill();
}

function widened(low, high) {
  if (low === null || high === null) return [0, 1];
  const room = (high - low) * 0.03 || Math.max(Math.abs(low) * 0.02, 1);
  return [low - room, high + room];
}
