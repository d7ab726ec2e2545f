// What one glance must give: is it measuring, what, how good, until when, and what is to be done.

import {el, fill, put} from "../dom.js";
import {clock, fixed, number, plural, quantity, since, span} from "../format.js";
import {WORDS} from "../statusline.js";

const KINDS = {measuring: "busy", idle: "off", paused: "warn", suspended: "warn", gone: "off"};
const OLD = 15; // s: a value that is older says so, and is not judged
const STALE = 30; // s: the RunEngine speaks more often while it measures

const known = (x) => x !== null && x !== undefined;

/** One figure with what it is and a line below. */
function tile(name) {
  const parts = {
    label: el("span.tile-label"),
    value: el("span.tile-value"),
    more: el("span.tile-more"),
    bar: el("progress", {max: 1, value: 0}),
  };
  const root = el(`div.tile.tile-${name}`, {}, parts.label, parts.value, parts.bar, parts.more);
  return {root, ...parts};
}

export class Headline {
  #time = 0; // of the server
  /** @param {HTMLElement} host */
  constructor(host) {
    this.tiles = Object.fromEntries(
      ["state", "sample", "temperature", "sweep", "series"].map((name) => [name, tile(name)]),
    );
    this.tiles.sweep.bar.setAttribute("aria-label", "Frames of this sweep");
    this.tiles.series.bar.setAttribute("aria-label", "Runs of this series");
    for (const name of ["state", "sample", "temperature"]) this.tiles[name].bar.remove();
    for (const [name, {label, value}] of Object.entries(this.tiles)) {
      put(label, name);
      put(value, "–");
    }
    this.waits = el("div.waits", {role: "status"});
    host.append(
      el("div.headline.card", {}, ...Object.values(this.tiles).map((each) => each.root)),
      this.waits,
    );
  }

  /** @param {any} now @param {any} shown row of the run whose frames are shown, or null */
  update(now, shown = null) {
    const {engine, frames} = now;
    const {state, run, series, values = {}} = engine;
    this.#time = now.time;
    const set = (name, label, value, more, kind = "") => {
      const it = this.tiles[name];
      put(it.label, label);
      if (typeof value === "string") put(it.value, value);
      else fill(it.value, ...value);
      put(it.more, more);
      it.root.dataset.kind = kind;
    };
    const kind = KINDS[state] ?? "off";
    set(
      "state",
      known(engine.since) ? `since ${clock(engine.since, {seconds: false})}` : "state",
      [
        el(`span.mark.mark-${kind}`, {"aria-hidden": "true"}),
        (WORDS[state] ?? state).replace(/^./, (c) => c.toUpperCase()),
      ],
      this.#second(engine),
      kind,
    );
    const last = run ? null : shown;
    const ended = last && last.exit_status !== "running" ? `${last.exit_status}, ` : "";
    if (last)
      set(
        "sample",
        `last run, #${last.scan_id ?? "–"}`,
        last.sample ?? "–",
        `${ended}${since(last.stop_time ?? last.time)}`,
      );
    else
      set(
        "sample",
        run ? `#${run.scan_id ?? "–"} · ${run.purpose ?? "data"}` : "sample",
        run?.sample ?? "–",
        engine.plan ?? "",
      );
    this.#temperature(set, values.temperature, run ?? last);
    const done = run?.done ?? frames?.stored ?? 0;
    set(
      "sweep",
      `${run?.sweeps ? `sweep ${run.sweep ?? 1} of ${run.sweeps}` : "sweep"}${known(run?.left) ? ", time left" : ""}`,
      run
        ? known(run.left)
          ? span(run.left)
          : `${done} of ${run.n ?? "–"}`
        : last
          ? "ended"
          : "–",
      run
        ? `${done} of ${plural(run.n ?? 0, "frame")}${this.#faults(frames)}`
        : last
          ? `${(frames?.run === last.uid ? frames : last.frames)?.stored ?? 0} of ${plural(last.n_frames ?? 0, "frame")} stored`
          : "",
    );
    this.#bar("sweep", run ? done : 0, run?.n);
    set(
      "series",
      series
        ? `series, ${series.done} of ${plural(series.n, "run")}${known(series.left) ? ", left" : ""}`
        : "series",
      known(series?.left) ? span(series.left) : series ? `${series.done} of ${series.n}` : "–",
      known(series?.left)
        ? `done about ${clock(Date.now() / 1000 + series.left, {seconds: false})}`
        : "",
    );
    this.#bar("series", series?.done ?? 0, series?.n);
    this.#lines(now);
  }

