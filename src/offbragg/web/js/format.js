// Numbers and times as a scientist writes them.

const UP = {
  "-": "⁻",
  0: "⁰",
  1: "¹",
  2: "²",
  3: "³",
  4: "⁴",
  5: "⁵",
  6: "⁶",
  7: "⁷",
  8: "⁸",
  9: "⁹",
};
const known = (x) => typeof x === "number" && Number.isFinite(x);
const signed = (text) => text.replace(/^-/, "−");

/** @param {number} power @returns {string} 10⁴ */
export const powerOfTen = (power) => `10${[...String(power)].map((digit) => UP[digit]).join("")}`;

/**
 * A value with its error in the last digits: 90.02(3). One digit of error, two if it begins with 1.
 * @param {number|null} value @param {number|null} error
 */
export function withError(value, error) {
  if (!known(value)) return "–";
  if (!known(error) || error <= 0) return number(value);
  let power = Math.floor(Math.log10(error));
  let digits = Math.round(error / 10 ** power);
  if (digits < 2 || digits >= 10) {
    power = digits >= 10 ? power : power - 1;
    digits = Math.round(error / 10 ** power);
  }
  if (power >= 0) {
    const unit = 10 ** power;
    return signed(`${Math.round(value / unit) * unit}(${digits * unit})`);
  }
  return signed(`${value.toFixed(-power)}(${digits})`);
}

/**
 * A number of a few digits, never with an e.
 * @param {number|null} x @param {number} [digits] significant
 */
export function number(x, digits = 4) {
  if (!known(x)) return "–";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1e5 || size < 1e-3) {
    let power = Math.floor(Math.log10(size));
    let head = (x / 10 ** power).toPrecision(Math.min(digits, 3));
    if (Math.abs(Number(head)) >= 10) head = (x / 10 ** ++power).toPrecision(Math.min(digits, 3));
    return signed(`${Number(head)} × ${powerOfTen(power)}`);
  }
  return signed(String(Number(x.toPrecision(digits))));
}

/** A number with its unit, a thin space between. @param {number|null} x @param {string} [unit] */
export function quantity(x, unit = "", digits = 4) {
  if (!known(x)) return "–";
  return unit ? `${number(x, digits)}${unit === "°" ? "" : "\u202f"}${unit}` : number(x, digits);
}

/** Fixed decimals, so that figures do not jump. @param {number|null} x @param {number} decimals */
export const fixed = (x, decimals) => (known(x) ? signed(x.toFixed(decimals)) : "–");

/** Counts: whole below 10 000, then 1.23 × 10⁴. @param {number|null} n */
export function counts(n) {
  if (!known(n)) return "–";
  if (Math.abs(n) < 1e4) return signed(String(Number.isInteger(n) ? n : Number(n.toPrecision(4))));
  let power = Math.floor(Math.log10(Math.abs(n)));
  let head = (n / 10 ** power).toFixed(2);
  if (Math.abs(Number(head)) >= 10) head = (n / 10 ** ++power).toFixed(2);
  return signed(`${head} × ${powerOfTen(power)}`);
}

/** Bytes as people write them: 2.1 MB. @param {number|null} n */
export function bytes(n) {
  if (!known(n)) return "–";
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let at = 0;
  while (n >= 999.5 && at < units.length - 1) {
    n /= 1000;
    at++;
  }
  return `${at === 0 || n >= 100 ? Math.round(n) : n >= 10 ? n.toFixed(0) : n.toFixed(1)}\u202f${units[at]}`;
}

/** Singular and plural. @param {number} n @param {string} one @param {string} [several] */
export const plural = (n, one, several = `${one}s`) => `${n} ${n === 1 ? one : several}`;

const pad = (n) => String(n).padStart(2, "0");

/** Local time of day, with the date if it is not today. @param {number|null} t POSIX s */
export function clock(t, {seconds = true} = {}) {
  if (!known(t)) return "–";
  const at = new Date(t * 1000);
  const time = `${pad(at.getHours())}:${pad(at.getMinutes())}${seconds ? `:${pad(at.getSeconds())}` : ""}`;
  return at.toDateString() === new Date().toDateString() ? time : `${day(t)} ${time}`;
}

/** @param {number} t POSIX s @returns {string} 2026-11-29 */
export function day(t) {
  const at = new Date(t * 1000);
  return `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}`;
}

/** The viewer's zone, as its offset: UTC+01:00. @param {number} [t] POSIX s */
export function zone(t = Date.now() / 1000) {
  const minutes = -new Date(t * 1000).getTimezoneOffset();
  const size = Math.abs(minutes);
  return minutes === 0
    ? "UTC"
    : `UTC${minutes < 0 ? "−" : "+"}${pad(Math.floor(size / 60))}:${pad(size % 60)}`;
}

/** Date, time and zone. @param {number|null} t POSIX s */
export const moment = (t) => (known(t) ? `${day(t)} ${clock(t).split(" ").pop()} ${zone(t)}` : "–");

/** A length of time: 4:12, 3 h 40 min, 2 d 4 h. @param {number|null} s */
export function span(s) {
  if (!known(s)) return "–";
  s = Math.max(0, Math.round(s));
  if (s < 3600) return `${Math.floor(s / 60)}:${pad(s % 60)}`;
  const minutes = Math.round(s / 60);
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${pad(minutes % 60)} min`;
  const hours = Math.round(minutes / 60);
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** How long ago, in words. @param {number|null} t POSIX s */
export function since(t, now = Date.now() / 1000) {
  if (!known(t)) return "–";
  const s = Math.max(0, now - t);
  if (s < 60) return `${Math.floor(s)} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  return `${span(s)} ago`;
}
