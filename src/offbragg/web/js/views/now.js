// Now: the last frame, what is measured, what it waits for, and the last minutes.

import {el} from "../dom.js";
import {FramePanel} from "../now/frame.js";
import {Headline} from "../now/headline.js";
import {History} from "../now/history.js";

let ctx;
let headline;
let frame;
let history;
let route = {id: "", query: new URLSearchParams()};
let isShown = false;
let last = "";

/**
 * The run to look at: that of the address, or the newest one that has a frame. Until a run has its
 * first frame, the last one of the run before stays.
 */
function runOf(now) {
  if (route.id) return route.id;
  return now?.frames?.run && now.frames.stored ? now.frames.run : frame.run;
}

/** Look at the newest run of the catalog, where the state of the beamline has none. */
async function newest() {
  try {
    const {runs} = await ctx.api.json("/runs?limit=20");
    if (!isShown || frame.run || runOf(ctx.now())) return;
    frame.setRun(runs.find((row) => row.frames?.stored)?.uid ?? "");
    frame.load();
  } catch {
    /* the banner says it */
  }
}

export const view = {
  name: "now",
  title: "Now",
  keys: [
    ["← →", "frame before, after (with shift: ten)"],
    ["Home", "first frame"],
    ["End", "follow the last frame"],
    ["l", "log or linear"],
    ["m", "next colour map"],
    ["r", "resolution rings"],
    ["+ −", "zoom"],
    ["0", "all of it"],
  ],

  mount(host, given) {
    ctx = given;
    const head = el("div.now-head");
    const left = el("div.now-frame.card", {role: "group", "aria-label": "Frame"});
    const right = el("div.now-history.card", {role: "group", "aria-label": "The last 15 minutes"});
    host.append(head, el("div.now-body", {}, left, right));
    headline = new Headline(head);
    frame = new FramePanel(left, ctx, () => {
      if (!isShown) return;
      ctx.replace(frame.query);
      if (ctx.now()) headline.update(ctx.now(), frame.row);
    });
    history = new History(right, ctx);
  },

  show(given) {
    const first = !isShown || given.id !== route.id;
    route = given;
    isShown = true;
    if (first) {
      frame.show(runOf(ctx.now()), route.query);
      history.start();
      if (!runOf(ctx.now())) newest();
    } else {
      frame.show(runOf(ctx.now()) || frame.run, route.query);
    }
  },

  update(now) {
    headline.update(now, frame.row);
    history.update(now);
    const run = runOf(now);
    if (!run && !frame.run) newest();
    const state = `${run} ${now.frames?.last} ${now.frames?.stored}`;
    if (run && frame.isLive && run !== frame.run) {
      frame.setRun(run);
      last = "";
    }
    if (frame.run && (frame.isLive ? state !== last : !frame.frame)) frame.load();
    last = state;
  },

  hide() {
    isShown = false;
    history.stop();
  },

  onKey(event) {
    return frame.onKey(event);
  },

  link() {
    if (!frame?.run) return null;
    const index = frame.isLive ? frame.frame?.index : frame.index;
    return {id: frame.run, query: {...frame.query, ...(index === undefined ? {} : {frame: index})}};
  },

  python() {
    if (!frame?.run) return "";
    const index = frame.frame?.index ?? 0;
    const run =
      frame.isLive && !route.id ? "beamline.latest()" : `beamline.runs["${frame.run.slice(0, 8)}"]`;
    return `import offbragg\nbeamline = offbragg.connect("${location.origin}")\nrun = ${run}\nimage = run.frames[${frame.isLive ? -1 : index}]`;
  },
};
