// Who attacks now: the newest bans whose packets are still dropped, who were banned a moment ago, or whose requests still
// arrive; what they ask for, and from where. Filled from the newest bans alone, so that a million bans cost no more.

import { api } from "../api/client";
import type { Ban, Status } from "../api/types";
import { agentNowMs } from "../clock";
import { byId, h, icon, Keyed, setAttribute, setText } from "../dom";
import { DropRates, tally } from "../drop-rates";
import { count, plural, rate, sentence, span } from "../format";
import { ruleLabel } from "../labels";
import { allow, ban as banDialog, lift } from "./actions";
import { networkOf } from "./addresses";

/** Newest bans that are looked at. */
const LOOKED_AT = 60;
/** Rows shown; the table of bans has the rest. */
const SHOWN = 7;
/** Lines of each tally. */
const TALLIED = 5;
/** A ban younger than this is an attack of now even if nothing of it is dropped. */
const RECENT_MS = 300_000;
/** Interval of looking. */
const LOOK_EVERY_MS = 2_500;
/** Fewer packets per second are single retries. */
const ATTACKS_PER_SEC = 0.5;

interface Attacker {
  ban: Ban;
  /** Null until its counter was read twice. */
  packetsPerSec: number | null;
}

export class Attackers {
  private all: Attacker[] = [];
  private needle = "";
  private site = "";
  private kinds: Record<string, number> = {};
  private isDry = false;
  private lastLook = 0;
  private readonly rates = new DropRates();
  private readonly rows: Keyed<Attacker, AttackerRow>;

  constructor(
    explain: (client: string) => void,
    private readonly search: (text: string) => void,
  ) {
    this.rows = new Keyed<Attacker, AttackerRow>(
      byId("attackers-rows"),
      (attacker) => attacker.ban.client,
      (attacker) => new AttackerRow(attacker.ban, explain),
    );
    setInterval(() => {
      if (document.visibilityState === "visible" && document.body.dataset["link"] === "live") void this.look();
    }, LOOK_EVERY_MS);
  }

  /** Shows the counts that the verdict at the top is made of. */
  setStatus({ attacks, dry_run: isDry }: Status): void {
    this.isDry = isDry;
    this.kinds = attacks ?? {};
    this.showKinds();
    this.showEmpty();
  }

  filter(needle: string): void {
    this.needle = needle.toLowerCase();
    this.show();
  }

  /** Shows the attackers of this site; empty for all. */
  setSite(site: string): void {
    if (site === this.site) return;
    this.site = site;
    // Those of another site must not stand below this one's name until the answer is there.
    this.all = [];
    this.show();
    void this.look();
  }

  async look(): Promise<void> {
    const ticket = ++this.lastLook;
    const page = await api.bans({ q: "", rule: "", site: this.site, sort: "since", limit: LOOKED_AT, cursor: null, imported: false }).catch(() => null);
    if (page === null || ticket !== this.lastLook) return;
    const rates = this.rates.read(page.bans, page.now_ms);
    this.all = page.bans
      .map((ban) => ({ ban, packetsPerSec: rates.get(ban.client) ?? null }))
      .filter(({ ban, packetsPerSec }) => (ban.leaking ?? null) !== null || (packetsPerSec ?? 0) >= ATTACKS_PER_SEC || (ban.evidence !== null && page.now_ms - ban.since_ms < RECENT_MS))
      .toSorted((a, b) => Number((b.ban.leaking ?? null) !== null) - Number((a.ban.leaking ?? null) !== null) || (b.packetsPerSec ?? 0) - (a.packetsPerSec ?? 0) || b.ban.since_ms - a.ban.since_ms);
    this.show();
  }

  private show(): void {
    const matching = this.all.filter((attacker) => this.needle === "" || haystack(attacker.ban).includes(this.needle));
    this.rows.update(matching.slice(0, SHOWN));
    const more = byId("attackers-more");
    more.hidden = matching.length <= SHOWN;
    setText(more, `${plural(matching.length - SHOWN, "more is", "more are")} in the list of ${this.isDry ? "clients that would be banned" : "banned clients"}.`);
    const dropped = matching.reduce((sum, attacker) => sum + (attacker.packetsPerSec ?? 0), 0);
    setText(byId("attackers-note"), matching.length === 0 ? "" : `${plural(matching.length, "client", "clients")}${dropped > 0 ? ` · ${rate(dropped)} packets/s dropped` : ""}${this.all.length >= LOOKED_AT ? ` · of the newest ${LOOKED_AT} bans` : ""}`);
    const paths = tally(matching.flatMap(({ ban }) => (ban.evidence?.top_paths ?? []).map((path): [string, number] => [path.path, path.count])));
    bars(byId("paths"), paths.slice(0, TALLIED), (path) => this.finder(path));
    const networks = tally(matching.map(({ ban }): [string, number] => [networkOf(ban.client) ?? ban.client, 1]));
    const owners = new Map(matching.map(({ ban }) => [networkOf(ban.client) ?? ban.client, ownerWords(ban)]));
    bars(byId("networks"), networks.slice(0, TALLIED), (network) => this.network(network, owners.get(network) ?? ""));
    this.showKinds();
    this.showEmpty();
  }

  /** The agent counts the kinds of all sites; of one they are those of its attackers here. */
  private showKinds(): void {
    const kinds = this.site === "" ? Object.entries(this.kinds).toSorted(([a, x], [b, y]) => y - x || a.localeCompare(b)) : tally(this.all.map(({ ban }): [string, number] => [ruleLabel(ban.rule), 1]));
    bars(byId("kinds"), kinds.slice(0, TALLIED), (kind) => h("span", {}, kind));
  }

