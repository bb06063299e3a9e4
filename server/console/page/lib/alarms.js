// What needs an operator's eye, in words: gathered from the same answers that the views show.

import { part, read } from "./api.js";
import { link } from "./dom.js";
import { duration, percent } from "./format.js";

const LATE_SECONDS = 2 * 86400; // the ledger's night has been missed
const OLD_NIGHT_SECONDS = 30 * 3600;

/** [{tone: "bad" | "warn", title, text, href}], the worst first. What cannot be asked is an alarm of its own. */
export async function gather(signal) {
  const sources = [serving, running, eventsHealth, domainsHealth, lastNight, drifted];
  const found = await Promise.all(sources.map((source) => source(signal).catch((error) => unanswered(error, source))));
  return found.flat().sort((a, b) => Number(b.tone === "bad") - Number(a.tone === "bad"));
}

function unanswered(error, source) {
  if (error.name === "AbortError" || error.status === 401) throw error;
  return [{ tone: "bad", title: `No word on ${source.about}`, text: error.message, href: source.href }];
}

async function serving(signal) {
  let ready;
  try {
    ready = (await read("readyz", { signal })).body;
  } catch (error) {
    if (error.status !== 503 || !error.body.problems) throw error;
    ready = error.body;
  }
  const problems = ready.problems.map((text) => ({ tone: "bad", title: "A live recipe cannot answer", text, href: link("bundles") }));
  const refused = Object.entries(ready.refused).map(([recipe, one]) => ({
    tone: "bad",
    title: `Bundle ${one.bundle_id} of ${recipe} was refused`,
    text: `${one.reason} The one before goes on serving.`,
    href: link("bundles"),
  }));
  return [...problems, ...refused];
}
Object.assign(serving, { about: "what serves", href: link("bundles") });

async function running(signal) {
  const { body } = await read("admin/v1/experiments", { signal });
  const killed = body.active
    ? []
    : [{ tone: "bad", title: "The kill switch is on", text: "Everybody gets the champion; no experiment takes units in.", href: link("experiments") }];
  const reports = body.experiments.filter((one) => one.status === "running").map((one) => reported(one.key, signal));
  return [...killed, ...(await Promise.all(reports)).flat()];
}
Object.assign(running, { about: "experiments", href: link("experiments") });

async function reported(key, signal) {
  const href = link("experiments", key);
  try {
    const { body } = await read(`admin/v1/experiments/${part(key)}/report`, { signal });
    return ofReport(body, href);
  } catch (error) {
    if (error.status === 404) return []; // no night has reported on it yet
    if (error.name === "AbortError" || error.status === 401) throw error;
    return [{ tone: "warn", title: `The report of ${key} cannot be read`, text: error.message, href }];
  }
}

/** Alarms of one report: a broken split, a breached guardrail, a decision to roll back. */
export function ofReport(report, href) {
  const found = [];
  if (report.split.alarm || report.split.broken) {
    const words = report.split.words.length ? report.split.words.join("; ") : "the arms do not hold the users that their weights say";
    found.push({ tone: "bad", title: `${report.experiment}: sample ratio mismatch`, text: `${words}. Its numbers mean nothing until this is explained.`, href });
  }
  for (const arm of report.slices[0]?.arms ?? []) {
    for (const one of arm.guardrails.filter((guardrail) => guardrail.verdict === "breached")) {
      found.push({ tone: "bad", title: `${report.experiment}: guardrail of ${arm.arm} breached`, text: one.words, href });
    }
  }
  if (report.decision.action === "roll_back") {
    found.push({ tone: "bad", title: `${report.experiment}: roll back ${report.decision.arm}`, text: report.decision.reasons.join("; "), href });
  }
  return found;
}

async function eventsHealth(signal) {
  const { body } = await read("admin/v1/health/events", { signal });
  const href = link("events");
  const found = [];
  if (!body.redis.up) found.push({ tone: "bad", title: "Redis is away", text: `${body.redis.error} Answers go on; feedback is refused.`, href });
  if (body.stream?.lag_seconds > LATE_SECONDS) {
    found.push({ tone: "warn", title: "Events wait for the ledger", text: `The oldest for ${duration(body.stream.lag_seconds)}: no night has moved them.`, href });
  }
  if (body.ledger.problem) found.push({ tone: "bad", title: "The ledger has a problem", text: body.ledger.problem, href });
  const dropped = body.counts.filter((one) => one.outcome === "dropped" && one.recent > 0);
  if (dropped.length) found.push({ tone: "bad", title: "Events are being dropped", text: dropped.map((one) => `${one.recent} ${one.type} in ${one.domain}`).join(", "), href });
  return found;
}
Object.assign(eventsHealth, { about: "events", href: link("events") });

async function domainsHealth(signal) {
  const { body } = await read("admin/v1/health/domains?minutes=5", { signal });
  return body.domains.flatMap((one) =>
    one.degraded
      .filter((rung) => rung.share >= 0.01)
      .map((rung) => ({
        tone: rung.share >= 0.1 ? "bad" : "warn",
        title: `${one.domain} is degraded: ${rung.rung}`,
        text: `${percent(rung.share)} of its answers in the last ${duration(body.window_seconds)}.`,
        href: link("domains"),
      })),
  );
}
Object.assign(domainsHealth, { about: "latency and degradation", href: link("domains") });

async function lastNight(signal) {
  const { body } = await read("admin/v1/nights?count=1", { signal });
  const href = link("nights");
  const [night] = body.nights;
  if (!night) return [];
  if (night.status === "failed") return [{ tone: "bad", title: "The last night failed", text: night.error ?? "Its reason was not written.", href }];
  if (night.status === "held back") {
    const why = night.recipes.filter((one) => !one.published).map((one) => `${one.recipe}: ${one.why}`);
    return [{ tone: "warn", title: "The last night was held back", text: why.join("; "), href }];
  }
  const age = (Date.now() - Date.parse(night.started)) / 1000;
  return age > OLD_NIGHT_SECONDS ? [{ tone: "warn", title: "No night since", text: `The last began ${duration(age)} ago.`, href }] : [];
}
Object.assign(lastNight, { about: "nights", href: link("nights") });

async function drifted(signal) {
  const { body } = await read("admin/v1/drift?hours=2", { signal });
  return body.slices
    .filter((one) => one.verdict === "drifted")
    .map((one) => ({ tone: "warn", title: `Scores drift in ${one.domain}`, text: `${one.recipe}: ${one.words}`, href: link("drift") }));
}
Object.assign(drifted, { about: "score drift", href: link("drift") });
