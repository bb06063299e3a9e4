// Splits and ramps. A running experiment can only take more units in, and no unit changes arms; a draft may be split anew.

import { part, send } from "./api.js";
import { sharesBar } from "./charts.js";
import { h, replace } from "./dom.js";
import { change, PATH, withoutSwitch } from "./experiment.js";
import { percent } from "./format.js";
import { card } from "./parts.js";
import { round, shareSlider } from "./sliders.js";

const TINY = 1e-9;

/** one: the experiment as listed; rule: its rule in the definitions; base: what was read. */
export function traffic(one, rule, base, refresh) {
  if (one.status === "stopped") return card("Traffic", { lead: "It has ended; its split is what it was." }, sharesBar(one.arms));
  return one.status === "draft" ? draftSplit(one, base, refresh) : ramps(one, rule, base, refresh);
}

function total(shares) {
  return shares.reduce((sum, share) => sum + share, 0);
}

/** All arms together (coverage), or each arm by itself (shares). */
function ramps(one, rule, base, refresh) {
  const present = one.arms.map((arm) => arm.share);
  const byCoverage = !rule.ranges;
  const preview = h("div", null);
  const wrong = h("p", { class: "wrong", role: "status" });
  const go = h("button", { type: "button", class: "main", onclick: apply }, "Preview the change…");
  const sliders = h("div", { class: "stack" });
  let mode = byCoverage ? "together" : "each";
  let shares = [...present];

  function draw() {
    const sum = total(shares);
    const moved = shares.some((share, at) => Math.abs(share - present[at]) > TINY);
    const bad = shares.some((share) => !Number.isFinite(share));
    wrong.textContent = bad ? "A share is outside of what is possible." : sum > 1 + TINY ? `The arms add up to ${percent(sum, 2)}.` : "";
    go.disabled = bad || sum > 1 + TINY || !moved;
    if (!bad) replace(preview, sharesBar(one.arms.map((arm, at) => ({ ...arm, share: shares[at] }))));
  }

  function drawSliders() {
    shares = [...present];
    const sum = total(present);
    const hint = "Ramping only adds users: nobody changes arms, nobody leaves.";
    if (mode === "together") {
      const set = (coverage) => ((shares = present.map((share) => (coverage * share) / sum)), draw());
      replace(sliders, shareSlider({ label: "Users in the experiment", value: sum, least: sum, hint: `${hint} Now ${percent(sum, 2)}.`, onchange: set }).element);
    } else {
      const set = (at) => (share) => ((shares[at] = share), draw());
      replace(
        sliders,
        one.arms.map((arm, at) => shareSlider({ label: `${arm.arm}, share of all users`, value: arm.share, least: arm.share, hint: `Now ${percent(arm.share, 2)}.`, onchange: set(at) }).element),
        h("p", { class: "hint" }, hint),
      );
    }
    draw();
  }

  async function apply() {
    const body = mode === "together" ? { coverage: round(total(shares)) } : { shares: shares.map(round) };
    const answer = await change(
      {
        title: `Ramp ${one.key}`,
        verb: "Ramp",
        text: "More users come in. Nobody changes arms.",
        send: (now, { why, dryRun }) => send("POST", `${PATH}/${part(one.key)}/ramp`, { ...body, ...(why ? { why } : {}) }, { match: now.etag, dryRun }),
      },
      base,
    );
    refresh(answer);
  }

  const choice = (value, text) =>
    h(
      "label",
      { class: "choice" },
      h("input", { type: "radio", name: "ramp", value, checked: mode === value, onchange: () => ((mode = value), drawSliders()) }),
      text,
    );
  drawSliders();
  return card(
    "Traffic",
    {},
    byCoverage && h("fieldset", { class: "row" }, h("legend", { class: "hidden" }, "What to ramp"), choice("together", "All arms together"), choice("each", "Each arm")),
    !byCoverage && h("p", { class: "muted" }, "It was ramped by shares before, so arms are ramped one by one."),
    sliders,
    preview,
    h("div", { class: "row" }, go, wrong),
  );
}

/** A draft has met nobody: its weights and coverage are written into the definitions. */
function draftSplit(one, base, refresh) {
  const sum = total(one.arms.map((arm) => arm.share));
  let coverage = sum;
  const weights = one.arms.map((arm) => (sum > 0 ? arm.share / sum : 1 / one.arms.length));
  const preview = h("div", null);
  const wrong = h("p", { class: "wrong", role: "status" });
  const go = h("button", { type: "button", class: "main", onclick: apply }, "Preview the change…");

  function draw() {
    const bad = ![coverage, ...weights].every(Number.isFinite);
    const off = Math.abs(total(weights) - 1) > 1e-6;
    wrong.textContent = bad ? "A share is outside of what is possible." : off ? `The arms add up to ${percent(total(weights), 2)}, they must be 100%.` : "";
    go.disabled = bad || off;
    if (!bad && !off) replace(preview, sharesBar(one.arms.map((arm, at) => ({ ...arm, share: weights[at] * coverage }))));
  }

  async function apply() {
    const answer = await change(
      {
        title: `Split ${one.key}`,
        verb: "Save",
        text: "It is a draft, so nobody has met an arm yet.",
        send: (now, { why, dryRun }) => send("PUT", PATH, amended(now.body.definitions, one.key), { match: now.etag, why, dryRun }),
      },
      base,
    );
    refresh(answer);
  }

  function amended(definitions, key) {
    const copy = structuredClone(withoutSwitch(definitions));
    const rule = ruleOf(copy, key);
    if (!rule) return copy; // the other operator took it away: their definitions stay as they are
    delete rule.ranges;
    return Object.assign(rule, { coverage: round(coverage), weights: weights.map(round) }), copy;
  }

  /** With two arms the other one is what is left. */
  function weigh(at, weight) {
    weights[at] = weight;
    if (weights.length === 2 && Number.isFinite(weight)) {
      weights[1 - at] = 1 - weight;
      sliders[1 - at].set(1 - weight);
    }
    draw();
  }

  const whole = shareSlider({ label: "Users in the experiment", value: coverage, onchange: (value) => ((coverage = value), draw()) });
  const sliders = one.arms.map((arm, at) => shareSlider({ label: `${arm.arm}, share of these`, value: weights[at], onchange: (value) => weigh(at, value) }));
  draw();
  return card(
    "Traffic",
    { lead: "A draft takes nobody in until it is started." },
    whole.element,
    sliders.map((slider) => slider.element),
    preview,
    h("div", { class: "row" }, go, wrong),
  );
}

/** The rule that defines an experiment, wherever it stands. */
export function ruleOf(definitions, key) {
  for (const [name, feature] of Object.entries(definitions.features ?? {})) {
    for (const rule of feature.rules ?? []) {
      if (rule.variations?.length && !("force" in rule) && (rule.key || name) === key) return rule;
    }
  }
  return null;
}

