// Shows moments: as cards that play while the pointer or the focus is on them, and in a dialog with sound and
// controls. Every file is first tried as a video. If the browser refuses it, an animated image (GIF, WebP, PNG)
// is shown as an image; of any other file the dialog shows the poster and offers a download.

import { isExample } from "./examples.js";
import { chooseFrame, stopChoosing } from "./frame.js";
import { number, t } from "./language.js";
import { Refused, typeOf } from "./server.js";
import { copyLink, forgetMoment, save } from "./takeaway.js";
import { bytes, clock, fileName, formerRank, likelihood, span, spokenSpan } from "./words.js";

const HOVER_MS = 140; // a shorter hover loads nothing

const byId = (id) => document.getElementById(id);
const dialog = byId("moment");
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const hits = new WeakMap(); // by card

let previewed = null; // {card, timer, media}: the card that is playing or about to play
let opened = null; // {hit, media}: the hit in the dialog and its media element

/** Make a card of the grid. rank: from 1. frames: number of frames in a strip. actions: {onlyIn,
 *  toggleExample}, called with a hit, and searchWith, called with {hit} or {image}. */
export function makeCard(hit, rank, frames, actions) {
  const card = byId("card").content.firstElementChild.cloneNode(true);
  const part = (name) => card.querySelector(`.${name}`);
  const name = fileName(hit.uri);
  hits.set(card, hit);
  part("poster").src = hit.links.poster;
  part("poster").onerror = ({ target }) => (target.hidden = true);
  part("time").textContent = span(hit);
  part("file").textContent = name;
  part("file").title = hit.uri;
  part("caption").textContent = hit.metadata.caption ?? "";
  showQuote(part("quote"), hit.words);
  part("likelihood").textContent = likelihood(hit);
  part("score").textContent = number(hit.score, 2);
  part("was").textContent = formerRank(hit, rank);
  const called = `${name}, ${spokenSpan(hit)}`;
  part("more").setAttribute("aria-label", t("More like this: {name}", { name: called }));
  part("more").onclick = () => actions.searchWith({ hit });
  part("menu").querySelector("summary").setAttribute("aria-label", t("More actions: {name}", { name: called }));
  part("only").onclick = () => actions.onlyIn(hit);
  part("as-example").onclick = () => actions.toggleExample(hit);
  const open = part("open");
  const score = t("score {score}", { score: number(hit.score, 2) });
  const label = [called, likelihood(hit), score, formerRank(hit, rank)];
  open.setAttribute("aria-label", label.filter(Boolean).join(", "));
  open.onclick = () => openMoment(hit, actions);
  open.onfocus = () => open.matches(":focus-visible") && startPreview(card, 0);
  open.onblur = stopPreview;
  open.onpointerenter = ({ pointerType }) => pointerType !== "touch" && startPreview(card, HOVER_MS);
  open.onpointerleave = stopPreview;
  scrub(card, hit.links.strip, frames);
  part("further").hidden = !hit.moments?.length;
  part("further").append(...(hit.moments ?? []).map((other) => furtherMoment(other, actions)));
  return card;
}

/** A button that opens a further moment of the film of a card. */
function furtherMoment(hit, actions) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = span(hit);
  button.setAttribute("aria-label", `${fileName(hit.uri)}, ${spokenSpan(hit)}`);
  button.onclick = () => openMoment(hit, actions);
  return button;
}

/** Return the hit in the dialog, or else the hit of the card that contains an element; undefined if neither. */
export function momentAt(element) {
  return opened?.hit ?? hits.get(element.closest(".card"));
}

/** Mark the moments that are examples of the search. */
export function markExamples() {
  const mark = (button, hit) => button.setAttribute("aria-pressed", String(isExample(hit)));
  for (const card of document.querySelectorAll(".card")) {
    card.classList.toggle("example", isExample(hits.get(card)));
    mark(card.querySelector(".as-example"), hits.get(card));
  }
  if (opened) mark(byId("moment-example"), opened.hit);
}

/** Return whether the dialog is open. */
export function isOpen() {
  return dialog.open;
}

/** Close the dialog, if it is open, and stop the card that is playing. */
export function stopAll() {
  dialog.close();
  stopPreview();
}

const fileOf = (hit) => hit.links.video.split("#")[0];

/** A video at the start of a moment. atEnd: called when it plays across the end of the moment or of the file.
 *  refused: called when the browser cannot play the file, or only its sound. */
