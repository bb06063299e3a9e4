// One decision record: the way from candidates to answer, and each ad's own story.

import { send } from "./api.js";
import { meter } from "./charts.js";
import { h, link, replace } from "./dom.js";
import { count, milliseconds, moment, number } from "./format.js";
import { badge, card, empty, facts, field, id, notice, select, table } from "./parts.js";

const PAGE = 50;
const LEFT = { filter: "dropped by the filter", select: "not selected" };

export function record(found) {
  return [summary(found), explorer(found)];
}

function summary(found) {
  const arms = found.arms.map((one) => h("div", null, h("a", { href: link("experiments", one.experiment) }, one.experiment), `: ${one.arm} (${one.recipe})`));
  const timings = Object.entries(found.timings_ms).map(([stage, time]) => ({ stage, time }));
  const longest = Math.max(...timings.map((one) => one.time), 1e-9);
  return card(
    "The answer",
    { aside: found.degraded.length ? badge(`degraded: ${found.degraded.join(", ")}`, "warn") : badge("whole", "good") },
    facts([
      ["Request", id(found.request_id)],
      ["When", moment(found.time)],
      ["User", id(found.user_id)],
      ["Domain", found.domain],
      ["Recipe", found.recipe],
      ["Bundle", id(found.bundle_id)],
      ["Arms", arms.length ? arms : "none"],
      ["Context", Object.keys(found.context).length ? id(JSON.stringify(found.context)) : "none"],
    ]),
    h("div", { class: "halves" }, funnel(found), table({
      caption: "Time by stage",
      rows: timings,
      columns: [
        { name: "Stage", head: true, cell: ({ stage }) => stage },
        { name: "Time", kind: "num", cell: ({ time }) => milliseconds(time) },
        { name: "Beside the longest", kind: "drawn", cell: ({ time }) => meter(time / longest) },
      ],
    })),
  );
}

/** How many were left after each stage, and what took the others. */
function funnel({ candidates }) {
  const reasons = new Map();
  for (const one of candidates) {
    const reason = one.left_at ? `${LEFT[one.left_at] ?? one.left_at}: ${one.reason}` : "answered";
    reasons.set(reason, (reasons.get(reason) ?? 0) + 1);
  }
  const rows = [["retrieved", candidates.length], ...reasons];
  return table({
    caption: "What became of the candidates",
    rows,
    columns: [
      { name: "Outcome", head: true, kind: "text", cell: ([reason]) => reason },
      { name: "Ads", kind: "num", cell: ([, ads]) => count(ads) },
      { name: "Of all", kind: "drawn", cell: ([, ads]) => meter(candidates.length ? ads / candidates.length : 0) },
    ],
  });
}

function explorer(found) {
  const search = h("input", { type: "search", name: "ad", autocomplete: "off", spellcheck: "false", oninput: () => draw() });
  const stage = select([["", "all"], ["answered", "answered"], ["filter", LEFT.filter], ["select", LEFT.select]], "", { name: "stage", onchange: () => draw() });
  const story = h("div", { role: "status" });
  const listed = h("div", { class: "stack" });
  const order = (one) => one.position ?? (one.rank_score === null ? 2e9 + one.retrieval_rank : 1e9 - one.rank_score);
  const candidates = [...found.candidates].sort((a, b) => order(a) - order(b));
  let most = PAGE;

  function draw() {
    const wanted = search.value.trim();
    const inStage = candidates.filter((one) => !stage.value || (one.left_at ?? "answered") === stage.value);
    const matching = inStage.filter((one) => one.ad_id.toLowerCase().includes(wanted.toLowerCase()));
    const exact = candidates.find((one) => one.ad_id === wanted);
    if (!wanted) replace(story);
    else if (exact) replace(story, told(exact, found));
    else if (!matching.length) replace(story, absent(wanted, found));
    else replace(story, h("p", { class: "muted" }, `${count(matching.length)} ids contain “${wanted}”. The whole id tells its story.`));
    replace(listed, matching.length ? [rowsOf(matching.slice(0, most), exact), matching.length > most && more(matching.length)] : wanted ? null : empty("No candidate", "None left at this stage."));
  }

  const more = (all) => h("div", { class: "row" }, h("button", { type: "button", onclick: () => ((most += 200), draw()) }, `Show more of ${count(all)}`));
  draw();
  return card(
    "Why this ad, why not that one",
    {},
    h("div", { class: "form" }, field("Ad id", search, "Any ad, also one that was not retrieved."), field("Stage", stage)),
    story,
    listed,
  );
}

