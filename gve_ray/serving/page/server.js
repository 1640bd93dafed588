// Requests to the host of the page: JSON replies, error messages, and the API key if the server needs one.

import { t } from "./language.js";

/** An error with a message for the user. param: the field of the request that is wrong, or null. */
export class Refused extends Error {
  constructor(message, param = null) {
    super(message);
    this.param = param;
  }
}

/** Return the result of `read` for the response of the server; by default, its JSON. If the server needs the key, ask
 *  the user for it and repeat the request. Throws Refused, or an AbortError. */
export async function ask(path, options = {}, read = (answer) => answer.json()) {
  for (;;) {
    const answer = await unbroken(fetch(path, options));
    if (answer.ok) return await unbroken(read(answer));
    if (answer.status !== 401) throw await refusal(answer);
    signingIn ??= askForKey().finally(() => (signingIn = null));
    await signingIn;
  }
}

/** Return what the server knows of a moment. model, id: IDs. Throws the same errors as `ask`. */
export function momentOf(model, id) {
  return ask(`/v1/moments/${[model, id].map(encodeURIComponent).join("/")}`);
}

/** Return the media type of a file on the server. Throws the same errors as `ask`. */
export function typeOf(path) {
  return ask(path, { headers: { Range: "bytes=0-0" } }, async (answer) => answer.headers.get("Content-Type"));
}

/** Fetch a file from the server in parts and return it, with its name there. progress: called with the number of bytes received
 *  so far and the size. Throws the same errors as `ask`. */
export async function fetchFile(path, progress) {
  const parts = [];
  let [got, size, name] = [0, 0, ""];
  do {
    const [part, range, disposition] = await ask(path, { headers: { Range: `bytes=${got}-` } }, async (answer) => [
      await answer.blob(),
      answer.headers.get("Content-Range"), // bytes FIRST-LAST/SIZE
      answer.headers.get("Content-Disposition"), // inline; filename*=UTF-8''NAME
    ]);
    name = decodeURIComponent(disposition.split("''")[1]);
    parts.push(part);
    got += part.size;
    size = Number(range?.split("/")[1] ?? got);
    progress(got, size);
  } while (got < size);
  return new File(parts, name, { type: parts[0].type });
}

/** Return the result of the promise. Throws Refused if the connection fails. */
async function unbroken(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(t("The server cannot be reached, or broke off. Is it still running?"));
  }
}

async function refusal(answer) {
  const isJson = answer.headers.get("Content-Type")?.includes("json");
  const { message, param } = (isJson && (await unbroken(answer.json())).error) || {};
  if (answer.status === 503) {
    const wait = Number(answer.headers.get("Retry-After")) || 1;
    return new Refused(t("The server is busy. Try again in {wait} s.", { wait }));
  }
  const status = `${answer.status} ${answer.statusText}`;
  return new Refused(message ?? t("The server answered {status}.", { status }), param);
}

let signingIn = null; // a promise, shared by all requests that need the key at the same time

/** Show the dialog until a session is open. Throws Refused if the user closes it without a session. */
function askForKey() {
  const [dialog, field, wrong] = ["key", "key-text", "key-error"].map((id) => document.getElementById(id));
  let opened = false;
  const tell = (message) => {
    wrong.textContent = message;
    wrong.hidden = !message;
  };
  document.getElementById("key-form").onsubmit = async (event) => {
    event.preventDefault();
    const headers = { Authorization: `Bearer ${field.value.trim()}` };
    field.value = "";
    tell("");
    try {
      const answer = await unbroken(fetch("/v1/session", { method: "POST", headers }));
      if (answer.status === 401) throw new Refused(t("This is not the server's key. Check it and try again."));
      if (!answer.ok) throw await refusal(answer);
      opened = true;
      dialog.close();
    } catch (error) {
      tell(error.message);
      field.focus();
    }
  };
  document.getElementById("key-cancel").onclick = () => dialog.close();
  tell("");
  dialog.showModal();
  return new Promise((resolve, reject) => {
    dialog.onclose = () => {
      field.value = "";
      if (opened) resolve();
      else reject(new Refused(t("This server answers only with a key. Search again to give one.")));
    };
  });
}
