// The frame: login, navigation, one view at a time. A view is a function of its address that answers an element.

import { session, signedOut } from "./lib/api.js";
import { h, link, present, replace, say } from "./lib/dom.js";
import { failure } from "./lib/parts.js";
import { login } from "./lib/login.js";
import { watchAlarms } from "./lib/bell.js";
import { audit } from "./views/audit.js";
import { bundles } from "./views/bundles.js";
import { definitions } from "./views/definitions.js";
import { domains } from "./views/domains.js";
import { drift } from "./views/drift.js";
import { events } from "./views/events.js";
import { experiment } from "./views/experiment.js";
import { experiments } from "./views/experiments.js";
import { nights } from "./views/nights.js";
import { overview } from "./views/overview.js";
import { requests } from "./views/requests.js";

const VIEWS = [
  { name: "", title: "Overview", show: overview },
  { name: "experiments", title: "Experiments", show: experiments, group: "Experiments" },
  { name: "definitions", title: "Definitions", show: definitions },
  { name: "domains", title: "Domains", show: domains, group: "Serving" },
  { name: "requests", title: "Requests", show: requests },
  { name: "drift", title: "Score drift", show: drift },
  { name: "events", title: "Events", show: events },
  { name: "bundles", title: "Bundles", show: bundles, group: "Models" },
  { name: "nights", title: "Nights", show: nights },
  { name: "audit", title: "Audit trail", show: audit, group: "Record" },
];
const INSIDE = { experiments: experiment }; // of what has parts: #/experiments/KEY

const main = document.getElementById("main");
const navigation = document.getElementById("navigation");
const menu = document.getElementById("menu");
const logout = document.getElementById("logout");
let leaving = new AbortController();

/** Where the address leads: {view, show, parts}. */
function route() {
  const [name = "", ...parts] = location.hash.replace(/^#\/?/, "").split("/").map(unescaped);
  const found = VIEWS.find((one) => one.name === name) ?? VIEWS[0];
  return { found, show: parts.length && INSIDE[name] ? INSIDE[name] : found.show, parts };
}

function unescaped(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** quietly: without taking the focus, for the first view of a page and for the same view again. */
async function render(quietly = false) {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  if (!session.token) {
    framed(false);
    replace(main, login(() => render()));
    document.title = "Log in · mdrec console";
    main.querySelector("input")?.focus();
    return;
  }
  framed(true);
  const { found, show, parts } = route();
  document.title = `${parts[0] ? `${parts[0]} · ` : ""}${found.title} · mdrec console`;
  mark(found);
  close();
  main.setAttribute("aria-busy", "true");
  const waiting = setTimeout(() => replace(main, h("p", { class: "busy" }, "Loading…")), main.childElementCount && quietly ? 4000 : 250);
  try {
    const element = await show({ parts, signal, refresh: () => render(true) });
    if (signal.aborted) return;
    replace(main, element);
  } catch (error) {
    if (signal.aborted || error.name === "AbortError" || !session.token) return;
    replace(main, h("div", { class: "view" }, h("h1", { tabindex: -1 }, found.title), failure(error, () => render())));
  } finally {
    clearTimeout(waiting);
    if (!signal.aborted) main.removeAttribute("aria-busy");
  }
  if (!quietly) {
    window.scrollTo(0, 0);
    main.querySelector("h1")?.focus({ preventScroll: true });
  }
}

function framed(inside) {
  navigation.hidden = !inside;
  menu.hidden = !inside;
  logout.hidden = !inside;
  document.getElementById("who").textContent = inside ? session.operator : "";
  watchAlarms(inside);
}

function drawNavigation() {
  const groups = [];
  for (const one of VIEWS) {
    if (one.group || !groups.length) groups.push({ name: one.group, views: [] });
    groups.at(-1).views.push(one);
  }
  const item = (one) => h("li", null, h("a", { href: link(one.name), "data-view": one.name }, one.title));
  replace(
    navigation,
    groups.map((group) => present([group.name && h("p", { class: "group" }, group.name), h("ul", null, group.views.map(item))])),
  );
}

function mark(found) {
  for (const one of navigation.querySelectorAll("a")) {
    if (one.dataset.view === found.name) one.setAttribute("aria-current", "page");
    else one.removeAttribute("aria-current");
  }
}

function close() {
  navigation.classList.remove("open");
  menu.setAttribute("aria-expanded", "false");
}

menu.addEventListener("click", () => {
  menu.setAttribute("aria-expanded", String(navigation.classList.toggle("open")));
});
navigation.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && navigation.classList.contains("open")) {
    close();
    menu.focus();
  }
});
logout.addEventListener("click", () => {
  session.end();
  say("Logged out.");
  render();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address belongs to the views
  main.focus();
});

const theme = document.getElementById("theme");
theme.value = document.documentElement.dataset.theme ?? "";
theme.addEventListener("change", () => {
  if (theme.value) document.documentElement.dataset.theme = theme.value;
  else delete document.documentElement.dataset.theme;
  try {
    localStorage.setItem("mdrec.theme", theme.value);
  } catch {
    // kept for this page alone
  }
});

signedOut.call = () => {
  say("The token is no longer taken. Log in again.");
  render();
};
addEventListener("hashchange", () => render());
drawNavigation();
render(true);
