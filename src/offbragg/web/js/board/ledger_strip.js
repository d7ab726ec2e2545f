// The ledger of a sweep as one line: each state has a height and a place, not only a colour.

import {token} from "../colours.js";

const KINDS = {
  stored: ["--off", 0.35, 0.65], pending: ["--line", 0.46, 0.54],
  missing: ["--bad", 0.7, 1], rejected: ["--warn", 0, 0.65],
};

/** @param {HTMLCanvasElement} canvas @param {{n: number, status: [string, number][]}} ledger */
export function drawLedger(canvas, {n, status}) {
  const ratio = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (!width || !n) return;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const pieces = [];
  let at = 0;
  for (const [state, count] of status) {
    pieces.push([state, at, count]);
    at += count;
  }
  // what is wrong is drawn last, and at least 2 px wide
  pieces.sort((a, b) => Number(a[0] in {missing: 1, rejected: 1}) - Number(b[0] in {missing: 1, rejected: 1}));
  for (const [state, from, count] of pieces) {
    const [colour, top, bottom] = KINDS[state] ?? KINDS.pending;
    const x = (from / n) * width;
    const wide = Math.max((count / n) * width, state in {missing: 1, rejected: 1} ? 2 : 0.5);
    context.clearRect(x, 0, wide, height);
    context.fillStyle = token(colour);
    context.fillRect(x, top * height, wide, (bottom - top) * height);
  }
}
