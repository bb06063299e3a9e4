// What serves, what it had to prove, and the way back.

import { part, read, send } from "../lib/api.js";
import { look } from "../lib/bell.js";
import { propose } from "../lib/dialogs.js";
import { h } from "../lib/dom.js";
import { bytes, count, duration, moment, number } from "../lib/format.js";
import { gates, gatesBadge } from "../lib/gates.js";
import { badge, card, empty, facts, id, notice, table, view, when } from "../lib/parts.js";

const TONES = { live: "good", previous: "accent", refused: "bad", kept: "plain" };

export async function bundles({ signal, refresh }) {
  const [{ body }, aliases] = await Promise.all([read("admin/v1/bundles", { signal }), read("admin/v1/aliases", { signal })]);
  const { champion, aliases: all } = aliases.body;
  return view(
    { title: "Bundles", lead: "Each is one night's work of one recipe: towers, indices, ranker and schema, checked before it serves." },
    body.bundles.filter((one) => one.refused).map((one) => h("div", { role: "alert" }, notice("bad", `${one.bundle_id} was refused`, h("p", null, `${one.refused} The one before goes on serving.`)))),
    body.damaged.length > 0 && notice("warn", "Bundles that cannot be read", body.damaged.map((one) => h("p", null, id(one.bundle_id), ` ${one.why}`))),
    all.length > 0 && card("Recipes", { lead: "Which bundle serves each recipe. The champion answers outside every experiment." }, recipes(all, champion, refresh)),
    body.bundles.length ? h("div", { class: "live" }, body.bundles.map((one) => bundle(one, all, refresh))) : empty("No bundle yet", "Run a night: ", h("code", null, "mdrec nightly --data DIR"), "."),
  );
}

function recipes(all, champion, refresh) {
  return table({
    caption: "Aliases",
    hideCaption: true,
    rows: all,
    columns: [
      { name: "Recipe", head: true, cell: (row) => h("span", { class: "row" }, row.recipe, row.recipe === champion && badge("champion", "accent")) },
      { name: "Serves", kind: "id", cell: (row) => row.bundle_id },
      { name: "Before it", kind: "id", cell: (row) => row.previous ?? "–" },
      {
        name: "Actions",
        cell: (row) =>
          h(
            "div",
            { class: "row end" },
            row.previous && button(`Roll back…`, `Roll back ${row.recipe}`, () => move(row, row.previous, "Roll back").then(refresh), true),
            row.recipe !== champion && button("Make champion…", `Make ${row.recipe} champion`, () => crown(row, champion).then(refresh)),
          ),
      },
    ],
  });
}

function button(text, name, onclick, danger) {
  return h("button", { type: "button", "aria-label": name, class: danger && "danger", onclick }, text);
}

/** The alias names the bundle that it is expected to leave, so two operators cannot move it twice. */
async function move(alias, bundleId, verb) {
  const change = {
    title: `${verb} ${alias.recipe}`,
    text: `Its requests are answered by ${bundleId} instead of ${alias.bundle_id}. Requests under way finish on the bundle they began with.`,
    verb,
    danger: true,
    done: `${alias.recipe} is moving to ${bundleId}.`,
    reload: async () => {
      const { body } = await read("admin/v1/aliases");
      const now = body.aliases.find((one) => one.recipe === alias.recipe);
      return { body: now, etag: `"${now.bundle_id}"` };
    },
    send: (base, { why }) => send("PUT", `admin/v1/aliases/${part(alias.recipe)}`, { bundle_id: bundleId, ...(why ? { why } : {}) }, { match: base.etag }),
  };
  if (await propose(change, { body: alias, etag: `"${alias.bundle_id}"` })) look();
}

async function crown(alias, champion) {
  const change = {
    title: `Make ${alias.recipe} champion`,
    text: `Everybody outside of experiments is answered by ${alias.recipe} instead of ${champion}.`,
    verb: "Make champion",
    send: (_, { why }) => send("PUT", "admin/v1/champion", { recipe: alias.recipe, ...(why ? { why } : {}) }),
  };
  await propose(change, { body: alias, etag: null });
}

function bundle(one, aliases, refresh) {
  const alias = aliases.find((found) => found.recipe === one.recipe);
  const serve = alias && one.status === "kept" && button("Serve it…", `Serve ${one.bundle_id}`, () => move(alias, one.bundle_id, "Serve").then(refresh));
  return card(
    h("span", { class: "id" }, one.bundle_id),
    { aside: h("div", { class: "row" }, badge(one.status, TONES[one.status]), one.champion && badge("champion", "accent"), gatesBadge(one.gates), serve) },
    facts([
      ["Recipe", one.recipe],
      ["Made", when(one.created_at)],
      ["Data", `${one.dataset}, ${count(one.rows)} rows${one.through ? ` through ${moment(one.through)}` : ""}`],
      ["Retriever, ranker", `${one.retriever}, ${one.ranker ?? "no ranker"}`],
      ["Size", bytes(one.bytes)],
    ]),
    h(
      "details",
      null,
      h("summary", null, "Gates, domains and steps"),
      h("div", { class: "stack" }, one.gates.length ? gates(one.gates, `Gates of ${one.bundle_id}`) : h("p", { class: "muted" }, "It was published without a gate."), domainsOf(one), steps(one)),
    ),
  );
}

function domainsOf(one) {
  return table({
    caption: `Domains of ${one.bundle_id} and their indices`,
    rows: one.domains,
    columns: [
      { name: "Domain", head: true, cell: (row) => row.domain },
      { name: "Ads", kind: "num", cell: (row) => count(row.ads) },
      { name: "Index", cell: (row) => row.index },
      { name: "Recall", kind: "num", cell: (row) => `${number(row.recall)} of ${number(row.recall_gate)} needed` },
      { name: "Size", kind: "num", cell: (row) => bytes(row.bytes) },
    ],
  });
}

function steps(one) {
  const rows = Object.entries(one.step_seconds);
  if (!rows.length) return null;
  return table({
    caption: `Steps of the night of ${one.bundle_id}`,
    rows,
    columns: [
      { name: "Step", head: true, cell: ([name]) => name },
      { name: "Time", kind: "num", cell: ([, seconds]) => duration(seconds) },
    ],
  });
}
