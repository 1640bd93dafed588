// The filter of a search. It is JSON in a field, so that it can have every condition of the service. Its usual parts
// are set without writing JSON: only in some videos, and after or before a time in them. Each condition is a chip.

import { t } from "./language.js";
import { clock, fileName, secondsOf } from "./words.js";

// By the id of its input: the condition of a time on a moment, and its name.
const TIMES = {
  after: { name: "start", sign: "gte", label: "After {time}" },
  before: { name: "end", sign: "lte", label: "Before {time}" },
};
const SIGNS = { eq: "=", ne: "≠", gt: ">", gte: "≥", lt: "<", lte: "≤" };

const byId = (id) => document.getElementById(id);
const field = byId("filter");
const toggle = byId("filter-toggle");
const videoNames = new Map(); // file names by video_id, of the moments that this page has shown

/** Set the filter to a text, and show its times. */
export function setFilter(text) {
  field.value = text;
  showTimes();
}

/** Search only in the videos of these moments. */
export function onlyIn(hits) {
  rememberNames(hits);
  setFilter(written({ ...(read() ?? {}), video_id: [...new Set(hits.map((hit) => hit.metadata.video_id))] }));
}

/** Keep the names of the videos of moments, for the chips. Returns whether any of them is new. */
export function rememberNames(hits) {
  const known = videoNames.size;
  for (const hit of hits) videoNames.set(hit.metadata.video_id, fileName(hit.uri));
  return videoNames.size > known;
}

/** Show or hide the controls. */
export function showFilter(shown) {
  byId("filter-line").hidden = !shown;
  toggle.setAttribute("aria-expanded", String(shown));
  showTimes(); // without a time that cannot be read
}

/** Show what is wrong with the filter; an empty message removes it. */
export function complainOfFilter(message, input = field) {
  if (message) showFilter(true);
  byId("filter-error").textContent = message;
  byId("filter-error").hidden = !message;
  for (const id of ["filter", ...Object.keys(TIMES)]) {
    byId(id).setAttribute("aria-invalid", String(Boolean(message) && byId(id) === input));
  }
}

/** Whether an input has a time that cannot be read. */
export function hasWrongTime() {
  return Object.keys(TIMES).some((id) => byId(id).getAttribute("aria-invalid") === "true");
}

/** The conditions, each as {name, remove}: its name for people, and a function that removes it from the filter. */
export function conditions() {
  return Object.entries(read() ?? {}).flatMap(([name, value]) => {
    const without = (rest) => () => {
      const { [name]: _, ...others } = read();
      setFilter(written(rest === undefined ? others : { ...others, [name]: rest }));
    };
    if (name === "video_id" && [value].flat().every((id) => typeof id === "string")) {
      const ids = [value].flat();
      return ids.map((id) => {
        const rest = ids.filter((other) => other !== id);
        const label = t("Only in {name}", { name: videoNames.get(id) ?? t("one video") });
        return { name: label, remove: without(rest.length ? rest : undefined) };
      });
    }
    if (!isObject(value)) return [{ name: `${name} = ${[value].flat().join(", ")}`, remove: without() }];
    return Object.entries(value).map(([sign, bound]) => {
      const { [sign]: _, ...rest } = value;
      return { name: named(name, sign, bound), remove: without(Object.keys(rest).length ? rest : undefined) };
    });
  });
}

function named(name, sign, bound) {
  const time = Object.values(TIMES).find((other) => other.name === name && other.sign === sign);
  return time && typeof bound === "number"
    ? t(time.label, { time: clock(bound) })
    : `${name} ${SIGNS[sign] ?? sign} ${bound}`;
}

/** Put the time of an input into the filter. */
function takeTime(id) {
  const text = byId(id).value.trim();
  const seconds = secondsOf(text);
  if (text && Number.isNaN(seconds)) {
    complainOfFilter(t("{text} is not a time. Write it as 10:00 or 1:02:03.", { text }), byId(id));
    return;
  }
  const { name, sign } = TIMES[id];
  const filter = read() ?? {};
  const { [sign]: _, ...rest } = isObject(filter[name]) ? filter[name] : {};
  const condition = text ? { ...rest, [sign]: seconds } : rest;
  const { [name]: __, ...others } = filter;
  setFilter(written(Object.keys(condition).length ? { ...others, [name]: condition } : others));
  complainOfFilter("");
}

function showTimes() {
  const filter = read() ?? {};
  for (const [id, { name, sign }] of Object.entries(TIMES)) {
    const seconds = filter[name]?.[sign];
    byId(id).value = typeof seconds === "number" ? clock(seconds) : "";
  }
}

/** Return the filter, or null if its text is not a JSON object. */
function read() {
  try {
    const value = JSON.parse(field.value.trim() || "{}");
    return isObject(value) ? value : null;
  } catch {
    return null;
  }
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const written = (filter) => (Object.keys(filter).length ? JSON.stringify(filter) : "");

toggle.onclick = () => {
  showFilter(byId("filter-line").hidden);
  if (!byId("filter-line").hidden) byId("after").focus();
};
field.addEventListener("change", showTimes);
for (const id of Object.keys(TIMES)) byId(id).addEventListener("change", () => takeTime(id));
