// Differences of definitions, computed as the gateway does (abtest/experiments.py): {path: [before, after]}.

import { h } from "./dom.js";
import { shown } from "./format.js";
import { table } from "./parts.js";

export function differences(before, after) {
  const left = new Map(leaves("", before));
  const right = new Map(leaves("", after));
  const paths = [...new Set([...left.keys(), ...right.keys()])].sort();
  const changed = paths.filter((path) => JSON.stringify(left.get(path)) !== JSON.stringify(right.get(path)));
  return Object.fromEntries(changed.map((path) => [path, [left.get(path), right.get(path)]]));
}

function* leaves(path, value) {
  if (Array.isArray(value) && value.some((one) => one !== null && typeof one === "object")) {
    for (const [index, inner] of value.entries()) yield* leaves(`${path}.${index}`, inner);
  } else if (value !== null && typeof value === "object" && !Array.isArray(value) && Object.keys(value).length) {
    for (const [key, inner] of Object.entries(value)) yield* leaves(path ? `${path}.${key}` : key, inner);
  } else {
    yield [path, value];
  }
}

/** The differences as a table of what was and what is. */
export function diffTable(diff, caption, [was, is] = ["Now", "Then"]) {
  const rows = Object.entries(diff);
  if (!rows.length) return h("p", { class: "muted" }, "Nothing changes.");
  return table({
    caption,
    rows,
    columns: [
      { name: "What", head: true, kind: "id", cell: ([path]) => path || "everything" },
      { name: was, cell: ([, [before]]) => side("del", before) },
      { name: is, cell: ([, [, after]]) => side("ins", after) },
    ],
  });
}

function side(tag, value) {
  return value === null || value === undefined ? h("span", { class: "muted" }, "none") : h(tag, null, shown(value));
}
