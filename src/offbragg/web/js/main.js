// The page's frame: views and addresses, status line, keys, help, key form, theme.

import {Api, ApiError} from "./api.js";
import * as colours from "./colours.js";
import {copy, el, fill, notice, put} from "./dom.js";
import * as format from "./format.js";
import {Store} from "./store.js";
import {drawStatus} from "./statusline.js";
import {keyForm, helpDialog} from "./dialogs.js";

const VIEWS = [
  {name: "experiment", title: "Experiment", key: "1", glyph: "▦"},
  {name: "now", title: "Now", key: "2", glyph: "◉"},
  {name: "volume", title: "Volume", key: "3", glyph: "◫"},
  {name: "frames", title: "Frames", key: "4", glyph: "▥"},
  {name: "runs", title: "Runs", key: "5", glyph: "☰"},
];
const LOOK = 1000; // ms between looks whether the server is back, for a view that did not come
const $ = (id) => document.getElementById(id);

const api = new Api();
const store = new Store(api);
/** What a view may use. */
const ctx = {
  api,
  store,
  format,
  /** Go to an address of the page. @param {string} hash "#/view/id?query" */
  go(hash) {
    location.hash = hash;
  },
  /** Change the query of the shown view; the way back is not filled with it. */
  replace(query, id = route().id) {
    const hash = hashOf(route().view, id, query);
    if (hash !== location.hash) history.replaceState(null, "", hash);
    pythonLine();
  },
  say,
  /** The Python lines are others, and the address is not. */
  lines: () => pythonLine(),
  now: () => store.now,
};

/** @typedef {{view: string, id: string, query: URLSearchParams}} Route */

/** Write an address. @param {string} view @param {string} id @param {any} query */
function hashOf(view, id, query) {
  const text = new URLSearchParams(query)
    .toString()
    .replaceAll("%2C", ",")
    .replaceAll("%3A", ":")
    .replaceAll("%3B", ";");
  return `#/${view}${id ? `/${encodeURIComponent(id)}` : ""}${text ? `?${text}` : ""}`;
}

/** What is shown, also when the beamline has gone on; the address of a view may follow it. */
function pinned() {
  const link = mounted.get(shown)?.module?.link?.();
  return link ? new URL(hashOf(shown, link.id, link.query), location.href).href : location.href;
}

/** Read the address: #/view/id?query. @returns {Route} */
function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, ...id] = path.split("/");
  const here = VIEWS.some((each) => each.name === view) ? view : "now";
  return {view: here, id: decoded(id.join("/")), query: new URLSearchParams(query)};
}

/** @param {string} part of an address, perhaps cut off in the middle of a character */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

// ---- views ---------------------------------------------------------------------------

/** @type {Map<string, {module: any, host: HTMLElement}>} */
const mounted = new Map();
let shown = "";
/** Views that did not open, and how often that was tried. @type {Map<string, number>} */
const awaited = new Map();

/** Whether it is the server that is away, and not the module that is wrong. */
async function isAway(name) {
  try {
    const answer = await fetch(new URL(`./views/${name}.js`, import.meta.url), {cache: "no-store"});
    return new ApiError(answer.status, "").away;
  } catch {
    return true;
  }
}

/** Open a view by itself, unless somebody goes elsewhere meanwhile. */
async function openOnceBack(name) {
  do await new Promise((done) => setTimeout(done, LOOK));
  while (shown === name && !mounted.has(name) && (await isAway(name)));
  if (shown === name && !mounted.has(name)) follow();
}

async function open(name) {
  if (mounted.has(name)) return mounted.get(name);
  const about = VIEWS.find((each) => each.name === name);
  const times = awaited.get(name) ?? 0;
  if (times) document.querySelector(`.view-${name}`)?.remove();
  const host = el(`section.view.view-${name}`, {"aria-label": about.title});
  const entry = {module: null, host};
  mounted.set(name, entry);
  $("content").append(host);
  try {
    // a browser may remember that a module did not come
    entry.module = (await import(`./views/${name}.js${times ? `?again=${times}` : ""}`)).view;
    awaited.delete(name);
    fill(host);
    entry.module.mount(host, ctx);
  } catch (error) {
    entry.module = null;
    const away = await isAway(name);
    mounted.delete(name);
    awaited.set(name, times + 1);
    if (away) {
      const words = `${about.title} opens when it is back; nothing needs to be done here.`;
      fill(host, notice("The server is away", words, "loading"));
      openOnceBack(name);
      return entry;
    }
    fill(
      host,
      notice(
        `${about.title} could not be opened`,
        `${error.message} Reload the page; if that does not help, the server has another version.`,
        "error",
      ),
    );
    console.warn(error);
  }
  return entry;
}

