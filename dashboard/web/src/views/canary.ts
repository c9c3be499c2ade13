// What a canary found, beside what is in force: whom each would ban, what it costs, on whom they differ and why. Without one nothing is shown.

import { api } from "../api/client";
import type { CanaryDifference, CanaryReport } from "../api/types";
import { byId, h, setText } from "../dom";
import { count, percent, plural, span } from "../format";

/** What is compared are hours. */
const LOOK_EVERY_MS = 10_000;

/** A list longer than this is for the command line. */
const SHOWN = 50;

let shown = "";

/** Returns what looks at the canary again. */
export function startCanary(explain: (client: string) => void): () => void {
  const look = (): void => {
    void api
      .canary()
      .then((report) => show(report, explain))
      // That the agent does not answer is shown by the connection's state.
      .catch(() => undefined);
  };
  setInterval(() => {
    if (document.visibilityState === "visible" && document.body.dataset["link"] === "live") look();
  }, LOOK_EVERY_MS);
  return look;
}

function show(report: CanaryReport, explain: (client: string) => void): void {
  // Selected text and focus stay.
  const fresh = JSON.stringify(report);
  if (fresh === shown) return;
  shown = fresh;
  byId("canary").hidden = report.state === "none";
  if (report.state === "none") return;
  setText(byId("canary-note"), note(report));
  byId("canary-sides").replaceChildren(...sides(report));
  byId("canary-refusals").replaceChildren(...report.refusals.map((reason) => h("li", {}, reason)));
  setText(byId("canary-verdict"), report.refusals.length === 0 ? "It may be promoted: shield-agent canary promote" : "Not to be promoted yet:");
  byId("canary-clients").replaceChildren(...report.differing.slice(0, SHOWN).map((one) => row(one, explain)));
  const { only_canary, only_live } = report.figures;
  const more = only_canary + only_live - Math.min(report.differing.length, SHOWN);
  byId("canary-differ-title").hidden = report.differing.length === 0;
  setText(byId("canary-more"), more > 0 ? `and ${count(more)} more` : "");
}

const STATES = { none: "", running: "runs", ended: "has ended", failed: "broke down" } as const;

function note({ state, name, figures }: CanaryReport): string {
  const whole = figures.is_whole ? "" : ", incomplete";
  return `${name ?? ""} ${STATES[state]}, ${span(figures.observed_secs)} observed${whole}`;
}

function sides({ figures, ns_per_line }: CanaryReport): Element[] {
  const head = h("tr", { role: "row" }, column(""), column("In force"), column("Canary"));
  const line = (name: string, live: string, canary: string): Element => h("tr", { role: "row" }, h("th", { role: "rowheader", scope: "row" }, name), cell(live), cell(canary));
  const within = (micros: number | null): string => (micros === null ? "–" : `${micros / 1000} ms`);
  const rows = [
    line("Clients banned", banned(figures.live_bans, figures.clients), banned(figures.canary_bans, figures.clients)),
    line("Banned by it alone", count(figures.only_live), count(figures.only_canary)),
    line("Of these served well before", "–", count(figures.known_good)),
    line("Of these search engines", "–", count(figures.search_engines)),
    line("Of these new and mostly answered well", "–", count(figures.served_strangers)),
    line("Lines judged, 99 of 100 within", within(figures.live_verdict_p99_us), within(figures.verdict_p99_us)),
    line("Lines", "", `${count(figures.lines)}, ${count(figures.lost_lines)} left out`),
    line("Its cost", "", `${count(ns_per_line)} ns a line`),
  ];
  return [h("thead", { role: "rowgroup" }, head), h("tbody", { role: "rowgroup" }, ...rows)];
}

const column = (text: string): Element => h("th", { role: "columnheader", scope: "col" }, text === "" ? h("span", { class: "visually-hidden" }, "Figure") : text);
const cell = (text: string): Element => h("td", { role: "cell" }, text);

function banned(bans: number, clients: number): string {
  return clients === 0 ? count(bans) : `${count(bans)}, ${percent((100 * bans) / clients)} of ${plural(clients, "client", "clients")}`;
}

function row(one: CanaryDifference, explain: (client: string) => void): Element {
  const hit = one.canary ?? one.live;
  const notes = [one.is_known_good ? "served well before" : "", one.is_search_engine ? "a search engine" : "", one.is_served_stranger ? "new and mostly answered well" : ""].filter((text) => text !== "");
  const why = hit === null ? "" : `${hit.rule}${hit.condition === null ? "" : `: ${hit.condition}`}, ${count(hit.errors)} of ${plural(hit.requests, "request", "requests")} failed`;
  const spared = one.why_not === null ? "" : `; ${one.why_not}`;
  return h(
    "li",
    { class: "canary-client", "data-by": one.canary === null ? "live" : "canary" },
    h("button", { type: "button", class: "plain address", title: "Explain this client", click: () => explain(one.client) }, one.client),
    h("span", { class: "canary-by" }, one.canary === null ? "only in force" : "only by the canary"),
    h("span", { class: "allowed-why" }, `${why}${spared}${notes.length === 0 ? "" : ` (${notes.join(", ")})`}`),
  );
}
