// Experiment: samples × temperatures, filling while a series runs; curves; planes side by side.

import {el, fill, notice, put} from "../dom.js";
import {moment, number, plural, span} from "../format.js";
import {buildBoard} from "../board/elements.js";
import {cellsNamed, layBoard, lineOf, nameOf, summaryOf} from "../board/layout.js";
import {commonEnds, levelFor, Planes, spread} from "../board/planes.js";
import {ALL, SeriesReader} from "../board/series.js";

const SOON = 3_000;  // ms between looks at a series that runs
const LATE = 30_000;  // … and at one that has ended
const SAMPLED = 6;  // volumes that set the common scale
const MOST_CHOSEN = 11;

let ctx;
let ui;
const state = {
  route: "",  // uid in the address; "" is the newest
  series: null, board: null, volumes: new Map(), list: [],
  plane: "", at: "0.5,0.5,0.5", chosen: [], comparing: false,
  current: "", picked: false,  // the current cell follows the measurement until one is picked
  range: null,  // set by hand: [low, high]
  scale: null,  // {low, high, of: number of finished volumes it was taken from}
  error: null, shown: false, timer: 0, order: "", law: null, loading: false,
};
let planes;
let reader;

export const view = {
  name: "experiment", title: "Experiment", key: "1",
  keys: [
    ["← → ↑ ↓", "temperature, sample"], ["Enter", "open the volume"], ["Space", "compare this cell"],
    ["c", "compare: a click chooses"], ["[ ]", "plane by one cell"], ["p", "type a plane"],
  ],

  mount(host, context) {
    ctx = context;
    planes = new Planes(ctx.api);
    reader = new SeriesReader(ctx.api);
    ui = buildBoard(host, {
      planes, slide, address: addressOf, at: setAt, plane: setPlane, range: setRange, resized: pictures,
      series: (uid) => ctx.go(`#/experiment/${uid}${query()}`),
      compare: () => compare(!state.comparing),
      choose: (cell, event) => (state.comparing || event.shiftKey ? toggle(cell) : ctx.go(addressOf(cell))),
      chosen: (names) => setChosen(Array.isArray(names) ? names : state.chosen.filter((one) => one !== names)),
      look: (cell) => setCurrent(nameOf(cell)),
      point: (cell) => describe(cell ?? current()),
    });
  },

  show(route) {
    state.shown = true;
    const {query, id} = route;
    const before = state.route;
    state.route = id;
    state.at = query.get("at") ?? state.at;
    state.chosen = (query.get("compare") ?? "").split(",").filter(Boolean).slice(0, MOST_CHOSEN);
    state.picked = query.has("cell");
    if (state.picked) state.current = query.get("cell");
    const range = (query.get("range") ?? "").split(":").map(Number);
    state.range = range.length === 2 && range[0] > 0 && range[1] > range[0] ? range : null;
    choosePlane(query.get("plane") ?? (state.plane || "hk0"));
    if (before !== id) forget();
    load();
  },

  update(now) {
    // a run began or ended: look at once
    const key = `${now.engine.run?.uid ?? ""} ${now.engine.state}`;
    if (ui.key !== key && state.series) load();
    ui.key = key;
    if (state.series && now.engine.series?.left != null && state.series.state === "running") summarise();
  },

  hide() {
    state.shown = false;
    clearTimeout(state.timer);
  },

  onKey(event) {
    const {key} = event;
    if (!state.board) return false;
    if (ui.table.onKey(key)) return true;
    if (key === " " && event.target.classList?.contains("cell")) toggle(event.target.cell);
    else if (key === "c") compare(!state.comparing);
    else if (key === "[" || key === "]") step(key === "]" ? 1 : -1);
    else if (key === "p") { ui.plane.focus(); ui.plane.select(); }
    else if (key === "Escape" && state.comparing) compare(false);
    else return false;
    return true;
  },

  link() {
    if (!state.series) return null;
    return {id: state.series.uid, query: {...queryOf(), ...(state.current ? {cell: state.current} : {})}};
  },

  python() {
    if (!state.series) return "";
    const cell = current();
    const uid = cell?.series ?? state.series.uid;
    const lines = [
      "import offbragg",
      `series = offbragg.connect("${location.origin}").series("${uid}")`,
      `series.order_parameter((${state.at.split(",").join(", ")}))`,
    ];
    if (cell?.volume) {
      lines.push(`offbragg.connect("${location.origin}").volume("${cell.volume}").plane("${state.plane}")`);
    }
    return lines.join("\n");
  },
};

// ---- addresses ---------------------------------------------------------------------------

/** Where a click on a cell leads: its volume, or its newest run. */
function addressOf(cell) {
  if (cell.volume) return `#/volume/${encodeURIComponent(cell.volume)}?plane=${encodeURIComponent(state.plane)}`;
  return cell.runs?.length ? `#/runs/${cell.runs.at(-1)}` : "#/now";
}

