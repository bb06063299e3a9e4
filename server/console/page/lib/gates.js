// Conditions of publication, as a table: what was reached, what had to be.

import { number } from "./format.js";
import { badge, table } from "./parts.js";

export function gates(all, caption) {
  return table({
    caption,
    rows: [...all].sort((a, b) => Number(a.passed) - Number(b.passed)),
    columns: [
      { name: "Gate", head: true, cell: (row) => row.name },
      { name: "Domain", cell: (row) => row.domain ?? "all" },
      { name: "Reached", kind: "num", cell: (row) => number(row.value) },
      { name: "Needed", kind: "num", cell: (row) => (row.threshold === null ? "–" : `${row.name.startsWith("agreement") ? "≤" : "≥"} ${number(row.threshold)}`) },
      { name: "Live bundle had", kind: "num", cell: (row) => number(row.live) },
      { name: "Verdict", cell: (row) => badge(row.passed ? "passed" : "failed", row.passed ? "good" : "bad") },
      { name: "Remark", kind: "text", cell: (row) => row.reason },
    ],
  });
}

/** "12 gates passed", or which did not. */
export function gatesBadge(all) {
  const failed = all.filter((one) => !one.passed).length;
  if (!all.length) return badge("no gate");
  return failed ? badge(`${failed} of ${all.length} gates failed`, "bad") : badge(`${all.length} gates passed`, "good");
}