function makeVideo(hit, atEnd, refused) {
  const video = document.createElement("video");
  let last = hit.start;
  const watch = (now) => {
    if (video.seeking) return; // the user may seek beyond the end
    const crossed = last < hit.end && now >= hit.end;
    last = now;
    if (crossed) atEnd(video); // the end of a media fragment (#t=0,10) would stop it only once
  };
  const everyFrame = (_, { mediaTime }) => {
    watch(mediaTime);
    video.requestVideoFrameCallback(everyFrame);
  };
  // If a file's first frame comes late, Chromium at first reports too short a duration and cuts the #t= below to it.
  const enter = () => {
    if (!(video.duration > hit.start)) return;
    video.removeEventListener("durationchange", enter);
    if (Math.abs(video.currentTime - hit.start) > 0.001) video.currentTime = hit.start;
  };
  video.addEventListener("durationchange", enter);
  video.requestVideoFrameCallback?.(everyFrame); // timeupdate alone would see the end up to 250 ms late
  video.addEventListener("timeupdate", () => watch(video.currentTime));
  video.addEventListener("seeking", () => (last = video.currentTime));
  video.addEventListener("ended", () => atEnd(video));
  video.onerror = refused;
  video.onloadedmetadata = () => video.videoWidth || refused();
  video.playsInline = true;
  video.src = `${fileOf(hit)}#t=${hit.start}`;
  return video;
}

/** What to show instead of a video that the browser refused: {image} if the file is an image, otherwise
 *  {problem, isFile}: a sentence that says why nothing plays, and whether there is a file to download. */
async function insteadOfVideo(hit) {
  try {
    const type = await typeOf(fileOf(hit));
    const image = type.startsWith("image/") && (await loaded(fileOf(hit)));
    return image ? { image } : { problem: t("This browser cannot play this file ({type}).", { type }), isFile: true };
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return { problem: error.message, isFile: false };
  }
}

/** The image at an address, or null if the browser cannot show it. */
function loaded(address) {
  const image = new Image();
  image.src = address;
  return image.decode().then(() => image, () => null);
}

function play(video) {
  video.play().catch(() => {}); // refused without a click, or unloaded meanwhile: the controls are there
}

function playFrom(video, seconds) {
  video.currentTime = seconds;
  play(video);
}

function unload(media) {
  media.onerror = media.onloadedmetadata = null;
  media.pause?.();
  media.removeAttribute("src"); // otherwise it would continue to load
  media.load?.();
  media.remove();
}

function startPreview(card, delay) {
  if (previewed?.card === card) return;
  stopPreview();
  if (calm.matches) return;
  const mine = (previewed = { card, media: null });
  mine.timer = setTimeout(() => preview(mine, hits.get(card)), delay);
}

function preview(mine, hit) {
  const { card } = mine;
  const progress = card.querySelector(".progress");
  const place = (media) => {
    mine.media = media;
    media.className = "player";
    media.setAttribute("aria-hidden", "true");
    card.querySelector(".poster").after(media);
  };
  const video = makeVideo(hit, () => playFrom(video, hit.start), async () => {
    unload(video);
    const { image } = await insteadOfVideo(hit);
    if (!image || previewed !== mine) return;
    place(image);
    card.classList.add("playing");
  });
  video.muted = true;
  video.onplaying = () => card.classList.add("playing");
  video.ontimeupdate = () => {
    const done = (video.currentTime - hit.start) / Math.max(hit.end - hit.start, 0.01);
    progress.style.transform = `scaleX(${Math.min(1, Math.max(0, done))})`;
  };
  place(video);
  play(video);
}

function stopPreview() {
  if (!previewed) return;
  clearTimeout(previewed.timer);
  previewed.card.classList.remove("playing");
  if (previewed.media) unload(previewed.media);
  previewed = null;
}

/** Show a frame of the strip, chosen by the pointer position, until the video plays or if it cannot. */
function scrub(card, url, frames) {
  const [open, canvas] = [card.querySelector(".open"), card.querySelector(".strip")];
  const strip = new Image();
  let pointer = 0;
  const draw = () => {
    if (!strip.complete || !strip.naturalWidth || !open.matches(":hover")) return;
    const { left, width } = canvas.getBoundingClientRect();
    const frame = Math.min(frames - 1, Math.max(0, Math.floor(((pointer - left) / width) * frames)));
    const [wide, high] = [strip.naturalWidth / frames, strip.naturalHeight];
    Object.assign(canvas, { width: wide, height: high });
    canvas.getContext("2d").drawImage(strip, frame * wide, 0, wide, high, 0, 0, wide, high);
    card.classList.add("scrubbing");
  };
  strip.onload = draw;
  open.addEventListener("pointermove", ({ pointerType, clientX }) => {
    if (pointerType === "touch") return;
    if (!strip.src) strip.src = url;
    pointer = clientX;
    draw();
  });
  open.addEventListener("pointerleave", () => card.classList.remove("scrubbing"));
}

