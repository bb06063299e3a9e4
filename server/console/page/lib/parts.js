// What views are made of.

import { fresh, h } from "./dom.js";
import { ago, moment } from "./format.js";

/** A view: its title (which takes the focus), a line under it, what stands at the right, and the rest. */
export function view({ title, crumb, lead, aside }, ...children) {
  return h(
    "div",
    { class: "view" },
    h(
      "div",
      { class: "view-head" },
      h(
        "div",
        null,
        crumb && h("p", { class: "crumb" }, h("a", { href: crumb.href }, `‹ ${crumb.text}`)),
        h("h1", { tabindex: -1 }, title),
        lead && h("p", null, lead),
      ),
      aside && h("div", { class: "row" }, aside),
    ),
    children,
  );
}

export function card(title, { aside, level = 2, lead } = {}, ...children) {
  const id = fresh("card");
  return h(
    "section",
    { class: "card", "aria-labelledby": id },
    h("header", null, h(`h${level}`, { id }, title), aside),
    lead && h("p", { class: "muted" }, lead),
    children,
  );
}

/** columns: {name, cell(row) -> text or node, head, kind: "num" | "id" | "text" | "drawn" | "lift"}. The wrapper scrolls, never the page. */
export function table({ caption, columns, rows, rowClass, hideCaption }) {
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "group", "aria-label": caption },
    h(
      "table",
      null,
      h("caption", { class: hideCaption && "hidden" }, h("span", null, caption)),
      h("thead", null, h("tr", null, columns.map((one) => h("th", { scope: "col", class: one.kind }, one.name)))),
      h(
        "tbody",
        null,
        rows.map((row) =>
          h(
            "tr",
            { class: rowClass?.(row) },
            columns.map((one) => h(one.head ? "th" : "td", { scope: one.head && "row", class: one.kind }, one.cell(row))),
          ),
        ),
      ),
    ),
  );
}

const MARKS = { good: "✓", warn: "!", bad: "✕", accent: "●", plain: "○" };

/** A state in a word, with a mark, so that its colour says nothing alone. */
export function badge(text, tone = "plain") {
  return h("span", { class: `badge ${tone}` }, h("span", { "aria-hidden": "true" }, MARKS[tone]), text);
}

export function notice(tone, title, text, action) {
  return h(
    "div",
    { class: `notice ${tone}` },
    h("span", { class: "mark", "aria-hidden": "true" }, MARKS[tone] ?? "i"),
    h("div", null, title && h("strong", null, title), text),
    action,
  );
}

/** There is nothing, and what to do about it. */
export function empty(title, ...next) {
  return h("div", { class: "empty" }, h("strong", null, title), h("p", null, next));
}

export function facts(pairs) {
  const kept = pairs.filter((pair) => pair && pair[1] !== undefined && pair[1] !== null);
  return h("dl", { class: "facts" }, kept.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))));
}

export function id(text) {
  return h("span", { class: "id" }, text);
}

export function when(value) {
  if (value === null || value === undefined) return "–";
  const iso = typeof value === "number" ? new Date(value * 1000).toISOString() : value;
  return h("time", { datetime: iso, title: moment(value) }, ago(value));
}

export function tile(name, figure, note, href) {
  const inside = [h("span", { class: "name" }, name), h("span", { class: "figure" }, figure), note && h("span", { class: "small muted" }, note)];
  return href ? h("a", { class: "card tile", href }, inside) : h("div", { class: "card tile" }, inside);
}

/** A labelled control with its hint; `control` gets the id that the label names. */
export function field(label, control, hint) {
  const name = control.id || (control.id = fresh("field"));
  const hinted = hint && h("span", { class: "hint", id: `${name}-hint` }, hint);
  if (hinted) control.setAttribute("aria-describedby", hinted.id);
  return h("div", { class: "field" }, h("label", { for: name }, label), control, hinted);
}

export function select(options, chosen, attributes) {
  return h("select", attributes, options.map(([value, text]) => h("option", { value, selected: value === chosen }, text)));
}

/** What went wrong, and a way on. */
export function failure(error, again) {
  const retry = again && h("button", { type: "button", onclick: again }, "Try again");
  return notice("bad", error.status ? `This cannot be shown (${error.status})` : "This cannot be shown", h("p", null, error.message), retry);
}

export function list(items) {
  return h("ul", null, items.map((one) => h("li", null, one)));
}
