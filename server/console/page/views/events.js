// Do exposures and feedback arrive, and do they reach the ledger?

import { h } from "../lib/dom.js";
import { count, duration, moment } from "../lib/format.js";
import { body, live } from "../lib/live.js";
import { badge, card, empty, facts, id, notice, table, tile, view, when } from "../lib/parts.js";

const OUTCOMES = ["accepted", "duplicate", "rejected", "dropped"];
const GOOD = new Set(["accepted", "duplicate"]);

export async function events({ signal }) {
  const shown = live(() => body("admin/v1/health/events", signal), draw, signal);
  await shown.look();
  return view({ title: "Events", lead: "What was shown and what became of it: from the gateway through Redis into the ledger." }, shown.element);
}

function draw(found) {
  const { redis, stream, ledger } = found;
  const gone = found.counts.filter((one) => !GOOD.has(one.outcome) && one.recent > 0);
  return [
    !redis.up && alarm("Redis is away", `${redis.error} Answers go on; exposures wait in memory; feedback is refused, so that clients send it again.`),
    ledger.problem && alarm("The ledger has a problem", ledger.problem),
    gone.length > 0 && alarm("Events are being lost or refused", gone.map((one) => `${count(one.recent)} of ${one.type} in ${one.domain} ${one.outcome}`).join(", ")),
    h(
      "div",
      { class: "grid tiles" },
      tile("Redis", redis.up ? "up" : "away", redis.up ? "takes events" : redis.error),
      tile("Waiting for the ledger", stream ? count(stream.length) : "–", stream?.oldest_at ? `the oldest for ${duration(stream.lag_seconds)}` : "none waits"),
      tile("Last day in the ledger", ledger.last_day ?? "none", ledger.last_written_at ? `written ${moment(ledger.last_written_at)}` : "mdrec ab report or a night writes it"),
      tile("Waiting in memory", count(found.exposures_waiting), "exposures of this worker"),
    ),
    card(
      "What came in",
      { aside: h("span", { class: "muted small" }, `recent: the last ${duration(found.window_seconds)}`) },
      found.counts.length ? counts(found) : empty("No event yet", "An exposure is logged for every answer; clients send impressions, clicks and conversions to /v1/feedback."),
    ),
    card(
      "Ledger",
      {},
      facts([
        ["Last file", ledger.last_file && id(ledger.last_file)],
        ["Written", ledger.last_written_at && when(ledger.last_written_at)],
        ["Files set aside as unreadable", ledger.rejected_files ? badge(count(ledger.rejected_files), "warn") : "0"],
      ]),
    ),
  ];
}

function alarm(title, text) {
  return h("div", { role: "alert" }, notice("bad", title, h("p", null, text)));
}

function counts(found) {
  const rows = new Map();
  for (const one of found.counts) {
    const key = JSON.stringify([one.domain, one.type]);
    const row = rows.get(key) ?? { domain: one.domain, type: one.type, of: {} };
    row.of[one.outcome] = one;
    rows.set(key, row);
  }
  return table({
    caption: "Events by domain and type: since the gateway started, and of those recently",
    rows: [...rows.values()],
    columns: [
      { name: "Domain", head: true, cell: (row) => row.domain },
      { name: "Type", cell: (row) => row.type },
      ...OUTCOMES.map((outcome) => ({ name: outcome, kind: "num", cell: (row) => tally(row.of[outcome]) })),
    ],
  });
}

function tally(one) {
  if (!one) return h("span", { class: "muted" }, "0");
  return h("span", null, count(one.total), h("br"), h("span", { class: "muted small" }, `${count(one.recent)} recent`));
}
