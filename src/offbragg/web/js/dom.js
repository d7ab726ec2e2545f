// Elements of the page, built without markup strings: data only ever become text.

// control characters, and those that turn the direction of reading
const UNSEEN =
  /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/**
 * Make an element.
 * @param {string} tag "div", or "div.class.class"
 * @param {Record<string, any>} [properties] attributes; `on…` are listeners
 * @param {...(Node|string|null|undefined)} children
 * @returns {any}
 */
export function el(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  fill(element, ...children);
  return element;
}

/**
 * Replace the children of an element.
 * @param {Element} element
 * @param {...(Node|string|null|undefined)} children
 */
export function fill(element, ...children) {
  const there = children.filter((child) => child !== null && child !== undefined);
  element.replaceChildren(
    ...there.map((child) => (child instanceof Node ? child : legible(String(child)))),
  );
  return element;
}

/**
 * Show characters of a name that cannot be seen, or would turn the numbers behind it around.
 * @param {string} text
 */
function legible(text) {
  return text.replace(UNSEEN, "\ufffd");
}

/**
 * Set a text only where it changes: nothing is laid out that stays.
 * @param {Element} element @param {string} text
 */
export function put(element, text) {
  const shown = legible(text);
  if (element.textContent !== shown) element.textContent = shown;
  return element;
}

/**
 * A state in words and a shape: filled circle, triangle, cross, ring, dash.
 * @param {"ok"|"warn"|"bad"|"busy"|"off"} kind @param {string} text
 */
export function mark(kind, text) {
  return el("span.state", {}, el(`span.mark.mark-${kind}`, {"aria-hidden": "true"}), text);
}

/**
 * What stands in a view that has nothing to show: what is so, and what will happen.
 * @param {string} title @param {string} text @param {string} [kind] "empty", "loading", "error"
 */
export function notice(title, text, kind = "empty") {
  return el(
    `div.notice.notice-${kind}`,
    {role: kind === "error" ? "alert" : "status"},
    el("h2", {}, title),
    el("p", {}, text),
  );
}

/**
 * A bar of progress with its words for screen readers.
 * @param {number} done @param {number} all @param {string} label
 */
export function progress(done, all, label) {
  const bar = el("progress", {max: Math.max(all, 1), value: done, "aria-label": label});
  return bar;
}

/** Copy a text; true if the browser allowed it. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = el("textarea.probe", {"aria-hidden": "true"});
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}
