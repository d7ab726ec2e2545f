// One frame: what became of it, why, its file, its time, and its picture if it is stored.

import {el, fill, put} from "../dom.js";
import {fixed, moment} from "../format.js";

export class Detail {
  #asked = "";
  #url = "";

  /** @param {HTMLElement} host @param {any} ctx */
  constructor(host, ctx) {
    this.ctx = ctx;
    this.root = host;
    this.clear();
  }

  clear() {
    this.#asked = "";
    fill(
      this.root,
      el(
        "p.muted.detail-hint",
        {},
        "Click a tick: reason, file and time of the frame. With the keyboard: Tab to a strip, ← → a frame, n p the next fault.",
      ),
    );
  }

  /**
   * @param {any} row of `/runs` @param {import("./ledger.js").Ledger} ledger @param {number} index
   */
  async show(row, ledger, index) {
    const status = ledger.status(index);
    const key = `${row.uid} ${index} ${status}`;
    if (key === this.#asked) return;
    this.#asked = key;
    const line = (name, text) => [el("dt", {}, name), el("dd", {}, text)];
    const time = el("dd", {}, status === "stored" ? "…" : "–");
    const file = el("dd", {}, ledger.file(index) || (status === "stored" ? "…" : "–"));
    const picture = el("div.detail-picture");
    const reason =
      ledger.reason(index) ||
      {
        stored: "The scan file has it as it was counted.",
        pending: "It was not exposed yet, or its file is still on its way.",
      }[status] ||
      "No reason is written.";
    fill(
      this.root,
      el(
        "div.detail-text",
        {},
        el(
          "h3",
          {},
          el(`span.tick.tick-${status}`, {"aria-hidden": "true"}),
          `Frame ${index} of #${row.scan_id ?? "–"}: ${status}`,
        ),
        el("p.detail-reason", {}, reason),
        el(
          "dl.frame-facts",
          {},
          ...line(
            "Sample",
            `${row.sample ?? "–"}${row.temperature === null ? "" : `, ${row.temperature}\u202fK`}`,
          ),
          ...line(ledger.answer.axis ?? "Angle", `${fixed(ledger.angle(index), 2)}°`),
          el("dt", {}, "Time"),
          time,
          el("dt", {}, "File"),
          file,
        ),
        status === "stored"
          ? el(
              "a.button",
              {href: `#/now/${encodeURIComponent(row.uid)}?frame=${index}`},
              "Look at it",
            )
          : null,
      ),
      picture,
    );
    if (status !== "stored") return;
    try {
      const {blob, headers} = await this.ctx.api.blob(
        `/runs/${encodeURIComponent(row.uid)}/frames/${index}?format=png&size=240&palette=magma`,
      );
      if (key !== this.#asked) return;
      const about = JSON.parse(headers.get("x-offbragg-frame") ?? "{}");
      put(time, moment(about.time));
      put(file, about.file ?? "–");
      URL.revokeObjectURL(this.#url);
      this.#url = URL.createObjectURL(blob);
      fill(picture, el("img", {src: this.#url, alt: `Frame ${index}, logarithmic`}));
    } catch (error) {
      if (key !== this.#asked) return;
      put(time, "not known");
      put(file, error.detail ?? "not known");
    }
  }
}
