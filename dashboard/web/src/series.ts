// The data of the plots: columns of equal length, oldest first, and marks. Pure: no DOM, no fetch.

import type { Event as AgentEvent, History, Mark, Status } from "./api/types";

export type Value = number | null;

export interface Columns {
  /** Seconds since the Unix epoch, as uPlot wants them. */
  at: number[];
  rate: Value[];
  errors: Value[];
  mean: Value[];
  stddev: Value[];
  packets: Value[];
  bytes: Value[];
}

/** A stretch of a global anomaly, in seconds; `to` is null while it lasts. */
export interface AnomalySpan {
  from: number;
  to: number | null;
}

/** Points further apart than this and than three steps have a gap between them; a late answer does not make one. */
const GAP_SECS = 10;

export class Series {
  readonly columns: Columns = { at: [], rate: [], errors: [], mean: [], stddev: [], packets: [], bytes: [] };
  private marks: Mark[] = [];

  /** Keeps `spanSecs` of points that are at least `stepSecs` apart. */
  constructor(
    readonly spanSecs: number,
    readonly stepSecs: number,
  ) {}

  /** Replaces everything with the agent's history. */
  load(history: History): void {
    const first = history.at_ms.findIndex((at) => at >= (history.at_ms.at(-1) ?? 0) - this.spanSecs * 1000);
    const from = Math.max(0, first);
    this.columns.at = history.at_ms.slice(from).map((ms) => ms / 1000);
    this.columns.rate = history.rate.slice(from);
    this.columns.errors = history.error_rate.slice(from);
    this.columns.mean = history.mean.slice(from);
    this.columns.stddev = history.stddev.slice(from);
    this.columns.packets = history.dropped_packets_per_sec.slice(from);
    this.columns.bytes = history.dropped_bytes_per_sec.slice(from);
    this.marks = [...history.marks];
  }

  /** Appends the present if a step has passed; after a gap, a null keeps the line from bridging it. */
  push(status: Status): void {
    const { columns } = this;
    const now = status.now_ms / 1000;
    const last = columns.at.at(-1) ?? Number.NEGATIVE_INFINITY;
    if (now - last < this.stepSecs * 0.9) return;
    if (now - last > Math.max(GAP_SECS, this.stepSecs * 3) && Number.isFinite(last)) this.append(last + this.stepSecs, null);
    this.append(now, status);
    while (columns.at.length > 0 && (columns.at[0] ?? now) < now - this.spanSecs) {
      for (const column of Object.values(columns)) column.shift();
    }
  }

  private append(at: number, status: Status | null): void {
    const { columns } = this;
    columns.at.push(at);
    columns.rate.push(status?.global.rate ?? null);
    columns.errors.push(status?.global.error_rate ?? null);
    columns.mean.push(status?.baseline.mean ?? null);
    columns.stddev.push(status?.baseline.stddev ?? null);
    columns.packets.push(status?.dropped.packets_per_sec ?? null);
    columns.bytes.push(status?.dropped.bytes_per_sec ?? null);
  }

  /** Adds a mark if the event is of a kind that has one. */
  mark(event: AgentEvent): void {
    const kind = MARKED[event.kind];
    if (kind !== undefined) this.marks.push({ at_ms: event.at_ms, kind, count: 1, text: event.text });
  }

  /** Bans summed over `perSecs`, so that their marks do not overlap. */
  bans(perSecs: number): { at: number; count: number }[] {
    const sums = new Map<number, number>();
    for (const mark of this.marks) {
      if (mark.kind !== "bans") continue;
      const at = Math.floor(mark.at_ms / 1000 / perSecs) * perSecs + perSecs / 2;
      sums.set(at, (sums.get(at) ?? 0) + mark.count);
    }
    return [...sums].map(([at, count]) => ({ at, count }));
  }

  /** Global anomalies. One that started before the first point starts there. */
  anomalies(): AnomalySpan[] {
    const spans: AnomalySpan[] = [];
    for (const mark of this.marks) {
      const open = spans.at(-1);
      const at = mark.at_ms / 1000;
      if (mark.kind === "anomaly_started" && open?.to !== null) spans.push({ from: at, to: null });
      else if (mark.kind === "anomaly_ended" && open?.to === null) open.to = at;
      else if (mark.kind === "anomaly_ended") spans.push({ from: this.columns.at[0] ?? at, to: at });
    }
    return spans;
  }
}

const MARKED: Record<string, Mark["kind"]> = {
  banned: "bans",
  global_anomaly_started: "anomaly_started",
  global_anomaly_ended: "anomaly_ended",
};

/** The normal band: one standard deviation around the mean, never below 0. */
export function band({ mean, stddev }: Columns): { low: Value[]; high: Value[] } {
  const edge = (sign: number): Value[] =>
    mean.map((value, at) => {
      const spread = stddev[at];
      return value === null || spread === null || spread === undefined ? null : Math.max(0, value + sign * spread);
    });
  return { low: edge(-1), high: edge(1) };
}