function query() {
  const text = new URLSearchParams(queryOf()).toString();
  return text ? `?${text}` : "";
}

function queryOf() {
  return {
    plane: state.plane,
    ...(state.at === "0.5,0.5,0.5" ? {} : {at: state.at}),
    ...(state.range ? {range: state.range.join(":")} : {}),
    ...(state.picked ? {cell: state.current} : {}),
    ...(state.chosen.length ? {compare: state.chosen.join(",")} : {}),
  };
}

/** Write what is shown into the address, once it rests: browsers count such changes. */
function remember() {
  clearTimeout(state.writing);
  state.writing = setTimeout(() => state.shown && ctx.replace(queryOf()), 200);
}

// ---- loading -----------------------------------------------------------------------------

function forget() {
  Object.assign(state, {series: null, board: null, scale: null, order: "", error: null});
  planes.restart();
}

async function load() {
  if (state.loading) return;
  state.loading = true;
  clearTimeout(state.timer);
  if (!state.series && !state.error) tell(notice("Loading the series", "Samples, temperatures and what was measured of each.", "loading"));
  const uid = state.route;
  try {
    const {series, list, volumes} = await reader.read(uid);
    if (uid !== state.route) return;
    state.error = null;
    state.series = series;
    state.list = list;
    state.volumes = new Map(volumes.map((volume) => [volume.key, {...volume, version: volume.written}]));
    draw();
  } catch (error) {
    if (error.name === "AbortError") return;
    state.error = error;
    if (!state.series) refused(error);
    else if (!error.away) ctx.say(error.detail ?? error.message, "error");
  } finally {
    state.loading = false;
    if (uid !== state.route) load();
    else if (state.shown) {
      const runs = !state.series || state.series.state === "running";
      state.timer = setTimeout(load, state.error || runs ? SOON : LATE);
    }
  }
}

function refused(error) {
  if (error.status === 404 && !state.route) {
    tell(notice("No runs yet",
      "As soon as a series begins, there is a row for each sample here and a column for each temperature. "
      + "Cells fill with the chosen plane of S(Q) while the crystal turns, and the order parameter grows below. "
      + "Start one at the prompt, RE(temperature_series(…)), or see it all with: offbragg demo"));
  } else if (error.status === 404) {
    tell(notice("This series is not here", `${error.detail} The newest one is at #/experiment.`, "error"));
  } else if (error.away) {
    tell(notice("The server is away", "The board appears when it is back; nothing needs to be done here.", "loading"));
  } else {
    tell(notice("The series could not be read", error.detail ?? error.message, "error"));
  }
}

/** Show a notice instead of the board, or the board. */
function tell(message) {
  ui.body.hidden = message !== null;
  fill(ui.notice, message);
}

// ---- drawing -----------------------------------------------------------------------------

function draw() {
  const board = layBoard(state.series);
  if (!board.samples.length) {
    tell(notice("Nothing measured in this series yet", "Its cells appear with the first sweep."));
    return;
  }
  state.board = board;
  tell(null);
  drawSeries();
  ui.table.show(board);
  if (!state.picked || !current()) state.current = nameOf(likely(board));
  summarise();
  drawLattice();
  marks();
  findScale().then(() => { pictures(); stage(); });
  drawOrder();
  remember();
}

/** The cell to begin with: the one that is measured, or the last one that has a volume. */
function likely(board) {
  const cells = board.rows.flat().filter(Boolean);
  return cells.find((cell) => cell.state === "measuring" && cell.volume)
    ?? cells.filter((cell) => cell.volume).at(-1) ?? cells[0];
}

const current = () => state.board && cellsNamed(state.board, [state.current])[0];
const nameFor = () => `${(state.series?.uid ?? "series").slice(0, 8)}-order-parameter`;

function drawSeries() {
  const uid = state.series.uid;
  const known = uid === ALL || state.list.some((one) => one.uid === uid);
  const all = known ? state.list : [state.series, ...state.list];
  const key = all.map((one) => `${one.uid} ${one.runs} ${one.state}`).join();
  if (ui.series.dataset.key !== key) {
    ui.series.dataset.key = key;
    const several = el("option", {value: ALL}, `All series · ${plural(new Set(all.flatMap((one) => one.samples)).size, "sample")}`);
    fill(ui.series, all.length > 1 ? several : null, ...all.map((one) => el("option", {value: one.uid}, [
      moment(one.time).slice(0, 16), one.samples.slice(0, 2).join(", ") + (one.samples.length > 2 ? " …" : ""),
      one.runs === undefined ? null : plural(one.runs, "run"), one.state === "running" ? "running" : null,
    ].filter(Boolean).join(" · "))));
  }
  ui.series.value = uid;
}

