//! `/metrics` in Prometheus' text format 0.0.4, with names and units by its conventions. No label has a client in it: an
//! attack would make a series for each. No client library: all values are read from the engine at the time of the scrape,
//! so there is nothing to register.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::convert::SOURCE_STATES;
use super::feed::Counts;
use super::live::Reading;
use super::types::{PartStateName, SourceStatus, Status};
use crate::blocklist::Numbers;
use crate::edge::cloudflare::ListCounts;
use crate::fleet;
use crate::latencies::Latencies;
use crate::text;
use shield_engine::action::LiftReason;
use shield_engine::request::Rejected;
use shield_engine::verdict::Rule;

const LIFTS: [LiftReason; 4] =
    [LiftReason::Expired, LiftReason::Operator, LiftReason::Allowed, LiftReason::Withdrawn];

pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Counters of the API itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ApiCounts {
    /// Answers by status class, 1xx to 5xx.
    pub answers: [u64; 5],
    /// Event streams open.
    pub streams: u64,
}

/// Numbers that are read without asking the engine.
pub(crate) struct LiveNumbers<'l> {
    pub has_canary: bool,
    pub latencies: Option<&'l Latencies>,
}

pub(crate) fn render(reading: &Reading, counts: &Counts, api: ApiCounts, live: &LiveNumbers<'_>) -> String {
    let mut page = Page::default();
    let status = &reading.status;
    agent(&mut page, reading);
    traffic(&mut page, reading);
    if let Some(counts) = &reading.view.cloudflare {
        cloudflare(&mut page, counts);
    }
    if let Some(numbers) = &reading.view.fleet {
        fleet(&mut page, numbers);
    }
    blocklists(&mut page, &reading.view.blocklists);
    baseline(&mut page, status);
    bans(&mut page, status, counts);
    drops(&mut page, status);
    let backlog = "Records that are not in the database yet. A backlog that does not shrink means that it cannot be written.";
    page.gauge("shield_store_backlog_records", backlog, reading.view.store_backlog as f64);
    page.family("shield_part_state", "gauge", "1 if a part is in this state, otherwise 0.");
    for part in &status.parts {
        for state in PartStateName::ALL {
            let labels = [("part", part.part.as_str()), ("state", state.name())];
            page.sample("shield_part_state", &labels, f64::from(u8::from(part.state == state)));
        }
    }
    page.family("shield_api_responses_total", "counter", "Answers of the HTTP API by status class.");
    for (class, answers) in ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(api.answers) {
        page.sample("shield_api_responses_total", &[("class", class)], answers as f64);
    }
    page.gauge("shield_api_event_streams", "Open event streams.", api.streams as f64);
    let mode = match (live.has_canary, status.dry_run) {
        (true, _) => 2.0,
        (false, true) => 1.0,
        (false, false) => 0.0,
    };
    page.gauge(
        "shield_mode",
        "0 enforces bans, 1 only observes (a dry run), 2 while a canary runs beside.",
        mode,
    );
    live.latencies.iter().for_each(|latencies| histograms(&mut page, latencies));
    page.text
}

fn histograms(page: &mut Page, latencies: &Latencies) {
    let families = [
        (
            "shield_line_to_verdict_seconds",
            "From the delivery of a line by its source to its verdict.",
            &latencies.line_to_verdict,
        ),
        (
            "shield_verdict_to_kernel_seconds",
            "From a verdict to the first enforcer that keeps the client out.",
            &latencies.verdict_to_kernel,
        ),
        (
            "shield_source_lag_seconds",
            "From the time that a live line has to its verdict; the log's times are whole seconds.",
            &latencies.source_lag,
        ),
    ];
    for (name, help, histogram) in families {
        page.family(name, "histogram", help);
        let (buckets, sum) = histogram.read();
        let count = buckets.last().map_or(0, |(_, count)| *count);
        for (bound, count) in buckets {
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
            page.sample(&format!("{name}_bucket"), &[("le", &bound)], count as f64);
        }
        page.sample(&format!("{name}_sum"), &[], sum);
        page.sample(&format!("{name}_count"), &[], count as f64);
    }
}

fn agent(page: &mut Page, reading: &Reading) {
    let (status, vitals) = (&reading.status, &reading.vitals);
    page.family("shield_build_info", "gauge", "Always 1; the version is a label.");
    page.sample("shield_build_info", &[("version", &status.version)], 1.0);
    page.gauge(
        "shield_dry_run",
        "1 in a dry run, in which bans are not enforced, otherwise 0.",
        flag(status.dry_run),
    );
    page.counter("process_cpu_seconds_total", "User and system CPU time spent in seconds.", vitals.cpu_secs);
    let memory = vitals.agent.memory_bytes as f64;
    page.gauge("process_resident_memory_bytes", "Resident memory size in bytes.", memory);
    page.gauge("process_open_fds", "Number of open file descriptors.", vitals.open_files as f64);
    page.gauge("process_threads", "Number of threads.", vitals.agent.threads as f64);
    let started = status.started_ms as f64 / 1000.0;
    page.gauge(
        "process_start_time_seconds",
        "Start time of the process since the Unix epoch in seconds.",
        started,
    );
}

