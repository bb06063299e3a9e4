// Why this ad, why not that one: one request's record, by its id or made now.

import { part, read, send } from "../lib/api.js";
import { h, link, replace, say } from "../lib/dom.js";
import { card, empty, failure, field, notice, select, view } from "../lib/parts.js";
import { record } from "../lib/record.js";

export async function requests({ parts: [requestId], signal }) {
  const { body } = await read("v1/domains", { signal });
  const shown = h("div", { class: "live", hidden: !requestId });
  const known = h("input", { type: "text", name: "request", autocomplete: "off", spellcheck: "false", required: true, value: requestId ?? "" });

  async function look(id) {
    shown.hidden = false;
    replace(shown, h("p", { class: "busy" }, "Loading…"));
    try {
      const { body: found } = await read(`v1/requests/${part(id)}`, { signal });
      replace(shown, record(found));
      say(`${found.candidates.length} candidates of request ${id}.`);
    } catch (error) {
      if (error.name === "AbortError") return;
      const remedy = empty("There is no record of this request", error.message, ". Records are kept for requests sent with explain, and for a sample (MDREC_RECORD_SHARE), until MDREC_RECORD_SECONDS have passed.");
      replace(shown, error.status === 404 ? remedy : failure(error, () => look(id)));
    }
  }

  const open = (event) => {
    event.preventDefault();
    const to = link("requests", known.value.trim());
    if (location.hash === to) look(known.value.trim());
    else location.hash = to;
  };
  if (requestId) look(requestId);
  return view(
    { title: "Requests", lead: "Every candidate of one answer: where it left, and why." },
    shown,
    h(
      "div",
      { class: "halves" },
      card(
        "Look a request up",
        {},
        h("form", { class: "stack", onsubmit: open }, field("Request id", known, "It stands in the answer. Ask with explain: true to have it kept."), h("div", { class: "row" }, h("button", { type: "submit", class: "main" }, "Look it up"))),
      ),
      body.domains.length ? trial(body.domains) : card("Ask now", {}, empty("No domain is served yet", "Run a night first: mdrec nightly --data DIR.")),
    ),
  );
}

/** One recommend with explain, sent from here. */
function trial(domains) {
  const user = h("input", { type: "text", name: "user", required: true, autocomplete: "off", spellcheck: "false", value: "console-test" });
  const domain = select(domains.map(({ name }) => [name, name]), domains[0].name, { name: "domain" });
  const k = h("input", { type: "number", name: "k", min: 1, max: 500, value: 10, required: true });
  const context = h("textarea", { name: "context", rows: 2, spellcheck: "false", placeholder: '{"hour": "12"}' });
  const wrong = h("div", { role: "alert" });
  const go = h("button", { type: "submit", class: "main" }, "Ask and explain");

  async function ask(event) {
    event.preventDefault();
    let given = {};
    try {
      given = context.value.trim() ? JSON.parse(context.value) : {};
    } catch (error) {
      context.setAttribute("aria-invalid", "true");
      return replace(wrong, notice("bad", "The context is not JSON", h("p", null, error.message)));
    }
    context.removeAttribute("aria-invalid");
    go.disabled = true;
    try {
      const asked = { user_id: user.value, domain: domain.value, k: Number(k.value), context: given, explain: true };
      const { body } = await send("POST", "v1/recommend", asked);
      location.hash = link("requests", body.request_id);
    } catch (error) {
      replace(wrong, notice("bad", "Not answered", h("p", null, error.message)));
    } finally {
      go.disabled = false;
    }
    return undefined;
  }

  return card(
    "Ask now",
    {},
    h(
      "form",
      { class: "form", onsubmit: ask },
      field("User", user),
      field("Domain", domain),
      field("Ads", k),
      h("div", { class: "wide" }, field("Context", context, "A JSON object; may stay empty.")),
      h("p", { class: "hint wide" }, "It is a request like any other: it is logged, and its user is exposed to the experiments that take them in. Use a name that no real user has."),
      h("div", { class: "wide" }, wrong),
      h("div", { class: "wide row" }, go),
    ),
  );
}
