// The shapes of `/api/v1` that the page uses; `docs/openapi.json` is their source and says what each means.

export type PartState = "active" | "waiting" | "degraded" | "off";
export type Severity = "info" | "warning" | "critical";
export type ClientState = "normal" | "anomalous" | "banned" | "allowed";
export type BanSort = "since" | "ends" | "client";
export type HistoryRange = "30m" | "24h";

export interface Part {
  part: string;
  state: PartState;
  text: string;
}

export interface SourceStatus {
  source: string;
  lines: number;
  bytes: number;
  rejected: number;
  salvaged: number;
  logs: number | null;
  lag_bytes: number | null;
  lag_secs: number | null;
  last_line_ms: number | null;
}

export interface Status {
  version: string;
  now_ms: number;
  started_ms: number;
  dry_run: boolean;
  health: "ok" | "waiting" | "degraded";
  parts: Part[];
  sources: SourceStatus[];
  detector: DetectorStatus;
  global: GlobalRate;
  baseline: Baseline;
  hour_profile: HourSlot[];
  totals: Totals;
  bans: { active: number; permanent: number };
  dropped: Dropped;
  agent: { cpu_percent: number; memory_bytes: number; uptime_secs: number; threads: number };
  host: Host;
}

export interface DetectorStatus {
  profile: string;
  reference: string;
  warm_up: { remaining_secs: number } | null;
  frozen: boolean;
  blast_radius: string | null;
  clients: number;
  max_clients: number;
  evicted: number;
}

export interface GlobalRate {
  rate: number;
  error_rate: number;
  window_secs: number;
  anomaly: { since_ms: number; condition: string } | null;
}

export interface Baseline {
  mean: number;
  stddev: number;
  error_mean: number;
  source: string;
  samples: number;
  client_mean: number | null;
  client_stddev: number | null;
}

export interface HourSlot {
  hour: number;
  mean: number | null;
  stddev: number | null;
}

export interface Totals {
  requests: number;
  errors: number;
  rejected: number;
  salvaged: number;
  bans: number;
  lifts: number;
}

export interface Dropped {
  packets: number;
  bytes: number;
  packets_per_sec: number;
  bytes_per_sec: number;
  by_enforcer: { enforcer: string; packets: number; bytes: number }[];
}

export interface Host {
  name: string;
  cpu_percent: number;
  cores: number;
  load_1min: number;
  memory_used_bytes: number;
  memory_total_bytes: number;
  uptime_secs: number;
}

export interface Measure {
  name: string;
  value: number;
  threshold: number;
}

export interface PathCount {
  path: string;
  count: number;
}

export interface Evidence {
  rule: string;
  condition: string;
  rate: number;
  mean: number;
  stddev: number;
  z_score: number;
  threshold: number;
  tightened: boolean;
  baseline: string;
  window_secs: number;
  requests: number;
  errors: number;
  at_secs: number;
  measures: Measure[];
  top_paths: PathCount[];
}

export interface Ban {
  client: string;
  serial: number;
  since_ms: number;
  ends_ms: number | null;
  remaining_secs: number | null;
  offence: number;
  rule: string;
  reason: string | null;
  words: string;
  evidence: Evidence | null;
  dropped: { packets: number; bytes: number } | null;
  enforced_by: string[] | null;
}

export interface BanPage {
  bans: Ban[];
  total: number;
  next: string | null;
  now_ms: number;
}

export interface ClientActivity {
  client: string;
  rate: number;
  requests: number;
  errors: number;
  z_score: number;
  state: ClientState;
}

export interface ClientList {
  window_secs: number;
  now_ms: number;
  clients: ClientActivity[];
}

export interface Snapshot {
  status: Status;
  clients: ClientList;
}

export interface AgentEvent {
  id: number;
  at_ms: number;
  kind: string;
  severity: Severity;
  client: string | null;
  text: string;
}

export interface EventList {
  events: AgentEvent[];
  next: number | null;
}

export interface Mark {
  at_ms: number;
  kind: "bans" | "anomaly_started" | "anomaly_ended";
  count: number;
  text: string;
}

type Column = (number | null)[];

export interface History {
  range: HistoryRange;
  step_secs: number;
  at_ms: number[];
  rate: Column;
  error_rate: Column;
  mean: Column;
  stddev: Column;
  dropped_packets_per_sec: Column;
  dropped_bytes_per_sec: Column;
  active_bans: Column;
  marks: Mark[];
}

export interface RuleState {
  rule: string;
  fires: boolean;
  not_asked?: string | null;
  measures: Measure[];
  words: string;
}

export interface PastBan {
  serial: number;
  since_ms: number;
  ended_ms: number;
  rule: string;
  lifted: string;
  reason: string | null;
}

export interface Explanation {
  client: string;
  at_ms: number;
  words: string;
  ban: Ban | null;
  allowed: { network: string; reason: string; words: string }[];
  window: { secs: number; requests: number; errors: number; rate: number } | null;
  reference: { mean: number; stddev: number; source: string };
  rules: RuleState[];
  top_paths: PathCount[];
  offences: { count: number; last_ms: number | null };
  history: PastBan[];
}

export interface Reply {
  results: { client: string; ok: boolean; message: string }[];
}

export interface Whoami {
  transport: string;
  may_change: boolean;
  token_for_reads: boolean;
}