async function follow() {
  const here = route();
  if (shown && shown !== here.view) mounted.get(shown)?.module?.hide?.();
  shown = here.view;
  title();
  for (const link of $("views").children) {
    if (link.dataset.view === shown) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const entry = await open(here.view);
  if (shown !== here.view) return;
  for (const host of $("content").children) host.hidden = host !== entry.host;
  if (!entry.module) {
    pythonLine();
    return;
  }
  attempt(() => entry.module.show(here));
  if (store.now) attempt(() => entry.module.update?.(store.now));
  pythonLine();
}

/** The tab says that there are alarms, whatever is in front. */
function title() {
  const alarms = store.now?.alarms?.length ?? 0;
  const text = `${alarms ? `▲ ${alarms} · ` : ""}${VIEWS.find((each) => each.name === shown)?.title ?? ""} · offbragg`;
  if (document.title !== text) document.title = text;
}

/** A fault of one view is said; the page goes on. */
function attempt(action) {
  try {
    const done = action();
    done?.catch?.(report);
  } catch (error) {
    report(error);
  }
}

function report(error) {
  if (error.name === "AbortError") return;
  console.warn(error);
  if (!(error instanceof ApiError && error.away)) say(error.detail ?? error.message, "error");
}

let lines = "";
function pythonLine() {
  lines = mounted.get(shown)?.module?.python?.() ?? "";
  put($("python"), lines.replaceAll("\n", "; "));
  $("copy-python").disabled = lines === "";
}

// ---- saying --------------------------------------------------------------------------

let quiet = 0;
/** Say a line for a few seconds. @param {string} text @param {"note"|"error"} [kind] */
function say(text, kind = "note") {
  const toast = $("toast");
  toast.className = `toast toast-${kind} shown`;
  put(toast, text);
  clearTimeout(quiet);
  quiet = setTimeout(() => toast.classList.remove("shown"), kind === "error" ? 8000 : 2500);
}

let wasAway = false;
function banner() {
  const {state, since} = store.link;
  if (wasAway && (state === "live" || state === "asking")) {
    wasAway = false;
    const module = mounted.get(shown)?.module;
    if (module) attempt(() => module.show(route())); // reads what it could not
  }
  wasAway ||= state === "away";
  const bar = $("banner");
  bar.hidden = state !== "away" && state !== "refused";
  document.body.classList.toggle("stale", state === "away");
  if (state === "away") {
    put(
      bar,
      `The server is away since ${format.clock(since)} (${format.since(since)}). ` +
        "What is shown is from before; the page goes on when it is back.",
    );
  } else if (state === "refused") {
    put(
      bar,
      `The state of the beamline is not known: ${store.link.why} What was measured can be read.`,
    );
  }
}

// ---- keys ----------------------------------------------------------------------------

let steps = 0; // within the page: Esc does not leave it
function onKey(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector("dialog[open]")) return;
  const field = event.target.closest?.("input, select, textarea");
  if (event.key === "Escape" && field) {
    field.blur();
    return;
  }
  if (field) return;
  const view = VIEWS.find((each) => each.key === event.key);
  if (view) ctx.go(`#/${view.name}`);
  else if (event.key === "?") showHelp();
  else if (mounted.get(shown)?.module?.onKey?.(event)) {
    /* the view took it */
  } else if (event.key === "t") changeTheme();
  else if (event.key === "/") ctx.go("#/runs?focus=search");
  else if (event.key === "Escape" && steps > 0) {
    steps -= 2;
    history.back();
  } else return;
  event.preventDefault();
}

function showHelp() {
  const module = mounted.get(shown)?.module;
  helpDialog($("help-dialog"), VIEWS, module);
}

// ---- theme ---------------------------------------------------------------------------

function changeTheme() {
  const root = document.documentElement;
  const dark =
    (root.dataset.theme ??
      (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  root.dataset.theme = dark ? "light" : "dark";
  try {
    localStorage.setItem("offbragg-theme", root.dataset.theme);
  } catch {
    /* private window */
  }
  colours.themeChanged();
}

function firstTheme() {
  try {
    const chosen = localStorage.getItem("offbragg-theme");
    if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
  } catch {
    /* private window: that of the system */
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", colours.themeChanged);
}

// ---- begin ---------------------------------------------------------------------------

async function begin() {
  firstTheme();
  fill(
    $("views"),
    ...VIEWS.map((view) => {
      const link = el(
        "a.view-link",
        {
          href: `#/${view.name}`,
          "aria-keyshortcuts": view.key,
          title: `${view.title} (${view.key})`,
        },
        el("span.glyph", {"aria-hidden": "true"}, view.glyph),
        el("span", {}, view.title),
        el("kbd", {"aria-hidden": "true"}, view.key),
      );
      link.dataset.view = view.name;
      return link;
    }),
  );
  const ask = keyForm($("key-dialog"), api, () => store.reconnect());
  api.askForKey = ask;
  const token = /^#enter=(.+)$/.exec(location.hash);
  if (token) {
    history.replaceState(null, "", location.pathname); // a used token stays in no address
    try {
      await api.enter({token: decoded(token[1])});
    } catch (error) {
      say(error.detail, "error");
    }
  }
  $("skip").addEventListener("click", (event) => {
    event.preventDefault();
    $("content").focus();
  });
  $("theme").addEventListener("click", changeTheme);
  $("keys").addEventListener("click", () => ask(true));
  $("help").addEventListener("click", showHelp);
  $("copy-python").addEventListener("click", async () => {
    say((await copy(lines)) ? "Python lines copied" : "The browser does not allow copying");
  });
  $("copy-link").addEventListener("click", async () => {
    const link = pinned();
    say((await copy(link)) ? "Link copied" : link);
  });
  addEventListener("hashchange", () => {
    steps++;
    follow();
  });
  addEventListener("keydown", onKey);
  store.addEventListener("now", () => {
    drawStatus(store.now, store.link);
    title();
    const module = mounted.get(shown)?.module;
    if (module) attempt(() => module.update?.(store.now));
    pythonLine();
  });
  store.addEventListener("link", () => {
    banner();
    drawStatus(store.now, store.link);
  });
  setInterval(() => {
    banner();
    drawStatus(store.now, store.link);
  }, 1000);
  follow();
  await store.start();
}

begin();
