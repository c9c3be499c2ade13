// Recent events, newest first.

import type { Event as AgentEvent } from "../api/types";
import { byId, h, icon, setText, type IconName } from "../dom";
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
  private readonly list = byId("events");
  private newest = -1;

  /** Replaces everything; newest first. */
  replace(events: AgentEvent[]): void {
    this.list.replaceChildren(...events.slice(0, KEPT).map(line));
    this.newest = events[0]?.id ?? -1;
    this.showEmpty();
  }

  /** Adds an event unless it is here already: a resumed stream repeats some. */
  add(event: AgentEvent): void {
    if (event.id <= this.newest) return;
    this.newest = event.id;
    this.list.prepend(line(event));
    while (this.list.childElementCount > KEPT) this.list.lastElementChild?.remove();
    this.showEmpty();
  }

  private showEmpty(): void {
    const empty = byId("events-empty");
    const nothing = this.list.childElementCount === 0;
    empty.hidden = !nothing;
    this.list.hidden = nothing;
    setText(empty, "No events since the agent started.");
    setText(byId("events-note"), nothing ? "" : "newest first");
  }
}

function line(event: AgentEvent): Element {
  return h(
    "li",
    { class: "event", "data-severity": event.severity, "data-kind": event.kind },
    icon(ICONS[event.kind] ?? "info"),
    h("time", { datetime: new Date(event.at_ms).toISOString(), title: fullTime(event.at_ms) }, time(event.at_ms)),
    h("p", {}, sentence(event.text)),
  );
}
