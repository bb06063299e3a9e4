// The alarm count in the top bar, on every view; a new alarm is said aloud once.

import { gather } from "./alarms.js";
import { h, replace } from "./dom.js";

const PERIOD_MS = 30_000;
const bell = document.getElementById("bell");
let known = new Set();
let timer = 0;
let asking = new AbortController();

/** Look now and every half minute while the page is in front; or stop. */
export function watchAlarms(on) {
  if (!on) {
    clearInterval(timer);
    asking.abort();
    timer = 0;
    bell.hidden = true;
    known = new Set();
  } else if (!timer) {
    timer = setInterval(() => document.visibilityState === "visible" && look(), PERIOD_MS);
    look();
  }
}

/** At once, after something was changed here. */
export async function look() {
  asking.abort();
  asking = new AbortController();
  let alarms;
  try {
    alarms = await gather(asking.signal);
  } catch {
    return; // left, or logged out
  }
  const fresh = alarms.filter((one) => one.tone === "bad" && !known.has(one.title));
  known = new Set(alarms.map((one) => one.title));
  const bad = alarms.filter((one) => one.tone === "bad").length;
  bell.hidden = bad === 0;
  replace(bell, h("span", { "aria-hidden": "true" }, "✕"), String(bad), h("span", { class: "word" }, bad === 1 ? "alarm" : "alarms"));
  bell.setAttribute("aria-label", `${bad} alarm${bad === 1 ? "" : "s"}: to the overview`);
  if (fresh.length || !bad) document.getElementById("alarmed").textContent = fresh.map((one) => `${one.title}. ${one.text}`).join(" ");
}
