// Runs: a table to search, newest first, and one run with all that belongs to it.

import {RUN_COLUMNS, runAsRow, saveText, writeCsv} from "../board/csv.js";
import {RunPanel} from "../board/run_panel.js";
import {RunsTable} from "../board/runs_table.js";
import {asPython, asQuery, readFilters} from "../board/words.js";
import {el, fill, notice, put} from "../dom.js";
import {plural} from "../format.js";

const PAGE = 50;
const TYPING = 250;  // ms after the last letter
const SOON = 2_500;  // ms between looks at runs that grow
const EXAMPLES = ["today", "80–120 K", "failed", "last 3 hours"];

let ctx;
let ui;
const state = {
  words: null, query: {}, samples: [], total: 0, more: false, loading: false, shown: false,
  timer: 0, turn: 0, open: "", error: null,
};

export const view = {
  name: "runs", title: "Runs", key: "5",
  keys: [["↑ ↓", "run above, below"], ["Enter", "open it"], ["/", "search"], ["Esc", "close the run"]],

  mount(host, context) {
    ctx = context;
    ui = build(host);
    ctx.api.json("/series").then(({series}) => {
      state.samples = [...new Set(series.flatMap((one) => one.samples))];
      fill(ui.known, ...state.samples.map((name) => el("option", {value: `sample ${name}`})));
    }, () => {});
  },

  show(route) {
    state.shown = true;
    const words = route.query.get("q") ?? "";
    if (route.query.has("focus")) {
      setTimeout(() => { ui.search.focus(); ui.search.select(); });
      address(state.open, state.words ?? "");
    }
    if (document.activeElement !== ui.search) ui.search.value = words;
    state.open = route.id;
    ui.panel.show(route.id);
    ui.host.classList.toggle("opened", route.id !== "");
    ui.table.select(route.id);
    if (words !== state.words) search(words);
    else refresh();
  },

  update(now) {
    const key = `${now.engine.run?.uid ?? ""} ${now.engine.state}`;
    if (key !== ui.key && ui.key !== undefined) refresh();
    ui.key = key;
  },

  hide() {
    state.shown = false;
    clearTimeout(state.timer);
  },

  onKey(event) {
    const {key} = event;
    if (key === "/") { ui.search.focus(); ui.search.select(); }
    else if (key === "ArrowDown" || key === "ArrowUp") {
      if (ui.panel.root.contains(event.target)) return false;
      const uid = ui.table.neighbour(key === "ArrowDown" ? 1 : -1);
      if (!uid) return false;
      if (state.open) openRun(uid, true);
      else { state.open = ""; ui.table.select(uid); }
      ui.table.reveal();
    } else if (key === "Enter" && !event.target.closest("a, button")) openRun(ui.table.neighbour(0));
    else if (key === "Escape" && state.open) close();
    else return false;
    return true;
  },

  python() {
    if (state.open && ui.panel.run) return ui.panel.python();
    return `import offbragg\nruns = offbragg.connect("${location.origin}").runs(${asPython(state.query)})`;
  },
};

function build(host) {
  const parts = {host};
  parts.search = el("input.search", {type: "search", list: "runs-known", spellcheck: "false", autocomplete: "off",
    placeholder: "sample LSMO, 80–120 K, today", "aria-label": "Search runs: sample, temperature, time, purpose, state, words",
    oninput: () => { clearTimeout(parts.typing); parts.typing = setTimeout(() => type(parts.search.value), TYPING); },
    onchange: () => type(parts.search.value)});
  parts.known = el("datalist", {id: "runs-known"});
  parts.count = el("span.runs-count", {role: "status", "aria-live": "polite"});
  parts.csv = el("button.small", {type: "button", title: "The runs found, as a table for a spreadsheet", onclick: save}, "CSV");
  parts.phrases = el("p.phrases");
  parts.notice = el("div.runs-notice");
  parts.list = el("div.runs-list.card");
  const body = el("div.runs-body", {}, parts.list);
  host.append(el("header.runs-head", {}, parts.search, parts.known, parts.count, parts.csv), parts.phrases, body);
  parts.table = new RunsTable(parts.list, {open: openRun, more, address: (uid) => hashOf(uid, state.words ?? "")});
  parts.list.prepend(parts.notice);
  parts.panel = new RunPanel(body, {
    api: ctx.api, say: ctx.say, close, loaded: () => state.shown && ctx.replace(state.words ? {q: state.words} : {}),
  });
  return parts;
}

// ---- addresses ---------------------------------------------------------------------------

function hashOf(uid, words) {
  const query = words ? `?${new URLSearchParams({q: words})}` : "";
  return `#/runs${uid ? `/${encodeURIComponent(uid)}` : ""}${query}`;
}

/** Change the address without a step back to it. */
function address(uid, words) {
  history.replaceState(null, "", hashOf(uid, words));
  ctx.replace(words ? {q: words} : {});
}

