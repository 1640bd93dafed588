// The chips next to the text: the other parts of a search, each with a button that removes it.

import { t } from "./language.js";

const list = document.getElementById("chips");
const template = document.getElementById("chip").content.firstElementChild;

/** Show the parts of a search. parts: each {name, kind, url, remove}: its name for people, "image" or "video" and the
 *  address of its picture, if it has one, and a function that removes it. removed: called after a part was removed. */
export function show(parts, removed) {
  list.replaceChildren(...parts.map((part) => makeChip(part, removed)));
  list.hidden = !parts.length;
}

function makeChip({ name, kind, url, remove }, removed) {
  const chip = template.cloneNode(true);
  const part = (name) => chip.querySelector(`.${name}`);
  part("name").textContent = name;
  if (url) part("thumb").append(picture(kind, url));
  else part("thumb").remove();
  part("remove").setAttribute("aria-label", t("Remove {name}", { name }));
  part("remove").onclick = () => {
    remove();
    removed();
  };
  return chip;
}

function picture(kind, url) {
  const element = document.createElement(kind === "image" ? "img" : "video");
  element.src = url;
  element.onerror = () => element.closest(".thumb")?.remove(); // a format that this browser cannot show
  if (kind === "image") element.alt = "";
  else Object.assign(element, { muted: true, playsInline: true, preload: "metadata" });
  return element;
}
