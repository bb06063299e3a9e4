// Drawings in SVG, in the width that they are given, so that their text keeps its size on a phone.

import { h, s } from "./dom.js";
import { signed } from "./format.js";

/** An element that is drawn again whenever its width changes. */
export function responsive(draw) {
  const holder = h("div", null);
  let last = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (width > 0 && width !== last) {
      last = width;
      holder.replaceChildren(draw(width));
    }
  }).observe(holder);
  return holder;
}

/** The least and the most of the intervals, 0 among them, with a little room. */
export function extent(intervals) {
  const ends = intervals.flatMap((one) => [one?.low, one?.high, one?.value]).filter((value) => Number.isFinite(value));
  const low = Math.min(0, ...ends);
  const high = Math.max(0, ...ends);
  const room = (high - low) * 0.06 || 0.01;
  return [low - room, high + room];
}

/** One lift on a common scale: the inner box is the fixed-horizon interval, the whiskers the one that holds at every look. */
export function intervalBar({ inner, outer, span, better = "up" }) {
  return responsive((width) => {
    const height = 28;
    const x = scale(span, [4, width - 4]);
    const known = outer && Number.isFinite(outer.low) && Number.isFinite(outer.high);
    const sign = better === "down" ? -1 : 1;
    const sure = known && outer.low * outer.high > 0 ? (sign * outer.value > 0 ? "good" : "bad") : "";
    return s(
      "svg",
      { width, height, "aria-hidden": "true", class: sure },
      s("line", { class: "axis", x1: 0, x2: width, y1: height / 2, y2: height / 2 }),
      s("line", { class: "zero", x1: x(0), x2: x(0), y1: 0, y2: height }),
      known && [
        s("line", { class: "whisker", x1: x(outer.low), x2: x(outer.high), y1: height / 2, y2: height / 2 }),
        [outer.low, outer.high].map((end) => s("line", { class: "whisker-cap", x1: x(end), x2: x(end), y1: 8, y2: height - 8 })),
      ],
      inner && Number.isFinite(inner.low) && Number.isFinite(inner.high) && box(x, inner, height),
      known && s("circle", { class: "point", cx: x(outer.value), cy: height / 2, r: 4 }),
    );
  });
}

function box(x, { low, high }, height) {
  return s("rect", { class: "box", x: x(low), width: Math.max(1, x(high) - x(low)), y: height / 2 - 6, height: 12, rx: 3 });
}

/** A lift by day with its always-valid band. rows: {day, value, low, high}, ascending; name: what a reader is told. */
export function bandChart(rows, name) {
  return responsive((width) => {
    const height = 230;
    const [left, right, top, bottom] = [54, 12, 10, 26];
    const known = rows.filter((row) => Number.isFinite(row.value));
    const band = known.filter((row) => Number.isFinite(row.low) && Number.isFinite(row.high));
    const settled = band.slice(Math.floor(band.length / 4)); // the first looks are wide enough to hide the rest
    const span = extent(settled.length ? settled : known);
    const y = clipped(scale(span, [height - bottom, top]), top, height - bottom);
    const at = new Map(rows.map((row, index) => [row.day, index]));
    const x = (row) => (rows.length < 2 ? (left + width - right) / 2 : left + (at.get(row.day) * (width - left - right)) / (rows.length - 1));
    const line = (points, value) => points.map((row) => `${x(row).toFixed(1)},${y(value(row)).toFixed(1)}`).join(" ");
    const every = Math.ceil(rows.length / Math.max(2, Math.floor((width - left) / 90)));
    return s(
      "svg",
      { width, height, role: "img", "aria-label": name },
      ticks(span).map((value) => [
        s("line", { class: "axis", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
        s("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, signed(value)),
      ]),
      s("line", { class: "zero", x1: left, x2: width - right, y1: y(0), y2: y(0) }),
      band.length > 1 &&
        s("polygon", { class: "band", points: `${line(band, (row) => row.high)} ${line([...band].reverse(), (row) => row.low)}` }),
      band.length > 1 && [
        s("polyline", { class: "band-edge", points: line(band, (row) => row.high) }),
        s("polyline", { class: "band-edge", points: line(band, (row) => row.low) }),
      ],
      known.length > 1 && s("polyline", { class: "line", points: line(known, (row) => row.value) }),
      known.map((row) => s("circle", { class: "dot", cx: x(row), cy: y(row.value), r: 3.5 })),
      rows
        .filter((_, index) => index % every === 0)
        .map((row) => s("text", { x: x(row), y: height - 6, "text-anchor": rows.length < 2 ? "middle" : at.get(row.day) === 0 ? "start" : "middle" }, row.day.slice(5))),
    );
  });
}

/** Two distributions over the same bins: bars for then, steps for now. */
export function twoHistograms(then, now, name) {
  return responsive((width) => {
    const height = 110;
    const bins = Math.max(then?.length ?? 0, now?.length ?? 0);
    const most = Math.max(...(then ?? []), ...(now ?? []), 1e-9);
    const step = width / bins;
    const y = (share) => height - 1 - (share / most) * (height - 6);
    const steps = (now ?? []).map((share, index) => `${(index * step).toFixed(1)},${y(share).toFixed(1)} ${((index + 1) * step).toFixed(1)},${y(share).toFixed(1)}`);
    return s(
      "svg",
      { width, height, role: "img", "aria-label": name },
      (then ?? []).map((share, index) =>
        s("rect", { class: "then", x: index * step + 0.5, width: Math.max(step - 1, 0.5), y: y(share), height: Math.max(height - 1 - y(share), 0) }),
      ),
      now && s("polyline", { class: "now", points: steps.join(" ") }),
      s("line", { class: "axis", x1: 0, x2: width, y1: height - 0.5, y2: height - 0.5 }),
    );
  });
}

/** Shares of all units by arm, as one bar with its key. */
export function sharesBar(arms) {
  const rest = Math.max(0, 1 - arms.reduce((sum, one) => sum + one.share, 0));
  const segments = arms.map((one, index) => {
    const part = h("span", { class: `arm-${index % 4}` });
    part.style.width = `${one.share * 100}%`;
    return part;
  });
  const entry = (swatch, text) => h("li", null, h("span", { class: `swatch ${swatch}` }), text);
  return h(
    "div",
    { class: "stack" },
    h("div", { class: "shares", "aria-hidden": "true" }, segments),
    h(
      "ul",
      { class: "key" },
      arms.map((one, index) => entry(`arm-${index % 4}`, `${one.arm} ${percentOf(one.share)}`)),
      rest > 1e-9 && entry("rest", `outside ${percentOf(rest)}`),
    ),
  );
}

function percentOf(share) {
  return `${new Intl.NumberFormat("en", { maximumFractionDigits: 2 }).format(share * 100)}%`;
}

export function meter(share) {
  const filled = h("span", null);
  filled.style.width = `${Math.min(1, Math.max(0, share)) * 100}%`;
  return h("div", { class: "meter", "aria-hidden": "true" }, filled);
}

function scale([from, to], [start, end]) {
  return (value) => start + ((value - from) / (to - from)) * (end - start);
}

function clipped(of, least, most) {
  return (value) => Math.min(most, Math.max(least, of(value)));
}

/** About four round values inside the span. */
function ticks([low, high]) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) found.push(Math.abs(value) < step / 1e6 ? 0 : value);
  return found;
}
