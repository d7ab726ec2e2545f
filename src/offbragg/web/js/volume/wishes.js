// Wishes over time: the newest one counts.

/** Does one thing at a time, and again if it was asked for meanwhile: the newest wish counts. */
export class Latest {
  #wanted = false;
  #running = false;
  constructor(task, refused) { Object.assign(this, {task, refused}); }
  async ask() {
    this.#wanted = true;
    if (this.#running) return;
    this.#running = true;
    while (this.#wanted) {
      this.#wanted = false;
      try {
        await this.task();
      } catch (error) {
        this.refused(error);
      }
    }
    this.#running = false;
  }
}

/** Named timers: the same name is there once. */
export class Timers {
  #running = new Map();

  /** Do something once nothing of this name was asked for during a time, ms. */
  later(name, wait, action) {
    this.stop(name);
    this.#running.set(name, setTimeout(() => { this.#running.delete(name); action(); }, wait));
  }

  /** Do something again and again, ms. */
  every(name, wait, action) {
    if (!this.#running.has(name)) this.#running.set(name, setInterval(action, wait));
  }

  has(name) { return this.#running.has(name); }

  stop(name) {
    clearTimeout(this.#running.get(name));  // an interval, too
    this.#running.delete(name);
  }

  clear() { for (const name of [...this.#running.keys()]) this.stop(name); }
}
