// The header: the state of the agent in one line, and of the connection to it.

import type { LinkState } from "../api/link";
import type { Status } from "../api/types";
import { byId, icon, setAttribute, setText } from "../dom";
import { count, plural, time } from "../format";

export function startHeader(): { link(state: LinkState): void; status(status: Status): void } {
  byId("emblem").append(icon("shield"));
  return { link: showLink, status: showStatus };
}

function showLink(state: LinkState): void {
  setAttribute(document.body, "data-link", state.kind);
  setText(byId("link-text"), linkText(state));
  if (state.kind === "disconnected" || state.kind === "locked") {
    setAttribute(byId("emblem"), "data-health", "unknown");
    setText(byId("posture"), state.kind === "locked" ? "Reading needs the operator's token" : `Last update at ${time(state.sinceMs)}`);
  }
}

function linkText(state: LinkState): string {
  switch (state.kind) {
    case "connecting":
      return "Connecting";
    case "live":
      return state.by === "stream" ? "Live" : "Live, by polling";
    case "disconnected":
      return "Disconnected";
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
  const degraded = status.parts.filter((part) => part.state === "degraded").length;
  if (status.dry_run) return "Dry run: bans are not enforced";
  if (status.global.anomaly !== null) return "Unusual traffic across the whole server";
  if (degraded > 0) return `${plural(degraded, "part is", "parts are")} degraded`;
  const waiting = status.parts.filter((part) => part.state === "waiting");
  if (status.detector.warm_up !== null) return "Learning what is normal here";
  if (waiting.length > 0) return `Protecting; waiting: ${waiting.map((part) => part.label).join(", ")}`;
  return "Protecting; all parts work";
}
