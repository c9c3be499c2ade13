//! The agent is stopped, killed and restarted in the middle of a ban: no gap opens, and the ban ends on time.

use std::time::{Duration, Instant};

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

fn answered(attempts: Requester) -> usize {
    let samples = attempts.stop();
    assert!(samples.len() >= 3, "the attacker hardly tried: {samples:?}");
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
