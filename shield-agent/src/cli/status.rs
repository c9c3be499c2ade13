//! `shield-agent status`: the state of the agent, its parts and the traffic on one screen.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::Exit;
use super::client::AgentClient;
use super::follow;
use super::print::{self, Colour, Style};
use super::reply::{Format, JsonArg};
use crate::api::convert::detector_state;
use crate::api::operation::Operation;
use crate::api::types::{CanaryReport, Detector, Health, Part, PartStateName, PostureState, Status};
use crate::text::{self, bytes, count, counted, duration, per_sec, percent};

#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    json: JsonArg,
    /// Write a sample each ten seconds into a file that stays bounded, until it is ended
    #[arg(long, conflicts_with = "json")]
    follow: bool,
    /// The file of --follow
    #[arg(long, value_name = "FILE", default_value = "history.jsonl", requires = "follow")]
    out: PathBuf,
    /// The time between two samples of --follow
    #[arg(long, value_name = "TIME", default_value = "10s", requires = "follow", value_parser = super::args::seconds)]
    every: u64,
    /// End --follow after this many samples
    #[arg(long, value_name = "N", requires = "follow")]
    count: Option<u64>,
}

pub(crate) async fn run(args: &StatusArgs, client: &AgentClient) -> Result<Exit> {
    if args.follow {
        return follow::follow(&args.out, Duration::from_secs(args.every.max(1)), args.count, client).await;
    }
    let status: Status = client.get(Operation::Status, &[]).await?;
    match args.json.format() {
        Format::Json => print::json(&status)?,
        Format::Text => {
            // Whoever is in trouble needs the rest of it all the same.
            let canary = match client.get::<CanaryReport>(Operation::Canary, &[]).await {
                Ok(report) => super::canary::summary(&report),
                Err(error) => Some(format!("could not be asked: {error}")),
            };
            print::text(&render(&status, canary.as_deref(), Colour::of_stdout(), print::columns()))?;
        }
    }
    Ok(if status.health == Health::Degraded { Exit::Degraded } else { Exit::Done })
}

pub(crate) fn render(
    status: &Status,
    canary: Option<&str>,
    colour: Colour,
    columns: Option<usize>,
) -> String {
    let headline = headline(status, colour);
    let mut lines: Vec<String> = headline.lines().map(|line| print::wrapped(line, 2, columns)).collect();
    lines.push(String::new());
    let width = status.parts.iter().map(|part| part.part.chars().count()).max().unwrap_or(0).max(LABEL_CHARS);
    let width = if columns.is_some() { width.min(LABEL_CHARS_ON_TERMINAL) } else { width };
    let row = |label: &str, width: usize, text: &str| row(label, width, text, columns);
    let part_line = |part: &Part, width, colour| row(&part.part, width, &part_text(part, colour));
    lines.extend(status.parts.iter().map(|part| part_line(part, width, colour)));
    lines.push(row("detector", width, &detector(&status.detector, colour)));
    lines.extend(canary.map(|text| row("canary", width, text)));
    lines.push(String::new());
    let facts = [
        ("traffic", traffic(status, colour)),
        ("baseline", baseline(status)),
        ("bans", bans(status)),
        ("slowed", slowed(status)),
    ];
    let withheld = withheld(status).map(|text| ("withheld", text));
    let more = [
        ("dropped", dropped(status)),
        ("lines", lines_read(status)),
        ("agent", agent(status)),
        ("host", host(status)),
    ];
    lines.extend(facts.into_iter().chain(withheld).chain(more).map(|(label, text)| row(label, width, &text)));
    lines.join("\n") + "\n"
}

/// Minimum width of the labels.
const LABEL_CHARS: usize = 8;

/// Width that labels get on a terminal. A longer one, the path of a log, has a line of its own.
const LABEL_CHARS_ON_TERMINAL: usize = 14;

fn row(label: &str, width: usize, text: &str, columns: Option<usize>) -> String {
    let indent = width + 2;
    if label.chars().count() > width {
        let below = print::wrapped(&format!("{:indent$}{text}", ""), indent, columns);
        return format!("{label}\n{below}");
    }
    print::wrapped(&format!("{label:<width$}  {text}"), indent, columns)
}

