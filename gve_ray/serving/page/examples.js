// The examples of a search: found moments that the hits should be like. The address has their IDs; what their chips
// show is remembered of the hits of this page, or else taken from the server.

import { t } from "./language.js";
import { momentOf } from "./server.js";
import { fileName, span } from "./words.js";

let ids = [];
const shown = new Map(); // {name, poster} by ID

/** Return the IDs of the examples. */
export const exampleIds = () => ids;

/** Return whether a hit is an example. */
export const isExample = (hit) => ids.includes(hit.id);

/** Make the moments with these IDs the examples. */
export function setExamples(newIds) {
  ids = [...new Set(newIds)]; // an address may repeat one
}

/** Make a hit an example, or no longer. Returns whether it is one now. */
export function toggle(hit) {
  remember(hit);
  setExamples(isExample(hit) ? without(hit.id) : [...ids, hit.id]);
  return isExample(hit);
}

/** Keep what the chip of a moment shows. */
function remember({ id, uri, start, end, links }) {
  shown.set(id, { name: `${fileName(uri)}, ${span({ start, end })}`, poster: links.poster });
}

/** Ask the server about the examples that this page has not shown. model: its ID. Throws the same errors as `ask`. */
export async function lookUp(model) {
  const unknown = ids.filter((id) => !shown.has(id));
  for (const moment of await Promise.all(unknown.map((id) => momentOf(model, id)))) remember(moment);
}

/** Return the examples as parts of the search; see `chips.show`. */
export function described() {
  return ids.map((id) => {
    const { name, poster } = shown.get(id) ?? { name: t("one moment") };
    return { name: t("Like {name}", { name }), kind: "image", url: poster, remove: () => setExamples(without(id)) };
  });
}

const without = (id) => ids.filter((other) => other !== id);
