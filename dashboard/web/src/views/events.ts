// Recent events, newest first.

import type { Event as AgentEvent, Evidence } from "../api/types";
import { byId, h, icon, setAttribute, setText, type IconName } from "../dom";
import { fullTime, sentence, time } from "../format";

/** Lines kept; older events are in the audit log. */
const KEPT = 100;

const ICONS: Record<string, IconName> = {
  banned: "ban",
  would_ban: "ban",
  extended: "ban",
  lifted: "check",
  recovered: "check",
  repaired: "check",
  degraded: "warn",
  leaking: "warn",
  evasion: "warn",
  blast_radius: "warn",
  global_anomaly_started: "spike",
  global_anomaly_ended: "spike",
};

export class Events {
  constructor() {
    byId("events-chip").addEventListener("click", () => this.between(null));
  }

  /** Shows only the events of a time, or all again. */
  between(range: { fromMs: number; toMs: number } | null): void {
    this.range = range;
    const chip = byId("events-chip");
    chip.hidden = range === null;
    if (range !== null) {
      setText(chip, `${time(range.fromMs)} – ${time(range.toMs)} ×`);
      setAttribute(chip, "aria-label", `Only events from ${time(range.fromMs)} to ${time(range.toMs)}. Show all.`);
      byId("events-panel").scrollIntoView({ block: "nearest" });
    }
    this.show();
  }

  /** Shows only the events with this in their text. */
  filter(needle: string): void {
    this.needle = needle.toLowerCase();
    this.show();
  }

  /** Shows only the events of clients that asked for this site; empty for all. */
  setSite(site: string): void {
    this.site = site;
    this.show();
  }

  private site = "";
  /** The sites that clients asked for, by their bans: the end of a ban says nothing of them. */
  private readonly sitesOf = new Map<string, string[]>();
  private readonly list = byId("events");
  private newest = -1;
  private needle = "";
  private range: { fromMs: number; toMs: number } | null = null;

  /** Replaces everything; newest first. */
  replace(events: AgentEvent[]): void {
    // The newest ban of a client counts.
    for (const event of events.toReversed()) this.learnSites(event);
    this.list.replaceChildren(...events.slice(0, KEPT).map(line));
    this.newest = events[0]?.id ?? -1;
    this.show();
  }

  /** Adds an event unless it is here already: a resumed stream repeats some. */
  add(event: AgentEvent): void {
    if (event.id <= this.newest) return;
    this.newest = event.id;
    this.learnSites(event);
    this.list.prepend(line(event));
    while (this.list.childElementCount > KEPT) this.list.lastElementChild?.remove();
    this.show();
  }

  private learnSites({ client, data }: AgentEvent): void {
    const sites = (data as { evidence?: Evidence | null }).evidence?.sites ?? [];
    if (client === null || sites.length === 0) return;
    this.sitesOf.delete(client);
    this.sitesOf.set(client, sites);
    for (const oldest of this.sitesOf.keys()) {
      if (this.sitesOf.size <= 2 * KEPT) break;
      this.sitesOf.delete(oldest);
    }
  }

  private isOfSite(client: string): boolean {
    return this.site === "" || (this.sitesOf.get(client) ?? []).includes(this.site);
  }

  private show(): void {
    let shown = 0;
    for (const line of this.list.children as HTMLCollectionOf<HTMLElement>) {
      const atMs = Number(line.dataset["at"]);
      const isInside = this.range === null || (atMs >= this.range.fromMs && atMs < this.range.toMs);
      line.hidden = !isInside || !this.isOfSite(line.dataset["client"] ?? "") || !(line.textContent ?? "").toLowerCase().includes(this.needle);
      if (!line.hidden) shown += 1;
    }
    this.showEmpty(shown === 0);
  }

  private showEmpty(nothing: boolean): void {
    const empty = byId("events-empty");
    empty.hidden = !nothing;
    this.list.hidden = nothing;
    setText(empty, this.list.childElementCount === 0 ? "No events since the agent started." : "None of the newest events matches; the audit log has the older ones.");
    setText(byId("events-note"), nothing ? "" : "newest first");
  }
}

function line(event: AgentEvent): Element {
  return h(
    "li",
    { class: "event", "data-severity": event.severity, "data-kind": event.kind, "data-at": event.at_ms, "data-client": event.client },
    icon(ICONS[event.kind] ?? "info"),
    h("time", { datetime: new Date(event.at_ms).toISOString(), title: fullTime(event.at_ms) }, time(event.at_ms)),
    h("p", {}, sentence(event.text)),
  );
}
