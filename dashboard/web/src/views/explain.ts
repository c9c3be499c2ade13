// The agent's explanation why a client is banned, or why it is not.

import { api } from "../api/client";
import { readToken } from "../api/token";
import type { Explanation, RuleState } from "../api/types";
import { h } from "../dom";
import { count, fullTime, plural, rate, sentence } from "../format";
import { ruleLabel, sourceLabel } from "../labels";
import { allow, ban as banDialog, lift } from "./actions";
import { copy, networkOf } from "./addresses";
import { close, show } from "./dialog";
import { measures, pairs, paths } from "./evidence";

/** Shows the explanation; `closed` is called when it is closed. */
export async function explain(client: string, closed: () => void): Promise<void> {
  show(client, closed, h("p", {}, "Loading…"));
  try {
    show(client, closed, ...explanation(await api.explain(client)));
  } catch (error) {
    show(client, closed, h("p", { class: "problem" }, error instanceof Error ? error.message : String(error)));
  }
}

function explanation(it: Explanation): HTMLElement[] {
  const facts: [string, string][] = [
    ["Window", it.window === null ? "not seen lately" : `${count(it.window.requests)} requests in ${it.window.secs} s, ${count(it.window.errors)} failed, ${rate(it.window.rate)} req/s`],
    ["Compared with", `${rate(it.reference.mean)} ± ${rate(it.reference.stddev)} req/s (${sourceLabel(it.reference.source)})`],
    ["Offences", it.offences.count === 0 ? "none" : plural(it.offences.count, "offence", "offences")],
  ];
  for (const entry of it.allowed) facts.push(["Protected", `${entry.network}: ${entry.words}`]);
  const sections = [h("p", { class: "lead" }, sentence(it.words)), buttons(it), pairs(facts), paths(it.top_paths), logLines(it), rules(it.rules), history(it)];
  return sections.filter((section) => section !== null);
}

/** What can be done about the client, here rather than in a terminal. */
function buttons({ client, ban }: Explanation): HTMLElement {
  const button = (label: string, run: () => void): HTMLElement => h("button", { type: "button", class: "quiet", click: run }, label);
  const then = (run: () => void) => () => {
    close();
    run();
  };
  const network = networkOf(client);
  return h(
    "div",
    { class: "row-buttons" },
    ban === null ? button("Ban…", then(() => banDialog(client))) : button(ban.client === client ? "Lift the ban" : `Lift the ban of ${ban.client}`, then(() => lift(ban))),
    button("Never ban", then(() => allow(client))),
    network === null || network === client ? null : button(`Ban ${network}…`, then(() => banDialog(network))),
    button("Copy the address", () => void copy(client)),
    button("Copy a link", () => void copy(location.href)),
  );
}

/** The last lines in the log before the ban, which the agent gives to whoever has the token. */
function logLines({ ban }: Explanation): HTMLElement | null {
  if (ban === null || ban.evidence === null) return null;
  const lines = ban.evidence.lines ?? [];
  if (lines.length > 0) return h("div", {}, h("h3", {}, "Its last lines in the log before the ban"), h("pre", { class: "log-lines", tabindex: 0 }, lines.join("\n")));
  return readToken() === null ? h("p", { class: "hint" }, "Unlocked with the token, this shows its last lines in the log as well.") : null;
}

/** One line for each rule, those that fire first; opened, it shows the values. */
function rules(list: RuleState[]): HTMLElement | null {
  if (list.length === 0) return null;
  const items = list.toSorted((a, b) => Number(b.fires) - Number(a.fires)).map(rule);
  return h("div", {}, h("h3", {}, "Rules, as of now"), ...items);
}

function rule(state: RuleState): HTMLElement {
  const summary = h("summary", {}, h("strong", {}, ruleLabel(state.rule)), " ", state.words);
  const values = measures(state.measures) ?? h("p", {}, "This rule has no values to compare.");
  return h("details", { class: state.fires ? "rule fires" : "rule" }, summary, values);
}

function history(it: Explanation): HTMLElement | null {
  if (it.history.length === 0) return null;
  const items = it.history.map((past) => h("li", {}, `${fullTime(past.since_ms)}: ${ruleLabel(past.rule)}, ended ${fullTime(past.ended_ms)} (${past.lifted})`));
  return h("div", {}, h("h3", {}, "Earlier bans"), h("ul", { class: "rules" }, ...items));
}
