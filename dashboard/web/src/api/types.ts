// The types of `/api/v1`, generated from the agent's Rust types: do not edit. `cargo xtask api-types` renews this file.

export const BASE = "/api/v1";

/** Whose network an address is in. */
export interface AddressOwner {
  /** The number of the autonomous system. */
  asn: number | null;
  /** The country's code of two letters. */
  country: string | null;
  /** The autonomous system's name. */
  name: string | null;
}

/** The agent's process. */
export interface Agent {
  /** CPU in percent of one core over the last seconds. */
  cpu_percent: number;
  /** Resident memory. */
  memory_bytes: number;
  threads: number;
  /** Seconds since the start. */
  uptime_secs: number;
}

/** A network whose clients are never banned. */
export interface AllowEntry {
  /** In CIDR notation. */
  network: string;
  /** The operator's own words, when some were given. */
  note?: string | null;
  reason: AllowReason;
  /** The end of an entry that was added for a while; absent when it stays until it is removed. */
  until_ms?: number | null;
  /** The reason in plain words. */
  words: string;
}

/** The allowlist. */
export interface AllowList {
  /** Sorted by network. */
  entries: AllowEntry[];
}

/** The origin of an allowlist entry. */
export type AllowReason = "configured" | "own_address" | "gateway" | "resolver" | "search_engine" | "operator" | "special" | "ssh_session" | "ssh_recent" | "trusted_proxy" | "cdn" | "private";

/** Networks to put on the allowlist. */
export interface AllowRequest {
  /** Addresses or networks. */
  clients: Client[];
  /** The reason, for the record. */
  reason?: string | null;
  /** For how long; null or absent until they are taken off it. */
  secs?: number | null;
}

/** A global anomaly in progress. */
export interface Anomaly {
  /** The condition that holds, with its numbers. */
  condition: string;
  /** Start of the anomaly. */
  since_ms: number;
}

/** A ban in force. */
export interface Ban {
  /** The client. */
  client: Client;
  /** Dropped packets of this client since its ban; null while no enforcer counts them. */
  dropped: Drops | null;
  /** End of the ban; null if it is permanent. */
  ends_ms: number | null;
  /** The enforcers that drop it now; null if that is not known. */
  enforced_by: EnforcerName[] | null;
  /** The detector's evidence; null for a ban that it did not make. */
  evidence: Evidence | null;
  /** Requests of it that reached the web server although it is banned, in the last minute with any; null where none did lately. */
  leaking: number | null;
  /** The client's offences, this one included; 0 if the ban is not for an offence. */
  offence: number;
  /** Whose network it is in, by the databases of `[page]`; absent without them, and where they do not know it. */
  owner?: AddressOwner | null;
  /** The reason that the operator or the imported list gave. */
  reason: string | null;
  /** Seconds left by the boot clock, which decides; null if the ban is permanent. */
  remaining_secs: number | null;
  /** The rule it was for. */
  rule: RuleName;
  /** Grows with every ban and every change of one, across restarts. */
  serial: number;
  /** Start of the ban. */
  since_ms: number;
  /** The cause in plain words, one or two sentences. */
  words: string;
}

/** Bans in force. */
export interface BanCounts {
  /** All bans in force. */
  active: number;
  /** Permanent bans among them. */
  permanent: number;
}

/** One page of the bans in force. */
export interface BanPage {
  /** In the requested order. */
  bans: Ban[];
  /** True if none of them is enforced. */
  dry_run: boolean;
  /** The `cursor` of the next page; null on the last one. */
  next: string | null;
  /** The agent's clock at the time of this answer. */
  now_ms: number;
  /** Slowed clients that match the search, in the order of their addresses, at most 1,000; on the first page alone, and none where a rule is asked for. They are no bans: `total` does not count them. */
  slowed: SlowedClient[];
  /** Number of bans that match the filter. */
  total: number;
}

/** Clients to ban. */
export interface BanRequest {
  /** Addresses or networks. */
  clients: Client[];
  /** The reason, for the record. */
  reason?: string | null;
  term?: Term;
}

/** The order of a list of bans. */
export type BanSort = "since" | "ends" | "client";

/** The level that the global rate is compared with. */
export interface Baseline {
  /** Mean rate of one client in requests per second; null until it is known. */
  client_mean: number | null;
  /** Standard deviation of one client's rate; null until it is known. */
  client_stddev: number | null;
  /** Requests with an error status per second. */
  error_mean: number;
  /** Requests per second. */
  mean: number;
  /** Seconds of traffic it was computed from. */
  samples: number;
  /** Where the values come from. */
  source: string;
  /** Population standard deviation, requests per second. */
  stddev: number;
}

