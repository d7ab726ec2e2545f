// Frames: what became of every expected frame of a series, and what stands in the way.

import {el, fill, notice, put} from "../dom.js";
import {clock, fixed} from "../format.js";
import {Detail} from "../frames/detail.js";
import {Health} from "../frames/health.js";
import {Ledger} from "../frames/ledger.js";
import {Strip} from "../frames/strip.js";

const MOST = 500; // runs that are listed at once
const AT_ONCE = 4; // ledgers that are read at the same time
const LOOK = 2000; // ms between two looks for a run that is not listed yet
const FRESH = 1000; // ms between two readings of a ledger that grows

let ctx;
let health;
let detail;
let list;
let picker;
let summary;
let onlyFaults;
let route = {id: "", query: new URLSearchParams()};
let isShown = false;
let series = "";
let seriesSeen = "";
let lookedAt = 0;
let sought = ""; // run of the address that was scrolled to
/** @type {Map<string, any>} uid → {row, strip, ledger, root, …} */
const entries = new Map();
const queue = [];
let running = 0;
let watcher;
let chosen = {uid: "", index: null};

// ---- the rows ------------------------------------------------------------------------

function entryOf(row) {
  const status = el("span.strip-counts");
  const name = el("a.strip-name", {
    href: `#/now/${encodeURIComponent(row.uid)}`,
    title: "Look at its frames",
  });
  const more = el("span.muted.strip-more");
  const entry = {row, ledger: null, seen: false, stale: true, read: 0, status, name, more};
  entry.strip = new Strip({
    pointed: (index) => pointed(entry, index),
    choose: (index) => choose(entry, index),
  });
  entry.root = el(
    "div.sweep",
    {role: "listitem"},
    el("div.sweep-label", {}, name, more),
    entry.strip.root,
    status,
  );
  entry.root.dataset.uid = row.uid;
  watcher.observe(entry.root);
  return entry;
}

function labelled(entry) {
  const {row, ledger} = entry;
  put(entry.name, `#${row.scan_id ?? "–"}`);
  const sweep = row.sweeps > 1 ? ` ${row.sweep}/${row.sweeps}` : "";
  put(
    entry.more,
    `${row.sample ?? "–"} ${row.temperature === null || row.temperature === undefined ? "" : `${row.temperature}\u202fK`}${sweep}`,
  );
  entry.more.title = `${entry.more.textContent}, ${clock(row.time)}`;
  const counts = ledger?.answer.counts ?? row.frames ?? {};
  const n = ledger?.n ?? row.n_frames;
  const fault = (status, text) =>
    el(
      "span.fault",
      {},
      ...(counts[status]
        ? [el(`span.tick.tick-${status}`, {"aria-hidden": "true"}), `${counts[status]} ${text}`]
        : []),
    );
  fill(
    entry.status,
    el("span.strip-stored", {}, `${counts.stored ?? 0}`, el("span.muted", {}, ` / ${n ?? "–"}`)),
    fault("missing", "missing"),
    fault("rejected", "rejected"),
    fault("pending", row.exit_status === "running" ? "pending" : "never came"),
  );
  entry.root.classList.toggle("perfect", !(counts.missing || counts.rejected || counts.pending));
}

function pointed(entry, index) {
  const {ledger} = entry;
  if (index === null || !ledger) {
    put(summary, words());
    return;
  }
  const reason = ledger.reason(index);
  put(
    summary,
    `#${entry.row.scan_id} frame ${index}, ${ledger.answer.axis ?? ""} ${fixed(ledger.angle(index), 2)}°: ${ledger.status(index)}${reason ? `, ${reason}` : ""}`,
  );
}

function choose(entry, index) {
  if (chosen.uid && chosen.uid !== entry.row.uid) entries.get(chosen.uid)?.strip.choose(null);
  chosen = {uid: entry.row.uid, index};
  entry.strip.choose(index);
  detail.show(entry.row, entry.ledger, index);
  remember();
}

function queryOf() {
  const query = {};
  if (route.query.get("series")) query.series = series;
  if (chosen.uid) Object.assign(query, {run: chosen.uid, frame: String(chosen.index)});
  if (onlyFaults.checked) query.faults = "1";
  return query;
}

const remember = () => ctx.replace(queryOf());

// ---- reading -------------------------------------------------------------------------

function want(entry) {
  if (queue.includes(entry) || entry.reading) return;
  queue.push(entry);
  pump();
}

async function pump() {
  while (running < AT_ONCE && queue.length && isShown) {
    const entry = queue.shift();
    running++;
    entry.reading = true;
    read(entry).finally(() => {
      running--;
      entry.reading = false;
      pump();
    });
  }
}

