// All experiments and the switch over them.

import { sharesBar } from "../lib/charts.js";
import { h, link } from "../lib/dom.js";
import { audience, killSwitch, load, status } from "../lib/experiment.js";
import { count } from "../lib/format.js";
import { badge, card, empty, notice, view } from "../lib/parts.js";

const ORDER = ["running", "paused", "draft", "stopped"];

export async function experiments({ signal, refresh }) {
  const base = await load(signal);
  const { active, version, experiments: all } = base.body;
  const sorted = [...all].sort((a, b) => ORDER.indexOf(a.status) - ORDER.indexOf(b.status));
  const flip = (on) => async () => {
    await killSwitch(on, base);
    refresh();
  };
  return view(
    {
      title: "Experiments",
      lead: `${count(all.length)} defined, version ${version} of the definitions.`,
      aside: [
        h("a", { class: "button", href: link("definitions") }, "Edit definitions"),
        active && all.length > 0 && h("button", { type: "button", class: "danger", onclick: flip(true) }, "Kill switch…"),
      ],
    },
    !active &&
      notice(
        "bad",
        "The kill switch is on",
        h("p", null, "Everybody gets the champion. Experiments are kept as they were."),
        h("button", { type: "button", onclick: flip(false) }, "Restore experiments…"),
      ),
    sorted.length
      ? h("div", { class: "grid" }, sorted.map((one) => summary(one, active)))
      : empty(
          "No experiment is defined yet",
          "Write one under ",
          h("a", { href: link("definitions") }, "Definitions"),
          ", or load a file with ",
          h("code", null, "mdrec ab create experiments.yaml"),
          ".",
        ),
  );
}

function summary(one, active) {
  return card(
    h("a", { href: link("experiments", one.key) }, one.key),
    { aside: h("div", { class: "row" }, one.sticky && badge("sticky"), !active && one.status === "running" ? badge("switched off", "bad") : status(one)) },
    h("p", { class: "muted small" }, `${audience(one)}, through the feature ${one.feature}`),
    sharesBar(one.arms),
  );
}