/** A client that only one of the two engines bans. */
export interface CanaryDifference {
  /** The canary's. */
  canary: CanaryHit | null;
  client: Client;
  /** Whether it was served well within a day. */
  is_known_good: boolean;
  /** Whether it is a search engine, verified by DNS. */
  is_search_engine: boolean;
  /** Whether nobody knows it, the canary alone would ban it, and most of its requests were answered well. */
  is_served_stranger: boolean;
  /** The live ban. */
  live: CanaryHit | null;
  /** Why the canary had not banned it when the live engine did. */
  why_not: string | null;
}

/** What is known of a canary. */
export interface CanaryFigures {
  /** Clients that the canary would have banned. */
  canary_bans: number;
  /** Times that the canary would have slowed a client. */
  canary_slowed: number;
  /** The most clients that were there at a time, those among them that it would have banned before. */
  clients: number;
  /** Whether nothing was left out. */
  is_whole: boolean;
  /** Of `only_canary`, clients that were served well within a day. */
  known_good: number;
  /** Lines that it judged. */
  lines: number;
  /** Clients that the live engine's rules banned since the canary started, or would have but for the limits. */
  live_bans: number;
  /** The same of the live engine, on the same lines. */
  live_verdict_p99_us: number | null;
  /** Lines that it could not take, because it was too slow. */
  lost_lines: number;
  /** For how long it has seen what the live engine saw. */
  observed_secs: number;
  /** Of these, clients that the live engine did not ban. */
  only_canary: number;
  /** Clients that the live engine banned and the canary would not have by then. */
  only_live: number;
  /** Of `only_canary`, search engines, verified by DNS. */
  search_engines: number;
  /** Of `only_canary`, clients that nobody knows, most of whose requests were answered well. */
  served_strangers: number;
  site: CanarySite;
  /** 99 of 100 lines had the canary's verdict within so many microseconds of their delivery; null before the first. */
  verdict_p99_us: number | null;
}

/** A ban of a rule. */
export interface CanaryHit {
  at_ms: number;
  /** One line with the numbers. */
  condition: string | null;
  /** Of these, those that failed. */
  errors: number;
  /** Of the client, in the window of the verdict. */
  requests: number;
  rule: RuleName;
}

/** What a canary found: a second engine with another configuration, on the same lines, without effects. */
export interface CanaryReport {
  /** Approximate memory of its clients. */
  client_bytes: number;
  /** Clients that only one of the two bans, at most 200. */
  differing: CanaryDifference[];
  figures: CanaryFigures;
  /** The file that it was started with. */
  name: string | null;
  /** Processor time a line, in nanoseconds. */
  ns_per_line: number;
  /** The reasons against its promotion; empty when it is allowed. */
  refusals: string[];
  started_ms: number | null;
  state: CanaryState;
}

/** A configuration to try. */
export interface CanaryRequest {
  /** The SHA-256 of the file that it would replace, in hexadecimal. */
  base: string;
  /** The file's name, for people. */
  name: string;
  /** The file's text. */
  text: string;
}

/** How the site did meanwhile, by its log. */
export interface CanarySite {
  answers: number;
  /** Of these, with a status of 500 or more. */
  errors: number;
  /** 99 of 100 answers took at most so many milliseconds; null where the log has no `request_time`. */
  p99_ms: number | null;
}

/** What a canary is doing. */
export type CanaryState = "none" | "running" | "ended" | "failed";

/** A change of this host that was tried, for the record. */
export interface ChangeRecord {
  step: Step;
  /** Of what, and why: at most 2,000 characters. */
  text: string;
}

/** One entry of a client's account: what was charged, and what is left of it. */
export interface Charged {
  /** The log's time of the request, in Unix seconds. */
  at_secs: number;
  /** `probes`, `failed_paths`, `malformed_requests`… */
  kind: string;
  /** The path, as far as it is remembered. Lossy UTF-8 of bounded length. */
  path?: string | null;
  /** What is left of its points. */
  points: number;
}

/** An IPv4 address, or a network in CIDR notation. An IPv6 client is a /64 unless configured otherwise. */
export type Client = string;

/** A client and its window: the last 60 s, or the 60 s before its ban if that was made within them. */
export interface ClientActivity {
  client: Client;
  /** Requests with an error status in the window. */
  errors: number;
  /** Requests per second. */
  rate: number;
  /** Requests in the window. */
  requests: number;
  state: ClientState;
  /** Distance of the rate from the reference level, in standard deviations. */
  z_score: number;
}

/** The busiest clients. */
export interface ClientList {
  /** Highest rate first. */
  clients: ClientActivity[];
  /** The agent's clock at the time of this answer. */
  now_ms: number;
  /** Length of the window in seconds. */
  window_secs: number;
}

/** The state of a client. */
export type ClientState = "normal" | "anomalous" | "banned" | "allowed";

/** An item of a list of Cloudflare's. */
export interface CloudflareItem {
  /** Tells Shield's items from others. */
  comment: string;
  /** An address or a network. */
  ip: string;
}

