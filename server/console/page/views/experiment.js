// One experiment: its state and what may be done, its traffic, what came of it so far, its definition.

import { has, part, send } from "../lib/api.js";
import { h, link } from "../lib/dom.js";
import { actions, audience, change, load, PATH, status } from "../lib/experiment.js";
import { card, empty, facts, notice, view } from "../lib/parts.js";
import { results } from "../lib/results.js";
import { ruleOf, traffic } from "../lib/traffic.js";

export async function experiment({ parts: [key], signal, refresh }) {
  const base = await load(signal);
  const one = base.body.experiments.find((found) => found.key === key);
  const crumb = { href: link("experiments"), text: "Experiments" };
  if (!one) return view({ title: key, crumb }, empty("There is no such experiment", "Its key may have been misspelled, or its definition was taken away: the audit trail says by whom."));
  const rule = ruleOf(base.body.definitions, key);
  const act = (action) => async () => {
    await action.run(base);
    refresh();
  };
  const button = (action) => h("button", { type: "button", class: `${action.main ? "main" : ""} ${action.danger ? "danger" : ""}`, onclick: act(action) }, `${action.name}…`);
  const recipes = [...new Set(one.arms.map((arm) => arm.recipe).filter(Boolean))];
  return view(
    { title: key, crumb, lead: `${audience(one)}, through the feature ${one.feature}.`, aside: [status(one), actions(one).map(button), await promotion(one, base, refresh)] },
    !base.body.active && notice("bad", "The kill switch is on", h("p", null, "Until it is off, everybody gets the champion.")),
    traffic(one, rule, base, refresh),
    await results(one, signal),
    card(
      "Definition",
      { aside: h("a", { href: link("definitions") }, "Edit") },
      facts([
        ["Recipes", recipes.join(", ") || "none: its arms change parameters"],
        ["Released", one.released],
        ["Sticky", one.sticky ? "yes: a unit keeps the arm it met" : "no"],
        ["Layer", one.namespace ? one.namespace.join(" ") : "none"],
      ]),
      h("details", null, h("summary", null, "As GrowthBook JSON"), h("pre", { tabindex: 0, "aria-label": "Definition" }, JSON.stringify(rule, null, 2))),
    ),
  );
}

/** Applying a decision, where the gateway can. */
async function promotion(one, base, refresh) {
  const offered = [
    ["promote", "Promote", "The decision of its report is applied: the alias moves, and it is on record."],
    ["revert", "Revert", "What its promotion changed is taken back."],
  ];
  const known = await Promise.all(offered.map(async ([action]) => has(`/admin/v1/experiments/{key}/${action}`)));
  return offered
    .filter((_, at) => known[at])
    .map(([action, name, text]) => {
      const run = async () => {
        const write = (now, { why }) => send("POST", `${PATH}/${part(one.key)}/${action}`, why ? { why } : {}, { match: now.etag });
        await change({ title: `${name} ${one.key}`, text, verb: name, rehearsed: false, danger: action === "revert", send: write }, base);
        refresh();
      };
      return h("button", { type: "button", onclick: run }, `${name}…`);
    });
}
