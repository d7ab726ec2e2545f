// The newest `/now`: pushed over a websocket, or asked for where there is none.

import {address} from "./api.js";

const QUIET = 25_000; // ms: the server speaks every 10 s even if nothing changes
const ASK = 2_000; // ms between questions where there is no websocket
const RETRY = [500, 1000, 2000, 4000, 5000]; // ms
const REFUSED = 30_000; // ms: what is refused is rarely granted a moment later

/** Events: `now` (a new state), `link` (the connection changed). */
export class Store extends EventTarget {
  /** @type {any} the newest /now, or null */
  now = null;
  /**
   * `why` is the server's reason where it refuses.
   * @type {{state: "connecting"|"live"|"asking"|"away"|"refused", since: number, why: string}}
   */
  link = {state: "connecting", since: Date.now() / 1000, why: ""};
  #socket = null;
  #failures = 0;
  #everOpened = false;
  #timer = 0;
  #quiet = 0;

  /** @param {import("./api.js").Api} api */
  constructor(api) {
    super();
    this.api = api;
  }

  /** Begin to follow; asks once first, so that there is a picture whatever becomes of the socket. */
  async start() {
    addEventListener("online", () => this.#again(0));
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && this.link.state === "away") this.#again(0);
    });
    if (await this.#ask()) this.#open();
    else this.#closed();
  }

  /** Connect at once, as after a new key. */
  reconnect() {
    this.#again(0);
  }

  #set(state, why = "") {
    if (state === this.link.state && why === this.link.why) return;
    this.link = {state, since: Date.now() / 1000, why};
    this.dispatchEvent(new Event("link"));
  }

  #take(now) {
    this.now = now;
    this.dispatchEvent(new Event("now"));
  }

  async #ask() {
    try {
      this.#take(await this.api.json("/now"));
      if (this.link.state !== "live") this.#set("asking");
      return true;
    } catch (error) {
      if (error.away) this.#set("away");
      else this.#set("refused", error.detail ?? error.message);
      return false;
    }
  }

  #open() {
    const url = address("/now/socket");
    url.protocol = url.protocol.replace("http", "ws");
    let socket;
    try {
      socket = new WebSocket(url);
    } catch {
      this.#closed();
      return;
    }
    this.#socket = socket;
    this.#listen();
    socket.onmessage = (event) => {
      this.#listen();
      this.#failures = 0;
      this.#everOpened = true;
      this.#set("live");
      const message = JSON.parse(event.data);
      if ("engine" in message) this.#take(message);
      else this.dispatchEvent(new Event("alive"));
    };
    socket.onclose = () => {
      if (socket === this.#socket) this.#closed();
    };
    socket.onerror = () => socket.close();
  }

  #listen() {
    clearTimeout(this.#quiet);
    this.#quiet = setTimeout(() => this.#socket?.close(), QUIET);
  }

  async #closed() {
    this.#socket = null;
    clearTimeout(this.#quiet);
    this.#failures++;
    const here = this.link.state === "refused" && this.#failures === 1 ? false : await this.#ask();
    // a proxy without websockets: asking does as well, and the socket is tried now and then
    const wait =
      this.link.state === "refused"
        ? REFUSED
        : here && (!this.#everOpened || this.#failures > 3)
          ? ASK
          : RETRY[Math.min(this.#failures, RETRY.length) - 1];
    this.#again(wait, here && this.#failures > 3 && this.#failures % 15 !== 0);
  }

  #again(wait, askOnly = false) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (this.#socket) return;
      if (askOnly) this.#closed();
      else this.#open();
    }, wait);
  }
}
