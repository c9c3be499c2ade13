// The agent's clock. Bans end by it; the viewer's own clock may be minutes off.

/** The agent's clock showed `nowMs` when this page's steady clock showed `atMs`. */
let anchor: { nowMs: number; atMs: number } | null = null;

export function setAgentClock(nowMs: number): void {
  anchor = { nowMs, atMs: performance.now() };
}

/** The agent's time now, milliseconds since the Unix epoch. */
export function agentNowMs(): number {
  return anchor === null ? Date.now() : anchor.nowMs + (performance.now() - anchor.atMs);
}

/** Calls `tick` now and every second from now on. */
export function everySecond(tick: () => void): void {
  tick();
  setInterval(tick, 1_000);
}
