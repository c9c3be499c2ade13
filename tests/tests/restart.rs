//! The agent is stopped, killed and restarted in the middle of a ban: no gap opens, and the ban ends on time.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use shield_tests::agent::Agent;
use shield_tests::site::{ATTACKER, Site, VISITOR};
use shield_tests::traffic::{Behaviour, Outcome, Requester, VISITED_PATHS};

/// Tolerance between the announced end and the first answer. The kernel is exact to a few milliseconds, but a request in
/// progress when the ban ends takes another SYN retransmission (1 s), and the machine may be busy.
const SLACK: Duration = Duration::from_secs(4);
const NO_RULES: &str = "[iptables]\nmode = \"off\"\n";

/// An attacker that sends four requests per second until it is dropped.
fn persistent_attacker(site: &Site) -> Requester {
    let behaviour = Behaviour {
        server: shield_tests::site::SERVER,
        from: Some(ATTACKER),
        paths: VISITED_PATHS,
        pause: Duration::from_millis(250),
        timeout: Duration::from_millis(250),
        threads: 1,
    };
    Requester::start(&site.street, behaviour)
}

/// How often it was answered. A restart may be over before it tried thrice.
fn answered(attempts: Requester) -> usize {
    let tried = || Ok((attempts.samples().len() >= 3).then_some(()));
    shield_tests::wait::until("the attacker to try", SLACK, tried).expect("it goes on trying");
    let samples = attempts.stop();
    samples.iter().filter(|sample| matches!(sample.outcome, Outcome::Answered(..))).count()
}

#[test]
fn a_normal_restart_opens_no_gap_and_keeps_the_end() {
    let site = Site::create("").unwrap();
    let agent = site.start_agent(&[]).unwrap();
    let ban = site.ban_attacker("10m").unwrap();
    let attempts = persistent_attacker(&site);

    assert!(agent.stop().unwrap().success(), "{}", site.home.log());
    let _agent = site.start_agent(&[]).unwrap();

    let bans = site.bans().unwrap();
    assert_eq!(bans.len(), 1);
    assert_eq!((bans[0].client, bans[0].since_ms), (ban.client, ban.since_ms));
    let (then, now) = (ban.ends_ms.unwrap(), bans[0].ends_ms.unwrap());
    assert!(then.abs_diff(now) < 1_000, "the end moved from {then} to {now}");
    assert_eq!(answered(attempts), 0);
    assert_eq!(site.request(VISITOR).unwrap(), Some(200));
    site.home.command(&site.server, &["unban", &ATTACKER.to_string()]).unwrap();
    site.wait_until_served(ATTACKER, SLACK).unwrap();
}

#[test]
fn kill_dash_nine_opens_no_gap_and_the_next_start_goes_on() {
    let site = Site::create("").unwrap();
    let agent = site.start_agent(&[]).unwrap();
    let started = Instant::now();
    site.ban_attacker("12s").unwrap();
    let attempts = persistent_attacker(&site);

    agent.kill().unwrap();
    let _agent = site.start_agent(&[]).unwrap();
    assert_eq!(site.bans().unwrap().len(), 1, "{}", site.home.log());
    let answered = answered(attempts);
    if started.elapsed() < Duration::from_secs(12) {
        assert_eq!(answered, 0);
    }

    let served = site.wait_until_served(ATTACKER, Duration::from_secs(12) + SLACK).unwrap();
    let lasted = served - started;
    assert!(lasted >= Duration::from_secs(11) && lasted <= Duration::from_secs(12) + SLACK, "{lasted:?}");
}

#[test]
fn without_any_agent_the_kernel_itself_ends_an_xdp_ban_on_time() {
    let site = Site::create(NO_RULES).unwrap();
    let agent = site.start_agent(&[]).unwrap();
    let started = Instant::now();
    site.ban_attacker("6s").unwrap();
    agent.kill().unwrap();

    assert_eq!(site.request(ATTACKER).unwrap(), None, "the ban did not outlive the agent");
    let lasted = site.wait_until_served(ATTACKER, Duration::from_secs(6) + SLACK).unwrap() - started;
    assert!(lasted >= Duration::from_secs(5), "{lasted:?}");
}

