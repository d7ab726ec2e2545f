// Colour maps and status colours. The maps are the public tables of matplotlib (256 × RGB bytes,
// CC0), base64: perceptually even, and read by the colour-blind.

/** @param {string} text @returns {Uint8Array} */
const table = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

/** @type {Record<string, Uint8Array>} each 256 × 3 */
export const PALETTES = {
  magma: table(
    `AAADAAAEAAAGAQAHAQEJAQELAgINAgIPAwMRBAMTBAQVBQQXBgUZBwUbCAYdCQcfCgciCwgkDAkmDQooDgoqDwssEAwvEQwxEg0zFA01FQ44Fg46Fw88GA8/GhBBGxBEHBBGHhBJHxFLIBFNIhFQIxFSJRFVJhFXKBFZKhFcKxFeLRBgLxBiMBBlMhBnNBBoNQ9qNw9sOQ9uOw9vPA9xPg9yQA9zQg90Qw91RQ92Rw93SBB4ShB5SxB5TRF6TxF7UBJ7UhJ8UxN8VRN9VxR9WBV+WhV+WxZ+XRd+Xhd/YBh/YRh/Yxl/ZRqAZhqAaBuAaRyAaxyAbB2Abh6Bbx6BcR+Bcx+BdCCBdiGBdyGBeSKBeiKBfCOBfiSBfySBgSWBgiWBhCaBhSaBhyeBiSiBiiiBjCmAjSmAjyqAkSqAkiuAlCuAlSyAlyx/mS1/mi1/nC5/ni5+ny9+oS9+ozB+pDB9pjF9pzF9qTJ8qzN8rDN7rjR7sDR7sTV6szV6tTZ5tjZ5uDd4uTd4uzh3vTl3vjl2wDp1wjp1wzt0xTx0xjxzyD1yyj5yyz5xzT9wzkBw0EFv0UJu00Jt1ENt1kRs10Vr2UZq2kdp3Ehp3Ulo3kpn4Etm4Uxm4k1l5E5k5VBj5lFi51Ji6FRh6lVg61Zg7Fhf7Vlf7lte7l1d715d8GBd8WFc8mNc82Vc82db9Ghb9Wpb9Wxb9m5b9nBb93Fb93Nc+HVc+Hdc+Xlc+Xtd+X1d+n9e+oBe+oJf+4Rg+4Zg+4hh+4pi/Ixj/I5j/JBk/JJl/JNm/ZVn/Zdo/Zlp/Ztq/Z1r/Z9s/aFu/aJv/aRw/qZx/qhz/qp0/qx1/q52/q94/rF5/rN7/rV8/rd9/rl//ruA/ryC/r6D/sCF/sKG/sSI/saJ/seL/smN/suO/c2Q/c+S/dGT/dKV/dSX/daY/dia/dqc/dyd/d2f/d+h/eGj/OOl/OWm/Oao/Oiq/Oqs/Oyu/O6w/PCx/PGz/PO1/PW3+/e5+/m7+/q9+/y/`,
  ),
  viridis: table(
    `RAFURAJVRANXRQVYRQZaRQhbRglcRgteRgxfRg5hRw9iRxFjRxJlRxRmRxVnRxZpRxhqSBlrSBpsSBxuSB1vSB5wSCBxSCFySCJzSCN0RyV1RyZ2Ryd3Ryh4Ryp5Ryt6Ryx7Ri18Ri98RjB9RjF+RTJ/RTR/RTWARTaBRDeBRDmCQzqDQzuDQzyEQj2EQj6FQkCFQUGGQUKGQEOHQESHP0WHP0eIPkiIPkmJPUqJPUuJPUyJPE2KPE6KO1CKO1GKOlKLOlOLOVSLOVWLOFaLOFeMN1iMN1mMNlqMNluMNVyMNV2MNF6NNF+NM2CNM2GNMmKNMmONMWSNMWWNMWaNMGeNMGiNL2mNL2qNLmuOLmyOLm2OLW6OLW+OLHCOLHGOLHKOK3OOK3SOKnWOKnaOKneOKXiOKXmOKHqOKHqOKHuOJ3yOJ32OJ36OJn+OJoCOJoGOJYKOJYONJISNJIWNJIaNI4eNI4iNI4mNIomNIoqNIouNIYyNIY2MIY6MII+MIJCMIJGMH5KMH5OLH5SLH5WLH5aLHpeKHpiKHpmKHpmKHpqJHpuJHpyJHp2IHp6IHp+IHqCHH6GHH6KGH6OGIKSFIKWFIaaFIaeEIqeEI6iDI6mCJKqCJauBJqyBJ62AKK5/Ka9/KrB+K7F9LLF9LrJ8L7N7MLR6MrV6M7Z5Nbd4Nrh3OLl2Obl2O7p1Pbt0PrxzQL1yQr5xRL5wRb9vR8BuScFtS8JsTcJrT8NpUcRoU8VnVcZmV8ZlWcdkW8hiXslhYMlgYspfZMtdZ8xcacxba81Zbc5YcM5Wcs9VdNBUd9BSedFRfNJPftJOgdNMg9NLhtRJiNVHi9VGjdZEkNZDktdBldc/l9g+mtg8ndk6n9k4oto3pdo1p9szqtsyrdwwr9wust0std0rt90put4nvd4mv98kwt8ixd8hx+AfyuAezeAdz+Ec0uEb1OEa1+IZ2uIY3OIY3+MY4eMY5OMY5+QZ6eQZ7OQa7uUb8eUc8+Ue9uYf+OYh+uYi/eck`,
  ),
  cividis: table(
    `ACJNACNPACNQACRSACVUACZVACZXACdZAChbAChcACleACpgACpiACtkACxmACxnAC1pAC5rAC9tAC9vADBwADBwADFwADFwBDJwCDNwCzNwDjRwETVvFDZvFjZvGDdvGjhvHDhuHTluHzpuITtuIjtuJDxuJT1tJz1tKD5tKj9tKz9tLEBtLkFsL0JsMEJsMUNsMkRsNERsNUVsNkZsN0ZsOEdsOUhsOkhrO0lrPUprPktrP0trQExrQU1rQk1rQ05rRE9rRU9rRlBrR1FrSFFrSVJrSlNrS1RsTFRsTVVsTlZsTlZsT1dsUFhsUVhsUllsU1psVFpsVVttVlxtV11tWF1tWV5tWV9tWl9tW2BuXGFuXWFuXmJuX2NuYGRuYWRvYWVvYmZvY2ZvZGdvZWhwZmlwZ2lwaGpwaGtxaWtxamxxa21xbG1ybW5ybm9ybnBzb3BzcHFzcXJzcnN0c3N0dHR1dHV1dXV1dnZ2d3d2eHh2eXh3eXl3enp3e3t3fHt4fXx4fn14f314gH54gX94goB4g4B4hIF4hYJ4hYN4hoN4h4R4iIV4iYZ4ioZ4i4d4jIh4jYl4jol4j4p3kIt3kYx3kox3k413lI53lY93lo93l5B2mJF2mZJ2mpN2m5N2nJR2nZV1npZ1n5Z1oJd1oZh0opl0o5p0pJp0pZtzppxzp51zqJ5zqZ5yqp9yq6ByrKFxraJxrqJxr6NwsKRwsaVwsqZvs6ZvtKdvtahutqlut6ptuKttuattuqxsu61svK5rva9rvrBqv7BqwbFpwrJpw7NoxLRoxbVnxrVnx7ZmyLdlybhlyrlky7pkzLtjzbxizrxiz71h0L5g0r9g08Bf1MFe1cJe1sNd18Nc2MRb2cVa2sZa28dZ3MhY3slX38pW4MtV4cxU4sxT481S5M5R5c9Q5tBP6NFO6dJN6tNM69RL7NVK7dZI7tdH79hG8dlE8tpD89pC9NtA9dw/9t09+N47+d86+uA4++E2/eI0/eMz/eU0/eY2/ec3`,
  ),
  grey: Uint8Array.from({length: 768}, (_, at) => Math.floor(at / 3)),
};