fn fleet(page: &mut Page, numbers: &fleet::Numbers) {
    let fleet::Numbers { is_connected, own, waiting, heard, newer, unread, .. } = numbers;
    let connected = "1 while this host is connected to the fleet's servers, otherwise 0.";
    page.gauge("shield_fleet_connected", connected, f64::from(u8::from(*is_connected)));
    page.gauge(
        "shield_fleet_own_bans",
        "Bans of this host in force, which the others are told.",
        *own as f64,
    );
    page.gauge("shield_fleet_waiting", "Bans and unbans that the fleet does not know yet.", *waiting as f64);
    for (name, help, value) in [
        ("shield_fleet_heard_total", "Statements of other hosts since the start.", heard),
        ("shield_fleet_newer_total", "Messages that a newer Shield wrote.", newer),
        ("shield_fleet_unread_total", "Messages that are none of a fleet's.", unread),
    ] {
        page.family(name, "counter", help);
        page.sample(name, &[], *value as f64);
    }
}

fn blocklists(page: &mut Page, lists: &BTreeMap<String, Numbers>) {
    if lists.is_empty() {
        return;
    }
    type Value = fn(&Numbers) -> f64;
    let families: [(&str, &str, Value); 5] = [
        ("shield_blocklist_clients", "Clients on a list that is read by URL.", |of| of.clients as f64),
        (
            "shield_blocklist_read_timestamp_seconds",
            "When the list was last read, or was found unchanged; 0 for never.",
            |of| (of.read_ms / 1000) as f64,
        ),
        ("shield_blocklist_failures", "Readings in a row that failed.", |of| of.failures as f64),
        (
            "shield_blocklist_hit_clients",
            "Clients on the list whose packets were dropped since their bans.",
            |of| of.hit_clients as f64,
        ),
        (
            "shield_blocklist_dropped_packets",
            "Packets dropped of clients on the list, in their bans in force.",
            |of| of.dropped_packets as f64,
        ),
    ];
    for (name, help, value) in families {
        page.family(name, "gauge", help);
        for (list, numbers) in lists {
            page.sample(name, &[("list", list.as_str())], value(numbers));
        }
    }
}

fn cloudflare(page: &mut Page, counts: &ListCounts) {
    let items = "Clients of this host in the list at Cloudflare.";
    page.gauge("shield_cloudflare_items", items, counts.items as f64);
    let pending = "Changes of the list at Cloudflare that are not made yet.";
    page.gauge("shield_cloudflare_pending", pending, counts.pending as f64);
    let left_out = "Banned clients for which the list at Cloudflare has no place.";
    page.gauge("shield_cloudflare_left_out", left_out, counts.left_out as f64);
}

fn traffic(page: &mut Page, reading: &Reading) {
    let status = &reading.status;
    let totals = &status.totals;
    page.counter("shield_requests_total", "Requests counted, across restarts.", totals.requests as f64);
    page.counter(
        "shield_request_errors_total",
        "Requests with an error status, across restarts.",
        totals.errors as f64,
    );
    page.family("shield_lines_rejected_total", "counter", "Log lines rejected since the start, by reason.");
    for reason in Rejected::ALL {
        let count = reading.view.rejected[reason.index()];
        page.sample("shield_lines_rejected_total", &[("reason", reason.name())], count as f64);
    }
    sources(page, &status.sources);
    source_states(page, &status.sources);
    let salvaged = totals.salvaged as f64;
    page.counter(
        "shield_lines_salvaged_total",
        "Log lines recovered by the tolerant reader, across restarts.",
        salvaged,
    );
    let rate = "Requests per second of the whole server over the last 60 s.";
    page.gauge("shield_request_rate", rate, status.global.rate);
    let error_rate = "Requests with an error status per second over the last 60 s.";
    page.gauge("shield_request_error_rate", error_rate, status.global.error_rate);
    let detector = &reading.view.detector;
    page.gauge("shield_clients", "Clients in the detector's table.", detector.clients_tracked as f64);
    page.gauge("shield_clients_limit", "Capacity of the detector's table.", reading.view.max_clients as f64);
    page.gauge(
        "shield_clients_memory_bytes",
        "Approximate memory of the detector's table.",
        detector.clients_bytes as f64,
    );
    let evicted = "Clients evicted from the full table since the start.";
    page.counter("shield_clients_evicted_total", evicted, detector.evicted as f64);
}

