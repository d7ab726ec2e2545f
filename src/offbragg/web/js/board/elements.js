// The elements of the board's view: tools, table, planes through temperature, curves.

import {PALETTES} from "../colours.js";
import {el, mark} from "../dom.js";
import {LatticeChart, OrderChart} from "./charts.js";
import {Stage} from "./stage.js";
import {BoardTable} from "./table.js";

const PLANES = ["hk0", "hk0.5", "h0l", "0kl", "hhl"];

/**
 * Build the view's elements below `host`.
 * @param {HTMLElement} host
 * @param {{planes: import("./planes.js").Planes, series: (uid: string) => void, plane: (name: string) => void,
 *   range: (range: [number, number]|null) => void, compare: () => void, choose: (cell: any, event: Event) => void,
 *   chosen: (names: string[]|string) => void, look: (cell: any) => void, point: (cell: any) => void,
 *   slide: (at: number) => void, at: (text: string) => void, address: (cell: any) => string,
 *   resized: () => void}} does what the reader's actions do; `chosen` with a name takes that one away
 */
export function buildBoard(host, does) {
  const parts = {};
  parts.series = el("select.series", {"aria-label": "Series", onchange: (event) => does.series(event.target.value)});
  parts.plane = el("input.plane", {type: "text", list: "experiment-planes", size: 7, spellcheck: "false",
    "aria-label": "Plane of S(Q)", title: "hk0, hk0.5, h0l, hhl … (p)", onchange: () => does.plane(parts.plane.value)});
  const known = el("datalist", {id: "experiment-planes"}, ...PLANES.map((name) => el("option", {value: name})));
  parts.presets = el("span.controls.wide", {role: "group", "aria-label": "Planes"}, ...PLANES.map((name) => el("button.small", {
    type: "button", onclick: () => does.plane(name)}, name)));
  parts.bar = el("canvas.scale-bar", {width: 256, height: 1, role: "img", "aria-label": "Colours, logarithmic"});
  paintBar(parts.bar);
  parts.low = el("span");
  parts.high = el("span");
  parts.auto = el("button.small", {type: "button", hidden: true, title: "Find the ends of the colours again", onclick: () => does.range(null)}, "auto");
  parts.compare = el("button.small", {type: "button", "aria-pressed": "false", title: "A click on a cell chooses it (c)",
    onclick: () => does.compare()}, "Compare");
  parts.clear = el("button.small", {type: "button", hidden: true, onclick: () => does.chosen([])}, "Clear");
  parts.error = el("p.error.plane-error", {role: "alert", hidden: true});
  parts.summary = el("p.summary", {"aria-live": "polite"});
  const meaning = el("p.meaning.wide", {"aria-hidden": "true"},
    ...[["busy", "measuring"], ["warn", "warning"], ["bad", "failed"]].map(([kind, text]) => mark(kind, text)),
    el("span.state", {}, el("span.swatch-hatch"), "not measured"));
  parts.body = el("div.experiment");
  parts.notice = el("div.experiment-notice");
  host.append(parts.notice, parts.body);

  const tools = el("header.experiment-tools", {}, parts.series,
    el("label.controls", {}, el("span.muted", {}, "plane"), parts.plane, known), parts.presets,
    el("span.scale", {title: "Intensity, counts / weight, logarithmic; the same for all cells"},
      parts.low, parts.bar, parts.high, el("span.muted.wide", {}, "counts / weight"), parts.auto));
  const boardHost = el("div.board-host.card");
  parts.detail = el("p.cell-line", {"aria-hidden": "true"});
  parts.slider = el("input.temperature", {type: "range", min: 0, max: 0, step: 1, "aria-label": "Temperature",
    oninput: () => does.slide(Number(parts.slider.value))});
  parts.sliderText = el("output.temperature-text");
  parts.marks = el("div.temperature-marks", {"aria-hidden": "true"});
  const stage = el("section.card.stage-card", {"aria-label": "The plane through temperature"},
    el("header", {}, parts.sliderText, el("div.temperature-track", {}, parts.slider, parts.marks)));
  const charts = el("div.charts");
  parts.lower = el("div.experiment-lower", {}, stage, charts);
  parts.body.append(tools, parts.error, boardHost, parts.lower);
  boardHost.append(el("header", {}, parts.summary, el("span.controls", {}, meaning, parts.clear, parts.compare)));
  parts.table = new BoardTable(boardHost, does);
  boardHost.append(parts.detail);
  parts.stage = new Stage(stage, {
    planes: does.planes, address: does.address, limited: (low, high) => does.range([low, high]),
    remove: (name) => does.chosen(name),
  });
  parts.order = new OrderChart(charts, {at: does.at});
  parts.lattice = new LatticeChart(charts);
  new ResizeObserver(() => does.resized()).observe(boardHost);
  return parts;
}

function paintBar(bar) {
  const context = bar.getContext("2d");
  const image = context.createImageData(256, 1);
  for (let at = 0; at < 256; at++) {
    image.data.set([...PALETTES.viridis.subarray(3 * at, 3 * at + 3), 255], 4 * at);
  }
  context.putImageData(image, 0, 0);
}