function summarise() {
  const left = ctx.now()?.engine.series?.uid === state.series.uid ? ctx.now().engine.series.left : state.series.left;
  const end = state.series.state === "running" && left != null ? ` · ${span(left)} left` : "";
  put(ui.summary, `${summaryOf(state.board)}${end}`);
  describe(current());
}

function describe(cell) {
  put(ui.detail, cell ? lineOf(cell, state.volumes.get(cell.volume)?.completeness ?? null) : "\u00a0");
}

function marks() {
  ui.table.mark(state.current, state.chosen);
  const row = rowOf();
  const at = row.findIndex((cell) => nameOf(cell) === state.current);
  ui.slider.max = String(Math.max(row.length - 1, 0));
  ui.slider.value = String(Math.max(at, 0));
  const cell = row[at];
  ui.slider.setAttribute("aria-valuetext", cell ? `${cell.temperature} K, ${cell.sample}` : "");
  put(ui.sliderText, cell ? `${cell.sample} · ${cell.temperature ?? "?"}\u202fK` : "–");
  const key = row.map((one) => one.temperature).join();
  if (ui.marks.dataset.key !== key) {
    ui.marks.dataset.key = key;
    const every = Math.ceil(row.length / 13);
    fill(ui.marks, ...row.map((one, n) => el("span", {}, n % every === 0 || n === row.length - 1 ? String(one.temperature ?? "?") : "")));
  }
  ui.lattice.look(cell);
  ui.clear.hidden = state.chosen.length === 0;
  put(ui.clear, `Clear ${state.chosen.length}`);
}

/** Cells of the current one's sample that have a volume, by temperature. */
function rowOf() {
  const cell = current();
  const row = state.board?.samples.indexOf(cell?.sample) ?? -1;
  return row < 0 ? [] : state.board.rows[row].filter((one) => one?.volume || one === cell);
}

// ---- the common scale --------------------------------------------------------------------

/** Find ends for the colours of all cells; kept until there is twice as much to see. */
async function findScale() {
  if (state.range) {
    drawScale();
    return;
  }
  const ready = cellsWithVolume();
  const whole = ready.filter((cell) => cell.volume_state === "finished").length;
  if (!ready.length || (state.scale && whole < 2 * Math.max(state.scale.of, 1))) {
    drawScale();
    return;
  }
  const {plane} = state;
  const asked = await Promise.allSettled(spread(ready, SAMPLED).map((cell) => {
    const volume = volumeOf(cell);
    return planes.picture(volume, {plane, level: levelFor(volume, 64)}, 0);
  }));
  if (plane !== state.plane) return;
  const ends = asked.flatMap((one) => (one.status === "fulfilled" && one.value.cut ? [one.value.cut] : []));
  planeError(ends.length ? null : asked.find((one) => one.status === "rejected")?.reason);
  if (!ends.length) return;
  const found = commonEnds(ends);
  const before = state.scale;
  const near = before && [found.low / before.low, found.high / before.high].every((ratio) => ratio > 0.67 && ratio < 1.5);
  state.scale = {...(near ? before : found), of: whole};
  drawScale();
}

const ends = () => (state.range ? {low: state.range[0], high: state.range[1]} : state.scale);
const cellsWithVolume = () => state.board.rows.flat().filter((cell) => cell?.volume);
const volumeOf = (cell) => state.volumes.get(cell.volume)
  ?? {key: cell.volume, version: `${cell.completeness} ${cell.volume_state}`, levels: [1], grid: null};

function planeError(error) {
  const text = error && error.name !== "AbortError" && !error.away ? (error.detail ?? error.message) : "";
  ui.error.hidden = !text;
  put(ui.error, text);
}

function drawScale() {
  const scale = ends();
  put(ui.low, scale ? number(scale.low, 2) : "–");
  put(ui.high, scale ? number(scale.high, 2) : "–");
  ui.auto.hidden = state.range === null;
}

// ---- pictures ----------------------------------------------------------------------------

function pictures() {
  const scale = ends();
  if (!state.board || !scale || !state.shown) return;
  for (const cell of cellsWithVolume()) {
    const volume = volumeOf(cell);
    const how = {plane: state.plane, level: levelFor(volume, ui.table.pixels), ...scale};
    planes.picture(volume, {plane: how.plane, level: how.level, low: scale.low, high: scale.high}, 2)
      .then(({image}) => {
        const now = ends();
        if (how.plane === state.plane && now.low === scale.low && now.high === scale.high) ui.table.picture(nameOf(cell), image);
      }, () => {});
  }
}