  private finder(path: string): Element {
    return h("button", { type: "button", class: "plain", title: `Find ${path}`, click: () => this.search(path) }, h("code", {}, path));
  }

  private network(network: string, owner: string): Element {
    const button = h("button", { type: "button", class: "quiet small-button", "aria-label": `Ban ${network}`, click: () => banDialog(network) }, "Ban");
    return h("span", { class: "network" }, h("span", { class: "address" }, network), h("span", { class: "owner", title: owner }, owner), button);
  }

  private showEmpty(): void {
    const none = this.all.length === 0;
    const empty = byId("attackers-empty");
    empty.hidden = this.rows.size > 0;
    byId("attackers-rows").parentElement?.toggleAttribute("hidden", this.rows.size === 0);
    setText(empty, none && this.site !== "" ? `Nobody who asked for ${this.site}.` : none ? "Nobody. Banned clients appear here while their packets are dropped." : "No attacker matches the search.");
    for (const list of ["kinds", "paths", "networks"]) byId(list).parentElement?.toggleAttribute("hidden", byId(list).childElementCount === 0);
    byId("kinds-empty").hidden = ["kinds", "paths", "networks"].some((list) => byId(list).childElementCount > 0);
  }
}

/** `AS64500 Example Hosting, DE`, as far as the agent's databases know it. */
export function ownerWords({ owner }: Pick<Ban, "owner">): string {
  const number = (owner?.asn ?? null) === null ? "" : `AS${owner?.asn}`;
  const system = [number, owner?.name ?? ""].filter((word) => word !== "").join(" ");
  return [system, owner?.country ?? ""].filter((word) => word !== "").join(", ");
}

function haystack(ban: Ban): string {
  const paths = (ban.evidence?.top_paths ?? []).map((path) => path.path);
  return [ban.client, ruleLabel(ban.rule), ban.words, ownerWords(ban), ...paths].join("\n").toLowerCase();
}

/** Lines with a bar as long as their share of the first. */
function bars(list: Element, entries: [key: string, times: number][], label: (key: string) => Element): void {
  const shown = JSON.stringify(entries);
  if (list.getAttribute("data-shown") === shown) return;
  list.setAttribute("data-shown", shown);
  const most = Math.max(1, ...entries.map(([, times]) => times));
  // A line under the pointer or the focus stays the same element.
  const old = new Map([...list.children].map((line) => [line.getAttribute("data-key"), line]));
  const lines = entries.map(([key, times]) => {
    const line = old.get(key) ?? h("li", { "data-key": key }, h("span", { class: "bar-fill", "aria-hidden": "true" }), h("span", { class: "bar-label" }, label(key)), h("span", { class: "bar-count" }));
    (line.children[0] as HTMLElement).style.width = `${((100 * times) / most).toFixed(1)}%`;
    if (line.children[2]) setText(line.children[2], count(times));
    return line;
  });
  list.replaceChildren(...lines);
}

class AttackerRow {
  readonly elements: Element[];
  private readonly row: HTMLElement;
  private readonly rule = h("span", { class: "badge" });
  private readonly what = h("span", { class: "words" });
  private readonly leak = h("p", { class: "leak", hidden: true });
  private readonly dropped = h("span", {});
  private readonly ago = h("span", {});

  constructor(
    private ban: Ban,
    explain: (client: string) => void,
  ) {
    const client = ban.client;
    const button = (label: string, run: () => void): HTMLElement => h("button", { type: "button", class: "quiet", "aria-label": `${label} ${client}`, click: run }, label);
    this.row = h(
      "tr",
      { role: "row", class: "attacker" },
      h("td", { role: "cell", class: "client-cell" }, h("span", { class: "opener-line" }, h("span", { class: "address" }, client), h("button", { type: "button", class: "plain", "aria-label": `Explain ${client}`, title: "Explain this client", click: () => explain(client) }, icon("info")))),
      h("td", { role: "cell", class: "why-cell" }, this.rule, this.what, this.leak),
      h("td", { role: "cell", class: "number", "data-label": "Dropped" }, this.dropped),
      h("td", { role: "cell", class: "number", "data-label": "When" }, this.ago),
      h("td", { role: "cell", class: "actions" }, button("Lift", () => lift(this.ban)), button("Never ban", () => allow(client))),
    );
    this.elements = [this.row];
  }

  update({ ban, packetsPerSec }: Attacker): void {
    this.ban = ban;
    setText(this.rule, ruleLabel(ban.rule));
    setAttribute(this.rule, "data-rule", ban.rule);
    const top = ban.evidence?.top_paths?.[0]?.path;
    setText(this.what, top === undefined ? sentence(ban.words) : top);
    setAttribute(this.what, "title", ban.words);
    const leaking = ban.leaking ?? null;
    this.leak.hidden = leaking === null;
    setAttribute(this.row, "data-leak", leaking === null ? null : "");
    setText(this.leak, leaking === null ? "" : leakWords(leaking));
    setText(this.dropped, packetsPerSec === null ? "–" : `${rate(packetsPerSec)}/s`);
    setAttribute(this.dropped, "title", ban.dropped === null ? "Not counted yet" : `${plural(ban.dropped.packets, "packet", "packets")} since its ban`);
    setText(this.ago, `${span((agentNowMs() - ban.since_ms) / 1000).replace(/ \d+ s$/, (secs) => (agentNowMs() - ban.since_ms < 60_000 ? secs : ""))} ago`);
  }
}

/** What a leak means, on the row of its client. */
export function leakWords(requests: number): string {
  return `Gets through: ${plural(requests, "request", "requests")} in its last minute reached the web server although it is banned. Explain says why.`;
}