fn headline(status: &Status, colour: Colour) -> String {
    let posture = &status.posture;
    let title = colour.paint(posture_style(posture.state), &posture.title);
    let mode = if status.dry_run { ", dry run: nothing is dropped" } else { "" };
    let name = format!("shield {}, up {}{mode}", status.version, duration(status.agent.uptime_secs));
    format!("{title}: {}\n{}", posture.text, colour.paint(Style::Dim, &name))
}

fn posture_style(state: PostureState) -> Style {
    match state {
        PostureState::Quiet => Style::Good,
        PostureState::Learning | PostureState::AttackHandled | PostureState::Unusual => Style::Warn,
        PostureState::Degraded | PostureState::AttackUnhandled | PostureState::Blind => Style::Bad,
    }
}

/// Who gets through although a rule fired, and what to do about it.
fn withheld(status: &Status) -> Option<String> {
    let first = status.withheld.networks.first()?;
    let networks: Vec<String> = status
        .withheld
        .networks
        .iter()
        .take(WITHHELD_NETWORKS)
        .map(|network| format!("{} ({})", network.network, count(network.clients)))
        .collect();
    Some(format!(
        "{} let through: {}; ban one with: shield-agent ban {} --for 1h, or all with: {}",
        counted(status.withheld.clients, "client"),
        networks.join(", "),
        first.network,
        text::posture::RESUME
    ))
}

/// Networks of withheld clients in one line.
const WITHHELD_NETWORKS: usize = 5;

fn part_text(part: &Part, colour: Colour) -> String {
    let style = match part.state {
        PartStateName::Active => Style::Good,
        PartStateName::Waiting => Style::Warn,
        PartStateName::Degraded => Style::Bad,
        PartStateName::Off => Style::Dim,
    };
    let state = format!("{:<8}", part.state.name());
    format!("{}  {}", colour.paint(style, &state), part.text)
}

fn detector(detector: &Detector, colour: Colour) -> String {
    let (style, state) = match (&detector.blast_radius, &detector.warm_up) {
        _ if detector.paused_until_ms.is_some() => (Style::Bad, "paused"),
        (Some(_), _) => (Style::Bad, "stopped"),
        (None, Some(_)) => (Style::Warn, "warm-up"),
        (None, None) if detector.frozen => (Style::Warn, "frozen"),
        (None, None) => (Style::Good, "ready"),
    };
    let (_, text) = detector_state(detector);
    let clients = format!("tracks {} of {} clients", count(detector.clients), count(detector.max_clients));
    format!("{}  {text}; {clients}", colour.paint(style, &format!("{state:<8}")))
}

fn traffic(status: &Status, colour: Colour) -> String {
    let global = &status.global;
    let rate = format!("{}, {:.2} errors/s", per_sec(global.rate), global.error_rate);
    match &global.anomaly {
        Some(anomaly) => {
            format!("{rate}; {}", colour.paint(Style::Bad, &format!("anomaly: {}", anomaly.condition)))
        }
        None => rate,
    }
}

fn baseline(status: &Status) -> String {
    let baseline = &status.baseline;
    format!(
        "{} ± {:.2} ({}, {} of samples)",
        per_sec(baseline.mean),
        baseline.stddev,
        text::baseline_source(&baseline.source),
        duration(baseline.samples)
    )
}

fn slowed(status: &Status) -> String {
    let slowed = status.slowed;
    // An IPv6 network that is slowed as a whole counts once.
    format!(
        "{} now, {} since the start",
        text::plural(slowed.active, "client or network", "clients or networks"),
        count(slowed.since_start)
    )
}

fn bans(status: &Status) -> String {
    let (bans, totals) = (status.bans, status.totals);
    format!(
        "{} in force, {} of them permanent; {} made, {} ended in all",
        count(bans.active),
        count(bans.permanent),
        count(totals.bans),
        count(totals.lifts)
    )
}

fn dropped(status: &Status) -> String {
    let dropped = &status.dropped;
    format!(
        "{}, {}; now {:.1} packets/s",
        counted(dropped.packets, "packet"),
        bytes(dropped.bytes),
        dropped.packets_per_sec
    )
}

