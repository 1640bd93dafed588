// Takes results away: a moment as a file, the link to a moment, and the list of results.

import { t } from "./language.js";
import { Refused, ask, fetchFile } from "./server.js";
import { bytes } from "./words.js";

const KEPT_MS = 60_000; // the browser may still be reading a file that it saves

/** Save a file of the server. say: called with a sentence about how far it is. */
export async function save(address, say) {
  try {
    say(t("Preparing the file…"));
    keep(await fetchFile(address, (got, size) => say(t("Downloading: {part} of {size}.", { part: bytes(got), size: bytes(size) }))));
    say(t("Downloaded."));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    say(error.message);
  }
}

/** Save the results of a search as a file. body: of the search. type: media type, which the server knows. */
export async function saveList(body, type) {
  const list = await ask("/v1/search", { method: "POST", body, headers: { Accept: type } }, (answer) => answer.blob());
  const ending = { "text/csv": "csv", "application/json": "json", "text/x-edl": "edl" }[type];
  keep(new File([list], `moments.${ending}`, { type }));
}

function keep(file) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), KEPT_MS);
}

/** Put the link to a moment into the address of the page, and copy it. The search stays part of the address. */
export async function copyLink(id, say) {
  readdress((query) => query.set("moment", id));
  try {
    await navigator.clipboard.writeText(location.href);
    say(t("Link copied."));
  } catch {
    say(t("The address of this page is now the link.")); // not every page may use the clipboard
  }
}

/** Return the ID of the moment in the address, or null. */
export const linkedMoment = () => new URLSearchParams(location.search).get("moment");

/** Leave the moment out of the address. */
export const forgetMoment = () => linkedMoment() && readdress((query) => query.delete("moment"));

function readdress(change) {
  const address = new URL(location.href);
  change(address.searchParams);
  history.replaceState(history.state, "", address);
}
