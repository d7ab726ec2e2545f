// What an image has on its canvas beside itself: hatching, axes with round numbers, boxes.

import {token} from "./colours.js";

/**
 * Draw the axes of an image at its left and lower edge.
 * @param {CanvasRenderingContext2D} context
 * @param {any} panel knows `extent`, `toData`, `toScreen`
 * @param {{x: string, y: string}} labels with units
 * @param {number} left @param {number} top @param {[number, number]} size CSS px of the image
 */
export function drawAxes(context, panel, labels, left, top, size) {
  const corner = panel.toData(left, top);
  const end = panel.toData(left + size[0], top + size[1]);
  const {x, y} = panel.extent;
  const isWithin = (v, [a, b]) => v >= Math.min(a, b) - 1e-9 && v <= Math.max(a, b) + 1e-9;
  context.fillStyle = context.strokeStyle = token("--muted");
  context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
  context.lineWidth = 1;
  const [x0, y0] = panel.toScreen(x[0], y[0]);
  const [x1, y1] = panel.toScreen(x[1], y[1]);
  const bottom = Math.min(Math.max(y0, y1), top + size[1]);
  const side = Math.max(Math.min(x0, x1), left);
  context.textAlign = "center";
  context.textBaseline = "top";
  for (const {at, text} of ticks(corner.x, end.x, Math.max(2, size[0] / 48))) {
    if (!isWithin(at, x)) continue;
    const [place] = panel.toScreen(at, 0);
    context.fillRect(Math.round(place), bottom, 1, 4);
    context.fillText(text, place, bottom + 6);
  }
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const {at, text} of ticks(corner.y, end.y, Math.max(2, size[1] / 48))) {
    if (!isWithin(at, y)) continue;
    const [, place] = panel.toScreen(0, at);
    context.fillRect(side - 4, Math.round(place), 4, 1);
    context.fillText(text, side - 6, place);
  }
  context.textAlign = "center";
  context.textBaseline = "bottom";
  context.fillText(
    labels.x,
    left + size[0] / 2,
    Math.min(bottom + 34, panel.wrap.clientHeight),
  );
  context.save();
  context.translate(Math.max(side - 46, 0), top + size[1] / 2);
  context.rotate(-Math.PI / 2);
  context.textBaseline = "top";
  context.fillText(labels.y, 0, 0);
  context.restore();
}

/** The part of one box [left, top, width, height] that lies in another. */
export function within([x, y, w, h], [left, top, width, height]) {
  const [a, b] = [Math.max(Math.min(x, x + w), left), Math.max(Math.min(y, y + h), top)];
  return [
    a,
    b,
    Math.max(0, Math.min(Math.max(x, x + w), left + width) - a),
    Math.max(0, Math.min(Math.max(y, y + h), top + height) - b),
  ];
}

const patterns = new Map();

/** Diagonal hatching: not measured, and never a colour of a scale. @param {CanvasRenderingContext2D} context */
export function hatching(context) {
  const key = `${token("--hatch")}${token("--hatch-ground")}`;
  if (!patterns.has(key)) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 8;
    const draw = tile.getContext("2d");
    draw.fillStyle = token("--hatch-ground");
    draw.fillRect(0, 0, 8, 8);
    draw.strokeStyle = token("--hatch");
    draw.lineWidth = 1.2;
    draw.beginPath();
    for (const at of [-8, 0, 8]) {
      draw.moveTo(at, 8);
      draw.lineTo(at + 8, 0);
    }
    draw.stroke();
    patterns.set(key, tile);
  }
  return context.createPattern(patterns.get(key), "repeat");
}

/**
 * Round numbers for an axis.
 * @param {number} from @param {number} to @param {number} about how many
 * @returns {{at: number, text: string}[]}
 */
export function ticks(from, to, about) {
  const low = Math.min(from, to);
  const high = Math.max(from, to);
  const rough = (high - low) / about;
  if (!(rough > 0) || !Number.isFinite(rough)) return [];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((each) => each * power >= rough) * power;
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n++) {
    found.push({
      at: n * step,
      text: (n * step)
        .toFixed(decimals)
        .replace(/^-(?=0*\.?0*$)/, "")
        .replace("-", "−"),
    });
  }
  return found;
}
