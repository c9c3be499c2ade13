// Who is never banned: what operators added, with its end and a way off it, before what the configuration and the host say.

import { api } from "../api/client";
import type { AllowEntry } from "../api/types";
import { byId, h, setText } from "../dom";
import { fullTime, plural } from "../format";
import { allow, disallow } from "./actions";

/** Ends are watched by the agent: what is shown is never older than this. */
const LOOK_EVERY_MS = 15_000;

let shown = "";

/** Returns what looks at the list again. */
export function startAllowlist(): () => void {
  byId("allow-button").addEventListener("click", () => allow(null));
  setInterval(() => {
    if (document.visibilityState === "visible" && document.body.dataset["link"] === "live") void look();
  }, LOOK_EVERY_MS);
  return () => void look();
}

async function look(): Promise<void> {
  const list = await api.allowlist().catch(() => null);
  if (list === null) return;
  // Selected text stays selected.
  const fresh = JSON.stringify(list.entries);
  if (fresh === shown) return;
  shown = fresh;
  const isOperators = (entry: AllowEntry): boolean => entry.reason === "operator";
  // Loopback and the like are no news to anybody.
  const others = list.entries.filter((entry) => !isOperators(entry) && entry.reason !== "special");
  const own = list.entries.filter(isOperators);
  setText(byId("allowlist-note"), [own.length > 0 ? `${own.length} added by operators` : "", plural(others.length, "other network", "other networks")].filter((text) => text !== "").join(", "));
  byId("allowlist-rows").replaceChildren(...[...own, ...others].map(row));
}

function row(entry: AllowEntry): Element {
  const until = entry.until_ms === undefined || entry.until_ms === null ? "" : `, until ${fullTime(entry.until_ms)}`;
  const note = entry.note === undefined || entry.note === null ? "" : `: ${entry.note}`;
  const off = h("button", { type: "button", class: "quiet small-button", "aria-label": `Take ${entry.network} off the allowlist`, click: () => disallow(entry.network) }, "Remove…");
  return h("li", {}, h("span", { class: "address" }, entry.network), h("span", { class: "allowed-why" }, `${entry.words}${note}${until}`), entry.reason === "operator" ? off : null);
}
