//! The canary beside a real owner of an engine, fed through the pipeline's own queues.

use std::time::{Duration, Instant};

use super::*;
use crate::clock;
use crate::owner::Owner;
use crate::pipeline::Job;
use shield_engine::action::Action;
use shield_engine::policy::Policy;

const PROBES: [&str; 8] = [
    "/.env",
    "/.git/config",
    "/backup.sql",
    "/phpmyadmin/",
    "/wp-config.php",
    "/.aws/credentials",
    "/.ssh/id_rsa",
    "/db.sql.gz",
];

struct Agent {
    owner: Handle,
    canary: Canary,
    thread: Option<std::thread::JoinHandle<Engine>>,
    sent: std::cell::Cell<u64>,
}

impl Agent {
    fn start() -> Agent {
        let engine = Engine::new(Settings::default(), Policy::default(), Allowlist::new([]), 1, 7);
        let (owner, inbox) = Handle::new();
        let (jobs, jobs_in) = std::sync::mpsc::channel::<Job>();
        let canary = Canary::default();
        let heard = canary.clone();
        // In the performer's place.
        std::thread::spawn(move || {
            for action in jobs_in.into_iter().flat_map(|job| job.actions) {
                if let Action::Announce(notice) = action {
                    heard.hear(&notice, clock::now());
                }
            }
        });
        let run = Owner::new(engine, inbox, jobs, Box::new(|_, _| {}), Pool::default());
        let thread = Some(std::thread::spawn(move || run.run()));
        Agent { owner, canary, thread, sent: 0.into() }
    }

    fn try_config(&self, text: &str) -> Result<()> {
        let start = Start {
            name: "new.toml".to_owned(),
            text: text.to_owned(),
            base: "base".to_owned(),
            in_force: Arc::new(Config::parse("[allow]\nsearch_engines = false")?),
            baseline: None,
            allowed: Vec::new(),
            now: clock::now(),
        };
        self.canary.start(start, &self.owner, Pool::default())?;
        // A line that is sent at once may be judged in the turn in which the canary comes.
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        runtime.block_on(self.owner.query(|_, _| ()))
    }

    fn request(&self, client: &str, path: &str, status: u16) {
        let mut batch = Batch { live: true, ..Batch::default() };
        batch.bytes.extend(b"GET");
        batch.bytes.extend(path.as_bytes());
        batch.lines.push(line(client.parse().unwrap(), path.len(), status));
        assert!(self.owner.send_lines(batch));
        self.sent.set(self.sent.get() + 1);
    }

    fn probes(&self, client: &str, count: usize) {
        PROBES.iter().take(count).for_each(|path| self.request(client, path, 404));
    }

