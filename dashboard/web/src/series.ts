// The data of the plots: columns of equal length, oldest first, and marks. Pure: no DOM, no fetch.

import type { Event as AgentEvent, History, Mark, Status } from "./api/types";

export type Value = number | null;

export interface Columns {
  /** Seconds since the Unix epoch, as uPlot wants them. */
  at: number[];
  /** Requests per second that reached the web server; in the live series of this second alone. */
  all: Value[];
  /** Those of clients that are not banned. */
  visitors: Value[];
  /** The mean of the last 60 s. */
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

/** Stretches of time that bans are summed over, in seconds. */
const STRETCHES = [1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600];

export class Series {
  readonly columns: Columns = { at: [], all: [], visitors: [], rate: [], errors: [], mean: [], stddev: [], packets: [], bytes: [] };
  private marks: Mark[] = [];

  /** Keeps `spanSecs` of points that are at least `stepSecs` apart. */
  constructor(
    readonly spanSecs: number,
    readonly stepSecs: number,
  ) {}

  /** Replaces everything with the agent's history. */
  load(history: History): void {
    const first = history.at_ms.findIndex((at) => at >= (history.at_ms.at(-1) ?? 0) - this.spanSecs * 1000);
    const known = history.rate.findLastIndex((rate) => rate !== null);
    // A step that has no sample yet is no hole, but a longer silence is one.
    const end = history.at_ms.length - known <= 2 ? known + 1 : history.at_ms.length;
    const wanted = Array.from({ length: Math.max(0, end - Math.max(0, first)) }, (_, at) => at + Math.max(0, first));
    // A point of the live series is a second; those of the history are of several.
    const copies = Math.max(1, Math.round(history.step_secs / this.stepSecs));
    const column = (values: Value[]): Value[] => wanted.flatMap((at) => Array<Value>(copies).fill(values[at] ?? null));
    const { columns } = this;
    columns.at = wanted.flatMap((at) => Array.from({ length: copies }, (_, copy) => (history.at_ms[at] ?? 0) / 1000 + copy * this.stepSecs));
    columns.rate = column(history.rate);
    columns.all = column(history.rate);
    columns.visitors = column(history.rate.map((rate, at) => (rate === null ? null : Math.max(0, rate - (history.banned_rate?.[at] ?? 0)))));
    columns.errors = column(history.error_rate);
    columns.mean = column(history.mean);
    columns.stddev = column(history.stddev);
    columns.packets = column(history.dropped_packets_per_sec);
    columns.bytes = column(history.dropped_bytes_per_sec);
    this.marks = [...history.marks];
  }

  /** Appends the present if a step has passed; after a gap, a null keeps the line from bridging it. */
  push(status: Status): void {
    const { columns } = this;
    const now = Math.floor(status.now_ms / 1000);
    if (status.global.anomaly === null) this.endAnomaly(status.now_ms);
    const last = columns.at.at(-1) ?? Number.NEGATIVE_INFINITY;
    if (now - last >= this.stepSecs * 0.9) {
      if (now - last > Math.max(GAP_SECS, this.stepSecs * 3)) {
        if (Number.isFinite(last)) this.append(last + this.stepSecs, null);
      } else {
        // A snapshot that came late leaves no second out.
        for (let at = last + 1; this.stepSecs === 1 && at < now; at += 1) this.append(at, status);
      }
      this.append(now, status);
      while (columns.at.length > 0 && (columns.at[0] ?? now) < now - this.spanSecs) {
        for (const column of Object.values(columns)) column.shift();
      }
    }
    if (this.stepSecs === 1) this.showSeconds(status);
  }

  private append(at: number, status: Status | null): void {
    const { columns } = this;
    const rate = status?.global.rate ?? null;
    columns.at.push(at);
    columns.rate.push(rate);
    // One second of the live series is known a second later.
    columns.all.push(this.stepSecs === 1 ? null : rate);
    columns.visitors.push(this.stepSecs === 1 || rate === null ? null : Math.max(0, rate - (status?.global.banned_rate ?? 0)));
    columns.errors.push(status?.global.error_rate ?? null);
    columns.mean.push(status?.baseline.mean ?? null);
    columns.stddev.push(status?.baseline.stddev ?? null);
    columns.packets.push(status?.dropped.packets_per_sec ?? null);
    columns.bytes.push(status?.dropped.bytes_per_sec ?? null);
  }

  /** The agent's seconds, in place of what was known of them: what a client asked before its ban turns out to be an
   * attacker's. The newest is not over. */
  private showSeconds({ global: { seconds } }: Status): void {
    if (seconds === undefined || seconds.requests.length === 0) return;
    const { columns } = this;
    const first = seconds.end_ms / 1000 - seconds.requests.length + 1;
    for (let at = columns.at.length - 1; at >= 0 && (columns.at[at] ?? 0) >= first; at -= 1) {
      const which = (columns.at[at] ?? 0) - first;
      if (which >= seconds.requests.length - 1) continue;
      const all = seconds.requests[which];
      columns.all[at] = all ?? null;
      columns.visitors[at] = all === undefined ? null : all - (seconds.of_banned[which] ?? 0);
    }
  }

  /** The agent knows of none: an end that was not heard of is now. */
  private endAnomaly(nowMs: number): void {
    if (this.anomalies().at(-1)?.to === null) this.marks.push({ at_ms: nowMs, kind: "anomaly_ended", count: 1, text: "" });
  }

  /** Adds a mark if the event is of a kind that has one. */
  mark(event: AgentEvent): void {
    const kind = MARKED[event.kind];
    if (kind !== undefined) this.marks.push({ at_ms: event.at_ms, kind, count: 1, text: event.text });
  }

  /** Bans summed over at least `leastSecs`, so that their marks do not overlap. The stretches are whole ones of the clock: a mark
   * stays where it is and what it is while the plot moves on. */
  bans(leastSecs: number): { at: number; count: number; secs: number }[] {
    const perSecs = STRETCHES.find((secs) => secs >= leastSecs) ?? leastSecs;
    const sums = new Map<number, number>();
    for (const mark of this.marks) {
      if (mark.kind !== "bans") continue;
      const at = Math.floor(mark.at_ms / 1000 / perSecs) * perSecs + perSecs / 2;
      sums.set(at, (sums.get(at) ?? 0) + mark.count);
    }
    return [...sums].map(([at, count]) => ({ at, count, secs: perSecs }));
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
