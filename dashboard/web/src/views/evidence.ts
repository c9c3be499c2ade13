// The evidence of a ban or a verdict in full: the numbers beside their thresholds, and what was asked for.

import type { Ban, Evidence, Measure, PathCount } from "../api/types";
import { h } from "../dom";
import { baselineSource, count, fullTime, partName, rate, ruleName, sigmas } from "../format";

type Pair = [name: string, value: string];

/** Everything that is known about a ban; `explain` asks the agent for the client's whole story. */
export function banDetails(ban: Ban, explain: () => void): HTMLElement {
  const facts: Pair[] = [
    ["Banned", fullTime(ban.since_ms)],
    ["Until", ban.ends_ms === null ? "lifted by hand: permanent" : fullTime(ban.ends_ms)],
    ["Rule", ruleName(ban.rule)],
    ["Dropped by", ban.enforced_by === null ? "not known yet" : ban.enforced_by.map(partName).join(" and ") || "nobody yet"],
  ];
  if (ban.reason !== null) facts.push(["Reason given", ban.reason]);
  return h(
    "div",
    { class: "details" },
    h("div", {}, h("h3", {}, "The ban"), pairs(facts), h("button", { type: "button", class: "quiet", click: explain }, "Explain this client")),
    ban.evidence === null ? null : evidenceFacts(ban.evidence),
    ban.evidence === null ? null : measures(ban.evidence.measures),
    ban.evidence === null ? null : paths(ban.evidence.top_paths),
  );
}

function evidenceFacts(evidence: Evidence): HTMLElement {
  const facts: Pair[] = [
    ["Condition", evidence.condition],
    ["Rate", `${rate(evidence.rate)} req/s`],
    ["Baseline", `${rate(evidence.mean)} ± ${rate(evidence.stddev)} req/s (${baselineSource(evidence.baseline)})`],
    ["Z-score", `${sigmas(evidence.z_score)} σ`],
    ["Requests", `${count(evidence.requests)} in ${evidence.window_secs} s, ${count(evidence.errors)} failed`],
    ["Seen", fullTime(evidence.at_secs * 1000)],
  ];
  if (evidence.tightened) facts.push(["Thresholds", "tightened: many of its requests failed"]);
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

/** The most requested paths; they come from the network and go in as text. */
export function paths(list: PathCount[]): HTMLElement | null {
  if (list.length === 0) return null;
  const items = list.map(({ path, count: times }) => h("li", {}, h("span", { class: "times" }, `${count(times)}×`), h("code", {}, path)));
  return h("div", {}, h("h3", {}, "Most requested"), h("ul", { class: "paths" }, ...items));
}

/** Names and values. */
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
