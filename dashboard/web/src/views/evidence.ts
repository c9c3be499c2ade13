// The evidence of a ban: the values beside their thresholds, and the requested paths.

import type { Ban, Evidence, Measure, PathCount } from "../api/types";
import { h } from "../dom";
import { count, fullTime, rate, sigmas } from "../format";
import { copy } from "./addresses";
import { enforcerLabel, ruleLabel, sourceLabel } from "../labels";

type Pair = [name: string, value: string];

/** All facts about a ban; `explain` opens the explanation of the client. */
export function banDetails(ban: Ban, explain: () => void): HTMLElement {
  const facts: Pair[] = [
    ["Banned", fullTime(ban.since_ms)],
    ["Until", ban.ends_ms === null ? "permanent, until it is lifted" : fullTime(ban.ends_ms)],
    ["Rule", ruleLabel(ban.rule)],
    ["Dropped by", ban.enforced_by === null ? "not known yet" : ban.enforced_by.map(enforcerLabel).join(" and ") || "no enforcer yet"],
  ];
  if (ban.reason !== null) facts.push(["Reason given", ban.reason]);
  return h(
    "div",
    { class: "details" },
    h("div", {}, h("h3", {}, "The ban"), pairs(facts), h("div", { class: "row-buttons" }, h("button", { type: "button", class: "quiet", click: explain }, "Explain this client"), h("button", { type: "button", class: "quiet", click: () => void copy(ban.client) }, "Copy the address"))),
    ban.evidence === null ? null : evidenceFacts(ban.evidence),
    ban.evidence === null ? null : measures(ban.evidence.measures ?? []),
    ban.evidence === null ? null : paths(ban.evidence.top_paths ?? []),
  );
}

function evidenceFacts(evidence: Evidence): HTMLElement {
  const facts: Pair[] = [
    ["Condition", evidence.condition],
    ["Rate", `${rate(evidence.rate)} req/s`],
    ["Baseline", `${rate(evidence.mean)} ± ${rate(evidence.stddev)} req/s (${sourceLabel(evidence.baseline)})`],
    ["Z-score", `${sigmas(evidence.z_score)} σ`],
    ["Requests", `${count(evidence.requests)} in ${evidence.window_secs} s, ${count(evidence.errors)} failed`],
    ["Seen", fullTime(evidence.at_secs * 1000)],
  ];
  if ((evidence.sites ?? []).length > 0) facts.push(["Sites", (evidence.sites ?? []).join(", ")]);
  if (evidence.tightened) facts.push(["Thresholds", "lowered, because many of its requests failed"]);
  return h("div", {}, h("h3", {}, "The evidence"), pairs(facts));
}

/** Measured values beside their thresholds; null when there are none. */
export function measures(list: Measure[]): HTMLElement | null {
  if (list.length === 0) return null;
  const rows = list.map((measure) =>
    h(
      "tr",
      { class: measure.value > measure.threshold ? "over" : "" },
      h("th", { scope: "row" }, measureName(measure.name)),
      h("td", { class: "number" }, value(measure.value)),
      h("td", { class: "number" }, value(measure.threshold)),
    ),
  );
  const head = h("tr", {}, h("th", { scope: "col" }, "Measured"), h("th", { scope: "col", class: "number" }, "Value"), h("th", { scope: "col", class: "number" }, "Threshold"));
  return h("div", {}, h("h3", {}, "Values and thresholds"), h("table", { class: "small" }, h("thead", {}, head), h("tbody", {}, ...rows)));
}

/** The most requested paths, which come from the network: as text. */
export function paths(list: PathCount[]): HTMLElement | null {
  if (list.length === 0) return null;
  const items = list.map(({ path, count: times }) => h("li", {}, h("span", { class: "times" }, `${count(times)}×`), h("code", {}, path)));
  return h("div", {}, h("h3", {}, "Most requested"), h("ul", { class: "paths" }, ...items));
}

export function pairs(list: Pair[]): HTMLElement {
  return h("dl", { class: "pairs" }, ...list.map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", {}, text))));
}

function value(number: number): string {
  return Number.isInteger(number) ? count(number) : rate(number);
}

/** `failed_paths_600s` is `failed paths in 600 s`. */
function measureName(name: string): string {
  return name.replace(/_(\d+)s$/, " in $1 s").replaceAll("_", " ");
}