function stage() {
  const scale = ends();
  if (!scale || !state.shown) return;
  const cells = [current(), ...cellsNamed(state.board, state.chosen.filter((name) => name !== state.current))];
  const shown = cells.filter((cell) => cell?.volume).map((cell) => ({cell, volume: volumeOf(cell)}));
  ui.lower.classList.toggle("comparing", shown.length > 1);
  ui.stage.show(shown, {plane: state.plane, low: scale.low, high: scale.high});
  const row = rowOf().filter((cell) => cell.volume);
  const at = row.findIndex((cell) => nameOf(cell) === state.current);
  const near = row.map((cell, n) => [Math.abs(n - at), cell]).sort((a, b) => a[0] - b[0]).slice(1);
  ui.stage.prefetch(near.map(([, cell]) => volumeOf(cell)));
}

// ---- curves ------------------------------------------------------------------------------

function drawLattice() {
  ui.lattice.show(state.board, (state.series.uid ?? "series").slice(0, 8));
}

/** Ask for the order parameter where a volume has changed since. */
async function drawOrder() {
  const {uid} = state.series;
  const versions = [...state.volumes.values()].map((volume) => `${volume.key} ${volume.version}`).join();
  const sample = current()?.sample ?? "";
  const key = `${uid} ${state.at} ${sample} ${versions}`;
  if (key === state.order) return;
  state.order = key;
  try {
    const order = await reader.order(state.series, state.at, sample);
    if (state.order !== key) return;
    state.law = order.law;
    ui.order.show(order, state.board.samples, nameFor());
    ui.table.markTransition(order.law?.Tc ?? null);
  } catch (error) {
    if (state.order !== key) return;
    state.order = "";
    if (!error.away) ui.order.refuse(error.detail ?? error.message);
  }
}

// ---- choosing ----------------------------------------------------------------------------

function setCurrent(name) {
  state.picked = true;
  if (name === state.current) return;
  state.current = name;
  marks();
  describe(current());
  stage();
  drawOrder();
  remember();
}

function slide(at) {
  const cell = rowOf()[at];
  if (cell) setCurrent(nameOf(cell));
}

function toggle(cell) {
  const name = nameOf(cell);
  if (state.chosen.includes(name)) setChosen(state.chosen.filter((one) => one !== name));
  else if (!cell.volume) ctx.say("This cell has no S(Q) yet");
  else if (state.chosen.length >= MOST_CHOSEN) ctx.say(`${MOST_CHOSEN} cells are compared at most`);
  else setChosen([...state.chosen, name]);
}

function setChosen(names) {
  state.chosen = names;
  marks();
  stage();
  remember();
}

function compare(on) {
  state.comparing = on;
  ui.compare.setAttribute("aria-pressed", String(on));
  ui.body.classList.toggle("choosing", on);
  if (on) ctx.say("Click the cells to compare");
}

function choosePlane(plane) {
  if (plane === state.plane) return;
  state.plane = plane;
  state.scale = null;
  planes.restart();
  ui.plane.value = plane;
  for (const button of ui.presets.children) button.setAttribute("aria-pressed", String(button.textContent === plane));
  ui.table.clearPictures();
}

function setPlane(plane) {
  const wanted = plane.trim();
  if (!wanted || wanted === state.plane) return;
  state.range = null;
  choosePlane(wanted);
  remember();
  if (state.board) findScale().then(() => { pictures(); stage(); });
}

/** Move the plane by one cell along the index that stands still. */
function step(by) {
  const still = /^(.*?)([+-]?\d+(?:\.\d+)?)(.*)$/.exec(state.plane);
  const cell = current();
  const volume = cell?.volume && volumeOf(cell);
  if (!still || /\d/.test(still[3]) || !volume?.grid?.per_unit) return;
  const axis = "hkl".split("").findIndex((name) => !still[1].includes(name) && !still[3].includes(name));
  const per = volume.grid.per_unit[Math.max(axis, 0)];
  const value = (Math.round(Number(still[2]) * per) + by) / per;
  setPlane(`${still[1]}${Number(value.toPrecision(6))}${still[3]}`);
}

let later = 0;
function setRange(range) {
  state.range = range && range.map((x) => Number(x.toPrecision(3)));
  drawScale();
  clearTimeout(later);
  later = setTimeout(() => {
    remember();
    findScale().then(() => { pictures(); stage(); });
  }, 250);
}

function setAt(text) {
  const numbers = text.replaceAll("½", "0.5").replaceAll("−", "-").split(/[\s,;]+/).filter(Boolean).map(Number);
  if (numbers.length !== 3 || !numbers.every(Number.isFinite)) {
    ctx.say("Write a point as h, k, l: 0.5, 0.5, 0.5", "error");
    return;
  }
  state.at = numbers.join(",");
  remember();
  drawOrder();
}
