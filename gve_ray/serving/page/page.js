// The search page: the form, the address, attached files, the search and the keyboard. It uses /v1/models and
// /v1/search of its own host. Text from the server is set as text or attribute, never as markup. The search is part
// of the address, so that it can be linked and Back works; its files are kept only while the page is open.

import { number, plural, t } from "./language.js";
import * as attachments from "./attachments.js";
import * as chips from "./chips.js";
import * as examples from "./examples.js";
import * as filters from "./filter.js";
import { isOpen, makeCard, markExamples, momentAt, openMoment, stopAll } from "./moments.js";
import * as recent from "./recent.js";
import { Refused, ask, momentOf } from "./server.js";
import { linkedMoment, saveList } from "./takeaway.js";
import { indexing } from "./words.js";

const DEFAULTS = { text: "", without: "", like: "", instruction: "", top_k: "12", by: "", group_by: "", filter: "", model: "" };

const [QUIET, BUSY] = [10_000, 2000]; // ms between looks at the index, without and with a job that works on it

const byId = (id) => document.getElementById(id);
const FIELDS = ["text", "without", "instruction", "top_k", "by", "group_by", "filter", "model"];
const form = Object.fromEntries(FIELDS.map((id) => [id, byId(id)]));
const results = byId("results");

let models = []; // those with an index, the default first
let running = null; // the AbortController of the newest search
let asked = null; // the FormData of the newest search
const filesOf = new Map(); // files of history entries, by history.state.files

async function loadModels() {
  const { data } = await ask("/v1/models");
  models = data.filter((model) => model.index);
  form.model.replaceChildren(...models.map((model) => new Option(model.id, model.id)));
  byId("models").hidden = models.length < 2;
  describeModel();
  if (!models.length) throw new Refused(t("This server has no index to search. Make one with gve index, and serve it."));
}

function describeModel() {
  const index = models.find((model) => model.id === form.model.value)?.index;
  if (!index) return;
  const fields = Object.entries(index.fields).sort();
  const names = fields.map(([name]) => name).join(", ");
  form.filter.placeholder = t('{"field": value} with {names}', { names });
  byId("fields").textContent = t("Fields: {fields}.", { fields: fields.map(([name, kind]) => `${name} (${kind})`).join(", ") });
  byId("holdings").textContent = plural(index.segments, "{n} moment can be found here.", "{n} moments can be found here.");
  byId("indexing").textContent = indexing(index.indexing);
  byId("indexing").hidden = !index.indexing;
}

/** Show what index jobs change, while the page is visible. */
async function followIndexes() {
  const isBusy = models.some(({ index }) => index.indexing);
  await new Promise((over) => setTimeout(over, isBusy ? BUSY : QUIET));
  if (!document.hidden) {
    const answer = await fetch("/v1/models").catch(() => null); // not `ask`, which may ask the user for a key
    const { data } = answer?.ok ? await answer.json().catch(() => ({ data: [] })) : { data: [] };
    const found = (model) => data.find(({ id, index }) => id === model.id && index);
    models = models.map((model) => found(model) ?? { ...model, index: { ...model.index, indexing: null } });
    describeModel();
  }
  followIndexes();
}

// ---- What is searched: the form, the address, the files -------------------------------------------------------

function readForm() {
  const { text, without, instruction, top_k, by, group_by, filter, model } = form;
  return {
    text: text.value.trim(),
    without: without.value.trim(),
    like: examples.exampleIds(),
    instruction: instruction.value,
    top_k: top_k.value,
    by: text.value.trim() ? by.value : "", // only a text can be searched by words
    group_by: group_by.value,
    filter: filter.value.trim(),
    model: model.selectedIndex > 0 ? model.value : "", // the first model is the default of the server
  };
}

/** Return a query as part of an address, without the question mark. */
function written(query) {
  return String(new URLSearchParams(parts(query).filter(([name, value]) => value !== DEFAULTS[name])));
}

const addressOf = (query) => `${location.pathname}${query ? "?" : ""}${query}`;

