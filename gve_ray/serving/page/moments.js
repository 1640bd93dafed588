// Found moments: as cards that play while they are looked at, and large, with sound and controls, in a dialog.

import { bytes, clock, fileName, span } from "./words.js";

const HOVER_MS = 140; // a pointer that only passes by loads nothing

const byId = (id) => document.getElementById(id);
const dialog = byId("moment");
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const hits = new WeakMap(); // by card

let previewed = null; // {card, timer, video}: the card that plays, or soon will
let opened = null; // {hit, video}: what the dialog shows

/** A card of the grid. frames: how many a strip has. moreLike: called with the hit. */
export function makeCard(hit, frames, moreLike) {
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
  part("score").textContent = hit.score.toFixed(2);
  part("more").setAttribute("aria-label", `More like this: ${name}, ${clock(hit.start)} to ${clock(hit.end)}`);
  part("more").onclick = () => moreLike(hit);
  const open = part("open");
  open.setAttribute("aria-label", `${name}, ${clock(hit.start)} to ${clock(hit.end)}, score ${hit.score.toFixed(2)}`);
  open.onclick = () => openMoment(hit, moreLike);
  open.onfocus = () => open.matches(":focus-visible") && startPreview(card, 0);
  open.onblur = stopPreview;
  open.onpointerenter = ({ pointerType }) => pointerType !== "touch" && startPreview(card, HOVER_MS);
  open.onpointerleave = stopPreview;
  scrub(card, hit.links.strip, frames);
  return card;
}

/** The moment in the dialog, or else that of the card an element is in; undefined if neither. */
export function momentAt(element) {
  return opened?.hit ?? hits.get(element.closest(".card"));
}

/** Whether the dialog shows a moment. */
export function isOpen() {
  return dialog.open;
}

/** Closes the dialog, if it is open, and stops what plays in the grid. */
export function stopAll() {
  dialog.close();
  stopPreview();
}

/** A video at the start of a moment; atEnd is called when it plays across the moment's end, or comes to its own. */
function makeVideo(hit, atEnd) {
  const video = document.createElement("video");
  let last = hit.start;
  const watch = (now) => {
    // A jump beyond the end is the viewer's wish. A media fragment's end (#t=0,10) would stop it only once.
    const crossed = last < hit.end && now >= hit.end && now - last < 1;
    last = now;
    if (crossed) atEnd(video);
  };
  const everyFrame = (_, { mediaTime }) => {
    watch(mediaTime);
    video.requestVideoFrameCallback(everyFrame);
  };
  video.requestVideoFrameCallback?.(everyFrame); // timeupdate alone would see the end up to 250 ms late
  video.addEventListener("timeupdate", () => watch(video.currentTime));
  video.addEventListener("ended", () => atEnd(video));
  video.playsInline = true;
  video.src = `${hit.links.video.split("#")[0]}#t=${hit.start}`;
  return video;
}

function play(video) {
  video.play().catch(() => {}); // refused without a click, or unloaded meanwhile: the controls are there
}

function playFrom(video, seconds) {
  video.currentTime = seconds;
  play(video);
}

function unload(video) {
  video.onerror = null;
  video.pause();
  video.removeAttribute("src"); // or it would go on loading
  video.load();
  video.remove();
}

function startPreview(card, delay) {
  if (previewed?.card === card) return;
  stopPreview();
  if (calm.matches) return;
  const mine = (previewed = { card, video: null });
  mine.timer = setTimeout(() => {
    const hit = hits.get(card);
    const progress = card.querySelector(".progress");
    const video = (mine.video = makeVideo(hit, () => playFrom(video, hit.start)));
    video.muted = true;
    video.setAttribute("aria-hidden", "true");
    video.onplaying = () => card.classList.add("playing");
    video.ontimeupdate = () => {
      const done = (video.currentTime - hit.start) / Math.max(hit.end - hit.start, 0.01);
      progress.style.transform = `scaleX(${Math.min(1, Math.max(0, done))})`;
    };
    card.querySelector(".poster").after(video);
    play(video);
  }, delay);
}

function stopPreview() {
  if (!previewed) return;
  clearTimeout(previewed.timer);
  previewed.card.classList.remove("playing");
  if (previewed.video) unload(previewed.video);
  previewed = null;
}

/** Until the video plays, or in place of it, where the pointer is on the picture chooses a frame of the strip. */
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

function openMoment(hit, moreLike) {
  stopPreview();
  const video = makeVideo(hit, () => video.pause());
  opened = { hit, video };
  video.controls = true;
  video.poster = hit.links.poster;
  video.onerror = () => showVideo(false);
  byId("download").href = hit.links.video.split("#")[0];
  byId("download").download = fileName(hit.uri);
  byId("moment-file").textContent = fileName(hit.uri);
  byId("moment-caption").textContent = hit.metadata.caption ?? "";
  byId("moment-more").onclick = () => moreLike(hit);
  byId("replay").onclick = () => playFrom(video, hit.start);
  byId("facts").replaceChildren(...facts(hit).flatMap(([name, value]) => [line("dt", name), line("dd", value)]));
  byId("stage").prepend(video);
  showVideo(true);
  dialog.showModal();
  play(video);
}

function showVideo(playable) {
  opened.video.hidden = byId("replay").hidden = !playable;
  byId("unplayable").hidden = playable;
}

function line(tag, content) {
  const element = document.createElement(tag);
  element.textContent = content;
  return element;
}

/** What is known of a moment, as rows of name and value. */
function facts(hit) {
  const { caption, width, height, duration, size, ...others } = hit.metadata;
  const rows = [
    ["Moment", `${span(hit)} (${(hit.end - hit.start).toFixed(1)} s)`],
    ["Score", hit.score.toFixed(4)],
    ["File", hit.uri],
    ["Length", duration && `${clock(duration)} (${duration.toFixed(1)} s)`],
    ["Picture", width && height && `${width} × ${height}`],
    ["Size", size && bytes(size)],
    ...Object.entries(others).map(([name, value]) => [name.replaceAll("_", " "), value]),
    ["id", hit.id],
  ];
  return rows.filter(([, value]) => value !== null && value !== undefined);
}

byId("moment-close").onclick = () => dialog.close();
dialog.addEventListener("click", ({ target }) => target === dialog && dialog.close()); // beside it, that is
dialog.addEventListener("close", () => {
  unload(opened.video);
  opened = null;
});
