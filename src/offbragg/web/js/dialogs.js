// The two dialogues: the key for reading, and help with the keyboard.

import {address} from "./api.js";
import {el, fill, put} from "./dom.js";

/**
 * Build the key form.
 * @param {HTMLDialogElement} dialog
 * @param {import("./api.js").Api} api
 * @param {() => void} entered
 * @returns {(again?: boolean) => Promise<void>} shows the form; done when a key was accepted.
 *   Who asks while it is shown waits for the same one.
 */
export function keyForm(dialog, api, entered) {
  const field = el("input", {
    type: "password",
    id: "key-field",
    autocomplete: "current-password",
    required: true,
    spellcheck: "false",
    "aria-describedby": "key-error",
  });
  const why = el("p.error", {id: "key-error", role: "alert"});
  const enter = el("button.primary", {type: "submit"}, "Open");
  const close = el("button", {type: "button", onclick: () => dialog.close()}, "Cancel");
  const leave = el("button", {type: "button", hidden: true, onclick: forget}, "Forget the key");
  async function forget() {
    try {
      await api.leave();
    } catch {
      put(why, "The server does not answer; the key was not forgotten. Try again.");
      return;
    }
    location.reload(); // nothing that was read with it stays on the screen
  }
  const title = el("h2", {id: "key-title"}, "Key for reading");
  const how = el(
    "p",
    {},
    "The catalog answers those who have a key. At the beamline's host, this prints one:",
  );
  const command = el("pre", {}, "offbragg key");
  const name = el("input", {
    type: "text",
    id: "name-field",
    autocomplete: "username",
    value: "offbragg",
    hidden: true,
    "aria-hidden": "true",
  });
  const nameLabel = el("label", {for: "name-field", hidden: true}, "Name");
  const label = el("label", {for: "key-field"}, "Key");
  const provider = el(
    "p",
    {hidden: true},
    el("a", {href: address("/login/oidc").href}, "Log in with your facility's account"),
  );
  let byName = false;
  api.ways().then((ways) => {
    if (!ways.people) return;
    byName = true;
    put(title, "Log in");
    put(how, "Name and password. Who has a key gives the key, and no name.");
    put(label, "Password, or key");
    command.hidden = true;
    name.value = "";
    name.hidden = nameLabel.hidden = false;
    name.removeAttribute("aria-hidden");
    provider.hidden = !ways.oidc;
    if (dialog.open && !field.value) name.focus();
  });
  const form = el(
    "form",
    {},
    title,
    how,
    command,
    provider,
    nameLabel,
    name,
    label,
    field,
    why,
    el("p.muted", {}, "It is kept in a cookie that scripts cannot read, and stands in no address."),
    el("div.buttons", {}, leave, close, enter),
  );
  fill(dialog, form);
  let waiting = null;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    enter.disabled = true;
    put(why, "");
    try {
      if (byName && name.value.trim()) await api.login(name.value.trim(), field.value);
      else await api.enter({key: field.value.trim()});
      field.value = "";
      dialog.close();
      waiting?.done();
      waiting = null;
      entered();
    } catch (error) {
      put(why, error.detail ?? error.message);
      field.select();
    } finally {
      enter.disabled = false;
    }
  });
  dialog.addEventListener("cancel", (event) => {
    if (waiting) event.preventDefault();
  });
  return (again = false) => {
    leave.hidden = close.hidden = !again || waiting !== null;
    if (!dialog.open) dialog.showModal();
    (name.hidden ? field : name).focus();
    if (again) return Promise.resolve();
    if (!waiting) {
      waiting = {};
      waiting.promise = new Promise((done) => {
        waiting.done = done;
      });
    }
    return waiting.promise;
  };
}

/**
 * Show what the keys do.
 * @param {HTMLDialogElement} dialog
 * @param {{key: string, title: string}[]} views
 * @param {any} module the shown view; its `keys` are pairs [key, what it does]
 */
export function helpDialog(dialog, views, module) {
  const row = ([key, text]) => el("tr", {}, el("td", {}, el("kbd", {}, key)), el("td", {}, text));
  const table = (caption, rows) =>
    el("table.keys", {}, el("caption", {}, caption), el("tbody", {}, ...rows.map(row)));
  fill(
    dialog,
    el("h2", {id: "help-title"}, "Keyboard"),
    el(
      "div.columns",
      {},
      table("Everywhere", [
        ...views.map((view) => [view.key, view.title]),
        ["/", "search runs"],
        ["t", "light or dark"],
        ["?", "this help"],
        ["Esc", "back"],
      ]),
      module?.keys?.length ? table(module.title, module.keys) : null,
    ),
    el(
      "p.muted",
      {},
      "Everything on this page is read from the catalog's public routes; nothing here can move " +
        "the beamline. The line at the bottom makes in Python what is shown.",
    ),
    el(
      "div.buttons",
      {},
      el("button.primary", {type: "button", onclick: () => dialog.close()}, "Close"),
    ),
  );
  if (!dialog.open) dialog.showModal();
}
