// The recent searches of this browser, in a menu next to the text. Only texts with their conditions are kept, for only
// they can be repeated from an address.

const KEY = "recent searches"; // in localStorage: a list of {query, name}, the newest first
const MOST = 20;

const byId = (id) => document.getElementById(id);
const menu = byId("recent");

let choose = () => {};

/** Set up the menu. onChoice: called with the query part of an address, without its question mark. */
export function setUp(onChoice) {
  choose = onChoice;
  byId("recent-clear").onclick = () => keep([]);
  show();
}

/** Put a search at the top of the list. query: of its address. name: for people. */
export function addRecent(query, name) {
  keep([{ query, name }, ...kept().filter((other) => other.query !== query)].slice(0, MOST));
}

/** Return the list; an empty one if there is none, or if the browser keeps nothing for this page. */
function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? [];
  } catch {
    return [];
  }
}

function keep(searches) {
  try {
    localStorage.setItem(KEY, JSON.stringify(searches));
  } catch {
    return; // not every browser keeps something, and there may be no space left
  }
  show();
}

function show() {
  const searches = kept();
  menu.hidden = !searches.length;
  byId("recent-list").replaceChildren(...searches.map(({ query, name }) => {
    const [item, button] = ["li", "button"].map((tag) => document.createElement(tag));
    button.type = "button";
    button.textContent = name;
    button.onclick = () => {
      menu.open = false;
      choose(query);
    };
    item.append(button);
    return item;
  }));
}
