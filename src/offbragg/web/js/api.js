// The catalog's public routes. The key goes in once and becomes a cookie that no script can read.

/** An answer that is not the wanted one. */
export class ApiError extends Error {
  /** @param {number} status HTTP status; 0: the server did not answer @param {string} detail */
  constructor(status, detail) {
    super(detail);
    this.name = "ApiError";
    this.status = status;
    this.detail = detail;
  }
  /** Whether the server is away, and asking again may help. */
  get away() {
    return this.status === 0 || this.status === 502 || this.status === 503 || this.status === 504;
  }
}

const ROOT = new URL("../../", import.meta.url);

/** @param {string} path a route, "/runs?limit=5" @returns {URL} */
export const address = (path) => new URL(path.replace(/^\//, ""), ROOT);

export class Api extends EventTarget {
  /** Ask for a key at the next 401; main.js sets it. @type {() => Promise<void>} */
  askForKey = async () => {};

  /**
   * @param {string} path @param {RequestInit} [options]
   * @returns {Promise<Response>}
   */
  async #get(path, options = {}) {
    for (;;) {
      let answer;
      try {
        answer = await fetch(address(path), {credentials: "same-origin", ...options});
      } catch (error) {
        if (error.name === "AbortError") throw error;
        this.dispatchEvent(new Event("away"));
        throw new ApiError(0, "The server does not answer.");
      }
      if (answer.status === 401) {
        await this.askForKey();
        continue;
      }
      if (!answer.ok) {
        const error = new ApiError(answer.status, await detail(answer));
        if (error.away) this.dispatchEvent(new Event("away"));
        throw error;
      }
      this.dispatchEvent(new Event("here"));
      return answer;
    }
  }

  /** @param {string} path @param {{signal?: AbortSignal}} [options] @returns {Promise<any>} */
  async json(path, {signal} = {}) {
    return (await this.#get(path, {signal, headers: {accept: "application/json"}})).json();
  }

  /** @param {string} path @returns {Promise<{blob: Blob, headers: Headers}>} */
  async blob(path, {signal} = {}) {
    const answer = await this.#get(path, {signal});
    return {blob: await answer.blob(), headers: answer.headers};
  }

  /**
   * Read an array of little-endian numbers: `format=float32` or `format=int32` of the route.
   * @param {string} path
   * @returns {Promise<{data: Float32Array|Int32Array, shape: number[], cut: any, headers: Headers}>}
   *   `cut` is what the header x-offbragg-cut or x-offbragg-frame says
   */
  async array(path, {signal} = {}) {
    const answer = await this.#get(path, {signal});
    const raw = await answer.arrayBuffer();
    const data = /[?&]format=float32\b/.test(path) ? new Float32Array(raw) : new Int32Array(raw);
    const header = answer.headers.get("x-offbragg-cut") ?? answer.headers.get("x-offbragg-frame");
    const cut = header ? JSON.parse(header) : null;
    return {data, shape: cut?.shape ?? [data.length], cut, headers: answer.headers};
  }

  /**
   * Send JSON once. @param {string} path @param {any} body
   * @param {string} [unsure] what is so when no answer comes
   * @returns {Promise<Response>}
   */
  async post(path, body, unsure = "it may have been kept. Look before you send it again.") {
    let answer;
    try {
      answer = await fetch(address(path), {
        method: "POST",
        credentials: "same-origin",
        headers: {"content-type": "application/json"},
        body: JSON.stringify(body),
      });
    } catch {
      throw new ApiError(0, `The server does not answer; ${unsure}`);
    }
    if (!answer.ok) throw new ApiError(answer.status, await detail(answer));
    return answer;
  }

  /**
   * Exchange a key or a one-time token for the cookie.
   * @param {{key: string}|{token: string}} body
   */
  async enter(body) {
    await this.post("/live/enter", body, "the key was not checked. Try again.");
  }

  /** @returns {Promise<{people: boolean, password: boolean, oidc: boolean}>} how people log in */
  async ways() {
    try {
      const answer = await fetch(address("/login/ways"), {credentials: "same-origin"});
      if (answer.ok) return await answer.json();
    } catch {
      // the form for a key says what is wrong
    }
    return {people: false, password: false, oidc: false};
  }

  /**
   * Log a person in.
   * @param {string} name @param {string} password
   */
  async login(name, password) {
    await this.post("/login", {name, password}, "nobody was logged in. Try again.");
  }

  /** Remove the cookie. */
  async leave() {
    await fetch(address("/live/leave"), {method: "POST", credentials: "same-origin"});
  }
}

/** @param {Response} answer @returns {Promise<string>} why a request was refused */
async function detail(answer) {
  try {
    const body = await answer.json();
    return typeof body.detail === "string" ? body.detail : JSON.stringify(body.detail);
  } catch {
    return `The server answered ${answer.status} ${answer.statusText}.`;
  }
}
