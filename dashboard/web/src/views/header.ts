// The header: what Shield is doing in one line, and whether what is shown is current.

import type { LinkState } from "../api/link";
import type { Status } from "../api/types";
import { byId, icon, setAttribute, setText } from "../dom";
import { count, partName, time } from "../format";

export function startHeader(): { link(state: LinkState): void; status(status: Status): void } {
  byId("emblem").append(icon("shield"));
  return { link: showLink, status: showStatus };
}

function showLink(state: LinkState): void {
  setAttribute(document.body, "data-link", state.kind);
  setText(byId("link-text"), linkText(state));
  if (state.kind === "cut-off" || state.kind === "locked") {
    setAttribute(byId("emblem"), "data-health", "unknown");
    setText(byId("posture"), state.kind === "locked" ? "Reading needs the operator's token" : `As it was at ${time(state.sinceMs)}`);
  }
}

function linkText(state: LinkState): string {
  switch (state.kind) {
    case "connecting":
      return "Connecting";
    case "live":
      return state.by === "stream" ? "Live" : "Live, by polling";
    case "cut-off":
      return "Cut off";
    case "locked":
      return "Locked";
  }
}

function showStatus(status: Status): void {
  setAttribute(byId("emblem"), "data-health", status.global.anomaly === null ? status.health : "degraded");
  setText(byId("host-name"), status.host.name);
  setText(byId("posture"), posture(status));
  document.title = `${status.bans.active > 0 ? `(${count(status.bans.active)}) ` : ""}Shield · ${status.host.name}`;
  setText(byId("foot-version"), `shield-agent ${status.version}`);
}

function posture(status: Status): string {
  const troubled = status.parts.filter((part) => part.state === "degraded").length;
  if (status.dry_run) return "Watching only: dry run";
  if (status.global.anomaly !== null) return "Unusual traffic across the whole server";
  if (troubled > 0) return `Degraded: ${troubled} of ${status.parts.length} parts need attention`;
  const waiting = status.parts.filter((part) => part.state === "waiting");
  if (status.detector.warm_up !== null) return "Learning what is normal here";
  if (waiting.length > 0) return `Protecting; ${waiting.map((part) => partName(part.part)).join(", ")} still waiting`;
  return "Protecting, all parts work";
}