fn source_states(page: &mut Page, sources: &[SourceStatus]) {
    page.family("shield_source_state", "gauge", "1 if the source is in this state, otherwise 0.");
    for source in sources {
        for state in SOURCE_STATES {
            let labels = [("source", source.source.as_str()), ("state", state)];
            page.sample("shield_source_state", &labels, f64::from(u8::from(source.state == state)));
        }
    }
    let rejected = "Log lines of the source rejected since start, by reason.";
    page.family("shield_source_lines_rejected_total", "counter", rejected);
    for source in sources {
        for (reason, count) in &source.rejected_by {
            let labels = [("source", source.source.as_str()), ("reason", reason.as_str())];
            page.sample("shield_source_lines_rejected_total", &labels, *count as f64);
        }
    }
}

/// One sample a source, so the configuration bounds their number: a pattern of a thousand logs is one source.
fn sources(page: &mut Page, sources: &[SourceStatus]) {
    let lines = |source: &SourceStatus| Some(source.lines as f64);
    let lag = |source: &SourceStatus| source.lag_bytes.map(|bytes| bytes as f64);
    let last_line = |source: &SourceStatus| source.last_line_ms.map(|ms| ms as f64 / 1000.0);
    type Value<'a> = &'a dyn Fn(&SourceStatus) -> Option<f64>;
    let families: [(&str, &str, &str, Value<'_>); 3] = [
        (
            "shield_source_lines_total",
            "counter",
            "Log lines read since start, refused ones included.",
            &lines,
        ),
        ("shield_source_lag_bytes", "gauge", "Bytes in the source's logs that are not read yet.", &lag),
        (
            "shield_source_last_line_timestamp_seconds",
            "gauge",
            "When the last line read was logged, by the log's times, since the Unix epoch.",
            &last_line,
        ),
    ];
    for (name, kind, help, value) in families {
        page.family(name, kind, help);
        for source in sources {
            if let Some(value) = value(source) {
                page.sample(name, &[("source", &source.source)], value);
            }
        }
    }
}

fn baseline(page: &mut Page, status: &Status) {
    let mean = "Learned mean of the global rate in requests per second.";
    page.gauge("shield_baseline_mean_request_rate", mean, status.baseline.mean);
    let stddev = "Learned standard deviation of the global rate in requests per second.";
    page.gauge("shield_baseline_stddev_request_rate", stddev, status.baseline.stddev);
    let warm_up = status.detector.warm_up.map_or(0, |warm_up| warm_up.remaining_secs);
    page.gauge(
        "shield_warm_up_remaining_seconds",
        "Seconds left of the warm-up; 0 after it.",
        warm_up as f64,
    );
    let anomaly = flag(status.global.anomaly.is_some());
    page.gauge("shield_global_anomaly", "1 during a global anomaly, otherwise 0.", anomaly);
    let frozen = flag(status.detector.frozen);
    page.gauge(
        "shield_baseline_frozen",
        "1 while an anomaly keeps the baseline from learning, otherwise 0.",
        frozen,
    );
    let stopped = flag(status.detector.blast_radius.is_some() || status.detector.paused_until_ms.is_some());
    page.gauge(
        "shield_banning_stopped",
        "1 while the blast-radius limit or a pause stops automatic bans, otherwise 0.",
        stopped,
    );
}

fn bans(page: &mut Page, status: &Status, counts: &Counts) {
    page.gauge("shield_bans_active", "Bans in force.", status.bans.active as f64);
    page.gauge("shield_bans_permanent", "Permanent bans in force.", status.bans.permanent as f64);
    page.gauge(
        "shield_slowed_active",
        "Clients slowed now: let through no faster than their limits.",
        status.slowed.active as f64,
    );
    page.counter("shield_slowed_total", "Clients slowed since start.", status.slowed.since_start as f64);
    page.family("shield_bans_total", "counter", "Bans made since start, by rule.");
    // Each from 0 on, because Prometheus sees no increase in a series that starts at 1.
    for rule in Rule::ALL {
        let count = counts.bans.get(&rule).copied().unwrap_or(0);
        page.sample("shield_bans_total", &[("rule", rule.name())], count as f64);
    }
    page.family("shield_lifts_total", "counter", "Bans ended since start, by reason.");
    for reason in LIFTS {
        let count = counts.lifts.get(text::lift_reason_name(reason)).copied().unwrap_or(0);
        page.sample("shield_lifts_total", &[("reason", text::lift_reason_name(reason))], count as f64);
    }
    let help = "Decisions of the policy about verdicts since start, by outcome. One that spares the same client again counts once in ten minutes.";
    page.family("shield_policy_decisions_total", "counter", help);
    for outcome in text::POLICY_OUTCOMES {
        let count = counts.decisions.get(outcome).copied().unwrap_or(0);
        page.sample("shield_policy_decisions_total", &[("outcome", outcome)], count as f64);
    }
    page.family("shield_notices_total", "counter", "Notices since start, by kind.");
    for kind in text::KINDS {
        let count = counts.notices.get(kind).copied().unwrap_or(0);
        page.sample("shield_notices_total", &[("kind", kind)], count as f64);
    }
}

fn drops(page: &mut Page, status: &Status) {
    let families = [
        ("shield_dropped_packets_total", "Packets dropped since start."),
        ("shield_dropped_bytes_total", "Bytes dropped since start."),
    ];
    for (at, (name, help)) in families.into_iter().enumerate() {
        page.family(name, "counter", help);
        for drops in &status.dropped.by_enforcer {
            let value = [drops.packets, drops.bytes][at];
            page.sample(name, &[("enforcer", drops.enforcer.name())], value as f64);
        }
    }
}

fn flag(is_set: bool) -> f64 {
    f64::from(u8::from(is_set))
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> =
            labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escape(text))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.put(format_args!("{name}{labels} {value}\n"));
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("writing to a String does not fail");
    }
}

