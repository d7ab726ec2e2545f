/**
 * Filters in words, "sample LSMO, 80–120 K, today", as the parameters of `/runs`.
 *
 * Each part that is understood becomes a parameter and a phrase that says how it was understood;
 * the rest is searched for as text.
 */

const PURPOSES = ["data", "orient", "background", "dark", "calibration"];
const STATUSES = {
  running: "running", measuring: "running", success: "success", complete: "success",
  failed: "fail", fail: "fail", aborted: "abort", abort: "abort", abandoned: "abandoned",
};
const NUMBER = "(-?\\d+(?:\\.\\d+)?)";
const MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

/** Rules in the order of trying: a pattern at the start of what is left, and what it means. */
const RULES = [
  [`${NUMBER}\\s*(?:–|—|-|\\.\\.|to|:)\\s*${NUMBER}\\s*k\\b`, (m) => kelvin(+m[1], +m[2])],
  [`(?:between)\\s+${NUMBER}\\s+and\\s+${NUMBER}\\s*k\\b`, (m) => kelvin(+m[1], +m[2])],
  [`(?:above|over|>|≥|>=)\\s*${NUMBER}\\s*k\\b`, (m) => kelvin(+m[1], null)],
  [`(?:below|under|<|≤|<=)\\s*${NUMBER}\\s*k\\b`, (m) => kelvin(null, +m[1])],
  [`${NUMBER}\\s*k\\b`, (m) => ({ query: { temperature: m[1] }, phrase: `${+m[1]} K` })],
  ["(?:scan\\s+#?|#)(\\d+)\\b", (m) => ({ query: { scan_id: m[1] }, phrase: `scan ${m[1]}` })],
  ["(?:sample|crystal)\\s+(\"[^\"]+\"|[^\\s,;]+)", (m, known) => sample(unquoted(m[1]), known)],
  ["plan\\s+([^\\s,;]+)", (m) => ({ query: { plan: m[1] }, phrase: `plan ${m[1]}` })],
  ["series\\s+([^\\s,;]+)", (m) => ({ query: { series: m[1] }, phrase: `series ${m[1]}` })],
  [`(?:purpose\\s+)?(${PURPOSES.join("|")})(?![\\w-])`, (m) => (
    { query: { purpose: m[1].toLowerCase() }, phrase: `purpose ${m[1].toLowerCase()}` })],
  [`(${Object.keys(STATUSES).join("|")})(?![\\w-])`, (m) => (
    { query: { status: STATUSES[m[1].toLowerCase()] }, phrase: m[1].toLowerCase() })],
  ["(?:last|past)\\s+(?:(\\d+)\\s*)?(hour|h|day|d|week|minute|min)s?\\b",
    (m, known, now) => last(+(m[1] ?? 1), m[2].toLowerCase(), now)],
  ["last\\s+night\\b", (m, known, now) => between(at(now, -1, 18), at(now, 0, 8), "last night")],
  ["tonight\\b", (m, known, now) => between(at(now, 0, 18), null, "tonight")],
  ["today\\b", (m, known, now) => between(at(now, 0), null, "today")],
  ["yesterday\\b", (m, known, now) => between(at(now, -1), at(now, 0), "yesterday")],
  ["this\\s+week\\b", (m, known, now) => (
    between(at(now, -((now.getDay() + 6) % 7)), null, "this week"))],
  ["(since|until|before|after)\\s+(\\d{4}-\\d\\d-\\d\\d(?:[T ]\\d\\d:\\d\\d)?|\\d?\\d:\\d\\d)",
    (m, known, now) => limit(m[1].toLowerCase(), m[2], now)],
  ["(\\d{4}-\\d\\d-\\d\\d)\\b", (m) => whole(new Date(`${m[1]}T00:00`), m[1])],
  [`(\\d?\\d)\\.?\\s+(${MONTHS.join("|")})[a-z]*(?:\\s+(\\d{4}))?\\b`, (m, known, now) => (
    whole(dayOf(+m[1], m[2], m[3], now), m[0].trim()))],
  [`(?:on\\s+)?(${DAYS.join("|")})\\b`, (m, known, now) => weekday(m[1].toLowerCase(), now)],
];

/**
 * Read filters in words.
 * @param {string} text
 * @param {{samples?: string[], now?: Date}} known  names of samples; the time
 * @returns {{query: Record<string, string>, phrases: string[], text: string}}
 */