    /// The report once `is` holds.
    fn report(&self, is: impl Fn(&CanaryReport) -> bool) -> CanaryReport {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let report = self.canary.report();
            if is(&report) {
                return report;
            }
            assert!(Instant::now() < deadline, "{report:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn line(addr: std::net::IpAddr, path_len: usize, status: u16) -> Line {
    Line {
        addr,
        time: clock::now().wall_secs(),
        method_at: 0,
        method_len: 3,
        path_at: 3,
        path_len: u32::try_from(path_len).unwrap(),
        server_at: 0,
        server_len: 0,
        peer_at: 0,
        peer_len: 0,
        status,
        size: 512,
        behind_proxy: false,
        salvaged: false,
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.owner.send(Message::Stop);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

const QUIET: &str = "[allow]\nsearch_engines = false\n";

#[test]
fn whom_only_the_live_engine_bans_is_spared_with_what_was_measured() {
    let agent = Agent::start();
    agent.try_config(&format!("{QUIET}[detect]\nevidence.threshold = 1000.0")).unwrap();
    agent.probes("198.51.100.9", 8);
    let report =
        agent.report(|report| report.differing.first().is_some_and(|client| client.why_not.is_some()));
    let found = &report.differing[0];
    assert_eq!((found.client.to_string().as_str(), found.canary.as_ref()), ("198.51.100.9", None));
    assert_eq!(found.live.as_ref().unwrap().rule.name(), "probing");
    assert!(found.why_not.as_ref().unwrap().contains("when the live ban cut it off"), "{found:?}");
    assert_eq!((report.figures.only_live, report.figures.only_canary), (1, 0));
}

#[test]
fn a_rule_that_only_observes_is_the_reason() {
    let agent = Agent::start();
    agent.try_config(&format!("{QUIET}[detect]\nprobing.mode = 'observe'")).unwrap();
    agent.probes("198.51.100.9", 8);
    let report =
        agent.report(|report| report.differing.first().is_some_and(|client| client.why_not.is_some()));
    let why = report.differing[0].why_not.as_ref().unwrap();
    assert!(why.contains("only reports it") && why.contains("observe"), "{why}");
}

#[test]
fn whom_only_the_canary_would_ban_is_named_and_nobody_is_banned() {
    let agent = Agent::start();
    agent.try_config(&format!("{QUIET}[detect]\nevidence.threshold = 2.0")).unwrap();
    agent.probes("198.51.100.9", 2);
    let report = agent.report(|report| report.figures.canary_bans == 1);
    assert_eq!((report.figures.live_bans, report.figures.only_canary), (0, 1));
    assert!(report.differing[0].canary.as_ref().unwrap().condition.is_some());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let bans = runtime.block_on(agent.owner.query(|engine, _| engine.ledger().len())).unwrap();
    assert_eq!(bans, 0);
    assert!(agent.canary.abort(&agent.owner) && !agent.canary.abort(&agent.owner));
    assert_eq!(agent.canary.report().state, CanaryState::Ended);
    agent.request("198.51.100.10", "/", 200);
    assert!(agent.canary.candidate().is_some(), "it can still be looked at");
}

/// The canary has not seen its good days; the live engine has.
#[test]
fn whom_the_live_engine_knows_is_a_known_good_client() {
    let agent = Agent::start();
    let second = clock::now().wall_secs();
    // A visitor: a page with what belongs to it.
    for path in ["/", "/style.css", "/app.js", "/logo.png"] {
        agent.request("198.51.100.9", path, 200);
    }
    // Only what was served in a second before speaks for a client.
    while clock::now().wall_secs() <= second + 1 {
        std::thread::sleep(Duration::from_millis(20));
    }
    agent.try_config(&format!("{QUIET}[detect]\nevidence.threshold = 2.0")).unwrap();
    agent.probes("198.51.100.9", 2);
    agent.probes("198.51.100.10", 2);
    let report = agent.report(|report| report.figures.known_good == 1 && report.figures.canary_bans == 2);
    let first = &report.differing[0];
    assert!(first.is_known_good && first.client.to_string() == "198.51.100.9", "{report:?}");
    assert_eq!(report.figures.served_strangers, 0, "nothing that the other asked for was answered well");
}

#[test]
fn both_engines_see_the_same_lines() {
    let agent = Agent::start();
    agent.try_config(QUIET).unwrap();
    for client in 1..=20 {
        agent.probes(&format!("198.51.100.{client}"), 8);
    }
    let report =
        agent.report(|report| report.figures.lines == agent.sent.get() && report.figures.live_bans == 20);
    assert_eq!((report.figures.canary_bans, report.differing.len()), (20, 0), "{report:?}");
    assert!(report.figures.clients >= 20, "whom it would ban is one of the clients: {report:?}");
    assert!(report.figures.is_whole);
    assert!(report.figures.verdict_p99_us.is_some() && report.figures.live_verdict_p99_us.is_some());
    assert_eq!((report.figures.site.answers, report.figures.site.errors), (agent.sent.get(), 0));
    assert_eq!(report.figures.site.p99_ms, None, "these lines have no times");
}

#[test]
fn a_wrong_configuration_and_a_second_canary_are_refused() {
    let agent = Agent::start();
    let message = format!("{:#}", agent.try_config("[ban]\nmax_shere = 1").unwrap_err());
    assert!(message.contains("new.toml") && message.contains("did you mean `max_share`"), "{message}");
    assert!(!agent.canary.is_running());
    agent.try_config(QUIET).unwrap();
    assert!(agent.canary.is_running());
    assert!(agent.try_config(QUIET).unwrap_err().to_string().contains("runs already"));
}

/// The live engine never waits for it.
#[test]
fn what_does_not_fit_is_left_out_and_counted() {
    let (queue, fed) = sync_channel(2);
    let run = Arc::new(Run::new(String::new(), String::new(), String::new(), clock::now()));
    let tap = Tap { queue, run: Arc::clone(&run) };
    let batch = || Batch { lines: vec![line("192.0.2.1".parse().unwrap(), 1, 200); 100], ..Batch::default() };
    let now = clock::now();
    assert!(
        tap.lines(batch(), now, Instant::now()).is_none()
            && tap.lines(batch(), now, Instant::now()).is_none()
    );
    assert_eq!(
        tap.lines(batch(), now, Instant::now()).map(|batch| batch.lines.len()),
        Some(100),
        "it is given back"
    );
    assert_eq!(run.report().figures.lost_lines, 100);
    assert!(!run.report().figures.is_whole);
    drop(fed);
    let large = || Batch { bytes: vec![0; QUEUED_BYTES], ..batch() };
    let (queue, _fed) = sync_channel(8);
    let wide = Tap { queue, run: Arc::clone(&run) };
    assert!(
        wide.lines(large(), now, Instant::now()).is_some(),
        "memory is bounded however few batches there are"
    );
    assert!(wide.lines(batch(), now, Instant::now()).is_none(), "and what was not taken does not count");
    assert!(tap.lines(batch(), now, Instant::now()).is_some(), "nor does it wait for one that has ended");
}
