// What people wrote about a run, and a field to write more for who may.

import {el, fill, put} from "../dom.js";
import {moment} from "../format.js";

const LONGEST = 2000;  // characters, as the server has it

export class Notes {
  #uid = "";
  #shown = "";

  /** @param {{api: any, say: Function}} does */
  constructor(does) {
    this.does = does;
    this.list = el("ul.notes");
    this.text = el("textarea", {rows: 2, maxlength: LONGEST, "aria-label": "A note on this run", placeholder: "what the next person should know"});
    this.why = el("p.muted.small-note", {role: "status"});
    this.form = el("form.note-form", {hidden: true, onsubmit: (event) => this.#send(event)},
      this.text, el("button.small", {type: "submit"}, "Add the note"));
    this.root = el("div", {}, this.list, this.form, this.why);
  }

  /** Read the notes of a run. @param {string} uid @param {string|null} proposal */
  async show(uid, proposal) {
    const {api} = this.does;
    const fresh = uid !== this.#uid;
    this.#uid = uid;
    try {
      const {notes} = await api.json(this.#address());
      if (uid !== this.#uid) return;
      this.#draw(notes);
      if (!fresh) return;
      const {annotates} = await api.json("/me");
      this.form.hidden = !(annotates.includes("*") || annotates.includes(proposal));
    } catch (error) {
      if (uid === this.#uid) put(this.why, error.detail ?? error.message);
    }
  }

  #address() { return `/runs/${encodeURIComponent(this.#uid)}/notes`; }

  #draw(notes) {
    const key = JSON.stringify(notes);
    if (key === this.#shown) return;
    this.#shown = key;
    fill(this.list, ...notes.map(({time, by, text}) => el("li", {},
      el("span.muted", {}, `${moment(time)}${by ? ` · ${by}` : ""}`), el("p", {}, text))),
    notes.length ? null : el("li.muted", {}, "No note yet."));
  }

  async #send(event) {
    event.preventDefault();
    const text = this.text.value.trim();
    if (!text) return;
    try {
      await this.does.api.post(this.#address(), {text});
      this.text.value = "";
      put(this.why, "");
      this.does.say("The note is kept");
      const {notes} = await this.does.api.json(this.#address());
      this.#draw(notes);
    } catch (error) {
      put(this.why, error.detail ?? error.message);
    }
  }
}