function readAddress() {
  const query = new URLSearchParams(location.search);
  const values = Object.entries(DEFAULTS).map(([name, value]) => [name, query.get(name) ?? value]);
  return { ...Object.fromEntries(values), like: query.getAll("like") };
}

/** Restore the search of the address and the files of this history entry, and run it.
 *  trouble: an Error that is shown if there is no search. */
function restore(trouble) {
  const query = readAddress();
  const kept = history.state?.files;
  for (const [name, field] of Object.entries(form)) {
    field.value = query[name];
    if (field.selectedIndex < 0) field.selectedIndex = 0; // an option that does not exist
  }
  examples.setExamples(query.like);
  filters.setFilter(query.filter);
  filters.showFilter(false);
  attachments.setFiles(filesOf.get(kept) ?? {});
  showChips();
  examples.lookUp(form.model.value).then(showChips).catch(complain);
  describeModel();
  stopAll();
  if (kept && !filesOf.has(kept)) {
    start(t("The file of this search was not kept. Add it again, then search."));
  } else if (query.text || query.like.length || kept) {
    search();
  } else {
    start();
    if (trouble) complain(trouble);
  }
  if (linkedMoment() && models.length) openLinked(linkedMoment()).catch(complain);
}

/** Open the moment of the address, which need not be found by the search of the address. */
async function openLinked(id) {
  const moment = await momentOf(form.model.value, id);
  openMoment({ ...moment, extent: moment, score: null, confidence: null, words: null }, actions);
}

/** Run the search of the form as a new history entry. */
function submit({ focus = false } = {}) {
  if (filters.hasWrongTime()) return;
  showChips(); // not while the form is changed: they would move a button away from the click that ends the change
  const query = readForm();
  if (!query.text && !query.like.length && !attachments.hasFiles()) {
    start(t("Describe what to find, or add an image or a clip."));
    form.text.focus();
    return;
  }
  const address = addressOf(written(query));
  const files = attachments.hasFiles() ? Date.now() : 0; // unique among all visits
  if (files) filesOf.set(files, attachments.files());
  const same = address === location.pathname + location.search && !files && !history.state?.files;
  history[same ? "replaceState" : "pushState"]({ files }, "", address);
  search({ focus });
}

/** Search again after an option was changed, if there was a search. */
function resubmit() {
  if (!document.body.classList.contains("start")) submit();
}

/** Search with a moment or an image alone, under the same conditions. */
function searchWith({ hit, image }) {
  form.text.value = "";
  examples.setExamples([]);
  if (hit) examples.toggle(hit);
  attachments.setFiles({ image });
  proceed();
}

function onlyIn(hit) {
  filters.onlyIn([hit]);
  proceed();
}

/** Search with what was chosen at a moment, and show the result. */
function proceed() {
  stopAll();
  scrollTo({ top: 0 });
  submit({ focus: true });
}

function toggleExample(hit) {
  const isExample = examples.toggle(hit);
  showChips();
  say(t(isExample ? "Example added. Search, or add more." : "Example removed."));
}

const actions = { searchWith, onlyIn, toggleExample }; // what can be done with a moment

/** Add files that the user has chosen. */
function attach(chosen) {
  try {
    const kinds = attachments.addFiles(chosen);
    if (!kinds.size) return;
    showChips();
    say(t(kinds.has("image") ? "Image added. Search, or add words to it." : "Clip added. Search, or add words to it."));
    form.text.focus();
  } catch (error) {
    complain(error);
  }
}

function showChips() {
  const shown = [...examples.described(), ...attachments.described()]; // what to find is shown, not described
  const searchWithout = (remove) => () => {
    remove();
    resubmit();
  };
  const limits = conditions().map(({ name, remove }) => ({ name, remove: searchWithout(remove) }));
  chips.show([...shown, ...limits], () => {
    showChips();
    form.text.focus();
  });
  form.text.placeholder = t(shown.length ? "Add words, or just search" : "Describe what happens in it");
  markExamples();
}

