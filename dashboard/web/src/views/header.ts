// The header: the agent's posture in one line, and the connection to it. Title and icon of the tab say the same.

import type { LinkState } from "../api/link";
import type { Status, PostureState } from "../api/types";
import { byId, h, icon, setAttribute, setText } from "../dom";
import { time } from "../format";

/** How the emblem and the tab's icon look in each state, which the words beside them say as well. */
const MOODS: Record<PostureState, "ok" | "waiting" | "degraded" | "bad"> = {
  quiet: "ok",
  learning: "waiting",
  attack_handled: "degraded",
  unusual: "degraded",
  degraded: "bad",
  attack_unhandled: "bad",
  blind: "bad",
};

const ICON_COLOURS = { ok: "#08724a", waiting: "#1f6feb", degraded: "#b35c00", bad: "#bd1e2f", unknown: "#6b7a99" };

export function startHeader(): { link(state: LinkState): void; status(status: Status): void } {
  byId("emblem").append(icon("shield"));
  return { link: showLink, status: showStatus };
}

function showLink(state: LinkState): void {
  setAttribute(document.body, "data-link", state.kind);
  setText(byId("link-text"), linkText(state));
  if (state.kind === "locked") show("unknown", "Locked", "reading needs the operator's token");
  if (state.kind === "disconnected") show("unknown", "Disconnected", `last update at ${time(state.sinceMs)}`);
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
  const { state, title, text } = status.posture;
  setText(byId("host-name"), status.host.name);
  show(MOODS[state], status.dry_run ? `Dry run · ${title}` : title, status.dry_run ? `${text}; nothing is dropped` : text);
  setText(byId("foot-version"), `shield-agent ${status.version}`);
}

function show(mood: keyof typeof ICON_COLOURS, title: string, text: string): void {
  setAttribute(byId("emblem"), "data-health", mood);
  setText(byId("posture-title"), `${title}:`);
  setText(byId("posture-text"), text);
  document.title = `${title} · ${byId("host-name").textContent || "Shield"}`;
  showIcon(ICON_COLOURS[mood]);
}

let iconColour = "";

function showIcon(colour: string): void {
  if (colour === iconColour) return;
  iconColour = colour;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><path fill="${colour}" d="M16 1.5 28 6v9.2c0 7.3-4.9 12.6-12 15.3C8.9 27.8 4 22.5 4 15.2V6z"/></svg>`;
  document.querySelector("link[rel=icon]")?.replaceWith(h("link", { rel: "icon", type: "image/svg+xml", href: `data:image/svg+xml,${encodeURIComponent(svg)}` }));
}