fn lines_read(status: &Status) -> String {
    let totals = status.totals;
    format!(
        "{}, {} errors; {} rejected, {} recovered",
        counted(totals.requests, "request"),
        percent(totals.errors, totals.requests),
        counted(totals.rejected, "line"),
        count(totals.salvaged)
    )
}

fn agent(status: &Status) -> String {
    let agent = &status.agent;
    format!("{:.1} % of a CPU, {}", agent.cpu_percent, bytes(agent.memory_bytes))
}

fn host(status: &Status) -> String {
    let host = &status.host;
    format!(
        "{}: {:.1} % of {}, load {:.2}, {} of {}, up {}",
        host.name,
        host.cpu_percent,
        counted(host.cores, "CPU"),
        host.load_1min,
        bytes(host.memory_used_bytes),
        bytes(host.memory_total_bytes),
        duration(host.uptime_secs)
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::api::types::{
        AgentVitals, Anomaly, BanCounts, Baseline, Dropped, GlobalRate, HostVitals, Posture, Seconds,
        SlowedCounts, WarmUp, Withheld, WithheldNetwork,
    };
    use shield_engine::action::Totals;

    /// All works, and nothing happens.
    pub(crate) fn calm() -> Status {
        let mut status = status();
        status.parts.truncate(1);
        status.dropped.packets_per_sec = 0.0;
        status
    }

    fn status() -> Status {
        let part = |part: &str, state, text: &str| Part {
            part: part.into(),
            label: part.into(),
            state,
            text: text.into(),
        };
        Status {
            version: "0.1.0".into(),
            now_ms: 1_778_537_253_000,
            started_ms: 1_778_530_000_000,
            dry_run: false,
            posture: Posture {
                state: PostureState::Degraded,
                title: "Degraded".into(),
                text: "xdp (no driver support on eth0); 3.20 req/s, usual".into(),
            },
            withheld: Withheld::default(),
            attacks: std::collections::BTreeMap::new(),
            health: Health::Degraded,
            parts: vec![
                part("iptables", PartStateName::Active, "rules, 12 clients"),
                part("xdp", PartStateName::Degraded, "no driver support on eth0"),
                part("source:/var/log/nginx/access.log", PartStateName::Waiting, "the file is not there yet"),
            ],
            detector: Detector {
                state: PartStateName::Active,
                text: String::new(),
                profile: "default".into(),
                reference: "adaptive".into(),
                warm_up: None,
                frozen: false,
                blast_radius: None,
                paused_until_ms: None,
                clients: 1_234,
                max_clients: 1_000_000,
                evicted: 0,
            },
            global: GlobalRate {
                rate: 3.2,
                error_rate: 0.1,
                banned_rate: 0.0,
                window_secs: 60,
                seconds: Seconds::default(),
                anomaly: None,
            },
            baseline: Baseline {
                mean: 2.9,
                stddev: 0.8,
                error_mean: 0.1,
                source: "hour_slot".into(),
                samples: 1_800,
                client_mean: None,
                client_stddev: None,
            },
            hour_profile: Vec::new(),
            totals: Totals { requests: 1_000, errors: 25, rejected: 3, salvaged: 1, bans: 40, lifts: 28 },
            sources: Vec::new(),
            rejected: Default::default(),
            bans: BanCounts { active: 12, permanent: 1 },
            slowed: SlowedCounts { active: 1, since_start: 5 },
            dropped: Dropped {
                packets: 12_345,
                bytes: 1_572_864,
                packets_per_sec: 12.0,
                ..Dropped::default()
            },
            agent: AgentVitals {
                cpu_percent: 1.25,
                memory_bytes: 47_185_920,
                uptime_secs: 7_253,
                threads: 9,
            },
            host: HostVitals {
                name: "web1".into(),
                cpu_percent: 12.0,
                cores: 2,
                load_1min: 0.4,
                memory_used_bytes: 1 << 30,
                memory_total_bytes: 4 << 30,
                uptime_secs: 90_000,
            },
        }
    }

    #[test]
    fn one_screen() {
        let screen = render(&status(), None, Colour::Off, None);
        let expected = "\
Degraded: xdp (no driver support on eth0); 3.20 req/s, usual
shield 0.1.0, up 2 h

iptables                          active    rules, 12 clients
xdp                               degraded  no driver support on eth0
source:/var/log/nginx/access.log  waiting   the file is not there yet
detector                          ready     profile default, adaptive reference; tracks 1,234 of 1,000,000 clients

traffic                           3.20 req/s, 0.10 errors/s
baseline                          2.90 req/s ± 0.80 (this hour of the day, 30 min of samples)
bans                              12 in force, 1 of them permanent; 40 made, 28 ended in all
slowed                            1 client or network now, 5 since the start
dropped                           12,345 packets, 1.5 MiB; now 12.0 packets/s
lines                             1,000 requests, 2.5 % errors; 3 lines rejected, 1 recovered
agent                             1.2 % of a CPU, 45.0 MiB
host                              web1: 12.0 % of 2 CPUs, load 0.40, 1.0 GiB of 4.0 GiB, up 1 d 1 h
";
        assert_eq!(screen, expected);
    }

    #[test]
    fn the_detector_and_the_traffic_show_their_most_important_state_first() {
        let mut status = status();
        status.detector.warm_up = Some(WarmUp { remaining_secs: 90 });
        status.global.anomaly =
            Some(Anomaly { since_ms: 0, condition: "z-score=9.00 > threshold=3.0".into() });
        status.dry_run = true;
        let screen = render(&status, None, Colour::Off, None);
        for expected in ["warm-up   1 min 30 s left", "anomaly: z-score=9.00", "dry run"] {
            assert!(screen.contains(expected), "{screen}");
        }
        status.detector.clients = 0;
        let idle = render(&status, None, Colour::Off, None);
        assert!(idle.contains("no requests to learn from now; 1 min 30 s left once they come"), "{idle}");
        status.detector.blast_radius = Some("21 % of the clients".into());
        assert!(render(&status, None, Colour::Off, None).contains("no automatic bans: 21 % of the clients"));
    }

    #[test]
    fn who_is_let_through_is_listed_by_network() {
        let mut status = status();
        let network = |network: &str, clients| WithheldNetwork { network: network.parse().unwrap(), clients };
        let networks = vec![network("203.0.113.0/24", 47), network("192.0.2.7", 1)];
        status.withheld = Withheld { clients: 48, networks };
        let screen = render(&status, None, Colour::Off, None);
        let expected = "48 clients let through: 203.0.113.0/24 (47), 192.0.2.7 (1); ban one with: shield-agent ban \
                        203.0.113.0/24 --for 1h, or all with: shield-agent resume\n";
        assert!(screen.contains(expected), "{screen}");
    }

    /// History: lines of 120 characters and more, which a terminal of 80 breaks in the middle of words.
    #[test]
    fn it_fits_80_columns_and_a_pipe_gets_whole_lines() {
        let mut status = status();
        let networks = vec![WithheldNetwork { network: "203.0.113.0/24".parse().unwrap(), clients: 47 }];
        status.withheld = Withheld { clients: 47, networks };
        for columns in [80, 100] {
            let screen = render(&status, None, Colour::Off, Some(columns));
            assert!(screen.lines().all(|line| line.chars().count() <= columns), "{screen}");
            assert!(screen.contains("source:/var/log/nginx/access.log\n  "), "{screen}");
        }
        let piped = render(&status, None, Colour::Off, None);
        assert!(
            piped.lines().any(|line| line.starts_with("withheld") && line.ends_with("shield-agent resume"))
        );
    }

    #[test]
    fn colours_only_when_asked_for() {
        assert!(!render(&status(), None, Colour::Off, None).contains('\u{1b}'));
        let canary = render(&status(), Some("new.toml runs"), Colour::Off, None);
        assert!(canary.contains("\ncanary                            new.toml runs\n"), "{canary}");
        assert!(render(&status(), None, Colour::On, None).contains("\u{1b}[31mDegraded\u{1b}[0m"));
    }
}
