// A part of a view that asks again every few seconds while it is looked at, and is drawn anew only when the answer is another.

import { read } from "./api.js";
import { h, replace } from "./dom.js";
import { failure } from "./parts.js";

/** {element, look}: ask() is called now by look() and then again; draw(body) gives what is shown. Until `signal` ends it. */
export function live(ask, draw, signal, periodMs = 10_000) {
  const element = h("div", { class: "live" });
  let drawn;

  async function look() {
    try {
      const body = await ask();
      if (body === drawn || busy(element)) return;
      drawn = body;
      replace(element, draw(body));
    } catch (error) {
      if (error.name === "AbortError" || error.status === 401) return;
      drawn = undefined;
      replace(element, failure(error, look));
    }
  }

  const timer = setInterval(() => document.visibilityState === "visible" && look(), periodMs);
  signal.addEventListener("abort", () => clearInterval(timer));
  return { element, look };
}

/** The body of a path, the same object while it did not change. */
export function body(path, signal) {
  return read(path, { signal }).then((found) => found.body);
}

/** Nobody loses the place they are at: while something inside has the focus, what is shown stays. */
function busy(element) {
  return element.childElementCount > 0 && element.contains(document.activeElement);
}
