// Who changed what, when and why.

import { read } from "../lib/api.js";
import { diffTable } from "../lib/changes.js";
import { h, replace } from "../lib/dom.js";
import { moment } from "../lib/format.js";
import { card, empty, field, view, when } from "../lib/parts.js";

const PAGE = 100;

export async function audit({ signal }) {
  let asked = PAGE;
  let { body: changes } = await read(`admin/v1/audit?count=${asked}`, { signal });
  const search = h("input", { type: "search", autocomplete: "off", oninput: () => draw() });
  const shown = h("div", { class: "stack" });
  const said = h("p", { class: "muted small", role: "status" });
  const more = h("button", { type: "button", onclick: older }, "Show older changes");

  function draw() {
    const wanted = search.value.trim().toLowerCase();
    const found = changes.filter((one) => !wanted || `${one.who} ${one.why} ${JSON.stringify(one.diff)}`.toLowerCase().includes(wanted));
    said.textContent = `${found.length} of the latest ${changes.length} changes`;
    replace(shown, found.map(entry), !found.length && empty("No change matches", "Search for an operator, an experiment, a recipe or a word of the reason."));
    more.hidden = changes.length < asked || asked >= 1000;
  }

  async function older() {
    asked = Math.min(1000, asked * 3);
    ({ body: changes } = await read(`admin/v1/audit?count=${asked}`, { signal }));
    draw();
  }

  draw();
  return view(
    { title: "Audit trail", lead: "Every change of experiments, aliases and ads, latest first. Nothing is ever taken out of it." },
    changes.length
      ? card("Changes", {}, field("Search", search, "An operator, an experiment, a recipe, a word of the reason."), said, shown, h("div", { class: "row" }, more))
      : empty("Nothing has been changed yet", "The first change of an experiment, an alias or an ad will stand here, with who made it and why."),
  );
}

function entry(change) {
  const paths = Object.keys(change.diff);
  const summary = paths.length === 1 ? paths[0] || "everything" : `${paths.length} fields`;
  return h(
    "details",
    { class: "entry" },
    h(
      "summary",
      null,
      h("strong", null, change.who),
      " · ",
      when(change.when),
      " · ",
      h("span", { class: "id" }, paths.length ? summary : "no field"),
      change.why && h("span", null, ` · “${change.why}”`),
    ),
    h("p", { class: "muted small" }, `${moment(change.when)}, at version ${change.version} of the definitions`),
    diffTable(change.diff, `What ${change.who} changed`, ["Before", "After"]),
  );
}