function rowsOf(rows, exact) {
  return table({
    caption: "Candidates, the answer first, then by rank score",
    rows,
    rowClass: (row) => (row === exact ? "found" : null),
    columns: [
      { name: "Position", kind: "num", cell: (row) => (row.position === null ? "–" : row.position + 1) },
      { name: "Ad", head: true, kind: "id", cell: (row) => row.ad_id },
      { name: "Outcome", cell: (row) => (row.left_at ? badge(LEFT[row.left_at] ?? row.left_at, row.left_at === "filter" ? "warn" : "plain") : badge("answered", "good")) },
      { name: "Reason", kind: "text", cell: (row) => row.reason ?? "" },
      { name: "Rank score", kind: "num", cell: (row) => number(row.rank_score) },
      { name: "p click", kind: "num", cell: (row) => number(row.p_click) },
      { name: "Bid", kind: "num", cell: (row) => number(row.bid) },
      { name: "Retrieved as", kind: "num", cell: (row) => row.retrieval_rank + 1 },
      { name: "Retrieval score", kind: "num", cell: (row) => number(row.retrieval_score) },
    ],
  });
}

function told(one, { candidates, k }) {
  const answered = candidates.filter((other) => other.position !== null);
  const last = answered.reduce((worst, other) => (worst && worst.rank_score <= other.rank_score ? worst : other), null);
  const score = one.p_click === null ? "It was not ranked." : `p(click) ${number(one.p_click)} × bid ${number(one.bid)} gives rank score ${number(one.rank_score)}.`;
  const retrieved = `Retrieved as number ${one.retrieval_rank + 1}${one.retrieval_score === null ? ", from the popular list" : ` with score ${number(one.retrieval_score)}`}.`;
  if (one.position !== null) return notice("good", `${one.ad_id} was answered at position ${one.position + 1} of ${answered.length}`, h("p", null, `${retrieved} ${score}`));
  if (one.left_at === "filter") return notice("warn", `${one.ad_id} was dropped by the filter: ${one.reason}`, h("p", null, `${retrieved} What the filter drops is not ranked.`));
  const gap = last && one.rank_score !== null ? ` The last ad of the answer, ${last.ad_id}, has ${number(last.rank_score)}.` : "";
  return notice("accent", `${one.ad_id} was ranked, ${one.reason ?? `below the top ${k}`}`, h("p", null, `${retrieved} ${score}${gap}`));
}

/** It was no candidate. What it would be worth can be asked. */
function absent(adId, found) {
  const said = h("p", null, `It is not among the ${count(found.candidates.length)} candidates, so it was never ranked: the index did not find it near this user, it is not in the domain's catalogue, or the search itself passed over it because it is paused or excluded.`);
  const ask = h("button", { type: "button", onclick: score }, "What would it be worth?");

  async function score() {
    ask.disabled = true;
    try {
      const { body } = await send("POST", "v1/score", { user_id: found.user_id, domain: found.domain, context: found.context, ad_ids: [adId] });
      const [one] = body.scores;
      if (!one) replace(said, `The bundle ${body.bundle_id} has no such ad in ${found.domain}.`);
      else {
        const better = found.candidates.filter((other) => other.position !== null && other.rank_score > one.rank_score).length;
        replace(said, `Ranked now it has p(click) ${number(one.p_click)} and rank score ${number(one.rank_score)}: ${better < found.k ? `it would stand at position ${better + 1}, but it was not retrieved` : `below all ${count(better)} that were answered`}.`);
      }
      ask.remove();
    } catch (error) {
      replace(said, error.message);
      ask.disabled = false;
    }
  }

  return notice("warn", `${adId} was no candidate`, said, ask);
}
