// A part of a view that asks again every few seconds while it is looked at, and is drawn anew only when the answer is another.

import { read } from "./api.js";
import { h, replace } from "./dom.js";
import { failure } from "./parts.js";

const PERIOD_MS = 10_000;

/** {element, look}: path() is asked now by look() and then again; draw(body) gives what is shown. Until `signal` ends it. */
export function live(path, draw, signal) {
  const element = h("div", { class: "stack live" });
  let drawn;

  async function look() {
    try {
      const { body } = await read(path(), { signal });
      if (body === drawn || busy(element)) return;
      drawn = body;
      replace(element, draw(body));
    } catch (error) {
      if (error.name === "AbortError" || error.status === 401) return;
      drawn = undefined;
      replace(element, failure(error, look));
    }
  }

  const timer = setInterval(() => document.visibilityState === "visible" && look(), PERIOD_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
  return { element, look };
}

/** Nobody loses the place they are at: while something inside has the focus, what is shown stays. */
function busy(element) {
  return element.childElementCount > 0 && element.contains(document.activeElement);
}
