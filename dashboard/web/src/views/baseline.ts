// The learned baseline, and the profile of the day in the viewer's zone.

import type { HourSlot, Status } from "../api/types";
import { byId, h, setText, svg } from "../dom";
import { count, rate, span } from "../format";
import { sourceLabel } from "../labels";

const HOURS = 24;
const HOUR_MS = 3_600_000;
const WIDTH = 24 * 12;
const HEIGHT = 56;

export function startBaseline(): (status: Status) => void {
  const pairs = byId("baseline-pairs");
  let drawn = "";
  return (status) => {
    const { baseline } = status;
    setText(byId("baseline-note"), sourceLabel(baseline.source));
    showPairs(pairs, status);
    const profile = JSON.stringify([status.hour_profile, new Date(status.now_ms).getHours()]);
    if (profile !== drawn) byId("hours").replaceChildren(hours(status.hour_profile, status.now_ms));
    drawn = profile;
  };
}

function showPairs(parent: Element, { baseline, detector }: Status): void {
  const perClient = baseline.client_mean === null ? "not learned yet" : `${rate(baseline.client_mean)} ± ${rate(baseline.client_stddev ?? 0)}`;
  const rows: [string, string, string][] = [
    ["Mean", rate(baseline.mean), "req/s"],
    ["Standard deviation", rate(baseline.stddev), "req/s"],
    ["Per client", perClient, baseline.client_mean === null ? "" : "req/s"],
    ["Learned from", span(baseline.samples).replace(/ 0 \w+$/, ""), ""],
    ["Clients watched", `${count(detector.clients)} of ${count(detector.max_clients)}${detector.evicted > 0 ? `, ${count(detector.evicted)} evicted` : ""}`, ""],
  ];
  if (parent.childElementCount === 0) {
    parent.append(...rows.map(([name]) => h("div", {}, h("dt", {}, name), h("dd", {}))));
  }
  rows.forEach(([, value, unit], at) => {
    const cell = parent.children[at]?.lastElementChild;
    if (cell) setText(cell, unit === "" ? value : `${value} ${unit}`);
  });
}

/** Slots are UTC hours: each is shown at the local hour in which it starts. */
function localHours(profile: HourSlot[], nowMs: number): HourSlot[] {
  const midnight = new Date(nowMs);
  midnight.setHours(0, 0, 0, 0);
  return Array.from({ length: HOURS }, (_, hour) => {
    const utc = new Date(midnight.getTime() + hour * HOUR_MS).getUTCHours();
    const slot = profile.find((slot) => slot.hour === utc);
    return { hour, mean: slot?.mean ?? null, stddev: slot?.stddev ?? null };
  });
}

function hours(profile: HourSlot[], nowMs: number): Element {
  const slots = localHours(profile, nowMs);
  const top = Math.max(...slots.map((slot) => (slot.mean ?? 0) + (slot.stddev ?? 0)), Number.MIN_VALUE);
  const nowHour = new Date(nowMs).getHours();
  const y = (value: number): number => HEIGHT - (HEIGHT - 2) * (value / top);
  const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": describe(slots) });
  for (const slot of slots) chart.append(bar(slot, slot.hour === nowHour, y));
  const scale = h("div", { class: "hours-scale", "aria-hidden": "true" }, ...["00", "06", "12", "18", "24"].map((hour) => h("span", {}, hour)));
  const learned = slots.some((slot) => slot.mean !== null);
  return h("div", {}, learned ? chart : h("p", { class: "panel-note" }, "No hour of the day is learned yet."), scale);
}

function bar(slot: HourSlot, isNow: boolean, y: (value: number) => number): SVGElement {
  const left = (slot.hour * WIDTH) / HOURS;
  const width = WIDTH / HOURS - 2;
  if (slot.mean === null) {
    return svg("g", { class: "hour hour-unknown" }, svg("title", {}, `${slot.hour}:00: not learned yet`), svg("rect", { x: left + 1, y: HEIGHT - 2, width, height: 2 }));
  }
  const spread = slot.stddev ?? 0;
  const words = `${slot.hour}:00: ${rate(slot.mean)} ± ${rate(spread)} req/s`;
  const [upper, lower] = [y(slot.mean + spread), y(Math.max(0, slot.mean - spread))];
  return svg(
    "g",
    { class: isNow ? "hour hour-now" : "hour" },
    svg("title", {}, words),
    svg("rect", { x: left + 1, y: y(slot.mean), width, height: Math.max(1, HEIGHT - y(slot.mean)) }),
    svg("rect", { class: "hour-band", x: left + 1, y: upper, width, height: Math.max(1, lower - upper) }),
  );
}

function describe(slots: HourSlot[]): string {
  const known = slots.filter((slot) => slot.mean !== null).sort((a, b) => (b.mean ?? 0) - (a.mean ?? 0));
  const [busiest, quietest] = [known[0], known.at(-1)];
  if (busiest === undefined || quietest === undefined) return "No hour of the day is learned yet.";
  const at = (slot: HourSlot): string => `${slot.hour}:00 with ${rate(slot.mean ?? 0)} requests per second`;
  return `${known.length} of 24 hours learned. Busiest ${at(busiest)}, quietest ${at(quietest)}.`;
}
