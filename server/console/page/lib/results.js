// What came of an experiment so far, by domain: the decision and its reasons, alarms in words, lifts with their intervals.

import { part, read } from "./api.js";
import { ofReport } from "./alarms.js";
import { bandChart, extent, intervalBar } from "./charts.js";
import { h, link, replace, say } from "./dom.js";
import { count, moment, number, percent, pValue, signed } from "./format.js";
import { badge, card, empty, facts, failure, field, id, list, notice, select, table, when } from "./parts.js";

const PERIOD_MS = 30_000;
const DECISIONS = { promote: ["promote", "good"], hold: ["hold", "accent"], roll_back: ["roll back", "bad"] };
const VERDICTS = { passes: "good", breached: "bad", undecided: "warn", "not computable": "plain" };
const ALL = "all domains";

/** Kept up to date until `signal` says that the view was left. */
export async function results(one, signal) {
  const holder = h("div", { class: "results" });
  const path = `admin/v1/experiments/${part(one.key)}/report`;
  const chosen = { metric: null, arm: null, domain: null };
  let drawn = null;

  async function look() {
    try {
      const { body } = await read(path, { signal });
      if (body === drawn) return;
      if (drawn) say(`The results of ${one.key} were renewed.`);
      drawn = body;
      replace(holder, report(body, chosen));
    } catch (error) {
      if (error.name === "AbortError" || error.status === 401) return;
      replace(holder, error.status === 404 ? card("Results", {}, empty("No results yet", error.message)) : failure(error, look));
    }
  }

  const timer = setInterval(() => document.visibilityState === "visible" && look(), PERIOD_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
  await look();
  return holder;
}

function report(body, chosen) {
  chosen.metric ??= body.plan.primary;
  chosen.arm ??= body.arms.find((arm) => arm.arm !== body.control)?.arm;
  const shown = h("div", { class: "stack" });
  const draw = () => replace(shown, byDomain(body, chosen), overTime(body, chosen), everyMetric(body, chosen));
  const metrics = body.metrics.map((one) => [one.name, `${one.name}${one.name === body.plan.primary ? " (primary)" : ""}: ${one.meaning}`]);
  const arms = body.arms.filter((arm) => arm.arm !== body.control).map((arm) => [arm.arm, arm.arm]);
  const picker = (name, options) => select(options, chosen[name], { onchange: (event) => ((chosen[name] = event.target.value), draw()) });
  draw();
  return [
    decision(body),
    card(
      "Results by domain",
      { aside: h("span", { class: "muted small" }, "report made ", when(body.made_at)) },
      h("div", { class: "form roomy" }, field("Metric", picker("metric", metrics)), arms.length > 1 && field("Arm", picker("arm", arms))),
      shown,
    ),
    split(body),
  ];
}

function decision(body) {
  const [words, tone] = DECISIONS[body.decision.action] ?? [body.decision.action, "plain"];
  const alarms = ofReport(body, link("experiments", body.experiment));
  return card(
    "Decision",
    { aside: badge(`${words}${body.decision.arm ? ` ${body.decision.arm}` : ""}`, tone) },
    alarms.map((one) => h("div", { role: "alert" }, notice(one.tone, one.title, h("p", null, one.text)))),
    body.decision.reasons.length > 0 && list(body.decision.reasons),
    facts([
      ["Running for", body.days === null ? null : `${count(body.days)} ${body.days === 1 ? "day" : "days"}${body.start ? ` since ${body.start}` : ""}`],
      ["Present phase since", body.since],
      ...body.days_left.map((one) => [`Days to a decision on ${one.arm}`, one.days === null ? `– ${one.reason}` : number(one.days, 2)]),
      ["Judged by", body.plan.sequential ? `${percent(body.plan.confidence)} intervals that hold at every look` : `${percent(body.plan.confidence)} intervals at one look`],
      ["Plan", body.plan.declared ? `declared ${body.plan.declared}` : "none declared: the defaults"],
      ["Revenue capped at", body.cap ?? body.cap_reason],
    ]),
    guardrails(body),
    body.notes.length > 0 && h("details", null, h("summary", null, `${body.notes.length} remarks of the report`), list(body.notes)),
  );
}

function guardrails(body) {
  const rows = (body.slices[0]?.arms ?? []).flatMap((arm) => arm.guardrails.map((one) => ({ ...one, arm: arm.arm })));
  if (!rows.length) return null;
  return table({
    caption: "Guardrails, over all domains",
    rows,
    columns: [
      { name: "Metric", head: true, cell: (row) => row.metric },
      { name: "Arm", kind: "id", cell: (row) => row.arm },
      { name: "Verdict", cell: (row) => badge(row.verdict, VERDICTS[row.verdict]) },
      { name: "In words", kind: "text", cell: (row) => row.words },
    ],
  });
}

function armOf(slice, name) {
  return slice.arms.find((arm) => arm.arm === name);
}

function metricOf(body, name) {
  return body.metrics.find((one) => one.name === name) ?? { name, better: "up" };
}

function byDomain(body, { metric, arm }) {
  const rows = body.slices.map((slice) => ({ slice, lift: armOf(slice, arm)?.lifts[metric], treated: armOf(slice, arm), control: armOf(slice, body.control) }));
  const span = extent(rows.flatMap((row) => [row.lift?.always_valid, row.lift?.plain]));
  return table({
    caption: `Lift of ${metric} of ${arm} over ${body.control}. Box: interval at one look; whiskers: interval that holds at every look; dashed line: no difference.`,
    rows,
    columns: [
      { name: "Domain", head: true, cell: ({ slice }) => slice.domain ?? h("strong", null, ALL) },
      { name: "Lift", kind: "lift", cell: ({ lift }) => lifted(lift, span, metricOf(body, metric).better) },
      { name: arm, kind: "num", cell: ({ treated }) => value(treated?.values[metric]) },
      { name: body.control, kind: "num", cell: ({ control }) => value(control?.values[metric]) },
      { name: "Users", kind: "num", cell: ({ treated, control }) => `${count(treated?.users)} / ${count(control?.users)}` },
      { name: "p, corrected", kind: "num", cell: ({ lift }) => pValue(lift?.holm_p) },
    ],
  });
}

function value(found) {
  return found?.value === null || found?.value === undefined ? h("span", { title: found?.reason ?? "" }, "–") : number(found.value);
}

/** In figures, and drawn on the scale that all rows share. */
function lifted(lift, span, better) {
  const one = lift?.judged;
  if (!one || one.value === null) return h("span", { class: "muted small" }, one?.reason ? `Cannot be computed: ${one.reason}` : "Cannot be computed.");
  const fixed = lift.cuped_used ? lift.cuped : lift.plain;
  return [
    h("strong", null, signed(one.value)),
    h("span", { class: "muted small" }, ` ${signed(one.low)} to ${signed(one.high)}`),
    intervalBar({ inner: fixed, outer: lift.always_valid, span, better }),
  ];
}

function overTime(body, chosen) {
  const { metric, arm } = chosen;
  const of = (name) => body.series.filter((row) => row.arm === arm && row.metric === metric && row.domain === name);
  const domains = body.slices.map((slice) => slice.domain).filter((name) => name === null || of(name).length);
  const holder = h("div", { class: "stack" });
  const draw = () => replace(holder, oneSeries(of(chosen.domain), chosen));
  if (!domains.includes(chosen.domain)) chosen.domain = null;
  if (!of(null).length) return null;
  draw();
  const options = domains.map((name, at) => [String(at), name ?? ALL]);
  const picker = select(options, String(domains.indexOf(chosen.domain)), { onchange: (event) => ((chosen.domain = domains[Number(event.target.value)]), draw()) });
  return h("div", { class: "stack" }, h("h3", null, `${metric} of ${arm}, day by day`), domains.length > 1 && h("div", { class: "form" }, field("Domain", picker)), holder);
}

function oneSeries(rows, { metric, arm, domain }) {
  const last = rows.at(-1);
  const told = last.value === null ? `not computable, ${last.reason}` : `${signed(last.value)}, ${signed(last.low)} to ${signed(last.high)}`;
  const words = `Lift of ${metric} of ${arm} in ${domain ?? ALL} by day, with the band that holds at every look. On ${last.day}: ${told}.`;
  return [
    bandChart(rows, words),
    h("p", { class: "muted small" }, "Each point is what a report of all days up to it says. While the shaded band is clear of the dashed line, the lift is sure at whatever moment you look."),
    h(
      "details",
      null,
      h("summary", null, "The same as a table"),
      table({
        caption: words,
        rows,
        columns: [
          { name: "Day", head: true, cell: (row) => row.day },
          { name: "Users", kind: "num", cell: (row) => count(row.users) },
          { name: "Lift", kind: "num", cell: (row) => (row.value === null ? row.reason : signed(row.value)) },
          { name: "From", kind: "num", cell: (row) => signed(row.low) },
          { name: "To", kind: "num", cell: (row) => signed(row.high) },
        ],
      }),
    ),
  ];
}

function everyMetric(body, { arm }) {
  const treated = armOf(body.slices[0], arm);
  if (!treated) return null;
  const rows = body.metrics.map((metric) => ({ metric, lift: treated.lifts[metric.name], mine: treated.values[metric.name], control: armOf(body.slices[0], body.control)?.values[metric.name] }));
  const span = extent(rows.flatMap(({ lift }) => [lift?.always_valid, lift?.plain]));
  return h(
    "details",
    null,
    h("summary", null, "Every metric, over all domains"),
    table({
      caption: `Every metric of ${arm} over ${body.control}, all domains`,
      rows,
      columns: [
        { name: "Metric", head: true, cell: ({ metric }) => h("span", { title: metric.meaning }, metric.name) },
        { name: "Lift", kind: "lift", cell: ({ metric, lift }) => lifted(lift, span, metric.better) },
        { name: arm, kind: "num", cell: ({ mine }) => value(mine) },
        { name: body.control, kind: "num", cell: ({ control }) => value(control) },
        { name: "CUPED", kind: "num", cell: ({ lift }) => (lift?.cuped_used ? `−${percent(lift.cuped_gain, 0)} variance` : "no gain") },
        { name: "p, corrected", kind: "num", cell: ({ lift }) => pValue(lift?.holm_p) },
      ],
    }),
  );
}

function split(body) {
  const { split: found, events } = body;
  const bad = found.alarm || found.broken;
  const rows = body.slices.flatMap((slice) => slice.arms.map((arm) => ({ ...arm, domain: slice.domain ?? ALL, srm: slice.split })));
  return card(
    "Split and counts",
    { aside: found.p_value === null ? badge("not judged") : badge(bad ? "sample ratio mismatch" : `sound, p ${pValue(found.p_value)}`, bad ? "bad" : "good") },
    found.reason && h("p", { class: "muted" }, found.reason),
    found.words.length > 0 && list(found.words),
    body.crossed_users > 0 && h("p", null, `${count(body.crossed_users)} users were seen in two arms; they are left out.`),
    Object.keys(body.unknown_arms).length > 0 && h("p", null, "Users in arms that the definition does not have: ", Object.entries(body.unknown_arms).map(([arm, users]) => `${arm} ${count(users)}`).join(", ")),
    h(
      "details",
      null,
      h("summary", null, "Counts by domain and arm"),
      table({
        caption: `Counts until ${moment(body.made_at)}`,
        rows,
        columns: [
          { name: "Domain", head: true, cell: (row) => row.domain },
          { name: "Arm", cell: (row) => id(row.arm) },
          ...["users", "requests", "impressions", "clicks", "conversions"].map((name) => ({ name, kind: "num", cell: (row) => count(row[name]) })),
          { name: "revenue", kind: "num", cell: (row) => number(row.revenue, 4) },
          { name: "split p", kind: "num", cell: (row) => pValue(row.srm.p_value) },
        ],
      }),
      h("p", { class: "muted small" }, `Ledger: ${count(events.answers)} answers, ${count(events.events)} events, ${count(events.joined)} joined, ${count(events.duplicate)} duplicate, ${count(events.late)} late, ${count(events.orphan)} without an answer.`),
    ),
  );
}

