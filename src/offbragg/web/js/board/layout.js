/**
 * The phase diagram as rows and columns, from the answer of `/series/UID`: no DOM, no requests.
 *
 * @typedef {{stored: number, missing: number, rejected: number, pending: number}} Frames
 * @typedef {{sample: string, temperature: number|null, state: string, runs: string[],
 *   frames: Frames|null, expected: number|null, completeness: number|null, alarms: string[],
 *   volume: string|null, volume_state: string|null, lattice: object|null}} Cell
 * @typedef {{samples: string[], temperatures: (number|null)[], rows: (Cell|null)[][],
 *   counts: Record<string, number>, alarms: number, byName: Map<string, Cell>}} Board
 */

/** A state in words, and the name of its colour. */
export const STATES = {
  measured: { word: "measured", colour: "ok" },
  measuring: { word: "measuring", colour: "busy" },
  planned: { word: "planned", colour: "off" },
  failed: { word: "failed", colour: "bad" },
};

/**
 * Sort the cells of a series into rows (samples) and columns (temperatures, rising).
 * @param {{samples?: string[], temperatures?: number[], cells: Cell[]}} series
 * @returns {Board}
 */
export function layBoard(series) {
  const cells = series.cells ?? [];
  const samples = unique([...(series.samples ?? []), ...cells.map((cell) => cell.sample)]);
  const temperatures = unique([
    ...(series.temperatures ?? []),
    ...cells.map((cell) => cell.temperature ?? null),
  ]).sort((a, b) => (a ?? Infinity) - (b ?? Infinity));
  const rows = samples.map(() => temperatures.map(() => null));
  const counts = { measured: 0, measuring: 0, planned: 0, failed: 0 };
  let alarms = 0;
  for (const cell of cells) {
    rows[samples.indexOf(cell.sample)][temperatures.indexOf(cell.temperature ?? null)] = cell;
    counts[cell.state] = (counts[cell.state] ?? 0) + 1;
    alarms += warningsOf(cell).length ? 1 : 0;
  }
  const byName = new Map(cells.map((cell) => [nameOf(cell), cell]));
  return { samples, temperatures, rows, counts, alarms, byName };
}

/** Name of a cell in addresses: `LSMO-140@90`. */
export const nameOf = (cell) => `${cell.sample}@${cell.temperature ?? ""}`;

/** Find cells by their names, in the order of the names; names of no cell are left out. */
export const cellsNamed = (board, names) => names.flatMap((name) => board.byName.get(name) ?? []);

/** What is wrong with a cell, in words: its alarms, and frames that are not in the file. */
export function warningsOf(cell) {
  const alarms = cell.alarms ?? [];
  const more = ["missing", "rejected"].filter((state) => (
    cell.frames?.[state] && !alarms.some((alarm) => alarm.includes(state))));
  return [...alarms, ...more.map((state) => `${frames(cell.frames[state])} ${state}`)];
}

/** Parts of the frames expected, as fractions: what the bar below a cell shows. */
export function partsOf(cell) {
  const { stored = 0, missing = 0, rejected = 0, pending = 0 } = cell.frames ?? {};
  const whole = Math.max(cell.expected ?? 0, stored + missing + rejected + pending, 1);
  return { stored: stored / whole, missing: missing / whole, rejected: rejected / whole };
}

/**
 * One line about a cell, for the line below the board and for screen readers.
 * @param {Cell} cell @param {number|null} [measured] part of the cells of its volume
 */
export function lineOf(cell, measured = null) {
  const { stored = 0 } = cell.frames ?? {};
  const parts = [
    cell.sample,
    cell.temperature == null ? "temperature unknown" : `${cell.temperature} K`,
    STATES[cell.state]?.word ?? cell.state,
  ];
  if (cell.expected) {
    parts.push(`${stored} of ${frames(cell.expected)} stored`);
  }
  parts.push(...warningsOf(cell));
  if (cell.volume_state) {
    parts.push(`volume ${cell.volume_state}`);
  }
  if (measured !== null) {
    parts.push(`${percent(measured)} of S(Q) measured`);
  }
  return parts.join(" · ");
}

/**
 * Where a key leads from a cell; empty places are skipped. Null: the key is not one of these.
 * @returns {[number, number]|null} row and column
 */
export function move(board, [row, column], key) {
  const steps = {
    ArrowLeft: [0, -1],
    ArrowRight: [0, 1],
    ArrowUp: [-1, 0],
    ArrowDown: [1, 0],
    Home: [0, -Infinity],
    End: [0, Infinity],
  };
  if (!(key in steps)) {
    return null;
  }
  const [down, right] = steps[key];
  if (!Number.isFinite(right)) {
    const filled = board.rows[row].flatMap((cell, at) => (cell ? [at] : []));
    return [row, (right < 0 ? filled[0] : filled.at(-1)) ?? column];
  }
  for (let r = row + down, c = column + right; board.rows[r]?.[c] !== undefined;
    r += down, c += right) {
    if (board.rows[r][c]) {
      return [r, c];
    }
  }
  return [row, column];
}

/** Width of a cell in pixels: all columns fit where they can, and a few rows leave room below. */
export function cellWidth(rows, columns, available, { least = 40, most = 132, gap = 4 } = {}) {
  most = Math.min(most, Math.max(72, Math.floor(194 / Math.max(rows, 1)) - 10));
  const fits = Math.floor((available + gap) / Math.max(columns, 1)) - gap;
  return Math.max(least, Math.min(most, fits));
}

/** What a series has come to, in words. */
export function summaryOf(board) {
  const { counts } = board;
  const whole = board.rows.flat().filter(Boolean).length;
  const parts = [`${counts.measured} of ${whole} ${whole === 1 ? "cell" : "cells"} measured`];
  for (const state of ["measuring", "failed"]) {
    if (counts[state]) {
      parts.push(`${counts[state]} ${state}`);
    }
  }
  if (board.alarms) {
    parts.push(`${board.alarms} with warnings`);
  }
  return parts.join(" · ");
}

export const frames = (n) => `${n} ${n === 1 ? "frame" : "frames"}`;
const percent = (x) => `${(100 * x).toFixed(x > 0.995 && x < 1 ? 2 : 1)} %`;
const unique = (values) => [...new Set(values)];
