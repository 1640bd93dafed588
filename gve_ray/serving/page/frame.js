// A picture of the video in the dialog as a query: the whole frame on which it is paused, or a box that the pointer
// draws on it.

const SMALLEST = 12; // pixels on the screen; what is smaller was a click and no box
const QUALITY = 0.95; // of the JPEG file

const byId = (id) => document.getElementById(id);
const [area, box, bar] = ["frame-area", "frame-box", "frame-bar"].map(byId);

let choice = null; // {video, chosen, from}: from is the corner where a box begins, in pixels of the video

/** Pause a video and let the user choose what to search with. chosen: called with a JPEG file of this name. */
export function chooseFrame(video, name, chosen) {
  stopChoosing();
  video.pause();
  video.controls = false; // they would be below the pointer
  video.addEventListener("play", stopChoosing);
  choice = { video, from: null, chosen: async (part) => chosen(await crop(video, part, name)) };
  show(true);
  byId("frame-whole").focus();
}

/** Leave the choice, if there is one. Returns whether there was. */
export function stopChoosing() {
  if (!choice) return false;
  choice.video.removeEventListener("play", stopChoosing);
  choice.video.controls = true;
  choice = null;
  show(false);
  return true;
}

function show(shown) {
  area.hidden = bar.hidden = !shown;
  box.hidden = true;
}

function finish(part) {
  const { chosen } = choice;
  stopChoosing();
  chosen(part);
}

/** Return a part of the frame that a video shows. part: {x, y, width, height} in pixels of the video. */
async function crop(video, { x, y, width, height }, name) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: Math.max(1, Math.round(width)), height: Math.max(1, Math.round(height)) });
  canvas.getContext("2d").drawImage(video, x, y, width, height, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((made) => canvas.toBlob(made, "image/jpeg", QUALITY));
  return new File([blob], `${name}.jpg`, { type: blob.type });
}

/** Where the picture is on the screen: its corner, and the size of a pixel of the video. */
function place() {
  const { videoWidth, videoHeight } = choice.video;
  const { left, top, width, height } = choice.video.getBoundingClientRect();
  const scale = Math.min(width / videoWidth, height / videoHeight);
  return { scale, left: left + (width - scale * videoWidth) / 2, top: top + (height - scale * videoHeight) / 2 };
}

/** The point of the video below the pointer, or the nearest one. */
function pointAt({ clientX, clientY }) {
  const { scale, left, top } = place();
  const within = (value, most) => Math.min(most, Math.max(0, value));
  return {
    x: within((clientX - left) / scale, choice.video.videoWidth),
    y: within((clientY - top) / scale, choice.video.videoHeight),
  };
}

/** The box from the first corner to the pointer, in pixels of the video. */
function boxTo(pointer) {
  const [a, b] = [choice.from, pointAt(pointer)];
  return { x: Math.min(a.x, b.x), y: Math.min(a.y, b.y), width: Math.abs(a.x - b.x), height: Math.abs(a.y - b.y) };
}

function draw({ x, y, width, height }) {
  const { scale, left, top } = place();
  const origin = area.getBoundingClientRect();
  box.style.left = `${left - origin.left + scale * x}px`;
  box.style.top = `${top - origin.top + scale * y}px`;
  box.style.width = `${scale * width}px`;
  box.style.height = `${scale * height}px`;
  box.hidden = false;
}

area.addEventListener("pointerdown", (event) => {
  area.setPointerCapture(event.pointerId);
  choice.from = pointAt(event);
});
area.addEventListener("pointermove", (event) => choice?.from && draw(boxTo(event)));
area.addEventListener("pointerup", (event) => {
  if (!choice?.from) return;
  const part = boxTo(event);
  const isBox = Math.min(part.width, part.height) * place().scale >= SMALLEST;
  choice.from = null;
  box.hidden = true;
  if (isBox) finish(part);
});
area.addEventListener("pointercancel", () => {
  if (choice) choice.from = null;
  box.hidden = true;
});
byId("frame-whole").onclick = () => {
  const { videoWidth, videoHeight } = choice.video;
  finish({ x: 0, y: 0, width: videoWidth, height: videoHeight });
};
byId("frame-cancel").onclick = () => stopChoosing() && byId("moment-frame").focus();
