// The language of the page: the first language of the browser that `MESSAGES` has, otherwise English. Texts of the
// server (errors, captions, names of fields) stay as they are. This module translates the document when it is loaded.

import { MESSAGES } from "./messages.js";

const NAMES = { en: "en", de: "de", zh: "zh-Hans" }; // the value of the attribute lang
const primary = (tag) => tag.split("-")[0];

const tag = navigator.languages.find((name) => primary(name) in NAMES) ?? "en";
const language = primary(tag);
const pluralRules = new Intl.PluralRules(tag);

/** Return a message in the language of the page. message: in English. values: for the names in braces. */
export function t(message, values = {}) {
  const translated = MESSAGES[message]?.[language] ?? message;
  return translated.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** Return the message for a number of things. one, several: in English, with {n} for the number. */
export function plural(n, one, several) {
  return t(pluralRules.select(n) === "one" ? one : several, { n: number(n) });
}

/** Return a number as text, with a fixed number of decimal places. options: of Intl.NumberFormat. */
export function number(value, places = 0, options = {}) {
  const digits = { minimumFractionDigits: places, maximumFractionDigits: places };
  return new Intl.NumberFormat(tag, { ...digits, ...options }).format(value);
}

/** Translate the texts and labels below a node, which are in English. */
function translate(root) {
  const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const english = texts.currentNode.data.trim();
    if (english) texts.currentNode.data = texts.currentNode.data.replace(english, () => t(spaced(english)));
  }
  for (const name of ["aria-label", "title"]) {
    for (const element of root.querySelectorAll(`[${name}]`)) {
      element.setAttribute(name, t(spaced(element.getAttribute(name))));
    }
  }
  for (const template of root.querySelectorAll("template")) translate(template.content);
}

const spaced = (text) => text.replace(/\s+/g, " ");

document.documentElement.lang = NAMES[language];
if (language !== "en") {
  document.title = t(document.title);
  translate(document.body);
}
