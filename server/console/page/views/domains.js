// How fast each domain answers, and how often from a lower rung.

import { meter } from "../lib/charts.js";
import { h } from "../lib/dom.js";
import { count, duration, milliseconds, number, percent } from "../lib/format.js";
import { body, live } from "../lib/live.js";
import { badge, card, empty, field, select, table, view } from "../lib/parts.js";

const MINUTES = [1, 5, 10];
const RUNGS = {
  sticky: "the arms that the hash gives",
  recipe: "the champion's bundle: the arm's recipe has none here",
  features: "the formula for a stranger: the user's row did not come",
  popular: "the domain's popular ads",
  rank: "retrieval order: the ranker failed",
  deadline: "retrieval order: no time to rank",
  record: "whole, but its record was not kept",
};

export async function domains({ signal }) {
  let minutes = 5;
  const shown = live(() => body(`admin/v1/health/domains?minutes=${minutes}`, signal), draw, signal);
  const window = select(MINUTES.map((one) => [String(one), `${one} min`]), "5", { onchange: (event) => ((minutes = Number(event.target.value)), shown.look()) });
  await shown.look();
  return view({ title: "Domains", lead: "Latency and degradation of what this gateway answered a moment ago, over all its workers.", aside: field("Window", window) }, shown.element);
}

function draw(found) {
  if (!found.domains.length) return empty("No domain is served yet", "Run a night first: mdrec nightly --data DIR.");
  const slowest = Math.max(...found.domains.map((one) => one.total.p99_ms ?? 0), 1e-9);
  return [
    card(
      "Answers",
      { aside: h("span", { class: "muted small" }, `the last ${duration(found.window_seconds)}`) },
      table({
        caption: "Whole requests by domain",
        hideCaption: true,
        rows: found.domains,
        columns: [
          { name: "Domain", head: true, cell: (row) => row.domain },
          { name: "Requests", kind: "num", cell: (row) => count(row.requests) },
          { name: "A second", kind: "num", cell: (row) => number(row.requests_per_second) },
          { name: "p50", kind: "num", cell: (row) => milliseconds(row.total.p50_ms) },
          { name: "p95", kind: "num", cell: (row) => milliseconds(row.total.p95_ms) },
          { name: "p99", kind: "num", cell: (row) => milliseconds(row.total.p99_ms) },
          { name: "p99 beside the others", kind: "drawn", cell: (row) => meter((row.total.p99_ms ?? 0) / slowest) },
          { name: "Degraded", cell: degraded },
        ],
      }),
    ),
    h("div", { class: "halves" }, found.domains.filter((one) => one.requests > 0).map(inside)),
  ];
}

function degraded({ requests, degraded: rungs }) {
  if (!requests) return badge("no request");
  const worst = [...rungs].sort((a, b) => b.share - a.share)[0];
  if (!worst || !worst.count) return badge("none", "good");
  return badge(`${worst.rung} ${percent(worst.share)}`, worst.share >= 0.1 ? "bad" : "warn");
}

function inside(one) {
  return card(
    one.domain,
    {},
    table({
      caption: `Stages of ${one.domain}`,
      hideCaption: true,
      rows: one.stages,
      columns: [
        { name: "Stage", head: true, cell: (row) => row.stage },
        { name: "p50", kind: "num", cell: (row) => milliseconds(row.p50_ms) },
        { name: "p95", kind: "num", cell: (row) => milliseconds(row.p95_ms) },
        { name: "p99", kind: "num", cell: (row) => milliseconds(row.p99_ms) },
      ],
    }),
    one.degraded.some((rung) => rung.count) &&
      table({
        caption: `Degraded answers of ${one.domain}`,
        rows: one.degraded.filter((rung) => rung.count),
        columns: [
          { name: "Rung", head: true, cell: (row) => row.rung },
          { name: "What was answered", kind: "text", cell: (row) => RUNGS[row.rung] ?? "" },
          { name: "Answers", kind: "num", cell: (row) => count(row.count) },
          { name: "Share", kind: "num", cell: (row) => percent(row.share, 2) },
        ],
      }),
    one.dropped.length > 0 &&
      table({
        caption: `Candidates of ${one.domain} that the filter dropped`,
        rows: one.dropped,
        columns: [
          { name: "Reason", head: true, cell: (row) => row.reason },
          { name: "Candidates", kind: "num", cell: (row) => count(row.count) },
        ],
      }),
  );
}
