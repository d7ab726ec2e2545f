// The one line on every view: what is measured, how far it is, how long it will take.

import {el, fill, put} from "./dom.js";
import {clock, fixed, plural, span} from "./format.js";

const KINDS = {measuring: "busy", idle: "off", paused: "warn", suspended: "warn", gone: "off"};
/** What the states of a RunEngine mean to people. */
export const WORDS = {
  measuring: "measuring",
  idle: "idle",
  paused: "paused",
  suspended: "suspended",
  gone: "no session",
  others: "other people measure",
};

/**
 * @param {any} now the newest /now, or null
 * @param {{state: string, since: number}} link
 */
export function drawStatus(now, link) {
  const line = document.getElementById("status-line");
  const away = link.state === "away";
  if (!now) {
    fill(
      line,
      el(`span.mark.mark-${away ? "bad" : "off"}`, {"aria-hidden": "true"}),
      el(
        "b",
        {},
        away
          ? `server away since ${clock(link.since)}`
          : link.state === "refused"
            ? "not known"
            : "connecting …",
      ),
    );
    return;
  }
  put(document.getElementById("status-beamline"), now.beamline ?? "");
  const {state, run, series} = now.engine;
  const temperature = now.engine.values?.temperature;
  const parts = [
    el(`span.mark.mark-${away ? "bad" : (KINDS[state] ?? "off")}`, {"aria-hidden": "true"}),
    el("b", {}, away ? `away since ${clock(link.since)}` : (WORDS[state] ?? state)),
  ];
  if (run) {
    parts.push(el("span", {}, `#${run.scan_id ?? "–"} ${run.sample ?? ""}`));
    if (temperature?.value !== undefined && temperature?.value !== null) {
      parts.push(el("span", {}, `${fixed(temperature.value, 2)}\u202fK`));
    } else if (run.temperature !== null && run.temperature !== undefined) {
      parts.push(el("span", {}, `${run.temperature}\u202fK`));
    }
    if (run.sweeps) parts.push(el("span.wide", {}, `sweep ${run.sweep}/${run.sweeps}`));
    parts.push(el("span", {}, `${run.done ?? 0}/${run.n ?? "–"}`));
  } else if (now.engine.since) {
    parts.push(el("span.muted", {}, `since ${clock(now.engine.since, {seconds: false})}`));
  }
  fill(line, ...parts);
  const right = [];
  if (run?.n)
    right.push(
      el("progress", {max: run.n, value: run.done ?? 0, "aria-label": "Frames of this sweep"}),
    );
  if (run?.left !== null && run?.left !== undefined)
    right.push(el("span", {}, `${span(run.left)} left`));
  if (series?.left !== null && series?.left !== undefined)
    right.push(el("span.muted.wide", {}, `series ${span(series.left)} left`));
  fill(document.getElementById("status-progress"), ...right);
  const alarms = document.getElementById("status-alarms");
  const n = now.alarms?.length ?? 0;
  alarms.hidden = n === 0;
  put(alarms, `▲ ${plural(n, "alarm")}`);
}