/// Escapes a label's value by the rules of the text format.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rule_is_left_out() {
        // Each from 0 on, because Prometheus sees no increase in a series that starts at 1.
        for rule in Rule::ALL {
            // A new rule does not compile here until it is listed above as well.
            match rule {
                Rule::ZScore | Rule::RateMultiplier | Rule::ErrorSurge | Rule::Probing | Rule::Flood => {}
                Rule::Behaviour | Rule::Operator | Rule::Imported | Rule::Network | Rule::Remote => {}
                Rule::Blocklist | Rule::Crowdsec => {}
            }
        }
        assert_eq!(std::collections::BTreeSet::from(Rule::ALL).len(), Rule::ALL.len());
    }

    #[test]
    fn a_source_has_a_sample_for_whatever_is_known_of_it() {
        let file = SourceStatus {
            source: "/var/log/nginx/access.log".into(),
            lines: 12,
            bytes: 1_000,
            rejected: 2,
            salvaged: 0,
            logs: Some(1),
            lag_bytes: Some(1_288_490_189),
            lag_secs: Some(10_800),
            last_line_ms: Some(1_795_530_901_000),
            format: None,
            lines_per_sec: 1.0,
            rejected_percent: None,
            rejected_by: [("malformed".to_owned(), 2)].into(),
            state: "refused".into(),
        };
        let socket = SourceStatus {
            source: "/run/shield.sock".into(),
            lines: 0,
            logs: None,
            lag_bytes: None,
            lag_secs: None,
            last_line_ms: None,
            ..file.clone()
        };
        let mut page = Page::default();
        sources(&mut page, &[file, socket]);
        let expected = r#"
# HELP shield_source_lines_total Log lines read since start, refused ones included.
# TYPE shield_source_lines_total counter
shield_source_lines_total{source="/var/log/nginx/access.log"} 12
shield_source_lines_total{source="/run/shield.sock"} 0
# HELP shield_source_lag_bytes Bytes in the source's logs that are not read yet.
# TYPE shield_source_lag_bytes gauge
shield_source_lag_bytes{source="/var/log/nginx/access.log"} 1288490189
# HELP shield_source_last_line_timestamp_seconds When the last line read was logged, by the log's times, since the Unix epoch.
# TYPE shield_source_last_line_timestamp_seconds gauge
shield_source_last_line_timestamp_seconds{source="/var/log/nginx/access.log"} 1795530901
"#;
        assert_eq!(page.text, expected.trim_start());
    }

    #[test]
    fn a_source_has_one_state() {
        let refused = SourceStatus {
            source: "/a.log".into(),
            lines: 12,
            bytes: 1_000,
            rejected: 2,
            salvaged: 0,
            logs: None,
            lag_bytes: None,
            lag_secs: None,
            last_line_ms: None,
            format: None,
            lines_per_sec: 1.0,
            rejected_percent: None,
            rejected_by: [("malformed".to_owned(), 2)].into(),
            state: "refused".into(),
        };
        let mut page = Page::default();
        source_states(&mut page, &[refused]);
        let lines: Vec<&str> = page.text.lines().filter(|line| line.ends_with("} 1")).collect();
        assert_eq!(lines, ["shield_source_state{source=\"/a.log\",state=\"refused\"} 1"]);
        let rejected = "shield_source_lines_rejected_total{source=\"/a.log\",reason=\"malformed\"} 2\n";
        assert!(page.text.ends_with(rejected), "{}", page.text);
    }

    #[test]
    fn a_labels_value_cannot_break_out() {
        let mut page = Page::default();
        page.sample("a", &[("part", "source:/x\"} 1\nb\\")], 0.5);
        assert_eq!(page.text, "a{part=\"source:/x\\\"} 1\\nb\\\\\"} 0.5\n");
    }
}
