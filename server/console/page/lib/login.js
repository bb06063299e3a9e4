// A token and, where the token is shared, a name. Both are forgotten when the tab closes.

import { enter } from "./api.js";
import { h, replace, say } from "./dom.js";
import { field, notice } from "./parts.js";

/** entered: called once a token was taken. */
export function login(entered) {
  const token = h("input", { type: "password", name: "token", autocomplete: "current-password", required: true, spellcheck: "false" });
  const name = h("input", { type: "text", name: "operator", autocomplete: "username", maxlength: 100 });
  const wrong = h("div", { role: "alert" });
  const go = h("button", { type: "submit", class: "main" }, "Log in");

  async function tryIt(event) {
    event.preventDefault();
    go.disabled = true;
    try {
      const operator = await enter(token.value.trim(), name.value.trim());
      say(`Logged in as ${operator}.`);
      entered();
    } catch (error) {
      const title = error.status === 401 ? "This token is not one of the gateway's" : "Not logged in";
      replace(wrong, notice("bad", title, h("p", null, error.message)));
      token.focus();
    } finally {
      go.disabled = false;
    }
  }

  return h(
    "div",
    { class: "login card" },
    h("h1", { tabindex: -1 }, "mdrec console"),
    h("p", { class: "muted" }, "Experiments, bundles and the health of this gateway."),
    h(
      "form",
      { onsubmit: tryIt },
      field("Operator token", token, "One of MDREC_OPERATOR_TOKENS, or MDREC_OPERATOR_TOKEN. It stays in this tab and is gone when you close it."),
      field("Your name", name, "Only where several people share one token: it goes into the audit trail."),
      wrong,
      go,
    ),
  );
}
