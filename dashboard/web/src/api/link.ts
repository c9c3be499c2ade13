// The connection to the agent: the event stream, polling where streaming fails, and reconnecting. Every state is one that
// the operator should see.

import { api, ApiError } from "./client";
import { messages } from "./stream";
import type { Event as AgentEvent, Streams } from "./types";

type Snapshot = Streams["/events"]["snapshot"];

export type LinkState =
  | { kind: "connecting" }
  | { kind: "live"; by: "stream" | "polling" }
  | { kind: "disconnected"; sinceMs: number; retryAtMs: number; why: string }
  | { kind: "locked" };

export interface Listener {
  onState(state: LinkState): void;
  onSnapshot(snapshot: Snapshot): void;
  onNotice(event: AgentEvent): void;
  /** Events may have been missed: everything that is kept should be fetched again. */
  onGap(): void;
}

/** Snapshots come every second. After this long without one the stream is dead, even if TCP has not noticed yet. */
const SILENCE_LIMIT_MS = 5_000;

/** Interval of polling: what is shown is never older than 3 s. */
const POLL_EVERY_MS = 2_000;

/** Interval of attempts to stream while polling. */
const RETRY_STREAM_MS = 30_000;

/** Waits between attempts while disconnected: short at first, because a restart of the agent takes a second or two. */
const BACKOFF_MS = [500, 1_000, 2_000, 3_000, 5_000];

/** A stream that worked and broke is reopened after this long, before anything else is tried. */
const FIRST_RETRY_MS = 250;

const CLIENTS_SHOWN = 10;

export class Link {
  private lastEventId: string | null = null;
  private failures = 0;
  private lastWordMs = Date.now();
  private missedSome = false;
  private streamWorked = false;
  private wake: (() => void) | null = null;

  constructor(private readonly listener: Listener) {}

  /** Runs for as long as the page is open. */
  async run(): Promise<never> {
    this.listener.onState({ kind: "connecting" });
    for (;;) {
      try {
        await this.stream();
      } catch (error) {
        await this.recover(error);
      }
    }
  }

  /** Retries at once, instead of after the wait. */
  retryNow(): void {
    this.wake?.();
  }

  /** Reads the stream until it breaks; never resolves. */
  private async stream(): Promise<void> {
    const abort = new AbortController();
    const watchdog = new Watchdog(SILENCE_LIMIT_MS, () => abort.abort());
    try {
      const body = await api.openEvents(this.lastEventId, abort.signal);
      for await (const message of messages(body)) {
        watchdog.feed();
        this.streamWorked = true;
        if (message.event === "snapshot") this.deliver(JSON.parse(message.data) as Snapshot, "stream");
        else if (message.event === "notice") this.announce(JSON.parse(message.data) as AgentEvent, message.id);
        else if (message.event === "gap") this.listener.onGap();
      }
    } finally {
      watchdog.stop();
    }
    throw new ApiError(0, "The agent closed the connection.");
  }

  private deliver(snapshot: Snapshot, by: "stream" | "polling"): void {
    this.failures = 0;
    this.lastWordMs = Date.now();
    this.listener.onState({ kind: "live", by });
    this.listener.onSnapshot(snapshot);
    if (this.missedSome) {
      this.missedSome = false;
      this.listener.onGap();
    }
  }

  private announce(event: AgentEvent, id: string | null): void {
    this.lastEventId = id ?? String(event.id);
    this.listener.onNotice(event);
  }

  private async recover(error: unknown): Promise<void> {
    if (error instanceof ApiError && error.needsToken) {
      this.listener.onState({ kind: "locked" });
      await this.pause(RETRY_STREAM_MS);
      return;
    }
    if (this.streamWorked) {
      this.streamWorked = false;
      await this.pause(FIRST_RETRY_MS);
      return;
    }
    if (await this.poll()) return;
    this.missedSome = true;
    const wait = BACKOFF_MS[Math.min(this.failures++, BACKOFF_MS.length - 1)] ?? POLL_EVERY_MS;
    const why = error instanceof ApiError ? error.message : "The agent does not answer.";
    this.listener.onState({ kind: "disconnected", sinceMs: this.lastWordMs, retryAtMs: Date.now() + wait, why });
    await this.pause(wait);
  }

  /** Polls until it is time to try the stream again; false if polling failed at once. */
  private async poll(): Promise<boolean> {
    const end = Date.now() + RETRY_STREAM_MS;
    let worked = false;
    while (Date.now() < end) {
      try {
        const [status, clients] = await Promise.all([api.status(), api.clients(CLIENTS_SHOWN)]);
        this.deliver({ status, clients }, "polling");
        if (worked) this.listener.onGap();
        worked = true;
      } catch {
        return false;
      }
      await this.pause(POLL_EVERY_MS);
    }
    return worked;
  }

  private pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(done, ms);
      this.wake = done;
      function done(): void {
        clearTimeout(timer);
        resolve();
      }
    });
  }
}

/** Calls `expired` once if it was not fed for `limitMs`. */
class Watchdog {
  private timer: ReturnType<typeof setTimeout>;

  constructor(
    private readonly limitMs: number,
    private readonly expired: () => void,
  ) {
    this.timer = setTimeout(expired, limitMs);
  }

  feed(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(this.expired, this.limitMs);
  }

  stop(): void {
    clearTimeout(this.timer);
  }
}
