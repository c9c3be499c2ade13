// Number and time formatting. Numbers are English, as the page is; times are in the locale and the zone of the viewer,
// which only the browser knows. All other texts come from the agent.

const grouped = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

const KIB = 1024;
const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** A full count: `1,000,000`. */
export function count(value: number): string {
  return grouped.format(value);
}

/** A short count: `9,999`, `1.2M`. */
export function shortCount(value: number): string {
  return value < 10_000 ? grouped.format(Math.round(value)) : compact.format(value);
}

/** A rate per second, without the unit: three figures at most. */
export function rate(value: number): string {
  if (value === 0) return "0";
  if (Math.abs(value) < 0.005) return value < 0 ? "−0.00" : "<0.01";
  if (Math.abs(value) < 10) return value.toFixed(2);
  if (Math.abs(value) < 100) return value.toFixed(1);
  return shortCount(value);
}

/** A distance in standard deviations, with its sign. */
export function sigmas(value: number): string {
  const size = Math.abs(value) < 100 ? Math.abs(value).toFixed(1) : shortCount(Math.abs(value));
  return `${value < 0 ? "−" : "+"}${size}`;
}

/** Bytes in binary units: `4.2 MiB`. */
export function bytes(value: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = 0;
  while (value >= KIB && at < units.length - 1) {
    value /= KIB;
    at += 1;
  }
  return `${at === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[at]}`;
}

export function percent(value: number): string {
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} %`;
}

/** A duration, to two units: `9 min 59 s`, `3 d 4 h`. */
export function span(seconds: number): string {
  const secs = Math.max(0, Math.floor(seconds));
  if (secs < MINUTE) return `${secs} s`;
  if (secs < HOUR) return `${Math.floor(secs / MINUTE)} min ${secs % MINUTE} s`;
  if (secs < DAY) return `${Math.floor(secs / HOUR)} h ${Math.floor((secs % HOUR) / MINUTE)} min`;
  return `${Math.floor(secs / DAY)} d ${Math.floor((secs % DAY) / HOUR)} h`;
}

/** Time left as a clock: `09:59`, `1:59:59`, `3 d 01:00:00`. Rounded up, so that it shows 0 only when the time is over. */
export function countdown(ms: number): string {
  const secs = Math.max(0, Math.ceil(ms / 1000));
  const two = (value: number): string => String(value).padStart(2, "0");
  const [days, hours, minutes] = [Math.floor(secs / DAY), Math.floor((secs % DAY) / HOUR), Math.floor((secs % HOUR) / MINUTE)];
  const tail = `${two(minutes)}:${two(secs % MINUTE)}`;
  if (days > 0) return `${days} d ${two(hours)}:${tail}`;
  return hours > 0 ? `${hours}:${tail}` : tail;
}

/** A time of day, with the day unless that is today. */
export function time(ms: number): string {
  const at = new Date(ms);
  const isToday = at.toDateString() === new Date().toDateString();
  return isToday ? clock.format(at) : `${day.format(at)}, ${clock.format(at)}`;
}

/** Date and time with the zone. */
export function fullTime(ms: number): string {
  return full.format(new Date(ms));
}

/** The viewer's zone: `Europe/Paris`. */
export function zone(): string {
  return Intl.DateTimeFormat().resolvedOptions().timeZone;
}

/** `1 ban`, `12 bans`. */
export function plural(value: number, one: string, many: string): string {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/** Capitalises a text of the agent, for the start of a line. */
export function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