  #second(engine) {
    if (engine.state === "gone") return "no RunEngine holds the file";
    if (known(engine.age) && engine.age > STALE) return `last heard ${span(engine.age)} ago`;
    return known(engine.age) ? "speaks now" : "";
  }

  #faults(frames) {
    const parts = [];
    if (frames?.missing) parts.push(`${frames.missing} missing`);
    if (frames?.rejected) parts.push(`${frames.rejected} rejected`);
    return parts.length ? `, ${parts.join(", ")}` : "";
  }

  #temperature(set, temperature, run) {
    if (!known(temperature?.value)) {
      set(
        "temperature",
        "temperature",
        known(run?.temperature) ? quantity(run.temperature, "K") : "–",
        known(run?.temperature) ? "set point of the run" : "not measured",
      );
      return;
    }
    const {value, unit = "K", set: asked, window, label, time} = temperature;
    const age = known(time) ? this.#time - time : 0;
    const off = known(asked) ? value - asked : null;
    const inside = off === null || !known(window) || Math.abs(off) <= window;
    set(
      "temperature",
      `${label ?? "temperature"}${age > OLD ? `, ${span(age)} old` : ""}`,
      `${fixed(value, 2)}\u202f${unit}`,
      known(asked)
        ? `set ${number(asked, 5)}\u202f${unit}, ${inside ? "" : "outside "}± ${known(window) ? number(window, 3) : "?"}`
        : "no set point",
      age > OLD ? "old" : inside ? "" : "warn",
    );
  }

  #bar(name, done, all) {
    const {bar} = this.tiles[name];
    bar.classList.toggle("unknown", !all);
    bar.max = all || 1;
    bar.value = all ? done : 0;
  }

  #lines(now) {
    const {engine, frames, alarms = []} = now;
    const line = (kind, text, more = null) =>
      el(
        `p.wait.wait-${kind}`,
        {},
        el(`span.mark.mark-${kind}`, {"aria-hidden": "true"}),
        el("span", {}, text),
        more && el("span.muted", {}, more),
      );
    const lines = alarms.map((alarm) =>
      line(
        alarm.severity === "minor" ? "warn" : "bad",
        `${alarm.what}: ${alarm.reason}`,
        known(alarm.since) ? since(alarm.since) : null,
      ),
    );
    const kind = engine.state === "measuring" ? "busy" : "warn"; // settling is no fault
    lines.push(...(engine.waits ?? []).map((text) => line(kind, text)));
    if (lines.length === 0) lines.push(line(...this.#calm(engine, frames)));
    fill(
      this.waits,
      ...lines.slice(0, 3),
      lines.length > 3 ? el("a", {href: "#/frames"}, `${lines.length - 3} more`) : null,
    );
  }

  #calm({state, run}, frames) {
    if (state === "measuring" && run) {
      const behind = frames?.behind ?? 0;
      return [
        "ok",
        `Nothing to wait for: frame ${known(frames?.last) ? frames.last : "–"} is stored${behind > 1 ? `, ${plural(behind, "frame")} behind` : ""}.`,
      ];
    }
    if (state === "idle") return ["off", "Nothing runs and nothing is asked for."];
    if (state === "gone")
      return [
        "off",
        "No session measures. What is shown is from the last run; a new session appears here at once.",
      ];
    return ["warn", `${WORDS[state] ?? state}.`.replace(/^./, (c) => c.toUpperCase())];
  }
}