/** The result of a command for one client. */
export interface CommandResult {
  client: Client;
  /** For people: `banned for 10 min`, `not banned: …`, `was not banned`. */
  message: string;
  /** Whether the command took effect. */
  ok: boolean;
}

/** The configuration in force, without secrets. */
export interface Config {
  /** The file it was read from; null for the defaults. */
  path: string | null;
  /** All settings with their values; a secret appears as `(set)`. */
  settings: Record<string, unknown>;
}

/** The detector. */
export interface DetectorStatus {
  /** The reason why the blast-radius limit stopped banning; null if it did not. */
  blast_radius: string | null;
  /** Clients in the table. */
  clients: number;
  /** Clients evicted from the full table since the start. */
  evicted: number;
  /** True while an anomaly keeps the baseline from learning. */
  frozen: boolean;
  /** Capacity of the table. */
  max_clients: number;
  /** The end of a pause of automatic bans that an operator asked for; null without one. */
  paused_until_ms: number | null;
  /** The rule profile: `default`, `classic`… */
  profile: string;
  /** The reference that a client's rate is compared with: `adaptive` or `classic`. */
  reference: string;
  /** Its state, as for a part. */
  state: PartState;
  /** The details of the state, as for a part. */
  text: string;
  /** Null once the baseline is learned. */
  warm_up: WarmUp | null;
}

/** Networks to take off the allowlist. */
export interface DisallowRequest {
  /** Addresses or networks. */
  clients: Client[];
  /** The reason, for the record. */
  reason?: string | null;
}

/** Packets and bytes that the kernel dropped for Shield. Packets that XDP drops never reach iptables, so the sums count nothing twice. */
export interface Dropped {
  /** One entry for each enforcer that counts. */
  by_enforcer: EnforcerDrops[];
  /** Bytes since the start. */
  bytes: number;
  /** Bytes per second, over the last second or more. */
  bytes_per_sec: number;
  /** Packets since the start. */
  packets: number;
  /** Packets per second, over the last second or more. */
  packets_per_sec: number;
}

/** Dropped packets and bytes. */
export interface Drops {
  /** Includes the link-layer header where the enforcer sees it: XDP does, iptables does not. */
  bytes: number;
  /** Counted since the ban, or since the enforcer was set up. */
  packets: number;
}

/** The format of a list for others. */
export type EdgeFormat = "plain" | "haproxy-map" | "cloudflare";

/** The packets and bytes that one enforcer dropped since the start. */
export interface EnforcerDrops {
  /** Bytes. */
  bytes: number;
  enforcer: EnforcerName;
  /** Packets. */
  packets: number;
}

/** An enforcer. */
export type EnforcerName = "iptables" | "xdp" | "nginx";

/** A refused request. */
export interface Error {
  /** Stable, for programs. A string rather than an [`ErrorCode`], because a newer agent may have codes that this client does not know. */
  code: ErrorCode;
  /** For people: what is wrong, where, and what to do about it. */
  message: string;
}

/** The kinds of refusals; each has its HTTP status. */
export type ErrorCode = "bad_request" | "unauthorized" | "forbidden" | "not_found" | "method_not_allowed" | "timeout" | "too_large" | "wrong_host" | "too_many_streams" | "overloaded" | "internal";

/** An event that an operator should know of. */
export interface Event {
  at_ms: number;
  /** The client concerned; null if the event concerns none. */
  client: Client | null;
  /** All facts, as in the audit log; `event` names the kind. */
  data: { event: string };
  /** Grows with every event, also across restarts. */
  id: number;
  /** The kind of event. New kinds may be added: show `text`. */
  kind: string;
  severity: Severity;
  /** In plain words, one line. May contain text from the network: never markup. */
  text: string;
}

/** Recent events. */
export interface EventList {
  /** Newest first. */
  events: Event[];
  /** The `before` of the next older events; null if there are no older ones here (the audit log has them). */
  next: number | null;
}