/** What hits must be, or should not show, each as {name, remove}, as `filters.conditions` has them. */
function conditions() {
  const without = form.without.value.trim();
  const left = { name: t("Without {what}", { what: without }), remove: () => (form.without.value = "") };
  return [...(without ? [left] : []), ...filters.conditions()];
}

// ---- Search and its answer ------------------------------------------------------------------------------------

async function search({ focus = false } = {}) {
  running?.abort(); // a late reply to an older search must not be shown
  const mine = (running = new AbortController());
  const query = readForm();
  const { text, filter } = query;
  document.body.classList.remove("start");
  document.title = [text || examples.described()[0]?.name, t("Find a moment")].filter(Boolean).join(" · ");
  show("results");
  results.setAttribute("aria-busy", "true");
  filters.complainOfFilter("");
  say(t("Searching…"));
  const began = performance.now();
  try {
    asked = formData();
    const answer = await ask("/v1/search", { method: "POST", body: asked, signal: mine.signal });
    if (mine !== running) return;
    showHits(answer, filter);
    rememberSearch(written(query));
    const count = plural(answer.data.filter(isLikely).length, "{n} moment", "{n} moments");
    const found = t("{count} in {seconds} s", { count, seconds: number((performance.now() - began) / 1000, 2) });
    say([found, aboutReranking(answer.rerank)].filter(Boolean).join("; "));
    if (focus) results.querySelector(".card:not([hidden]) .open")?.focus({ preventScroll: true });
  } catch (error) {
    if (mine !== running) return;
    results.replaceChildren();
    complain(error);
  } finally {
    if (mine === running) results.removeAttribute("aria-busy");
  }
}

/** Keep a search by text for the menu of recent searches, unless the form was changed since. query: as `written`. */
function rememberSearch(query) {
  const { text, like } = readForm();
  if (!text || like.length || attachments.hasFiles() || written(readForm()) !== query) return;
  const chosen = [form.instruction, form.by, form.group_by].filter((select) => select.value);
  const names = [...conditions().map(({ name }) => name), ...chosen.map((select) => select.selectedOptions[0].text)];
  recent.addRecent(query, [text, ...names].join(" · "));
}

/** Return the names and values of a query, where each example is a value. */
const parts = (query) => Object.entries(query).flatMap(([name, values]) => [values].flat().map((value) => [name, value]));

/** Return the form as multipart data. */
function formData() {
  const query = readForm();
  query.instruction = form.instruction.selectedOptions[0].dataset.sentence ?? "";
  const body = new FormData();
  for (const [name, value] of parts(query)) if (value) body.append(name, value);
  for (const [kind, file] of Object.entries(attachments.files())) if (file) body.append(kind, file, file.name || kind);
  return body;
}

function start(message = "") {
  running?.abort();
  running = null;
  document.body.classList.add("start");
  document.title = t("Find a moment");
  results.replaceChildren();
  show("welcome");
  say(message);
}

/** What the server says about reranking; nothing without reranking. */
function aboutReranking(rerank) {
  if (!rerank) return "";
  const values = { judged: number(rerank.judged), candidates: number(rerank.candidates), problem: rerank.problem };
  return t(rerank.problem ? "{judged} of {candidates} reranked: {problem}" : "the best {candidates} reranked", values);
}

/** Whether a hit is shown at once; false only if the server says that it is weak. */
const isLikely = (hit) => hit.confident !== false;

function showHits({ model, data }, filter) {
  const frames = models.find(({ id }) => id === model)?.index.strip_frames ?? 1;
  const cards = data.map((hit, i) => makeCard(hit, i + 1, frames, actions));
  if (filters.rememberNames(data)) showChips();
  const weak = cards.filter((_, i) => !isLikely(data[i]));
  for (const card of weak) card.hidden = true;
  results.replaceChildren(...cards);
  markExamples();
  byId("doubt").hidden = !weak.length || weak.length < cards.length;
  byId("weak").hidden = !weak.length;
  byId("weak").textContent = plural(weak.length, "Show {n} weaker match", "Show {n} weaker matches");
  byId("weak").onclick = () => {
    for (const card of weak) card.hidden = false;
    byId("weak").hidden = true;
    weak[0].querySelector(".open").focus();
  };
  byId("export").hidden = !data.length;
  if (data.length) return;
  show("nothing");
  byId("unfilter").hidden = !filter;
  byId("advice").textContent = filter
    ? t("The filter leaves nothing to search in. Loosen it, or search without it.")
    : t("The index holds nothing to compare with. Index some videos, or choose another model.");
}

