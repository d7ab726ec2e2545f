import {el} from "../dom.js";
export const view = {
  name: "now", title: "now", keys: [],
  mount(host) { host.append(el("p", {}, "…")); },
  show() {}, update() {}, hide() {}, onKey() { return false; }, python() { return ""; },
};
