// Numbers and spans as the English page writes them; moments in the way and the zone of the viewer.

const grouped = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

const KIB = 1024;
const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** A count in full: `1,000,000`. */
export function count(value: number): string {
  return grouped.format(value);
}

/** A count in short, where the place is small: `9,999`, `1.2M`. */
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

/** A share of 100. */
export function percent(value: number): string {
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} %`;
}

/** A span, to two units: `9 min 59 s`, `3 d 4 h`. */
export function span(seconds: number): string {
  const secs = Math.max(0, Math.floor(seconds));
  if (secs < MINUTE) return `${secs} s`;
  if (secs < HOUR) return `${Math.floor(secs / MINUTE)} min ${secs % MINUTE} s`;
  if (secs < DAY) return `${Math.floor(secs / HOUR)} h ${Math.floor((secs % HOUR) / MINUTE)} min`;
  return `${Math.floor(secs / DAY)} d ${Math.floor((secs % DAY) / HOUR)} h`;
}

/** Time left as a clock: `09:59`, `1:59:59`, `3 d 01:00:00`. Rounded up, so that it reaches 0 when it is over. */
export function countdown(ms: number): string {
  const secs = Math.max(0, Math.ceil(ms / 1000));
  const two = (value: number): string => String(value).padStart(2, "0");
  const [days, hours, minutes] = [Math.floor(secs / DAY), Math.floor((secs % DAY) / HOUR), Math.floor((secs % HOUR) / MINUTE)];
  const tail = `${two(minutes)}:${two(secs % MINUTE)}`;
  if (days > 0) return `${days} d ${two(hours)}:${tail}`;
  return hours > 0 ? `${hours}:${tail}` : tail;
}

/** A moment as a time of day; with the day when that is not today. */
export function time(ms: number): string {
  const at = new Date(ms);
  const isToday = at.toDateString() === new Date().toDateString();
  return isToday ? clock.format(at) : `${day.format(at)}, ${clock.format(at)}`;
}

/** A moment in full, with the zone: for tooltips and details. */
export function fullTime(ms: number): string {
  return full.format(new Date(ms));
}

/** The viewer's zone: `Europe/Paris`. */
export function zone(): string {
  return Intl.DateTimeFormat().resolvedOptions().timeZone;
}

/** `one ban`, `12 bans`. */
export function plural(value: number, one: string, many: string): string {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/** The rules by their names in the API, as a person reads them. */
export const RULES: Readonly<Record<string, string>> = {
  z_score: "Z-score",
  rate_multiplier: "Rate multiple",
  error_surge: "Error surge",
  probing: "Probing",
  flood: "Flood",
  behaviour: "Behaviour",
  operator: "By hand",
  imported: "Imported",
  network: "Network",
};

/** A rule's name as a person reads it; an unknown one as it came. */
export function ruleName(rule: string): string {
  return RULES[rule] ?? rule;
}

const SOURCES: Record<string, string> = {
  rolling: "last 30 min",
  hour_slot: "this hour of the day",
  all_hours: "all hours of the day",
  floor: "floor values",
  warm_up: "still learning",
};

/** Where a baseline comes from, as a person reads it. */
export function baselineSource(source: string): string {
  return SOURCES[source] ?? source;
}

const PARTS: Record<string, string> = {
  xdp: "XDP",
  store: "Store",
  slack: "Slack",
  webhook: "Webhook",
  detector: "Detector",
  audit: "Audit log",
  api: "API",
  page: "Page",
};

/** A part's name as a person reads it; `source:/var/log/nginx/access.log` is shown as the file it is. */
export function partName(part: string): string {
  return PARTS[part] ?? part.replace(/^source:.*\//, "Log ").replace(/^source:/, "Log ");
}

/** The agent's words as a sentence begins. */
export function sentence(words: string): string {
  return words.charAt(0).toUpperCase() + words.slice(1);
}