export function readFilters(text, { samples = [], now = new Date() } = {}) {
  const query = {};
  const phrases = [];
  const rest = [];
  let left = text.replace(/[,;]+/g, " , ").trim();
  while (left) {
    left = left.replace(/^[\s,]+/, "");
    const found = left && firstRule(left, samples, now);
    if (found) {
      Object.assign(query, found.query);
      phrases.push(found.phrase);
      left = left.slice(found.length);
    } else if (left) {
      const word = /^("[^"]*"|[^\s,]+)/.exec(left)[0];
      const named = samples.find((name) => name.toLowerCase() === word.toLowerCase());
      if (!query.sample && (named || /[\w-]\*$/.test(word))) {
        query.sample = named ?? word;
        phrases.push(`sample ${query.sample}`);
      } else {
        rest.push(unquoted(word));
      }
      left = left.slice(word.length);
    }
  }
  if (rest.length) {
    query.text = rest.join(" ");
    phrases.push(`“${query.text}” in the metadata`);
  }
  return { query, phrases, text: rest.join(" ") };
}

/** Parameters of `/runs`, as they follow the question mark. */
export const asQuery = (query) => new URLSearchParams(query).toString();

/** The same question in Python: what stands between the brackets of `runs(…)`. */
export function asPython(query) {
  const parts = [];
  for (const [name, value] of Object.entries(query)) {
    if (name === "temperature" && value.includes(":")) {
      const [low, high] = value.split(":").map((x) => x || "None");
      parts.push(`temperature=(${low}, ${high})`);
    } else if (name === "temperature" || name === "scan_id") {
      parts.push(`${name}=${value}`);
    } else if (name === "since" || name === "until") {
      parts.push(`${name}="${new Date(1000 * value).toISOString().slice(0, 19)}Z"`);
    } else {
      parts.push(`${name}=${JSON.stringify(value)}`);
    }
  }
  return parts.join(", ");
}

function firstRule(left, samples, now) {
  for (const [pattern, meaning] of RULES) {
    const match = new RegExp(`^(?:${pattern})`, "i").exec(left);
    const found = match && meaning(match, samples, now);
    if (found) {
      return { ...found, length: match[0].length };
    }
  }
  return null;
}

function kelvin(low, high) {
  const [from, to] = low !== null && high !== null && low > high ? [high, low] : [low, high];
  const phrase = from === null ? `below ${to} K` : to === null ? `above ${from} K`
    : `${from}–${to} K`;
  return { query: { temperature: `${from ?? ""}:${to ?? ""}` }, phrase };
}

/** A name that is known exactly, or all that begin with it. */
function sample(name, samples) {
  const known = samples.find((one) => one.toLowerCase() === name.toLowerCase());
  const wanted = known ?? (name.includes("*") ? name : `${name}*`);
  return { query: { sample: wanted }, phrase: `sample ${wanted}` };
}

function last(count, unit, now) {
  const seconds = { minute: 60, min: 60, hour: 3600, h: 3600, day: 86400, d: 86400, week: 604800 };
  const name = { h: "hour", d: "day", min: "minute" }[unit] ?? unit;
  const since = new Date(now.getTime() - 1000 * count * seconds[unit]);
  return between(since, null, count === 1 ? `last ${name}` : `last ${count} ${name}s`);
}

function limit(word, text, now) {
  const date = /^\d?\d:/.test(text) ? clock(text, now) : new Date(
    text.includes(":") ? text.replace(" ", "T") : `${text}T00:00`);
  const name = word === "since" || word === "after" ? "since" : "until";
  return { query: { [name]: seconds(date) }, phrase: `${name} ${text}` };
}

function clock(text, now) {
  const [hours, minutes] = text.split(":").map(Number);
  const date = at(now, 0, hours, minutes);
  return date > now ? at(now, -1, hours, minutes) : date;
}

function dayOf(day, month, year, now) {
  const number = MONTHS.indexOf(month.toLowerCase().slice(0, 3));
  const date = new Date(+(year ?? now.getFullYear()), number, day);
  return year || date <= now ? date : new Date(now.getFullYear() - 1, number, day);
}

function weekday(name, now) {
  const back = (now.getDay() - DAYS.indexOf(name) + 7) % 7;
  return whole(at(now, -back), name[0].toUpperCase() + name.slice(1));
}

const whole = (date, phrase) => between(date, new Date(
  date.getFullYear(), date.getMonth(), date.getDate() + 1), phrase);

function between(since, until, phrase) {
  const query = { since: seconds(since), ...(until ? { until: seconds(until) } : {}) };
  return { query, phrase };
}

const at = (now, days, hours = 0, minutes = 0) => new Date(
  now.getFullYear(), now.getMonth(), now.getDate() + days, hours, minutes);
const seconds = (date) => String(Math.round(date.getTime() / 1000));
const unquoted = (text) => text.replace(/^"|"$/g, "");
