// The part of the address behind `#`: what is shown, so that it can be sent to somebody.

/** Names of what a link can hold. */
export type Place = "client" | "range" | "q" | "rule" | "site";

export function readPlace(): Map<Place, string> {
  const hash = location.hash.slice(1);
  // `#bans` is a place of the document.
  return new Map(hash.includes("=") ? ([...new URLSearchParams(hash)] as [Place, string][]) : []);
}

/** Writes what is shown, without a step in the browser's history; nothing is left out. */
export function writePlace(place: Record<Place, string | null>): void {
  const named = Object.entries(place).filter((entry): entry is [string, string] => entry[1] !== null && entry[1] !== "");
  const hash = new URLSearchParams(named).toString();
  if (hash === location.hash.slice(1)) return;
  history.replaceState(null, "", hash === "" ? location.pathname + location.search : `#${hash}`);
}
