// The morning's look: what needs an eye, in words, and how things stand.

import { read } from "../lib/api.js";
import { gather } from "../lib/alarms.js";
import { h, link } from "../lib/dom.js";
import { ago, count, duration, milliseconds } from "../lib/format.js";
import { live } from "../lib/live.js";
import { notice, tile, view } from "../lib/parts.js";

const PERIOD_MS = 30_000;

export async function overview({ signal }) {
  const shown = live(() => Promise.all([gather(signal), figures(signal)]), draw, signal, PERIOD_MS);
  await shown.look();
  return view({ title: "Overview", lead: "What needs your eye, and how this gateway stands." }, shown.element);
}

function draw([alarms, tiles]) {
  return [
    h(
      "section",
      { class: "stack", "aria-label": "Alarms" },
      alarms.length
        ? alarms.map((one) => notice(one.tone, one.title, h("p", null, one.text), h("a", { class: "button", href: one.href, "aria-label": `Look: ${one.title}` }, "Look")))
        : notice("good", "No alarm", h("p", null, "Splits are sound, guardrails hold, events arrive, every live recipe can answer.")),
    ),
    h("div", { class: "grid tiles" }, tiles),
  ];
}

/** A figure that cannot be had leaves its tile out: the alarms above say why. */
async function figures(signal) {
  const made = await Promise.all([experiments, domains, events, night, bundles].map((one) => one(signal).catch(left)));
  return made.flat();
}

function left(error) {
  if (error.name === "AbortError" || error.status === 401) throw error;
  return [];
}

async function experiments(signal) {
  const { body } = await read("admin/v1/experiments", { signal });
  const running = body.experiments.filter((one) => one.status === "running").length;
  return tile("Experiments running", count(running), `${count(body.experiments.length)} defined`, link("experiments"));
}

async function domains(signal) {
  const { body } = await read("admin/v1/health/domains?minutes=5", { signal });
  const asked = body.domains.reduce((sum, one) => sum + one.requests, 0);
  const slowest = body.domains.filter((one) => one.total.p99_ms !== null).sort((a, b) => b.total.p99_ms - a.total.p99_ms)[0];
  const window = duration(body.window_seconds);
  return [
    tile("Answers", count(asked), `in the last ${window}, ${count(body.domains.length)} domains`, link("domains")),
    tile("Slowest domain, p99", slowest ? milliseconds(slowest.total.p99_ms) : "–", slowest ? slowest.domain : "no request yet", link("domains")),
  ];
}

async function events(signal) {
  const { body } = await read("admin/v1/health/events", { signal });
  const lag = body.stream?.lag_seconds;
  const note = lag === null || lag === undefined ? "none waits" : `the oldest for ${duration(lag)}`;
  return tile("Events waiting for the ledger", body.stream ? count(body.stream.length) : "–", note, link("events"));
}

async function night(signal) {
  const { body } = await read("admin/v1/nights?count=1", { signal });
  const [last] = body.nights;
  return tile("Last night", last ? last.status : "none yet", last ? `${ago(last.started)}${last.seconds === null ? "" : `, took ${duration(last.seconds)}`}` : "mdrec nightly --data DIR", link("nights"));
}

async function bundles(signal) {
  const { body } = await read("admin/v1/bundles", { signal });
  const live = body.bundles.filter((one) => one.status === "live");
  const oldest = live.map((one) => one.created_at).sort()[0];
  return tile("Live bundles", count(live.length), oldest ? `the oldest made ${ago(oldest)}` : "none serves", link("bundles"));
}
