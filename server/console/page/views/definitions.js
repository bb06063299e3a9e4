// The definitions as a whole, in GrowthBook's feature JSON. Another's change in between is merged, or shown where both touched the same.

import { send } from "../lib/api.js";
import { h, link, replace } from "../lib/dom.js";
import { change, load, PATH, withoutSwitch } from "../lib/experiment.js";
import { merged } from "../lib/merge.js";
import { card, field, notice, view } from "../lib/parts.js";

const EXAMPLE = {
  "my-feature": {
    rules: [
      {
        key: "my-experiment",
        hashVersion: 2,
        status: "draft",
        coverage: 0.1,
        weights: [0.5, 0.5],
        variations: [{ recipe: "CHAMPION" }, { recipe: "CHALLENGER" }],
        meta: [{ key: "control" }, { key: "challenger" }],
      },
    ],
  },
};

export async function definitions({ signal }) {
  let base = await load(signal);
  const text = h("textarea", { class: "code", spellcheck: "false", autocomplete: "off", name: "definitions", value: spelled(base) });
  const wrong = h("div", { role: "alert" });

  async function save() {
    let mine;
    try {
      mine = JSON.parse(text.value);
    } catch (error) {
      text.setAttribute("aria-invalid", "true");
      return replace(wrong, notice("bad", "This is not JSON", h("p", null, error.message)));
    }
    text.removeAttribute("aria-invalid");
    replace(wrong);
    const started = withoutSwitch(base.body.definitions);
    const write = (now, { why, dryRun }) => {
      const wanted = now === base ? mine : merged(started, mine, withoutSwitch(now.body.definitions));
      return send("PUT", PATH, wanted, { match: now.etag, why, dryRun });
    };
    const answer = await change({ title: "Write the definitions", verb: "Write", send: write }, base);
    if (answer) {
      base = await load(signal);
      text.value = spelled(base);
    }
    return undefined;
  }

  function example() {
    const now = JSON.parse(text.value || "{}");
    text.value = JSON.stringify({ ...now, features: { ...now.features, ...EXAMPLE } }, null, 2);
    text.focus();
  }

  return view(
    {
      title: "Definitions",
      crumb: { href: link("experiments"), text: "Experiments" },
      lead: "GrowthBook's feature JSON. What is written here is checked in full, and refused when it would move users between arms.",
    },
    card(
      `Version ${base.body.version}`,
      { aside: h("button", { type: "button", class: "quiet", onclick: example }, "Insert an example draft") },
      field("Definitions", text, "features: {name: {rules: [...]}}. A rule with variations is an experiment; status draft takes nobody in."),
      wrong,
      h("div", { class: "row" }, h("button", { type: "button", class: "main", onclick: save }, "Preview the change…")),
    ),
  );
}

function spelled({ body }) {
  return JSON.stringify(withoutSwitch(body.definitions), null, 2);
}
