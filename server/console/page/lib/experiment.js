// What experiments have in common wherever they are shown: states, actions, the base that a change is made from.

import { part, read, send } from "./api.js";
import { look } from "./bell.js";
import { propose } from "./dialogs.js";
import { badge, field, select } from "./parts.js";

const TONES = { running: "good", paused: "warn", draft: "accent", stopped: "plain" };

export const PATH = "admin/v1/experiments";

export function load(signal) {
  return read(PATH, { signal });
}

/** The definitions as they may be written: the kill switch has a door of its own, and stays as it is. */
export function withoutSwitch({ active, ...definitions }) {
  return definitions;
}

export function status(one) {
  return badge(one.released ? `stopped, ${one.released} for all` : one.status, TONES[one.status]);
}

/** "users with ..." of a condition, in GrowthBook's words; empty where everybody is let in. */
export function audience(one) {
  const parts = [];
  if (Object.keys(one.condition).length) parts.push(`whose ${conditionText(one.condition)}`);
  if (one.namespace) parts.push(`in layer ${one.namespace[0]}, ${one.namespace[1]} to ${one.namespace[2]}`);
  return parts.length ? `Users ${parts.join(", ")}` : "All users";
}

function conditionText(condition) {
  return Object.entries(condition)
    .map(([name, value]) => (value !== null && typeof value === "object" ? `${name} ${JSON.stringify(value)}` : `${name} is ${value}`))
    .join(" and ");
}

/** Propose a change of definitions; the alarms are looked at again after it. */
export async function change(details, base) {
  const answer = await propose({ rehearsed: true, reload: load, ...details }, base);
  if (answer) look();
  return answer;
}

function post(key, action, body = {}, free = false) {
  return (base, { why, dryRun }) =>
    send("POST", `${PATH}/${part(key)}/${action}`, { ...body, ...(why ? { why } : {}) }, { match: free ? undefined : base.etag, dryRun });
}

/** What may be done with an experiment now: [{name, danger, run(base)}]. */
export function actions(one) {
  const { key } = one;
  const start = {
    name: "Start",
    main: true,
    run: (base) => change({ title: `Start ${key}`, text: "Its units are taken in from now on.", verb: "Start", send: post(key, "start") }, base),
  };
  const pause = {
    name: "Pause",
    run: (base) =>
      change(
        {
          title: `Pause ${key}`,
          text: "At once everybody gets what they would without it. Resumed, the same units meet the same arms again.",
          verb: "Pause",
          danger: true,
          send: post(key, "pause", {}, true),
        },
        base,
      ),
  };
  const resume = {
    name: "Resume",
    main: true,
    run: (base) => change({ title: `Resume ${key}`, text: "The same units meet the same arms again.", verb: "Resume", send: post(key, "resume") }, base),
  };
  const stop = { name: "Stop", danger: true, run: (base) => stopping(one, base) };
  return { draft: [start, stop], running: [pause, stop], paused: [resume, stop], stopped: [] }[one.status] ?? [];
}

function stopping(one, base) {
  const released = select([["", "nobody: the champion answers"], ...one.arms.map(({ arm }) => [arm, `${arm}: everybody it targets gets it`])], "");
  return change(
    {
      title: `Stop ${one.key}`,
      text: "It ends for good. Its definition and its ledger stay.",
      verb: "Stop",
      danger: true,
      fields: field("Release an arm", released),
      onFieldChange: (again) => released.addEventListener("change", again),
      send: (now, how) => post(one.key, "stop", { release: released.value || null })(now, how),
    },
    base,
  );
}

export function killSwitch(on, base) {
  return change(
    {
      title: on ? "Turn every experiment off" : "Bring experiments back",
      text: on ? "The kill switch: at once every request gets the champion, every flag its default." : "Everything is as it was before the kill switch.",
      verb: on ? "Kill all experiments" : "Restore",
      danger: on,
      send: (_, { why, dryRun }) => send("PUT", "admin/v1/kill-switch", { on, ...(why ? { why } : {}) }, { dryRun }),
    },
    base,
  );
}