/** The grounds of an anomalous verdict. */
export interface Evidence {
  /** What weighs most in the client's score, weightiest first. Bounded: it need not add up to the score. */
  account?: Charged[];
  /** The log's time of the request that made the rule fire, in Unix seconds. */
  at_secs: number;
  /** `rolling`, `hour_slot`, `floor` or `warm_up`. */
  baseline: string;
  /** One line with the numbers: `z-score=5.43 > threshold=2.0`. */
  condition: string;
  /** The client's errors in the window: status >= 400, without those configured as our own answers. */
  errors: number;
  /** The client's last log lines before the ban, as they were written, oldest first. Filled in by whoever reads the log, of a ban in the database alone: a query string may hold a secret. */
  lines?: string[];
  /** The baseline's mean, in requests per second. */
  mean: number;
  /** Every value that the rule uses, beside its threshold. */
  measures?: Measure[];
  /** The reason why the client is only reported and not banned. */
  observe?: string | null;
  /** What the operators' own rules say about it, once they were asked. */
  policy?: PolicyWord | null;
  /** The client's requests per second over the window. */
  rate: number;
  /** The client's requests in the window. */
  requests: number;
  /** The first rule that fired. */
  rule: RuleName;
  /** The sites that its last requests went to, by the names of the server sections, most asked for first. Filled in by whoever reads the log, as far as it names them; bounded. */
  sites?: string[];
  /** The baseline's standard deviation, in requests per second. */
  stddev: number;
  /** The threshold of the rule that fired. */
  threshold: number;
  /** Whether an error surge lowered the thresholds. */
  tightened: boolean;
  /** The most requested paths in the window, most requested first. */
  top_paths?: PathCount[];
  window_secs: number;
  /** (rate - mean) / stddev. */
  z_score: number;
}

/** The reason why a client is banned, or why it is not. */
export interface Explanation {
  /** Allowlist entries that protect it. */
  allowed: AllowEntry[];
  /** The moment that is explained. */
  at_ms: number;
  /** The ban that drops it, its own or that of a network around it; null if there is none. */
  ban: Ban | null;
  client: Client;
  /** True if its ban is not enforced. */
  dry_run: boolean;
  /** Newest first. */
  history: PastBan[];
  offences: Offences;
  /** A proxy that it is, or holds, by the connections in the log: no rule bans it. Absent when there is none. */
  proxy?: string | null;
  reference: Reference;
  /** All rules. */
  rules: RuleState[];
  /** Null unless it is slowed now. */
  slowed: SlowedClient | null;
  /** Most requested first. */
  top_paths: PathCount[];
  /** Others that want it banned: hosts of the fleet, blocklists, CrowdSec. Absent when there are none. */
  wanted_by?: Wanted[];
  /** Null if the client was not seen lately. */
  window: Window | null;
  /** The answer in plain words. */
  words: string;
}

/** Another host of the fleet, as this one sees it. */
export interface FleetOrigin {
  /** Clients that it wants banned. */
  bans: number;
  /** Those of them that count here. */
  counted: number;
  /** When it was heard last, in milliseconds since the Unix epoch. */
  heard_ms: number;
  /** Seconds since then. Each host states its bans anew at least every 10 min. */
  heard_secs_ago: number;
  name: string;
  /** Statements about networks that were not accepted, since the start. */
  refused_networks: number;
  trust: Trust;
  /** Statements about clients that are never banned here, since the start. */
  vetoed: number;
}

/** The fleet that this host is part of. */
export interface FleetView {
  connected: boolean;
  /** Statements of other hosts since the start. */
  heard: number;
  /** This host's name in it; null when it is part of none. */
  name: string | null;
  /** Messages that a newer Shield wrote, since the start. */
  newer: number;
  /** Every other host that was ever heard, by name. */
  origins: FleetOrigin[];
  /** Bans of this host in force, which the others are told. */
  own_bans: number;
  /** The server that it is connected to. */
  server: string;
  /** Messages that are none of a fleet's, since the start. */
  unread: number;
  /** Bans and unbans that the server does not have yet. */
  waiting: number;
}

/** Events are missing in a stream. */
export interface Gap {
  /** Number of missing events; 0 if it is unknown. */
  missed: number;
}

/** The traffic of the whole server over the window. */
export interface GlobalRate {
  /** Null while traffic is normal. */
  anomaly: Anomaly | null;
  /** Requests per second of clients that were banned by now, those before their bans as well. */
  banned_rate: number;
  /** Requests with an error status per second. */
  error_rate: number;
  /** Requests per second. */
  rate: number;
  /** The seconds of the window. */
  seconds: Seconds;
  /** Length of the window in seconds. */
  window_secs: number;
}

/** The worst state of any part, of the detector included. */
export type Health = "ok" | "waiting" | "degraded";

/** Time series in columns of equal length, oldest first and evenly spaced. Null where nothing was recorded. */
export interface History {
  /** Bans in force. */
  active_bans: (number | null)[];
  /** Times of the points. */
  at_ms: number[];
  /** Requests per second of clients that were banned by then. */
  banned_rate: (number | null)[];
  /** Dropped bytes per second. */
  dropped_bytes_per_sec: (number | null)[];
  /** Dropped packets per second. */
  dropped_packets_per_sec: (number | null)[];
  /** Requests with an error status per second. */
  error_rate: (number | null)[];
  /** Oldest first. */
  marks: Mark[];
  /** Mean of the baseline, requests per second. */
  mean: (number | null)[];
  range: HistoryRange;
  /** Global rate, requests per second. */
  rate: (number | null)[];
  /** Standard deviation of the baseline, requests per second. */
  stddev: (number | null)[];
  /** Seconds between two points; a point is the mean over them. */
  step_secs: number;
}

