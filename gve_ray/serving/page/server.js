// Requests to the page's own host: JSON answers, errors in words, and the key where the server wants one.

/** What the server does not do, in words to show; param: the field of the request that is wrong, or null. */
export class Refused extends Error {
  constructor(message, param = null) {
    super(message);
    this.param = param;
  }
}

/** The JSON answer. Asks for the key when the server does, and repeats. Throws Refused, or an AbortError. */
export async function ask(path, options = {}) {
  for (;;) {
    const [answer, body] = await send(path, options);
    if (answer.ok) return body;
    if (answer.status !== 401) throw refusal(answer, body);
    signingIn ??= askForKey().finally(() => (signingIn = null));
    await signingIn;
  }
}

/** The response, and what its JSON says: null if it is none. */
async function send(path, options) {
  try {
    const answer = await fetch(path, options);
    const body = await answer.text();
    return [answer, answer.headers.get("Content-Type")?.includes("json") ? JSON.parse(body) : null];
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server cannot be reached, or broke off. Is it still running?");
  }
}

function refusal(answer, body) {
  const { message, param } = body?.error ?? {};
  if (answer.status === 503) {
    const wait = Number(answer.headers.get("Retry-After")) || 1;
    return new Refused(`The server is busy. Try again in ${wait} s.`);
  }
  return new Refused(message ?? `The server answered ${answer.status} ${answer.statusText}.`, param);
}

let signingIn = null; // several requests may find out at once that a key is needed

/** Shows the dialog until a session is open. Throws Refused when it is closed without one. */
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
      const [answer, body] = await send("/v1/session", { method: "POST", headers });
      if (answer.status === 401) throw new Refused("This is not the server's key. Check it and try again.");
      if (!answer.ok) throw refusal(answer, body);
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
      else reject(new Refused("This server answers only with a key. Search again to give one."));
    };
  });
}
