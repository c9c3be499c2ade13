// The agent's clock as seen from here. Bans end by it, not by the viewer's clock, which may be minutes off.

/** When the agent's clock showed `nowMs`, this page's own steady clock showed `atMs`. */
let anchor: { nowMs: number; atMs: number } | null = null;

/** The agent said what time it is. */
export function setAgentClock(nowMs: number): void {
  anchor = { nowMs, atMs: performance.now() };
}

/** The agent's time now, milliseconds since the Unix epoch. */
export function agentNowMs(): number {
  return anchor === null ? Date.now() : anchor.nowMs + (performance.now() - anchor.atMs);
}

/** Calls `tick` at once and then every second. */
export function everySecond(tick: () => void): void {
  tick();
  setInterval(tick, 1_000);
}