/** The range of a history. */
export type HistoryRange = "30m" | "24h";

/** The machine. */
export interface Host {
  /** Logical CPUs. */
  cores: number;
  /** CPU in percent of all cores over the last seconds. */
  cpu_percent: number;
  /** Load average over one minute. */
  load_1min: number;
  memory_total_bytes: number;
  /** Total less available memory. */
  memory_used_bytes: number;
  name: string;
  /** Seconds since boot. */
  uptime_secs: number;
}

/** The learned level of one hour of the day. */
export interface HourSlot {
  /** 0 to 23, UTC. */
  hour: number;
  /** Requests per second; null until it is known. */
  mean: number | null;
  /** Standard deviation in requests per second; null until it is known. */
  stddev: number | null;
}

/** One ban of an import. */
export interface ImportEntry {
  client: Client;
  /** The reason, for the record. */
  reason?: string | null;
  term?: Term;
}

/** A list of bans, each with its own term. */
export interface ImportRequest {
  /** Ban all of them, or none when one is refused. */
  all_or_nothing?: boolean;
  bans: ImportEntry[];
}

/** The environments for rehearsals on this host. */
export interface LabList {
  /** In the order of their ids. */
  labs: LabView[];
}

/** An environment for rehearsals on this host, which `shield-agent lab` made. */
export interface LabView {
  /** unknown, good or degraded, by the control service's last looks. */
  condition: string;
  /** Its name and the time of its creation. */
  id: string;
  /** Until it is taken down, in seconds. */
  left_secs: number;
  /** creating, ready or destroying. */
  phase: string;
  /** direct, cdn, container or fleet. */
  profile: string;
  /** Where a browser on this host sees it; null without a control service. */
  url: string | null;
}

/** The display names of what the API names for programs. Constant for one version of the agent. */
export interface Labels {
  /** By the name in a baseline's `source`. */
  baseline_sources: Record<string, string>;
  /** By the name in `enforcer` and `enforced_by`. */
  enforcers: Record<string, string>;
  /** By the name in `rule`. */
  rules: Record<string, string>;
}

export type LiftReason = "operator" | "expired" | "allowed" | "withdrawn";

/** A mark on the plot. */
export interface Mark {
  at_ms: number;
  /** Number of bans in this step; 1 for an anomaly. */
  count: number;
  kind: MarkKind;
  /** In plain words. */
  text: string;
}

/** The kind of a mark. */
export type MarkKind = "bans" | "anomaly_started" | "anomaly_ended";

/** A measured value beside its threshold. */
export interface Measure {
  /** `rate`, `errors_60s`, `failed_paths_600s`… */
  name: string;
  /** The threshold in force, already lowered when [`Evidence::tightened`]. */
  threshold: number;
  value: number;
}

/** A client's offences that are still remembered. */
export interface Offences {
  /** The number of offences. */
  count: number;
  /** Time of the last one; null if there is none. */
  last_ms: number | null;
}

/** Another host of the fleet. */
export interface OriginRequest {
  /** Its name. */
  origin: string;
}

/** A part of Shield with its state. */
export interface Part {
  /** The display name. */
  label: string;
  /** `iptables`, `xdp`, `store`, `slack`, `source:PATH`… */
  part: string;
  state: PartState;
  /** Details of a working part, or the reason for any other state and what to do about it. */
  text: string;
}

/** The state of a part. */
export type PartState = "active" | "waiting" | "degraded" | "off";

/** A ban that has ended. */
export interface PastBan {
  /** End of the ban. */
  ended_ms: number;
  /** The reason for its end. */
  lifted: LiftReason;
  /** The reason that the operator gave. */
  reason: string | null;
  /** The rule it was for. */
  rule: RuleName;
  /** The serial number of the ban. */
  serial: number;
  /** Start of the ban. */
  since_ms: number;
}

/** A path with its requests in the window. Lossy UTF-8 of bounded length. */
export interface PathCount {
  count: number;
  path: string;
}

/** The pause that was asked for. */
export interface PauseReport {
  /** Its end, by itself or by `resume`. */
  until_ms: number;
}

/** A pause of automatic bans: rules ban and slow nobody. Bans in force stay, and bans by hand go on. */
export interface PauseRequest {
  /** The reason, for the record. */
  reason?: string | null;
  /** How long it lasts, at most. */
  secs: number;
}

/** What is to become of a verdict. */
export type PolicyAction = "ban" | "observe" | "slow";

/** For how long the rules want a client banned. */
export type PolicyTerm = "permanent" | { secs: number };

