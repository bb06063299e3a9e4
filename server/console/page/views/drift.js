// Do scores look as they did in the bundle's first hour?

import { twoHistograms } from "../lib/charts.js";
import { h } from "../lib/dom.js";
import { count, number, percent } from "../lib/format.js";
import { body, live } from "../lib/live.js";
import { badge, card, empty, facts, field, id, select, table, view, when } from "../lib/parts.js";

const TONES = { stable: "good", moved: "warn", drifted: "bad", gathering: "accent", "too few": "plain" };
const HOURS = [1, 2, 6, 24];

export async function drift({ signal }) {
  let hours = 2;
  const shown = live(() => body(`admin/v1/drift?hours=${hours}`, signal), draw, signal);
  const window = select(HOURS.map((one) => [String(one), `${one} h`]), "2", { onchange: (event) => ((hours = Number(event.target.value)), shown.look()) });
  await shown.look();
  return view({ title: "Score drift", lead: "p(click) of the ads that were answered, now and in each bundle's first hour.", aside: field("Window", window) }, shown.element);
}

function draw(found) {
  if (!found.slices.length) return empty("Nothing has been answered yet", "Once requests come in, each bundle's first hour is kept to compare with.");
  const { moved, drifted } = found.thresholds;
  return [
    h("p", { class: "muted" }, `PSI (population stability index) below ${moved} is stable, ${drifted} and more is drift. Grey bars: the bundle's first hour; outline: the last ${found.hours} h. Bins of p(click), lowest at the left.`),
    h("div", { class: "halves" }, sorted(found.slices).map((one) => slice(one, found))),
  ];
}

const ORDER = ["drifted", "moved", "stable", "gathering", "too few"];

function sorted(slices) {
  return [...slices].sort((a, b) => ORDER.indexOf(a.verdict) - ORDER.indexOf(b.verdict));
}

/** A fact without a number is left out: the words above say why. */
function slice(one, { bin_edges: edges }) {
  const { reference, recent } = one;
  const bins = (reference.shares ?? []).map((share, at) => ({ from: edges[at - 1] ?? 0, to: edges[at] ?? 1, then: share, now: recent.shares?.[at] }));
  return card(
    `${one.domain}, ${one.recipe}`,
    { aside: badge(one.verdict, TONES[one.verdict]) },
    h("p", null, one.words),
    one.psi !== null && twoHistograms(reference.shares, recent.shares, `Distribution of p(click) in ${one.domain}: ${one.words}`),
    facts([
      ["PSI", one.psi && number(one.psi)],
      ["Mean p(click) then", reference.mean_p_click && number(reference.mean_p_click)],
      ["Mean p(click) now", recent.mean_p_click && number(recent.mean_p_click)],
      ["Unknown users then", one.unseen_share_reference === null ? null : percent(one.unseen_share_reference)],
      ["Unknown users now", one.unseen_share === null ? null : percent(one.unseen_share)],
      ["Answers then / now", `${count(reference.answers)} / ${count(recent.answers)}`],
      ["First hour since", reference.since && when(reference.since)],
      ["Bundle", id(one.bundle_id)],
    ]),
    one.psi !== null &&
      h(
        "details",
        null,
        h("summary", null, "The bins as a table"),
        table({
          caption: `Share of answered ads by p(click), ${one.domain}`,
          rows: bins,
          columns: [
            { name: "p(click)", head: true, cell: (row) => `${number(row.from)} to ${number(row.to)}` },
            { name: "Then", kind: "num", cell: (row) => percent(row.then) },
            { name: "Now", kind: "num", cell: (row) => percent(row.now) },
          ],
        }),
      ),
  );
}
