// What stands between a frame and its place: backlog, disks, alarms.

import {el, fill, mark} from "../dom.js";
import {bytes, clock, plural, since, span} from "../format.js";

const SOON = 6 * 3600; // s: a disk that is full before has a mark

/** @param {HTMLElement} host */
export class Health {
  constructor(host) {
    const card = (title) => {
      const body = el("div.health-body");
      host.append(el("section.card.health", {"aria-label": title}, el("h3", {}, title), body));
      return body;
    };
    this.backlog = card("Backlog");
    this.disks = card("Disks");
    this.alarms = card("Alarms");
    for (const body of [this.backlog, this.disks, this.alarms])
      fill(body, el("span.muted", {}, "not known yet"));
  }

  /** @param {any} now */
  update(now) {
    const {backlog, stacker, frames, disks = [], alarms = []} = now;
    const waiting = backlog?.frames ?? frames?.behind ?? 0;
    fill(
      this.backlog,
      el(
        "p.health-figure",
        {},
        waiting === 0
          ? mark("ok", "none")
          : mark(stacker ? "busy" : "bad", plural(waiting, "frame")),
        waiting ? el("span.muted", {}, `of ${plural(backlog?.runs ?? 1, "run")}`) : null,
      ),
      el(
        "p",
        {},
        stacker
          ? mark("ok", "offbragg stack runs")
          : mark(waiting ? "bad" : "off", "offbragg stack does not run"),
      ),
    );
    fill(
      this.disks,
      ...(disks.length
        ? disks.map((disk) => this.#disk(disk))
        : [el("span.muted", {}, "not known")]),
    );
    fill(
      this.alarms,
      ...(alarms.length
        ? alarms.map((alarm) =>
            el(
              "div.alarm",
              {},
              mark(
                alarm.severity === "minor" ? "warn" : "bad",
                alarm.what,
              ),
              el(
                "span.muted",
                {},
                typeof alarm.since === "number"
                  ? `since ${clock(alarm.since, {seconds: false})} (${since(alarm.since)})`
                  : "",
              ),
              el("p", {}, alarm.reason),
            ),
          )
        : [mark("ok", "no alarms")]),
    );
  }

  #disk({paths = [], free, rate, full}) {
    const left = typeof full === "number" ? full - Date.now() / 1000 : null;
    const kind = left !== null && left < SOON ? "warn" : "ok";
    return el(
      "div.disk",
      {},
      mark(kind, `${bytes(free)} free`),
      el(
        "span.muted",
        {},
        left !== null
          ? `full in ${span(left)}, at ${clock(full, {seconds: false})}`
          : rate > 0
            ? `${bytes(rate * 60)}/min`
            : "nothing is written",
      ),
      el("p.muted", {}, paths.join(", ")),
    );
  }
}