function openRun(uid, instead = false) {
  if (!uid) return;
  if (instead) {
    address(uid, state.words);
    view.show({view: "runs", id: uid, query: new URLSearchParams({q: state.words})});
  } else {
    ctx.go(hashOf(uid, state.words));
  }
}

function close() {
  const {open} = state;
  ctx.go(hashOf("", state.words));
  ui.table.select(open);
}

function type(words) {
  clearTimeout(ui.typing);
  if (words === state.words) return;
  address(state.open, words);
  search(words);
}

// ---- loading -----------------------------------------------------------------------------

const pathFor = (more = {}) => `/runs?${asQuery({...state.query, limit: PAGE, ...more})}`;

async function search(words) {
  state.words = words;
  const {query, phrases} = readFilters(words, {samples: state.samples});
  state.query = query;
  fill(ui.phrases, ...(phrases.length ? [el("span.muted", {}, "shows"), ...phrases.map((phrase) => el("span.phrase", {}, phrase))]
    : [el("span.muted", {}, "try"), ...EXAMPLES.map((text) => el("button.small", {type: "button",
      onclick: () => { ui.search.value = text; type(text); }}, text))]));
  const turn = ++state.turn;
  clearTimeout(state.timer);
  if (!ui.table.rows.length) tell(notice("Loading the runs", "Newest first.", "loading"));
  ui.list.classList.add("waiting");
  try {
    const answer = await ctx.api.json(pathFor());
    if (turn !== state.turn) return;
    state.error = null;
    take(answer);
    ui.table.show(rowsOf(answer));
    ui.table.total = answer.total;
    ui.table.select(state.open);
    if (answer.total) tell(null);
    else if (phrases.length) tell(notice("No run is like this", `Searched for: ${phrases.join(", ")}. Take a part of it away, or write other words.`));
    else tell(notice("No runs yet", "The first one appears on top as soon as a sweep begins, before its first frame."));
  } catch (error) {
    if (error.name === "AbortError" || turn !== state.turn) return;
    state.error = error;
    ui.table.show([]);
    put(ui.count, "");
    if (error.away) tell(notice("The server is away", "The runs appear when it is back; nothing needs to be done here.", "loading"));
    else tell(notice("These runs could not be searched", error.detail ?? error.message, "error"));
  } finally {
    if (turn === state.turn) {
      ui.list.classList.remove("waiting");
      later();
    }
  }
}

const rowsOf = (answer) => answer.runs ?? answer.rows ?? [];

function take(answer) {
  state.total = answer.total;
  state.more = answer.more;
  put(ui.count, plural(answer.total, "run"));
}

/** The next page, asked for before its place is seen; a large one after a leap. */
async function more(wanted) {
  if (!state.more || state.loading || !ui.table.rows.length) return;
  const turn = state.turn;
  state.loading = true;
  try {
    const limit = Math.min(Math.max(wanted, PAGE), 500);
    const answer = await ctx.api.json(pathFor({before: ui.table.rows.at(-1).uid, limit}));
    if (turn !== state.turn) return;
    ui.table.append(rowsOf(answer));
    state.more = answer.more;
  } catch (error) {
    if (!error.away && error.name !== "AbortError") ctx.say(error.detail ?? error.message, "error");
    return;
  } finally {
    state.loading = false;
  }
  ui.table.total = state.total;
}

/** Bring the newest rows and the open run up to date. */
async function refresh() {
  clearTimeout(state.timer);
  const turn = state.turn;
  if (state.error || state.words === null) {
    if (state.words !== null && state.shown) search(state.words);
    return;
  }
  try {
    const [answer] = await Promise.all([ctx.api.json(pathFor()), ui.panel.isGrowing ? ui.panel.refresh() : null]);
    if (turn !== state.turn) return;
    if (!ui.table.rows.length && answer.total) { search(state.words); return; }
    ui.table.update(rowsOf(answer));
    const {more: still} = state;
    take(answer);
    state.more = still;
    ui.table.total = answer.total;
  } catch (error) {
    if (!error.away && error.name !== "AbortError") ctx.say(error.detail ?? error.message, "error");
  }
  later();
}

function later() {
  clearTimeout(state.timer);
  if (state.shown) state.timer = setTimeout(refresh, SOON);
}

function tell(message) {
  fill(ui.notice, message);
  ui.table.scroll.hidden = message !== null;
  ui.csv.disabled = message !== null;
}

/** Write all runs that were found as CSV: pages that were not shown are asked for. */
async function save() {
  ui.csv.disabled = true;
  try {
    const rows = [];
    let answer;
    do {
      answer = await ctx.api.json(pathFor({limit: 500, ...(rows.length ? {before: rows.at(-1).uid} : {})}));
      rows.push(...rowsOf(answer));
    } while (answer.more && rows.length < 100_000);
    saveText("runs.csv", writeCsv(RUN_COLUMNS, rows.map(runAsRow)));
    ctx.say(`${plural(rows.length, "run")} written to runs.csv`);
  } finally {
    ui.csv.disabled = false;
  }
}
