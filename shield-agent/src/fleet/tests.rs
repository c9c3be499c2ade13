//! Two and more hosts' tasks with a real nats-server between them.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;

use super::relay::Relay;
use super::*;
use crate::owner::Owner;
use crate::pipeline::{Job, Message};
use crate::source::Pool;
use shield_engine::Engine;
use shield_engine::action::Action;
use shield_engine::allowlist::{AllowReason, Allowed, Allowlist};
use shield_engine::backoff::Term;
use shield_engine::event::Command;
use shield_engine::policy::{Policy, Switch};
use shield_engine::settings::{RemoteSettings, Settings as EngineSettings};
use shield_engine::verdict::Rule;

/// A deadline of a real wait.
const SOON: Duration = Duration::from_secs(20);

/// A real nats-server in a folder of its own.
struct Server {
    process: Child,
    port: u16,
    dir: tempfile::TempDir,
    config: String,
}

impl Server {
    /// With an authorization section, or nothing.
    fn start(authorization: &str) -> Server {
        let dir = tempfile::tempdir().unwrap();
        // Freed again at once: the server takes no listening socket from us.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{}\" }}\n{authorization}",
            dir.path().join("store").display()
        );
        let process = Server::spawn(dir.path(), &config);
        let server = Server { process, port, dir, config };
        server.await_port();
        server
    }

    fn spawn(dir: &Path, config: &str) -> Child {
        let file = dir.join("nats.conf");
        std::fs::write(&file, config).unwrap();
        Process::new("nats-server")
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("could not start nats-server: cargo xtask setup installs it")
    }

    fn await_port(&self) {
        let begin = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(begin.elapsed() < SOON, "nats-server does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.process = Server::spawn(self.dir.path(), &self.config);
        self.await_port();
    }

    fn start_empty(&mut self) {
        std::fs::remove_dir_all(self.dir.path().join("store")).unwrap();
        self.start_again();
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An engine with its owner and a fleet's task, without a store and enforcers.
struct Host {
    owner: Handle,
    thread: Option<JoinHandle<Engine>>,
    task: tokio::task::JoinHandle<()>,
    shown: Shown,
    states: Arc<Mutex<Vec<PartState>>>,
}

impl Host {
    fn start(name: &str, url: &str, credentials: Option<&Path>) -> Host {
        Host::trusting(name, url, credentials, None)
    }

    /// With an authority of its own.
    fn trusting(name: &str, url: &str, credentials: Option<&Path>, ca: Option<&Path>) -> Host {
        let defaults = EngineSettings::default();
        let remote = RemoteSettings { switch: Switch::On, ..defaults.remote };
        let settings = EngineSettings { remote, ..defaults };
        let allowed = Allowed { network: "192.0.2.10/32".parse().unwrap(), reason: AllowReason::OwnAddress };
        let engine = Engine::new(settings, Policy::default(), Allowlist::new([allowed]), 1, 7);
        let (owner, inbox) = Handle::new();
        let (jobs, jobs_in) = mpsc::channel::<Job>();
        let states = Arc::new(Mutex::new(Vec::new()));
        let (told, to_owner) = (Arc::clone(&states), owner.clone());
        let report: Report = Arc::new(move |report: PartReport| {
            told.lock().unwrap().push(report.state.clone());
            to_owner.send(Message::Part(report));
        });
        let settings = Settings {
            servers: vec![url.to_owned()],
            credentials: credentials.map(|path| crate::config::UrlFrom::File(path.to_owned())),
            ca_file: ca.map(Path::to_owned),
            name: name.to_owned(),
        };
        let Joined { mut announce, task, shown, .. } = join(settings, owner.clone(), report);
        // In the performer's place.
        std::thread::spawn(move || {
            for job in jobs_in {
                let mut answer = job.answer;
                for action in job.actions {
                    match action {
                        Action::Announce(notice) => announce(&notice),
                        Action::Reply(_, reply) => drop(answer.take().map(|answer| answer.send(reply))),
                        _ => {}
                    }
                }
            }
        });
        let run = Owner::new(engine, inbox, jobs, Box::new(|_, _| {}), Pool::default());
        let thread = Some(std::thread::spawn(move || run.run()));
        Host { owner, thread, task: tokio::spawn(task.run()), shown, states }
    }

    async fn ban(&self, text: &str, secs: u64) {
        let command = Command::Ban {
            clients: vec![text.parse().unwrap()],
            term: Some(Term::Secs(secs)),
            reason: Some("by hand".to_owned()),
            rule: Rule::Operator,
        };
        self.owner.command(command).await.unwrap();
    }

    async fn unban(&self, text: &str) {
        let clients = vec![text.parse().unwrap()];
        self.owner.command(Command::Unban { clients, forget: false, reason: None }).await.unwrap();
    }

    async fn is_banned(&self, text: &str) -> bool {
        let client: Client = text.parse().unwrap();
        self.owner.query(move |engine, _| engine.ledger().ban_over(client).is_some()).await.unwrap()
    }

    async fn await_ban(&self, text: &str, is_banned: bool) {
        let begin = Instant::now();
        while self.is_banned(text).await != is_banned {
            let states = self.states.lock().unwrap().clone();
            assert!(begin.elapsed() < SOON, "{text} banned: {}; states {states:?}", !is_banned);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn await_connected(&self) {
        let begin = Instant::now();
        while !self.shown.lock().unwrap().is_connected || self.shown.lock().unwrap().waiting > 0 {
            let states = self.states.lock().unwrap().clone();
            assert!(begin.elapsed() < SOON, "not connected: {states:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
        self.owner.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn banned_on_one_and_on_the_other_and_unbanned_on_both() {
    let server = Server::start("");
    let (a, b) = (Host::start("web-a", &server.url(), None), Host::start("web-b", &server.url(), None));
    a.await_connected().await;
    b.await_connected().await;
    let begin = Instant::now();
    a.ban("203.0.113.5", 600).await;
    b.await_ban("203.0.113.5", true).await;
    println!("ban on one to ban on the other: {:?}", begin.elapsed());
    let (rule, others) = b
        .owner
        .query(|engine, _| {
            let client = "203.0.113.5".parse().unwrap();
            let rule = engine.ledger().ban_over(client).unwrap().rule;
            (rule, engine.remotes().of(client).map(|(state, _)| state.origin.to_string()).collect::<Vec<_>>())
        })
        .await
        .unwrap();
    assert_eq!((rule, others), (Rule::Remote, vec!["fleet:web-a".to_owned()]));
    a.ban("192.0.2.10", 600).await;
    b.ban("203.0.113.6", 600).await;
    a.await_ban("203.0.113.6", true).await;
    assert!(!b.is_banned("192.0.2.10").await, "an address of its own");
    b.unban("203.0.113.5").await;
    a.await_ban("203.0.113.5", false).await;
    b.await_ban("203.0.113.5", false).await;
    let told = a.shown.lock().unwrap().own;
    assert!(told <= 1, "a ban received is never told again: {told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_cut_off_tells_and_hears_what_it_missed() {
    let mut server = Server::start("");
    let (a, b) = (Host::start("web-a", &server.url(), None), Host::start("web-b", &server.url(), None));
    a.await_connected().await;
    b.await_connected().await;
    server.stop();
    a.ban("203.0.113.5", 600).await;
    a.ban("203.0.113.7", 600).await;
    a.unban("203.0.113.7").await;
    server.start_again();
    b.await_ban("203.0.113.5", true).await;
    // A host that joins hears everything, also after the stream was lost: the ledgers are the truth.
    server.stop();
    server.start_empty();
    let c = Host::start("web-c", &server.url(), None);
    c.await_ban("203.0.113.5", true).await;
    assert!(!c.is_banned("203.0.113.7").await);
}

/// Once a ban of 200 came 5 s late, because a server had lost what it was told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_lost_is_soon_told_again() {
    let server = Server::start("");
    let relay = Relay::start(server.port);
    let (a, b) = (Host::start("web-a", &relay.url, None), Host::start("web-b", &server.url(), None));
    a.await_connected().await;
    b.await_connected().await;
    relay.lose(relay::PUBLISH);
    let begin = Instant::now();
    a.ban("203.0.113.5", 600).await;
    b.await_ban("203.0.113.5", true).await;
    let took = begin.elapsed();
    assert_eq!(relay.lost(), 1);
    assert!(took < settings::TIMEOUT / 2, "{took:?}, not the time-out of a publish");

    // Only the answer is lost: the ban is there at once, and is known to be there soon.
    relay.lose(relay::ACKNOWLEDGEMENT);
    let begin = Instant::now();
    a.ban("203.0.113.6", 600).await;
    b.await_ban("203.0.113.6", true).await;
    while relay.lost() < 2 {
        assert!(begin.elapsed() < SOON, "no answer came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    a.await_connected().await;
    let took = begin.elapsed();
    assert!(took < settings::TIMEOUT / 2, "{took:?}");
    let states = a.states.lock().unwrap().clone();
    assert!(!states.iter().any(|state| matches!(state, PartState::Degraded { .. })), "{states:?}");
}

/// As a cluster does that has lost the server which was to lead the consumer. Giving up after 5 s and asking anew, a host was deaf for
/// 45 s then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_comes_late_is_waited_for_and_holds_up_no_ban_of_the_hosts_own() {
    const LATE: Duration = Duration::from_secs(10);
    let server = Server::start("");
    let relay = Relay::start(server.port);
    let b = Host::start("web-b", &server.url(), None);
    b.await_connected().await;
    relay.hold(relay::CONSUMER, LATE);
    let begin = Instant::now();
    let a = Host::start("web-a", &relay.url, None);
    a.ban("203.0.113.5", 600).await;
    b.await_ban("203.0.113.5", true).await;
    assert!(!a.shown.lock().unwrap().is_connected, "{:?}", begin.elapsed());
    b.ban("203.0.113.6", 600).await;
    a.await_connected().await;
    assert!(begin.elapsed() >= LATE, "{:?}", begin.elapsed());
    a.await_ban("203.0.113.6", true).await;
    let states = a.states.lock().unwrap().clone();
    assert!(!states.iter().any(|state| matches!(state, PartState::Degraded { .. })), "{states:?}");
}

#[test]
fn where_a_server_answers_the_pauses_stay_short() {
    let pauses = |is_reached, lasted| {
        let next = |pause: &Duration| Some(next_pause(*pause, Duration::from_secs(lasted), is_reached));
        let all = std::iter::successors(Some(FIRST_PAUSE), next).skip(1).take(6);
        all.map(|pause| pause.as_secs()).collect::<Vec<_>>()
    };
    assert_eq!(pauses(false, 5), [2, 4, 8, 16, 30, 30]);
    assert_eq!(pauses(true, 5), [2, 4, 4, 4, 4, 4]);
    assert_eq!(pauses(true, 61), [1; 6]);
    assert_eq!(next_pause(LONGEST_PAUSE, Duration::ZERO, true), REACHED_PAUSE, "a server answers again");
}

/// The server grants each host its own subjects: what another's name would be worth, nobody can say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_host_speaks_in_anothers_name() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = init::Hosts::new(&["web-a".to_owned(), "web-b".to_owned()]).unwrap();
    let server = Server::start(&hosts.accounts());
    let key = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, hosts.seed(name).unwrap()).unwrap();
        path
    };
    let a = Host::start("web-a", &server.url(), Some(&key("web-a")));
    let b = Host::start("web-b", &server.url(), Some(&key("web-b")));
    a.await_connected().await;
    b.await_connected().await;
    a.ban("203.0.113.5", 600).await;
    b.await_ban("203.0.113.5", true).await;
    let liar = Host::start("web-a", &server.url(), Some(&key("web-b")));
    let begin = Instant::now();
    loop {
        let states = liar.states.lock().unwrap().clone();
        let is_refused = |state: &PartState| matches!(state, PartState::Degraded { reason } if reason.contains("could not"));
        if states.iter().any(is_refused) {
            break;
        }
        assert!(begin.elapsed() < 2 * SOON, "{states:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!liar.shown.lock().unwrap().is_connected);
}

/// Whoever took a host over can say what he likes in its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poisoned_host_is_contained() {
    let server = Server::start("");
    let b = Host::start("web-b", &server.url(), None);
    b.await_connected().await;
    let evil = Host::start("evil", &server.url(), None);
    evil.await_connected().await;
    let clients: Vec<Client> =
        (0..1_500_u32).map(|n| std::net::Ipv4Addr::from_bits(0xc612_0000 + n).into()).collect();
    let command = Command::Ban { clients, term: Some(Term::Permanent), reason: None, rule: Rule::Operator };
    evil.owner.command(command).await.unwrap();
    let begin = Instant::now();
    let heard = |b: &Host| b.shown.lock().unwrap().heard;
    while heard(&b) < 1_500 {
        assert!(begin.elapsed() < SOON, "{} heard", heard(&b));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (bans, permanent, part) = b
        .owner
        .query(|engine, _| {
            let part = engine.parts().all().get("origin:evil").map(|part| part.state.clone());
            (engine.ledger().len(), engine.ledger().permanent_count(), part)
        })
        .await
        .unwrap();
    assert_eq!((bans, permanent), (1_000, 0), "max_new_per_min, and never permanent");
    assert!(matches!(part, Some(PartState::Degraded { .. })), "{part:?}");
}

/// Two authorities, and certificates of the first for 127.0.0.1: one that holds, one that has expired.
fn certificates(dir: &Path) {
    let script = "set -e
        new='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
        for ca in ca other; do
            openssl req -x509 $new -keyout $ca.key -out $ca.pem -days 2 -subj /CN=$ca
        done
        openssl req $new -keyout server.key -out server.csr -subj /CN=nats
        printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > extensions
        sign='openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile extensions'
        $sign -days 2 -out server.pem
        $sign -days -1 -out expired.pem";
    let done = Process::new("sh").args(["-c", script]).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "openssl: {}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tls_nobody_is_heard_whose_certificate_is_not_good() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let file = |name: &str| dir.path().join(name);
    let server = |certificate: &str| {
        Server::start(&format!(
            "tls {{ cert_file: {:?}, key_file: {:?} }}",
            file(certificate).display(),
            file("server.key").display()
        ))
    };
    let (good, expired) = (server("server.pem"), server("expired.pem"));
    let url = |server: &Server| format!("tls://127.0.0.1:{}", server.port);
    let a = Host::trusting("web-a", &url(&good), None, Some(&file("ca.pem")));
    let b = Host::trusting("web-b", &url(&good), None, Some(&file("ca.pem")));
    a.await_connected().await;
    b.await_connected().await;
    a.ban("203.0.113.5", 600).await;
    b.await_ban("203.0.113.5", true).await;
    let cases = [
        ("stranger", url(&good), "other.pem", "no authority that this host trusts"),
        ("late", url(&expired), "ca.pem", "has expired"),
        ("misnamed", url(&good).replace("127.0.0.1", "localhost"), "ca.pem", "for another name"),
        ("gone", url(&good), "no.pem", "no.pem"),
    ];
    for (name, url, ca, expected) in cases {
        let host = Host::trusting(name, &url, None, Some(&file(ca)));
        let begin = Instant::now();
        loop {
            let states = host.states.lock().unwrap().clone();
            let said = |state: &PartState| matches!(state, PartState::Degraded { reason } if reason.contains(expected));
            if states.iter().any(said) {
                break;
            }
            assert!(begin.elapsed() < SOON, "{name}: {states:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(!host.shown.lock().unwrap().is_connected, "{name}");
    }
}