/** Open a moment in the dialog. actions: as of `makeCard`. */
export function openMoment(hit, actions) {
  stopPreview();
  const mine = (opened = { hit, media: null });
  const video = makeVideo(hit, () => video.pause(), async () => {
    const instead = await insteadOfVideo(hit);
    if (opened === mine) showInstead(hit, instead);
  });
  video.controls = true;
  video.poster = hit.links.poster;
  byId("moment-file").textContent = fileName(hit.uri);
  byId("moment-caption").textContent = hit.metadata.caption ?? "";
  showQuote(byId("moment-quote"), hit.words);
  byId("moment-more").onclick = () => actions.searchWith({ hit });
  byId("moment-only").onclick = () => actions.onlyIn(hit);
  byId("moment-example").onclick = () => actions.toggleExample(hit);
  markExamples();
  byId("moment-frame").onclick = () => {
    const name = t("Picture of {name}", { name: `${fileName(hit.uri)}, ${clock(video.currentTime)}` });
    chooseFrame(video, name, (image) => actions.searchWith({ image }));
  };
  byId("moment-frame").disabled = true;
  video.onloadeddata = () => (byId("moment-frame").disabled = false);
  byId("replay").onclick = () => playFrom(video, hit.start);
  byId("facts").replaceChildren(...facts(hit).flatMap(([name, value]) => [line("dt", name), line("dd", value)]));
  byId("download").href = fileOf(hit);
  const unless = (say) => (...words) => opened === mine && say(...words); // closed, or another moment is open
  byId("download").onclick = (event) => {
    event.preventDefault();
    save(fileOf(hit), unless((message) => note(message, true)));
  };
  const say = unless((message) => (byId("moment-said").textContent = message));
  say("");
  byId("moment-save").onclick = () => save(hit.links.moment, say);
  byId("moment-link").onclick = () => copyLink(hit.id, say);
  show(video);
  note("");
  dialog.showModal();
  play(video);
}

/** Show the words of a hit that match, marked. words: as the server sends them, or null. */
function showQuote(element, words) {
  element.hidden = !words;
  if (!words) return element.replaceChildren();
  const characters = [...words.text]; // the marks count Unicode characters, and a JavaScript text has UTF-16 units
  const parts = [];
  let done = 0;
  for (const [start, end] of words.marks) {
    parts.push(characters.slice(done, start).join(""), line("mark", characters.slice(start, end).join("")));
    done = end;
  }
  element.replaceChildren(line("small", t(words.source)), ...parts, characters.slice(done).join(""));
}

function showInstead(hit, { image, problem, isFile }) {
  const picture = image ?? new Image();
  if (!image) picture.src = hit.links.poster;
  picture.alt = t("Picture of {name}", { name: fileName(hit.uri) });
  show(picture);
  if (!image) return note(problem, isFile);
  note(t("This is an animated image, which plays only as a whole. The moment is {span} of it.", { span: span(hit) }));
}

/** Show a media element in the dialog. */
function show(media) {
  if (opened.media) unload(opened.media);
  opened.media = media;
  byId("stage").prepend(media);
  for (const id of ["replay", "moment-frame"]) byId(id).hidden = media.tagName !== "VIDEO";
}

/** Show a sentence below the moment, or none, and the link that downloads its file. */
function note(message, canDownload = false) {
  byId("note").hidden = !message;
  byId("note-text").textContent = message;
  byId("download").hidden = !canDownload;
}

function line(tag, content) {
  const element = document.createElement(tag);
  element.textContent = content;
  return element;
}

/** What is known of a moment, as rows of name and value. */
function facts(hit) {
  const { caption, width, height, duration, size, ...others } = hit.metadata;
  const seconds = (value) => `${number(value, 1)} s`;
  const percent = (value) => number(value, 1, { style: "percent" });
  const rows = [
    [t("Moment"), `${span(hit)} (${seconds(hit.end - hit.start)})`],
    [t("Matches from"), hit.extent.start < hit.start || hit.extent.end > hit.end ? span(hit.extent) : null],
    [t("Likelihood"), likelihood(hit) ? `${likelihood(hit)} (${percent(hit.confidence)})` : null],
    [t("Score"), hit.score === null ? null : number(hit.score, 4)],
    [t("File"), hit.uri],
    [t("Length"), duration && `${clock(duration)} (${seconds(duration)})`],
    [t("Picture"), width && height && `${width} × ${height}`],
    [t("Size"), size && bytes(size)],
    ...Object.entries(others).map(([name, value]) => [name.replaceAll("_", " "), value]),
    ["id", hit.id],
  ];
  return rows.filter(([, value]) => value !== null && value !== undefined);
}

// A menu closes as soon as something else is used.
for (const type of ["click", "focusin", "keydown"]) {
  document.addEventListener(type, ({ key, target }) => {
    for (const menu of document.querySelectorAll(".menu[open]")) {
      if (menu.contains(target) && key !== "Escape") continue;
      if (menu.contains(target)) menu.querySelector("summary").focus();
      menu.open = false;
    }
  });
}
byId("moment-close").onclick = () => dialog.close();
dialog.addEventListener("click", ({ target }) => target === dialog && dialog.close()); // a click outside the content
dialog.addEventListener("cancel", (event) => stopChoosing() && event.preventDefault()); // Escape leaves the choice first
dialog.addEventListener("close", () => {
  stopChoosing();
  unload(opened.media);
  opened = null;
  forgetMoment();
});
