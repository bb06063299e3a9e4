// A share as a slider and a number beside it that say the same; both work by keyboard.

import { fresh, h } from "./dom.js";

/** {element, set(fraction)}. value, least, most: fractions; onchange(fraction): when either was moved, NaN when it is impossible. */
export function shareSlider({ label, value, least = 0, most = 1, step = 1, hint, onchange }) {
  const id = fresh("share");
  const attributes = { min: round(least * 100), max: round(most * 100), value: round(value * 100) };
  const range = h("input", { type: "range", id, step, ...attributes });
  const exact = h("input", { type: "number", step: "any", "aria-label": `${label}, in percent`, ...attributes });
  const hinted = hint && h("span", { class: "hint", id: `${id}-hint` }, hint);
  if (hinted) range.setAttribute("aria-describedby", hinted.id);

  function told(from) {
    const percent = Number.parseFloat(from.value);
    const wrong = !Number.isFinite(percent) || percent < least * 100 - 1e-9 || percent > most * 100 + 1e-9;
    exact.setAttribute("aria-invalid", String(wrong));
    if (wrong) return onchange(Number.NaN);
    if (from === range) exact.value = round(percent);
    else range.value = percent;
    range.setAttribute("aria-valuetext", `${round(percent)} percent`);
    return onchange(percent / 100);
  }

  range.addEventListener("input", () => told(range));
  exact.addEventListener("input", () => told(exact));
  function set(fraction) {
    range.value = exact.value = round(fraction * 100);
    exact.setAttribute("aria-invalid", "false");
  }

  return { element: h("div", { class: "slider" }, h("label", { for: id }, label), range, h("span", { class: "percent" }, exact), hinted), set };
}

/** Floating point leaves tails that nobody typed. */
export function round(value) {
  return Number.parseFloat(value.toFixed(6));
}