/** What the rules say about a verdict. Kept with the ban that comes of it. */
export interface PolicyWord {
  action: PolicyAction;
  /** Their words: one line of bounded length. */
  because?: string | null;
  /** The reason why they say nothing: then the action is the configured one. */
  failed?: string | null;
  /** The term that they give; `None` for the ladder's. */
  term?: PolicyTerm | null;
}

/** What is going on, in one line. */
export interface Posture {
  state: PostureState;
  /** The facts that it rests on; may be empty. */
  text: string;
  /** The state in words: `Under attack, handled`. */
  title: string;
}

/** What is going on, the worst first. */
export type PostureState = "blind" | "attack_unhandled" | "attack_handled" | "degraded" | "unusual" | "learning" | "quiet";

/** Whether a canary may be promoted, and what to. */
export interface Promotion {
  /** As in the request that started it. */
  base: string;
  /** What it found. With `refusals` it may not be promoted. */
  report: CanaryReport;
  /** The file's text; null when it may not be promoted. */
  text: string | null;
}

/** Asks whether a canary may be promoted. */
export interface PromotionRequest {
  /** The least time that it must have observed, in seconds; an hour without it. */
  min_observed_secs?: number | null;
}

/** The level that a client's rate is compared with. */
export interface Reference {
  /** Requests per second. */
  mean: number;
  /** Where the values come from. */
  source: string;
  /** Requests per second. */
  stddev: number;
}

/** What became of a reload. */
export type ReloadOutcome = "changed" | "unchanged" | "refused";

/** The result of loading the configuration again. */
export interface ReloadReport {
  /** Settings that are in force now, each in a line. */
  changed: string[];
  /** Settings that could not be put in force, each with the reason. */
  failed: string[];
  /** The file; null for the defaults. */
  file: string | null;
  /** Bans lifted because their clients are allowed now. */
  lifted: number;
  /** Why the file is refused: every mistake with its line and column. */
  mistakes: string[];
  /** What became of it. */
  outcome: ReloadOutcome;
  /** Settings that a restart will put in force. */
  restart: string[];
}

/** The answer to a command. */
export interface Reply {
  /** One result per client of the command, in its order. */
  results: CommandResult[];
}

/** What `resume` did. */
export interface ResumeReport {
  /** What becomes of each client that was let through meanwhile. */
  results: CommandResult[];
  /** Whether automatic bans were paused. */
  was_paused: boolean;
  /** Whether the blast-radius limit had stopped them. */
  was_stopped: boolean;
}

/** The end of a pause, and of a stop by the blast-radius limit. */
export interface ResumeRequest {
  /** The reason, for the record. */
  reason?: string | null;
}

/** A detection rule, or another origin of a ban. */
export type RuleName = "operator" | "imported" | "z_score" | "rate_multiplier" | "error_surge" | "probing" | "flood" | "behaviour" | "network" | "remote" | "blocklist" | "crowdsec";

/** The values of one rule beside its thresholds. */
export interface RuleState {
  /** True if the rule fires. */
  fires: boolean;
  measures: Measure[];
  /** The reason why the rule was not evaluated (off, warming up, too few requests); null if it was. */
  not_asked: string | null;
  rule: RuleName;
  /** The outcome in plain words. */
  words: string;
}

/** The seconds of the window one by one, oldest first, by the log's times. */
export interface Seconds {
  /** The newest second, which may not be over. */
  end_ms: number;
  /** Those of clients that were banned by now. */
  of_banned: number[];
  /** Requests. */
  requests: number[];
}

/** The severity of an event. */
export type Severity = "info" | "warning" | "critical";

/** The requests of a site since the agent started, and who attacks it. */
export interface SiteActivity {
  /** Clients that rules banned within the last 5 minutes and that asked for it. */
  attackers: number;
  /** Bans in force of clients that asked for it. A client that asked for several sites counts at each. */
  bans: number;
  /** With a status of 400 to 499. */
  client_errors: number;
  /** Those of them with a status of 400 or more. */
  errors_last_minute: number;
  requests: number;
  /** Requests read within the last 60 to 70 seconds. */
  requests_last_minute: number;
  /** With a status of 500 or more. */
  server_errors: number;
  /** The name of its server section, as the log has it. */
  site: string;
}

/** The sites, as far as the log names the server section that answered. */
export interface SiteList {
  /** The agent's clock at the time of this answer. */
  now_ms: number;
  /** Requests of sites that are not listed. */
  other: SiteRequests;
  /** Most attackers first, then most requests. At most 64: names beyond them, and what is no plain name, are in `other`. */
  sites: SiteActivity[];
  /** Requests whose line names no site. */
  unnamed: SiteRequests;
}

/** Requests read from the log since the agent started. */
export interface SiteRequests {
  /** With a status of 400 to 499. */
  client_errors: number;
  /** Those of them with a status of 400 or more. */
  errors_last_minute: number;
  requests: number;
  /** Requests read within the last 60 to 70 seconds. */
  requests_last_minute: number;
  /** With a status of 500 or more. */
  server_errors: number;
}

