// One experiment: its state and what may be done, its traffic, what came of it so far, its definition.

import { has, part, read, send } from "../lib/api.js";
import { h, link } from "../lib/dom.js";
import { actions, audience, change, load, PATH, status } from "../lib/experiment.js";
import { card, empty, facts, field, list, notice, select, view } from "../lib/parts.js";
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

/** Applying a decision and taking it back, where the gateway can. */
async function promotion(one, base, refresh) {
  const action = { running: "promote", stopped: "revert" }[one.status];
  const arms = one.arms.slice(1).map(({ arm }) => [arm, arm]);
  if (!action || !arms.length || !(await has(`/admin/v1/experiments/{key}/${action}`))) return null;
  const run = async () => {
    await (action === "promote" ? promote(one, base, arms) : revert(one, base));
    refresh();
  };
  return h("button", { type: "button", onclick: run }, action === "promote" ? "Promote…" : "Revert promotion…");
}

async function promote(one, base, arms) {
  const decision = await read(`${PATH}/${part(one.key)}/report`).then(({ body }) => body.decision, () => null);
  const chosen = select(arms, decision?.arm ?? arms[0][0]);
  const said = decision?.action === "promote" ? notice("good", "The report says: promote", list(decision.reasons)) : null;
  const doubt = notice("warn", decision ? `The report says: ${decision.words}` : "There is no report yet", h("p", null, "You may promote an arm all the same."));
  const write = (now, { why }) => send("POST", `${PATH}/${part(one.key)}/promote`, { arm: chosen.value, ...(why ? { why } : {}) }, { match: now.etag });
  const text = "The experiment ends and everybody gets the arm: its recipe becomes champion, or, with parameters or a condition, it is released to all whom it targets.";
  await change({ title: `Promote an arm of ${one.key}`, text, verb: "Promote", rehearsed: false, fields: [said ?? doubt, field("Arm", chosen)], send: write }, base);
}

async function revert(one, base) {
  const write = (now, { why }) => send("POST", `${PATH}/${part(one.key)}/revert`, why ? { why } : {}, { match: now.etag });
  const text = "The champion is the one before, and the experiment runs again with the same arms. Without a promotion there is nothing to revert, and the gateway says so.";
  await change({ title: `Revert the promotion of ${one.key}`, text, verb: "Revert", rehearsed: false, danger: true, send: write }, base);
}