async function read(entry) {
  entry.stale = false;
  entry.read = performance.now();
  try {
    const answer = await ctx.api.json(`/runs/${encodeURIComponent(entry.row.uid)}/ledger`);
    entry.ledger = new Ledger(answer);
    entry.strip.set(
      entry.ledger,
      `Frames of run ${entry.row.scan_id}, ${entry.row.sample}: ${entry.ledger.words}`,
    );
    labelled(entry);
    const asked = {uid: route.query.get("run"), index: Number(route.query.get("frame") ?? NaN)};
    if (
      entry.row.uid === asked.uid &&
      Number.isInteger(asked.index) &&
      asked.index < entry.ledger.n &&
      chosen.uid === ""
    ) {
      choose(entry, asked.index);
    } else if (entry.row.uid === chosen.uid) {
      detail.show(entry.row, entry.ledger, chosen.index);
    }
    put(summary, words());
  } catch (error) {
    if (error.away) {
      entry.stale = true;
      return;
    }
    fill(entry.strip.root, el("span.error.strip-error", {}, error.detail ?? error.message));
  }
}

/** All of it in one line. */
function words() {
  const rows = [...entries.values()];
  if (!rows.length) return "";
  const sum = {stored: 0, missing: 0, rejected: 0, pending: 0};
  for (const {row, ledger} of rows) {
    const counts = ledger?.answer.counts ?? row.frames ?? {};
    for (const status of Object.keys(sum)) sum[status] += counts[status] ?? 0;
  }
  const all = Object.values(sum).reduce((a, b) => a + b, 0);
  return `${rows.length} ${rows.length === 1 ? "sweep" : "sweeps"}, ${all} frames expected: ${sum.stored} stored, ${sum.missing} missing, ${sum.rejected} rejected, ${sum.pending} pending`;
}

async function load() {
  const wanted = series;
  try {
    const day = /^day-(\d{4})-(\d\d)-(\d\d)$/.exec(wanted);
    const asked = new URLSearchParams({limit: String(MOST)});
    if (day) {
      const from = new Date(Number(day[1]), Number(day[2]) - 1, Number(day[3])).getTime() / 1000;
      asked.set("since", String(from));
      asked.set("until", String(from + 86400));
    } else if (wanted) asked.set("series", wanted);
    const {runs, total} = await ctx.api.json(`/runs?${asked}`);
    if (wanted !== series) return;
    const rows = runs.filter((row) => row.n_frames);
    if (!rows.length) {
      entries.clear();
      fill(
        list,
        notice("No sweep yet", "As soon as a run opens, its frames appear here: one tick each."),
      );
      put(summary, "");
      return;
    }
    const kept = new Set(rows.map((row) => row.uid));
    for (const [uid, entry] of entries)
      if (!kept.has(uid)) {
        watcher.unobserve(entry.root);
        entries.delete(uid);
      }
    for (const row of rows) {
      const entry = entries.get(row.uid);
      if (entry) {
        if (
          JSON.stringify(entry.row.frames) !== JSON.stringify(row.frames) ||
          entry.row.exit_status !== row.exit_status
        )
          entry.stale = true;
        entry.row = row;
      } else entries.set(row.uid, entryOf(row));
      labelled(entries.get(row.uid));
    }
    const order = rows.map((row) => entries.get(row.uid).root);
    if (
      order.some((root, at) => list.children[at] !== root) ||
      list.children.length !== order.length
    )
      fill(list, ...order);
    list.setAttribute("aria-busy", "false");
    ctx.lines();
    if (route.id && sought !== route.id) {
      sought = route.id;
      entries.get(sought)?.root.scrollIntoView({block: "nearest"});
    }
    if (total > rows.length && rows.length === MOST)
      list.append(el("p.muted", {}, `The newest ${MOST} of ${total}; the others are in Runs.`));
    for (const entry of entries.values()) if (entry.seen && entry.stale) want(entry);
    put(summary, words());
  } catch (error) {
    if (error.away && entries.size) return;
    fill(list, notice("The frames could not be listed", error.detail ?? error.message, "error"));
  }
}

/** The series of the run that an address names; null: the catalog does not have it. */
async function seriesOf(uid) {
  try {
    return (await ctx.api.json(`/runs/${encodeURIComponent(uid)}`)).row.series;
  } catch (error) {
    if (error.away) throw error;
    ctx.say(error.detail ?? error.message, "error");
    return null;
  }
}

async function loadSeries() {
  lookedAt = performance.now();
  try {
    const known = (await ctx.api.json("/series")).series;
    const asked = route.query.get("series") ?? (route.id ? await seriesOf(route.id) : null);
    series = asked && asked !== "latest" ? asked : (known[0]?.uid ?? "");
    fill(
      picker,
      ...known.map((each) =>
        el(
          "option",
          {value: each.uid},
          `${each.samples.join(", ") || each.uid} · ${clock(each.time, {seconds: false})} · ${each.runs} ${each.runs === 1 ? "sweep" : "sweeps"}${each.state === "running" ? " · running" : ""}`,
        ),
      ),
    );
    if (series && !known.some((each) => each.uid === series))
      picker.append(el("option", {value: series}, series.slice(0, 8)));
    picker.value = series;
    picker.disabled = known.length === 0;
  } catch (error) {
    if (!error.away) ctx.say(error.detail ?? error.message, "error");
  }
  await load();
}

// ---- the view ------------------------------------------------------------------------