/** States of a frame and of anything else: a CSS variable and a word; `mark-NAME` is its shape. */
export const STATUS = {
  stored: "--ok",
  missing: "--bad",
  rejected: "--warn",
  pending: "--off",
  excluded: "--busy",
};

const resolved = new Map();

/**
 * Return the colour of a CSS variable as the browser resolves it now, for canvas.
 * @param {string} name e.g. "--accent"
 * @returns {string}
 */
export function token(name) {
  if (!resolved.has(name)) {
    const probe = document.createElement("span");
    probe.className = "probe";
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    resolved.set(name, getComputedStyle(probe).color);
    probe.remove();
  }
  return resolved.get(name);
}

/** Forget resolved colours and let canvases draw again: the theme has changed. */
export function themeChanged() {
  resolved.clear();
  document.dispatchEvent(new Event("themechange"));
}

/**
 * Return where a value lies in a palette: 0 to 255, or −1 where it was not measured.
 *
 * The logarithmic scale begins at `low` (> 0); what is below, and 0, has the first colour.
 * @param {number} value @param {number} low @param {number} high @param {"log"|"linear"} scale
 * @returns {number}
 */
export function shade(value, low, high, scale) {
  if (Number.isNaN(value)) return -1;
  const place =
    scale === "log"
      ? value <= 0
        ? 0
        : Math.log(value / low) / Math.log(high / low)
      : (value - low) / (high - low);
  return Math.max(0, Math.min(255, Math.floor(place * 256)));
}

/**
 * Colour values for a canvas.
 * @param {Float32Array|Int32Array} values NaN (or a negative count, with `counts`) is transparent
 * @param {{low: number, high: number, scale: "log"|"linear", palette: string, counts?: boolean}} how
 * @returns {Uint8ClampedArray} rgba, 4 bytes a value
 */
export function colour(values, {low, high, scale, palette, counts = false}) {
  const map = PALETTES[palette] ?? PALETTES.viridis;
  const colours = new Uint32Array(256);
  for (let at = 0; at < 256; at++) {
    colours[at] = 0xff000000 | (map[3 * at + 2] << 16) | (map[3 * at + 1] << 8) | map[3 * at];
  }
  const out = new Uint32Array(values.length);
  const log = scale === "log";
  const from = log ? Math.log(low) : low;
  const factor = 256 / ((log ? Math.log(high) : high) - from);
  // whole counts repeat: their logarithms are looked up
  const small = counts ? Math.min(4096, Math.ceil(Math.max(high, 1)) + 1) : 0;
  const known = new Uint32Array(small);
  const one = (value) => {
    const place = ((log ? (value > 0 ? Math.log(value) : from) : value) - from) * factor;
    return colours[place >= 255 ? 255 : place > 0 ? place | 0 : 0];
  };
  for (let value = 0; value < small; value++) known[value] = one(value);
  for (let at = 0; at < out.length; at++) {
    const value = values[at];
    if (value !== value || (counts && value < 0)) continue;
    out[at] = value < small && counts ? known[value] : one(value);
  }
  return new Uint8ClampedArray(out.buffer);
}