/** What a slowed client is let through. */
export interface SlowLimits {
  /** New TCP connections. */
  connections: SlowRate;
  /** Packets that carry data. Those without any, which acknowledge what the server sends, are not limited. */
  packets: SlowRate;
}

/** How fast, and how many at once. */
export interface SlowRate {
  /** At once, after a pause. */
  burst: number;
  /** In the long run. */
  per_sec: number;
}

/** A slowed client. */
export interface SlowedClient {
  client: Client;
  /** End of its term, unless it goes on. */
  ends_ms: number;
  /** What it is let through. */
  limits: SlowLimits;
  /** Seconds left. */
  remaining_secs: number;
  /** The rule of the weightiest evidence. */
  rule: RuleName;
  /** Start of its term. */
  since_ms: number;
  /** The reason in plain words. */
  words: string;
}

/** Slowed clients: let through no faster than their limits, which is no ban. */
export interface SlowedCounts {
  /** Slowed now. */
  active: number;
  /** Slowed since the agent started. */
  since_start: number;
}

/** What the page needs every second. */
export interface Snapshot {
  /** The ten busiest clients. */
  clients: ClientList;
  /** The state of the agent, its traffic, its bans and the machine. */
  status: Status;
}

/** A source's lines since the start, and how far it is behind its logs. */
export interface SourceStatus {
  /** Bytes of these lines. */
  bytes: number;
  /** The name of the format of the last lines read; null before the first. */
  format: string | null;
  /** Bytes in the logs that are not read yet; null for a socket and for standard input. */
  lag_bytes: number | null;
  /** Age of the last line read, by the log's times; null if the source is not behind, and before the first line. */
  lag_secs: number | null;
  /** Time of the last line read, by the log's times; null before the first line. */
  last_line_ms: number | null;
  /** Lines read, rejected ones included. */
  lines: number;
  /** Lines per second over the last minute or two, rejected ones included. */
  lines_per_sec: number;
  /** Logs followed; null for a socket and for standard input. */
  logs: number | null;
  /** Lines rejected. */
  rejected: number;
  /** Lines rejected, by reason. */
  rejected_by: Record<string, number>;
  /** Rejected lines of 100, over the same time; null if there was none. */
  rejected_percent: number | null;
  /** Requests recovered from broken lines. */
  salvaged: number;
  /** The name; the part of this source is `source:` and the name. */
  source: string;
  /** `reading`, `waiting`, `off`, or what is wrong: `refused`, `field`, `some_refused`, `behind`, `silent`, `one_client`, `late`, `unread`, or `degraded` for anything else. The text of the source's part gives the reason and what to do. */
  state: string;
}

/** The state of the agent, its traffic, its bans and the machine. */
export interface Status {
  /** The agent's process. */
  agent: Agent;
  /** Bans that rules made within the last 5 minutes, by kind of attack. */
  attacks: Record<string, number>;
  /** Bans in force. */
  bans: BanCounts;
  /** The level that the traffic is compared with. */
  baseline: Baseline;
  /** The detector. */
  detector: DetectorStatus;
  /** Packets and bytes that the kernel dropped. */
  dropped: Dropped;
  /** True if bans are decided and recorded but not enforced. */
  dry_run: boolean;
  /** The whole server's traffic. */
  global: GlobalRate;
  /** The worst state of any part. */
  health: Health;
  /** The machine. */
  host: Host;
  /** 24 entries, hour 0 first. */
  hour_profile: HourSlot[];
  /** The agent's clock at the time of this answer: count down against it, not against the viewer's clock. */
  now_ms: number;
  /** All parts, in a fixed order. */
  parts: Part[];
  /** What is going on, in one line: what the page and the terminal begin with. */
  posture: Posture;
  /** Log lines rejected since the start, by reason. */
  rejected: Record<string, number>;
  /** Slowed clients. */
  slowed: SlowedCounts;
  /** Every source. */
  sources: SourceStatus[];
  /** Start of the agent. */
  started_ms: number;
  /** Totals since the first start, across restarts. */
  totals: Totals;
  /** The agent's version. */
  version: string;
  /** Clients that rules would ban, but that are let through because too many are hit at once, or in a pause. */
  withheld: Withheld;
}

/** What became of a change of this host that something had to let through: a gate, a canary, an upgrade. */
export type Step = "canary_started" | "gate_blocked" | "canary_ended" | "canary_refused" | "canary_promoted" | "config_rolled_back" | "upgraded" | "upgrade_refused" | "upgrade_rolled_back";

/** The term of a ban. */
export type Term = "next" | "permanent" | { secs: number };