#[test]
fn a_ban_that_ended_while_the_agent_was_down_is_lifted_at_the_next_start() {
    let site = Site::create("").unwrap();
    let agent = site.start_agent(&[]).unwrap();
    site.ban_attacker("3s").unwrap();
    agent.kill().unwrap();
    shield_tests::wait::sleep(Duration::from_secs(3)).unwrap();
    let _agent = site.start_agent(&[]).unwrap();
    site.wait_until_served(ATTACKER, SLACK).unwrap();
    let forgotten = || Ok(site.bans()?.is_empty().then_some(()));
    shield_tests::wait::until("the ban to be forgotten", SLACK, forgotten).unwrap();
}

/// History: the bans of an enforcer that was switched off stayed in the kernel, where no command showed or lifted them.
#[test]
fn an_enforcer_that_is_switched_off_is_cleaned_up_at_the_next_start() {
    for kept_off in [["xdp", "iptables"], ["iptables", "xdp"]] {
        let site = Site::create("").unwrap();
        let agent = site.start_agent(&[]).unwrap();
        site.ban_attacker("10m").unwrap();
        assert!(agent.stop().unwrap().success(), "{}", site.home.log());
        let mut off = String::new();
        for (at, section) in kept_off.into_iter().enumerate() {
            off += &format!("[{section}]\nmode = \"off\"\n");
            let pins = format!("pin_dir = {:?}\n", site.home.pins());
            let more = match off.contains("[xdp]\n") {
                true => off.replace("[xdp]\n", &format!("[xdp]\n{pins}")),
                false => format!("{off}[xdp]\n{pins}"),
            };
            site.home.configure(site.nginx.access_log(), "", &more).unwrap();
            let agent = site.start_agent(&[]).unwrap();
            if at == 0 {
                assert_eq!(
                    site.request(ATTACKER).unwrap(),
                    None,
                    "without {section} the other keeps the ban"
                );
            } else {
                site.wait_until_served(ATTACKER, SLACK).unwrap();
            }
            assert!(agent.stop().unwrap().success(), "{}", site.home.log());
        }
    }
}

/// History: systemd was told that the agent is ready before the bans were back, so that after a boot a web server that is ordered
/// after it answered the banned.
#[test]
fn systemd_hears_that_the_agent_is_ready_once_the_restored_bans_are_in_force() {
    let site = Site::create("").unwrap();
    let agent = site.start_agent(&[]).unwrap();
    site.ban_attacker("10m").unwrap();
    assert!(agent.stop().unwrap().success(), "{}", site.home.log());

    // As after a boot: nothing in the kernel. And an iptables that takes its time, here until the test lets it go on.
    site.home.command(&site.server, &["cleanup"]).unwrap();
    site.wait_until_served(ATTACKER, SLACK).unwrap();
    let mut config = format!("[xdp]\nmode = \"off\"\npin_dir = {:?}\n", site.home.pins());
    config += "[iptables]\nmode = \"on\"\n";
    site.home.configure(site.nginx.access_log(), "", &config).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let go_on = folder.path().join("go-on");
    for program in ["iptables-restore", "ip6tables-restore", "iptables-save", "ip6tables-save"] {
        let path = folder.path().join(program);
        let wait = format!("until [ -e {} ]; do sleep 0.02; done", go_on.display());
        fs::write(&path, format!("#!/bin/sh\n{wait}\nexec /usr/sbin/{program} \"$@\"\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let socket = folder.path().join("notify.sock");
    let systemd = UnixDatagram::bind(&socket).unwrap();
    let notify = format!("NOTIFY_SOCKET={}", socket.display());
    let path = format!("PATH={}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let _agent = Agent::start_under(&["env", &notify, &path], &site.server, &site.home, &[]).unwrap();

    let ready_is_told = || {
        let mut buffer = [0; 256];
        loop {
            let length = systemd.recv(&mut buffer).ok()?;
            if String::from_utf8_lossy(&buffer[..length]).contains("READY=1") {
                return Some(());
            }
        }
    };
    systemd.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert_eq!(ready_is_told(), None, "told before the bans were in force: {}", site.home.log());
    fs::write(&go_on, "").unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(ready_is_told(), Some(()), "{}", site.home.log());
    assert_eq!(site.request(ATTACKER).unwrap(), None, "ready, and a banned client is served");
}
