// Numbers and times as people read them. What is null has no number: a dash, and the reason beside it where there is one.

const NONE = "–";
const whole = new Intl.NumberFormat("en");

export function count(value) {
  return value === null || value === undefined ? NONE : whole.format(value);
}

/** Three significant digits, however small. */
export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  if (value !== 0 && (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e7)) return value.toExponential(digits - 1);
  return new Intl.NumberFormat("en", { maximumSignificantDigits: Math.max(digits, String(Math.trunc(Math.abs(value))).length) }).format(value);
}

/** .0523 -> "5.2%" */
export function percent(value, digits = 1) {
  return value === null || value === undefined || !Number.isFinite(value) ? NONE : `${trimmed(value * 100, digits)}%`;
}

/** .0523 -> "+5.2%" */
export function signed(value, digits = 1) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  const size = trimmed(Math.abs(value) * 100, digits);
  return `${size === "0" ? "" : value > 0 ? "+" : "−"}${size}%`;
}

function trimmed(value, digits) {
  return new Intl.NumberFormat("en", { minimumFractionDigits: 0, maximumFractionDigits: digits }).format(value);
}

export function pValue(value) {
  if (value === null || value === undefined) return NONE;
  return value < 0.001 ? "< .001" : value.toFixed(3).replace(/^0/, "");
}

export function milliseconds(value) {
  return value === null || value === undefined ? NONE : `${number(value)} ms`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 60) return `${number(seconds, 2)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} days`;
}

export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let size = value;
  while (size >= 1024 && units.length > 1) {
    size /= 1024;
    units.shift();
  }
  return `${number(size)} ${units[0]}`;
}

/** ISO text or seconds since 1970 -> "2026-11-27 02:10 UTC" */
export function moment(value) {
  if (value === null || value === undefined) return NONE;
  const at = instant(value);
  return Number.isNaN(at.getTime()) ? String(value) : `${at.toISOString().slice(0, 16).replace("T", " ")} UTC`;
}

/** "3 min ago" */
export function ago(value) {
  if (value === null || value === undefined) return NONE;
  const seconds = (Date.now() - instant(value).getTime()) / 1000;
  if (!Number.isFinite(seconds)) return String(value);
  if (seconds < 45) return "just now";
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
}

function instant(value) {
  return new Date(typeof value === "number" ? value * 1000 : value);
}

/** Any JSON value on one line. */
export function shown(value) {
  return typeof value === "string" ? value : value === undefined ? "absent" : JSON.stringify(value);
}
