// How fast each client is dropped, and sums by key. Pure: no DOM, no fetch.

import type { Ban } from "./api/types";

/** Drops per second are over this time at most, so that a client that stopped leaves the list. */
const RATE_MS = 15_000;

/** Packets dropped per second of each client, from readings of the counters. */
export class DropRates {
  private readings = new Map<string, { atMs: number; packets: number }[]>();

  /** Notes the counters of now and returns the rates. */
  read(bans: Pick<Ban, "client" | "serial" | "dropped">[], nowMs: number): Map<string, number> {
    const next = new Map<string, { atMs: number; packets: number }[]>();
    const rates = new Map<string, number>();
    for (const ban of bans) {
      if (ban.dropped === null) continue;
      const kept = (this.readings.get(ban.client) ?? []).filter((reading) => nowMs - reading.atMs <= RATE_MS && reading.packets <= (ban.dropped?.packets ?? 0));
      const oldest = kept[0];
      if (oldest !== undefined && nowMs > oldest.atMs) rates.set(ban.client, ((ban.dropped.packets - oldest.packets) * 1000) / (nowMs - oldest.atMs));
      next.set(ban.client, [...kept, { atMs: nowMs, packets: ban.dropped.packets }]);
    }
    this.readings = next;
    return rates;
  }
}

/** Sums by key, largest first. */
export function tally(entries: Iterable<[key: string, times: number]>): [key: string, times: number][] {
  const sums = new Map<string, number>();
  for (const [key, times] of entries) sums.set(key, (sums.get(key) ?? 0) + times);
  return [...sums].toSorted(([a, x], [b, y]) => y - x || a.localeCompare(b));
}
