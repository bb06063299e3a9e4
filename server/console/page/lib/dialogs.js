// One dialog for every write: what it will do (rehearsed by the gateway), why, and what to do when somebody else was first.

import { read } from "./api.js";
import { differences, diffTable } from "./changes.js";
import { fresh, h, replace, say } from "./dom.js";
import { field, notice, when } from "./parts.js";

/**
 * change: {title, text, verb, danger, send(base, {why, dryRun}) -> {body}, rehearsed, fields, reload, done, described}
 *   base: {etag, body} that the change was made from
 *   rehearsed: can the gateway rehearse it? then its differences are shown before the write
 *   reload() -> the present base, for a change that may meet another's
 * Resolves to the answer, or null when the operator left it.
 */
export function propose(change, base) {
  const opener = document.activeElement;
  return new Promise((resolve) => {
    const title = fresh("dialog");
    const why = h("textarea", { rows: 2, maxlength: 500, name: "why" });
    const body = h("div", { class: "stack" });
    const wrong = h("div", { role: "alert" });
    const apply = h("button", { type: "submit", class: `main${change.danger ? " danger" : ""}` }, change.verb);
    const cancel = h("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
    const buttons = h("div", { class: "row end" }, cancel, apply);
    const reason = field("Why?", why, "Goes into the audit trail.");
    const dialog = h(
      "dialog",
      { "aria-labelledby": title },
      h(
        "form",
        { onsubmit: (event) => (event.preventDefault(), write()) },
        h("h2", { id: title }, change.title),
        change.text && h("p", null, change.text),
        change.fields,
        body,
        change.reason === false ? null : reason,
        wrong,
        buttons,
      ),
    );
    let answer = null;

    async function rehearse() {
      replace(wrong);
      if (!change.rehearsed) return;
      apply.disabled = true;
      try {
        const { body: found } = await change.send(base, { why: "", dryRun: true });
        replace(body, diffTable(found.diff, "What will change"));
        apply.disabled = false;
      } catch (error) {
        await failed(error);
      }
    }

    async function write() {
      apply.disabled = true;
      try {
        answer = await change.send(base, { why: why.value.trim(), dryRun: false });
        say(change.done ?? `${change.title}: done.`);
        dialog.close();
      } catch (error) {
        await failed(error);
      }
    }

    /** Somebody else was first: theirs is shown, and mine goes on top of it only when asked to. */
    async function failed(error) {
      if (error.status !== 412 || !change.reload) {
        apply.disabled = !error.status || error.status >= 500 ? false : change.rehearsed;
        replace(wrong, notice("bad", "Not done", h("p", null, error.message)));
        return;
      }
      const now = await change.reload();
      const theirs = differences(base.body.definitions ?? base.body, now.body.definitions ?? now.body);
      const onTop = h("button", { type: "button", class: "main" }, "Apply mine on top");
      onTop.addEventListener("click", () => {
        base = now;
        onTop.remove();
        apply.hidden = false;
        replace(wrong);
        rehearse().then(() => apply.focus());
      });
      apply.hidden = true;
      cancel.textContent = "Keep theirs";
      replace(
        body,
        notice("warn", "Somebody else changed this while you were at it", [
          await authors(base, now),
          h("p", null, "Nothing of theirs is overwritten. Look at what they did, then put yours on top of it or leave it."),
        ]),
        diffTable(theirs, "What they changed", ["You saw", "They made it"]),
      );
      buttons.append(onTop);
      onTop.focus();
    }

    change.onFieldChange?.(rehearse);
    dialog.addEventListener("close", () => {
      dialog.remove();
      opener?.focus?.();
      resolve(answer);
    });
    document.body.append(dialog);
    dialog.showModal();
    rehearse();
  });
}

async function authors(base, now) {
  if (now.body.version === undefined) return null;
  try {
    const { body } = await read("admin/v1/audit?count=50");
    const between = body.filter((one) => one.version > base.body.version && one.version <= now.body.version);
    return between.map((one) => h("p", null, h("strong", null, `${one.who}: ${one.why || "no reason given"}`), when(one.when)));
  } catch {
    return null; // the differences below say what was done; by whom is in the audit trail
  }
}