/** Save the hits that are shown. type: media type of the file. */
async function exportHits(type) {
  if (byId("weak").hidden) asked.set("min_confidence", 0); // weaker ones are shown as well
  try {
    await saveList(asked, type);
  } catch (error) {
    complain(error);
  }
}

// ---- Words ----------------------------------------------------------------------------------------------------

function say(message, wrong = false) {
  byId("status").textContent = message;
  byId("status").classList.toggle("wrong", wrong);
}

function complain(error) {
  if (!(error instanceof Refused)) throw error;
  const ofFilter = /^filter\b/.test(error.param);
  say(ofFilter ? t("The filter cannot be used. The message next to it says what to change.") : error.message, true);
  if (!ofFilter) return;
  filters.complainOfFilter(error.message);
  form.filter.focus();
}

function show(part) {
  for (const id of ["welcome", "nothing", "results"]) byId(id).hidden = id !== part;
  for (const id of ["doubt", "weak", "export"]) byId(id).hidden = true;
}

// ---- Hands ----------------------------------------------------------------------------------------------------

byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
for (const field of [form.instruction, form.top_k, form.by, form.group_by, form.model]) field.addEventListener("change", resubmit);
form.model.addEventListener("change", describeModel);
recent.setUp((query) => {
  history.pushState({}, "", addressOf(query));
  restore();
});
byId("unfilter").onclick = () => {
  filters.setFilter("");
  filters.showFilter(false);
  submit();
};
for (const button of byId("export").querySelectorAll("button")) button.onclick = () => exportHits(button.value);
byId("file").addEventListener("change", ({ target }) => {
  attach([...target.files]);
  target.value = ""; // so that the same file can be chosen again
});
addEventListener("popstate", () => restore());

document.addEventListener("paste", (event) => {
  if (!event.clipboardData.files.length || byId("key").open) return;
  event.preventDefault();
  stopAll();
  attach([...event.clipboardData.files]);
});
for (const type of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault(); // otherwise the browser would open the file instead of the page
    const over = type === "dragenter" || type === "dragover" || (type === "dragleave" && event.relatedTarget !== null);
    document.body.classList.toggle("dropping", over);
    if (type === "drop" && !byId("key").open) {
      stopAll();
      attach([...event.dataTransfer.files]);
    }
  });
}

document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || byId("key").open) return;
  const typing = target.matches("input, select");
  const cards = [...results.children].filter((card) => !card.hidden);
  const at = cards.indexOf(target.closest(".card"));
  if (key === "/" && !typing && !isOpen()) {
    event.preventDefault();
    form.text.select();
    form.text.focus();
  } else if (key === "m" && !typing && momentAt(target)) {
    searchWith({ hit: momentAt(target) });
  } else if (key === "a" && !typing && momentAt(target)) {
    toggleExample(momentAt(target));
  } else if (key === "v" && !typing && momentAt(target)) {
    onlyIn(momentAt(target));
  } else if (!isOpen() && key.startsWith("Arrow") && (at >= 0 || (target === form.text && key === "ArrowDown"))) {
    const columns = cards.filter((card) => card.offsetTop === cards[0].offsetTop).length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
    const next = at < 0 ? cards[0] : cards[at + step];
    if (!next && !(key === "ArrowUp")) return;
    event.preventDefault();
    (next?.querySelector(".open") ?? form.text).focus();
  }
});

restore(await loadModels().catch((error) => error));
if (models.length) followIndexes();
