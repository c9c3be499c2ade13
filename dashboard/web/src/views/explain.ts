// Why a client is banned, or why not: the agent's explanation, to read.

import { api } from "../api/client";
import type { Explanation, RuleState } from "../api/types";
import { h } from "../dom";
import { count, fullTime, plural, rate, ruleName } from "../format";
import { show } from "./dialog";
import { measures, pairs, paths } from "./evidence";

/** Fetches and shows the explanation. */
export async function explain(client: string): Promise<void> {
  show(client, h("p", {}, "Asking the agent…"));
  try {
    show(client, ...explanation(await api.explain(client)));
  } catch (error) {
    show(client, h("p", { class: "problem" }, error instanceof Error ? error.message : String(error)));
  }
}

function explanation(it: Explanation): HTMLElement[] {
  const facts: [string, string][] = [
    ["Window", it.window === null ? "not seen lately" : `${count(it.window.requests)} requests in ${it.window.secs} s, ${count(it.window.errors)} failed, ${rate(it.window.rate)} req/s`],
    ["Compared with", `${rate(it.reference.mean)} ± ${rate(it.reference.stddev)} req/s`],
    ["Offences", it.offences.count === 0 ? "none remembered" : plural(it.offences.count, "offence", "offences")],
  ];
  for (const entry of it.allowed) facts.push(["Protected", `${entry.network}: ${entry.words}`]);
  const asked = it.rules.filter((rule) => (rule.not_asked ?? null) === null || rule.fires);
  const sections = [h("p", { class: "lead" }, it.words), pairs(facts), rules(asked), measuresOf(asked), paths(it.top_paths), history(it)];
  return sections.filter((section) => section !== null);
}

function rules(list: RuleState[]): HTMLElement | null {
  if (list.length === 0) return null;
  const items = list.map((rule) => h("li", { class: rule.fires ? "fires" : "" }, h("strong", {}, ruleName(rule.rule)), " ", rule.words));
  return h("div", {}, h("h3", {}, "Rules"), h("ul", { class: "rules" }, ...items));
}

function measuresOf(list: RuleState[]): HTMLElement | null {
  return measures(list.flatMap((rule) => rule.measures));
}

function history(it: Explanation): HTMLElement | null {
  if (it.history.length === 0) return null;
  const items = it.history.map((past) => h("li", {}, `${fullTime(past.since_ms)}: ${ruleName(past.rule)}, ended ${fullTime(past.ended_ms)} (${past.lifted})`));
  return h("div", {}, h("h3", {}, "Earlier bans"), h("ul", { class: "rules" }, ...items));
}