/** Totals over the lifetime of the database, across restarts. */
export interface Totals {
  bans: number;
  /** Requests with a status of 400 or more. */
  errors: number;
  lifts: number;
  /** Lines that were not counted as requests. */
  rejected: number;
  requests: number;
  /** Malformed lines that the tolerant reader recovered. */
  salvaged: number;
}

/** The transport that a request came over. */
export type Transport = "unix" | "tcp";

/** What the word of another host is worth. */
export type Trust = "full" | "limited" | "harmful" | "forgotten";

/** Bans to lift. The windows of the clients are cleared, so that old requests do not ban them again at once. */
export interface UnbanRequest {
  /** Addresses or networks. */
  clients: Client[];
  /** Forget the offences of these clients as well, so that they begin afresh. */
  forget?: boolean;
  /** Lift only bans that were made by hand on this host: what rules and other hosts want stays, and offences do. */
  here?: boolean;
  /** The reason, for the record. */
  reason?: string | null;
}

/** Somebody else who wants a client banned. */
export interface Wanted {
  /** The client or network that it names. */
  client: Client;
  /** Whether its word counts here. */
  counts: boolean;
  /** Until when; null for ever. */
  ends_ms: number | null;
  /** `fleet:web-3`, `blocklist:drop`. */
  origin: string;
  /** Since when, in milliseconds since the Unix epoch. */
  since_ms: number;
  /** Its words. */
  why: string;
}

/** The warm-up: until it ends, only what needs no baseline is banned (floods, probing, password guessing). */
export interface WarmUp {
  /** Seconds left, by the log's time. */
  remaining_secs: number;
}

/** The permissions of the caller. The page sends a token here to find out whether it is the right one (401 if not). */
export interface Whoami {
  /** True if the credentials of this request allow changes. */
  may_change: boolean;
  /** True if reading needs the token as well: the agent listens beyond loopback. */
  token_for_reads: boolean;
  /** How the request came. */
  transport: Transport;
}

/** A client's window. */
export interface Window {
  /** Requests with an error status. */
  errors: number;
  /** Requests per second. */
  rate: number;
  requests: number;
  /** Length in seconds. */
  secs: number;
}

/** Clients that rules would ban, but that the blast-radius limit or a pause lets through. */
export interface Withheld {
  /** Number of clients. */
  clients: number;
  /** The networks with the most of them. */
  networks: WithheldNetwork[];
}

/** A network with clients that are let through. */
export interface WithheldNetwork {
  /** Number of clients in it. */
  clients: number;
  /** The network: a /24 or /48, or the client where it is the only one. */
  network: Client;
}

/** Reads: path to query and answer. */
export interface Reads {
  "/allow": { query: Record<string, never>; answer: AllowList };
  "/bans": { query: { cursor?: string; imported?: boolean; limit?: number; offset?: number; q?: string; rule?: RuleName; site?: string; sort?: BanSort }; answer: BanPage };
  "/canary": { query: Record<string, never>; answer: CanaryReport };
  "/clients": { query: { n?: number }; answer: ClientList };
  "/config": { query: Record<string, never>; answer: Config };
  "/events/recent": { query: { before?: number; kind?: string; limit?: number }; answer: EventList };
  "/explain": { query: { at?: number; client: string }; answer: Explanation };
  "/export": { query: { format?: EdgeFormat }; answer: CloudflareItem[] };
  "/fleet": { query: Record<string, never>; answer: FleetView };
  "/history": { query: { range?: HistoryRange }; answer: History };
  "/labels": { query: Record<string, never>; answer: Labels };
  "/labs": { query: Record<string, never>; answer: LabList };
  "/sites": { query: Record<string, never>; answer: SiteList };
  "/status": { query: Record<string, never>; answer: Status };
  "/whoami": { query: Record<string, never>; answer: Whoami };
}

/** Changes: path to body and answer. */
export interface Changes {
  "/allow": { body: AllowRequest; answer: Reply };
  "/ban": { body: BanRequest; answer: Reply };
  "/canary/abort": { body: Record<string, never>; answer: CanaryReport };
  "/canary/promote": { body: PromotionRequest; answer: Promotion };
  "/canary/start": { body: CanaryRequest; answer: CanaryReport };
  "/disallow": { body: DisallowRequest; answer: Reply };
  "/fleet/forget": { body: OriginRequest; answer: Reply };
  "/fleet/trust": { body: OriginRequest; answer: Reply };
  "/import": { body: ImportRequest; answer: Reply };
  "/pause": { body: PauseRequest; answer: PauseReport };
  "/record": { body: ChangeRecord; answer: ChangeRecord };
  "/reload": { body: Record<string, never>; answer: ReloadReport };
  "/resume": { body: ResumeRequest; answer: ResumeReport };
  "/unban": { body: UnbanRequest; answer: Reply };
}

/** Streams: path to the data of each kind of message. */
export interface Streams {
  "/events": { gap: Gap; notice: Event; snapshot: Snapshot };
}
