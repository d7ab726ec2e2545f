/** Tables as CSV (RFC 4180), for people who go on in a spreadsheet. */

/**
 * Write a table.
 * @param {string[]} names  of the columns, with units
 * @param {(string|number|null|undefined)[][]} rows
 */
export function writeCsv(names, rows) {
  return [names, ...rows].map((row) => row.map(field).join(",")).join("\r\n") + "\r\n";
}

/** Columns of a table of runs. */
export const RUN_COLUMNS = [
  "scan_id", "uid", "time", "sample", "temperature_K", "purpose", "plan", "sweep", "sweeps",
  "exit_status", "frames", "stored", "missing", "rejected", "pending", "series",
];

/** One run, in the order of `RUN_COLUMNS`; the time in ISO 8601, UTC. */
export function runAsRow(row) {
  const frames = row.frames ?? {};
  const time = row.time == null ? null : new Date(1000 * row.time).toISOString();
  return [
    row.scan_id, row.uid, time, row.sample, row.temperature, row.purpose, row.plan, row.sweep,
    row.sweeps, row.exit_status, row.n_frames, frames.stored, frames.missing, frames.rejected,
    frames.pending, row.series,
  ];
}

/** Hand a text to the reader as a file. */
export function saveText(name, text, type = "text/csv") {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A field that a spreadsheet would take for a formula is text all the same. */
function field(value) {
  if (value === null || value === undefined) {
    return "";
  }
  let text = String(value);
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) {
    text = `'${text}`;
  }
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
