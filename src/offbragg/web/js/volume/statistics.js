// Limits of the colours and the histogram, from the cells that were measured. Pure.

const MOST = 60_000;  // cells that are looked at: percentiles of more are the same on a screen
export const LOW = 0.01;
export const HIGH = 0.995;

/** Some of the measured cells, sorted. @param {Float32Array} values @returns {Float32Array} */
export function sample(values) {
  const every = Math.max(1, Math.floor(values.length / MOST)) | 1;  // odd: no column is met again and again
  const found = new Float32Array(Math.ceil(values.length / every));
  let count = 0;
  for (let i = 0; i < values.length; i += every) if (values[i] === values[i]) found[count++] = values[i];
  return found.subarray(0, count).sort();
}

/** @param {Float32Array} sorted @param {number} part 0 to 1 */
export function quantile(sorted, part) {
  if (!sorted.length) return NaN;
  const place = part * (sorted.length - 1);
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}

const firstAbove = (sorted, x) => {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] > x) high = middle;
    else low = middle + 1;
  }
  return low;
};

/**
 * Ends of the colours: 1st and 99.5th percentile, of the cells above 0 where the scale is
 * logarithmic. Bragg peaks are fewer than a half per cent of the cells and do not set them.
 * @param {Float32Array} sorted @param {"log"|"linear"} scale @returns {[number, number]}
 */
export function limits(sorted, scale) {
  const known = scale === "log" ? sorted.subarray(firstAbove(sorted, 0)) : sorted;
  if (!known.length) return scale === "log" ? [1, 10] : [0, 1];
  const [low, high] = [quantile(known, LOW), quantile(known, HIGH)];
  if (high > low * (scale === "log" ? 1.001 : 1) && high > low) return [low, high];
  return scale === "log" ? [low / 2, low * 2] : [low - Math.abs(low || 1) / 2, low + Math.abs(low || 1) / 2];
}

/**
 * Counts in equal steps of the axis that the colour bar has.
 * @param {Float32Array} sorted
 * @returns {{counts: Uint32Array, low: number, high: number}}
 */
export function histogram(sorted, scale, [low, high], bins = 96) {
  const counts = new Uint32Array(bins);
  const place = scale === "log" ? (x) => Math.log(x / low) / Math.log(high / low) : (x) => (x - low) / (high - low);
  for (let i = scale === "log" ? firstAbove(sorted, 0) : 0; i < sorted.length; i++) {
    const at = Math.floor(place(sorted[i]) * bins);
    if (at >= 0 && at < bins) counts[at]++;
  }
  return {counts, low, high};
}

/** From where to where the histogram reaches: a little beyond all measured cells and the limits. */
export function reach(sorted, scale, [low, high]) {
  const known = scale === "log" ? sorted.subarray(firstAbove(sorted, 0)) : sorted;
  const bottom = known.length ? Math.min(quantile(known, 0.001), low) : low;
  const top = known.length ? Math.max(known[known.length - 1], high) : high;
  if (scale === "log") return [bottom / 1.3, top * 1.3];
  const margin = 0.03 * (top - bottom || 1);
  return [bottom - margin, top + margin];
}
