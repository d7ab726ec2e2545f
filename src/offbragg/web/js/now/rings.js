// What is drawn over a frame: where the direct beam would hit, and rings of equal spacing.

const ARMS = [[1, 0], [-1, 0], [0, 1], [0, -1]]; // prettier-ignore
const RIM = [["rgb(0 0 0 / 0.55)", 3], ["rgb(255 255 255 / 0.9)", 1]]; // prettier-ignore
const POINTS = 720; // of a ring

/**
 * Draw a cross that leaves its middle free.
 * @param {CanvasRenderingContext2D} context @param {(x: number, y: number) => [number, number]} toScreen
 * @param {[number, number]|null} centre column and row
 */
export function drawBeam(context, toScreen, centre) {
  if (!centre) return;
  const [x, y] = toScreen(...centre);
  for (const [colour, width] of RIM) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    for (const [dx, dy] of ARMS) {
      context.moveTo(x + 4 * dx, y + 4 * dy);
      context.lineTo(x + 12 * dx, y + 12 * dy);
    }
    context.stroke();
  }
}

/**
 * Draw rings and label each with its spacing, Å.
 * @param {CanvasRenderingContext2D} context @param {(x: number, y: number) => [number, number]} toScreen
 * @param {import("../geometry.js").Geometry} geometry @param {number[]} spacings Å
 * @param {{panel: [number, number], sight: [number, number]}} within
 *   columns and rows of the panel; CSS px of the canvas
 */
export function drawRings(context, toScreen, geometry, spacings, {panel, sight}) {
  const labels = [];
  context.font = `600 11px ${getComputedStyle(document.body).fontFamily}`;
  for (const d of spacings) {
    const points = geometry.ring(d, POINTS).map((point) => point && toScreen(...point));
    context.beginPath();
    points.forEach((point, at) => {
      const before = points[at - 1];
      // zoomed in, most of it is far away
      if (!point || !before || !isNear(before, point, sight)) return;
      context.moveTo(...before);
      context.lineTo(...point);
    });
    for (const [colour, width] of RIM) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.stroke();
    }
    const place = labelPlace(points, [toScreen(0, 0), toScreen(...panel)], sight, labels);
    if (place) labels.push({at: place, text: `${d}\u202fÅ`});
  }
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (const {at, text} of labels) {
    const [x, y] = at;
    const wide = context.measureText(text).width + 8;
    context.fillStyle = "rgb(0 0 0 / 0.62)";
    context.fillRect(x - wide / 2, y - 8, wide, 16);
    context.fillStyle = "#fff";
    context.fillText(text, x, y + 0.5);
  }
}

/** Whether a piece of a line may cross what is in sight. */
function isNear(a, b, sight) {
  return [0, 1].every((i) => Math.max(a[i], b[i]) > 0 && Math.min(a[i], b[i]) < sight[i]);
}

/** Where a ring is labelled: on the panel, in sight, away from other labels, best up and right. */
function labelPlace(points, [corner, end], sight, others) {
  const n = points.length - 1;
  const isFree = ([x, y]) =>
    x > Math.max(corner[0] + 24, 70) &&
    x < Math.min(end[0] - 24, sight[0] - 30) &&
    y > Math.max(corner[1] + 12, 18) &&
    y < Math.min(end[1] - 12, sight[1] - 50) &&
    !others.some(({at}) => Math.abs(at[0] - x) < 52 && Math.abs(at[1] - y) < 20);
  for (let step = 0; step < n; step++) {
    const turn = Math.ceil(step / 2) * (step % 2 ? 1 : -1);
    const point = points[(Math.round(n * 0.875) + turn + n) % n];
    if (point && isFree(point)) return point;
  }
  return null;
}
