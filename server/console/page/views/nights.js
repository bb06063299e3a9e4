// Each night: what it published or held back and why, and where its time went.

import { meter } from "../lib/charts.js";
import { h, link } from "../lib/dom.js";
import { duration, moment } from "../lib/format.js";
import { gates, gatesBadge } from "../lib/gates.js";
import { body, live } from "../lib/live.js";
import { badge, card, empty, id, list, notice, table, view } from "../lib/parts.js";

const TONES = { done: "good", "held back": "warn", failed: "bad", unfinished: "accent" };

export async function nights({ signal }) {
  const shown = live(() => body("admin/v1/nights?count=30", signal), draw, signal);
  await shown.look();
  return view({ title: "Nights", lead: "A night rebuilds every live recipe on the latest logs. A failed gate leaves yesterday's bundle serving." }, shown.element);
}

function draw(found) {
  return [
    found.damaged.length > 0 && notice("warn", "Records that cannot be read", found.damaged.map((one) => h("p", null, id(one.file), ` ${one.why}`))),
    found.nights.length ? found.nights.map((one, at) => night(one, at === 0)) : empty("No night yet", "Run one: ", h("code", null, "mdrec nightly --data DIR"), ", or enable the timer of deploy/systemd."),
  ];
}

function night(one, open) {
  const published = one.recipes.filter((recipe) => recipe.published).length;
  return card(
    moment(one.started),
    { aside: h("div", { class: "row" }, badge(one.status, TONES[one.status]), h("span", { class: "muted" }, one.seconds === null ? "" : duration(one.seconds))) },
    one.error && notice("bad", "It failed", h("p", null, one.error)),
    one.status === "unfinished" && notice("accent", one.running ? `In ${one.running}` : "Not finished", h("p", null, `Last heard of ${moment(one.updated)}: it runs still, or was killed then. A killed night resumes when it is run again.`)),
    h("p", { class: "muted" }, `${published} of ${one.recipes.length} recipes published.`),
    one.recipes.filter((found) => found.why).map((found) => notice("warn", `${found.recipe} was held back`, h("p", null, found.why))),
    h(
      "details",
      { open },
      h("summary", null, "Recipes, steps and experiments"),
      h("div", { class: "stack" }, one.recipes.map(recipe), one.steps.length > 0 && steps(one.steps), one.experiments.length > 0 && experimentsOf(one.experiments)),
    ),
  );
}

function recipe(one) {
  return h(
    "div",
    { class: "stack" },
    h("h3", { class: "row" }, one.recipe, badge(one.published ? "published" : "held back", one.published ? "good" : "warn"), gatesBadge(one.gates)),
    one.bundle_id && h("p", null, "Bundle ", id(one.bundle_id)),
    one.gates.length > 0 && h("details", null, h("summary", null, `Gates of ${one.recipe}`), gates(one.gates, `Gates of ${one.recipe}`)),
  );
}

function steps(all) {
  const longest = Math.max(...all.map((one) => one.seconds), 1e-9);
  return table({
    caption: "Steps",
    rows: all,
    columns: [
      { name: "Step", head: true, cell: (row) => row.name },
      { name: "Time", kind: "num", cell: (row) => duration(row.seconds) },
      { name: "Beside the longest", kind: "drawn", cell: (row) => (row.reused ? badge("reused") : meter(row.seconds / longest)) },
    ],
  });
}

function experimentsOf(all) {
  return h("div", { class: "stack" }, h("h3", null, "Experiments that morning"), list(all.map((one) => [h("a", { href: link("experiments", one.experiment) }, one.experiment), `: ${one.words}`])));
}