export const view = {
  name: "frames",
  title: "Frames",
  keys: [
    ["← →", "frame before, after, on a strip"],
    ["n p", "next, previous fault"],
    ["Home End", "first, last frame"],
    ["x", "only sweeps with faults"],
  ],

  mount(host, given) {
    ctx = given;
    const top = el("div.health-row");
    health = new Health(top);
    picker = el("select", {
      "aria-label": "Series",
      onchange: () => {
        series = picker.value;
        entries.clear();
        chosen = {uid: "", index: null};
        detail.clear();
        ctx.go(`#/frames?series=${encodeURIComponent(series)}`);
      },
    });
    onlyFaults = el("input", {
      type: "checkbox",
      id: "only-faults",
      onchange: () => {
        list.classList.toggle("only-faults", onlyFaults.checked);
        remember();
      },
    });
    summary = el("output.frames-summary", {"aria-live": "off"});
    const key = (shape, text) =>
      el("span.key", {}, el(`span.tick.tick-${shape}`, {"aria-hidden": "true"}), text);
    list = el(
      "div.sweeps",
      {role: "list", "aria-label": "Sweeps", "aria-busy": "true"},
      notice("Reading the sweeps", "One tick is one frame.", "loading"),
    );
    const detailHost = el("aside.card.detail", {"aria-label": "One frame", "aria-live": "polite"});
    detail = new Detail(detailHost, ctx);
    watcher = new IntersectionObserver(
      (seen) => {
        for (const {target, isIntersecting} of seen) {
          const entry = entries.get(target.dataset.uid);
          if (!entry) continue;
          entry.seen = isIntersecting;
          if (isIntersecting && entry.stale) want(entry);
        }
      },
      {rootMargin: "200px"},
    );
    host.append(
      top,
      el(
        "section.card.ledger",
        {"aria-label": "Frames of each sweep"},
        el(
          "div.controls.frames-bar",
          {},
          el("h2", {}, "Frames"),
          picker,
          el("label", {for: "only-faults"}, onlyFaults, " only with faults"),
          el(
            "span.keys-line",
            {},
            key("stored", "stored"),
            key("missing", "missing"),
            key("rejected", "rejected"),
            key("pending", "pending"),
          ),
        ),
        summary,
        list,
      ),
      detailHost,
    );
  },

  show(given) {
    const first = !isShown;
    const before = route;
    route = given;
    isShown = true;
    onlyFaults.checked = route.query.get("faults") === "1";
    list.classList.toggle("only-faults", onlyFaults.checked);
    const again =
      first ||
      entries.size === 0 ||
      [...entries.values()].some((entry) => entry.stale && entry.seen);
    if (again || before.id !== route.id || before.query.get("series") !== route.query.get("series")) loadSeries();
  },

  update(now) {
    health.update(now);
    const state = `${now.engine?.series?.uid} ${now.engine?.run?.uid}`;
    if (seriesSeen && state !== seriesSeen) route.query.get("series") ? load() : loadSeries();
    seriesSeen = state;
    const measured = now.engine?.run?.uid;
    if (measured && !entries.has(measured) && !route.query.get("series") && !route.id) {
      // it is in the list a moment after it began
      if (performance.now() - lookedAt > LOOK) loadSeries();
    }
    const entry = entries.get(now.frames?.run ?? now.engine?.run?.uid);
    const counted = `${now.frames?.stored} ${now.frames?.missing} ${now.frames?.rejected}`;
    if (!entry || entry.counted === counted) return;
    entry.counted = counted;
    entry.stale = true;
    clearTimeout(entry.timer);
    const rest = Math.max(0, FRESH - (performance.now() - entry.read));
    entry.timer = setTimeout(() => entry.seen && entry.stale && want(entry), rest);
  },

  hide() {
    isShown = false;
  },

  onKey(event) {
    if (event.key === "x") {
      onlyFaults.click();
      return true;
    }
    const entry = entries.get(chosen.uid) ?? [...entries.values()].find((each) => each.ledger);
    if (!entry?.ledger) return false;
    if (event.key === "n" || event.key === "p") {
      const direction = event.key === "n" ? 1 : -1;
      const all = [...entries.values()].filter((each) => each.ledger);
      let at = all.indexOf(entry);
      let index = entry.ledger.fault(
        chosen.uid === entry.row.uid ? chosen.index : direction > 0 ? -1 : Infinity,
        direction,
      );
      while (index === null && all[at + direction]) {
        at += direction;
        index = all[at].ledger.fault(direction > 0 ? -1 : Infinity, direction);
      }
      if (index !== null) {
        choose(all[at], index);
        all[at].root.scrollIntoView({block: "nearest"});
      } else ctx.say("No further fault");
      return true;
    }
    const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!by) return false;
    choose(entry, Math.max(0, Math.min(entry.ledger.n - 1, chosen.uid ? chosen.index + by : 0)));
    return true;
  },

  link: () => ({id: "", query: {...queryOf(), ...(series ? {series} : {})}}),

  python() {
    const uid = chosen.uid || (entries.has(route.id) ? route.id : [...entries.keys()][0]);
    return uid
      ? `import offbragg\nbeamline = offbragg.connect("${location.origin}")\nrun = beamline.runs["${uid.slice(0, 8)}"]\nledger = run.ledger`
      : "";
  },
};
