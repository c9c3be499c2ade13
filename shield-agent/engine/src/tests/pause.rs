//! A pause by an operator, the end of a stop by hand and by itself, and how those who get through are told.

use super::crowds::{ATTACKERS, Asked, Client4, Site, VISITORS, flood, visit, word};
use super::*;

fn scan(n: u32, t: u64) -> Vec<Asked> {
    (0..3).map(|i| word(n, t, i)).collect()
}

fn command(site: &mut Site, command: Command) -> Vec<Action> {
    let actions = site.engine.handle(Event::Command(CommandId(9), command), site.now);
    site.note(actions.clone());
    actions
}

fn pause(site: &mut Site, secs: u64) -> Vec<Action> {
    command(site, Command::Pause { secs, reason: Some("load test".into()) })
}

fn resume(site: &mut Site) -> Vec<Action> {
    command(site, Command::Resume { reason: None })
}

fn told(site: &Site) -> Vec<usize> {
    let of = |n: &Notice| if let Notice::Withheld { bans, .. } = n { Some(bans.len()) } else { None };
    site.notices.iter().filter_map(of).collect()
}

/// Half of the visitors scan, so that the limits stop bans.
fn stopped() -> Site {
    let mut site = Site::known();
    let half = |n: u32, t: u64| if n < 20 { scan(n, t) } else { visit(n, t) };
    site.run(33, &[(VISITORS, 40, &half)]);
    assert!(site.engine.banning_stopped().is_some());
    site
}

#[test]
fn a_pause_lets_rules_ban_and_slow_nobody_and_ends_by_itself() {
    let mut site = Site::known();
    pause(&mut site, 60);
    site.run(50, &[(VISITORS, 40, &visit), (ATTACKERS, 48, &flood)]);
    assert_eq!((site.banned(ATTACKERS, 48).0, site.engine.slowed_count()), (0, 0));
    assert_eq!(site.engine.withheld().count(), 48, "they are listed");
    assert!(told(&site).len() <= 3, "in few notices: {:?}", told(&site));
    assert_eq!(told(&site).iter().sum::<usize>(), 48, "each once");
    site.run(15, &[(VISITORS, 40, &visit), (ATTACKERS, 48, &flood)]);
    assert_eq!((site.banned(ATTACKERS, 48).0, site.banned(VISITORS, 40).0), (48, 0));
    assert_eq!((site.engine.paused_until_ms(), site.engine.withheld().count()), (None, 0));
    let ends = |n: &&Notice| matches!(n, Notice::PauseEnded { by_hand: false, .. });
    assert_eq!(site.notices.iter().filter(ends).count(), 1);
}

/// An operator is not limited, and what is past when the pause ends is forgotten.
#[test]
fn in_a_pause_operators_ban_and_whoever_stopped_attacking_is_spared() {
    let mut site = Site::known();
    pause(&mut site, 600);
    site.run(50, &[(VISITORS, 40, &visit), (ATTACKERS, 2, &scan)]);
    assert_eq!(site.engine.withheld().count(), 2);
    assert!(reply(&site.engine.handle(ban_command("203.0.113.99", None), site.now)).results[0].ok);
    site.run(100, &[(VISITORS, 40, &visit)]);
    resume(&mut site);
    site.run(5, &[(VISITORS, 40, &visit)]);
    assert_eq!(site.banned(ATTACKERS, 2).0, 0);
}

#[test]
fn a_pause_outlives_a_restart_by_the_wall_clock_and_no_longer_than_a_pause_may_last() {
    let mut site = Site::known();
    let actions = pause(&mut site, 1800);
    let saved = |actions: &[Action]| -> Option<Vec<u8>> {
        let of = |a: &Action| {
            if let Action::Persist(Record::Paused(saved)) = a { Some(saved.clone()) } else { None }
        };
        actions.iter().find_map(of)
    };
    let record = saved(&actions).unwrap();
    let restarted = |wall_ms: i64| {
        let mut next = Site::new();
        next.now = Now { wall_ms, boot_ms: 5_000 };
        next.began = next.now;
        next.engine.restore_pause(&record, next.now).unwrap();
        next
    };
    let mut next = restarted(site.now.wall_ms + 1_000_000);
    assert_eq!(next.engine.paused_until_ms(), Some(site.now.wall_ms + 1_800_000));
    let ended = resume(&mut next);
    assert_eq!(saved(&ended), Some(Vec::new()), "an empty record ends it for good");
    assert_eq!(next.engine.paused_until_ms(), None);
    // It ended while the agent was down.
    let mut late = restarted(site.now.wall_ms + 2_000_000);
    late.run(1, &[]);
    assert_eq!(late.engine.paused_until_ms(), None);
    // The wall clock was set back by a year.
    let back = restarted(site.now.wall_ms - 31_536_000_000);
    let left_ms = back.engine.paused_until_ms().unwrap() - back.now.wall_ms;
    assert_eq!(left_ms, 7 * 86_400_000);
    assert!(Site::new().engine.restore_pause(b"{", site.now).is_err());
}

#[test]
fn resume_bans_whom_the_limits_let_through_and_counts_from_nothing() {
    let mut site = stopped();
    let withheld = site.engine.withheld().count();
    assert!(withheld > 10);
    let actions = resume(&mut site);
    let results = &reply(&actions).results;
    assert_eq!(results.len(), withheld);
    assert!(results.iter().all(|r| r.ok && r.message.starts_with("banned for ")), "{results:?}");
    assert_eq!((site.engine.banning_stopped(), site.engine.withheld().count()), (None, 0));
    // The limits hold for the others: what was said about these does not ban them.
    site.run(35, &[(VISITORS, 40, &scan)]);
    assert!(site.engine.banning_stopped().is_some());
    assert_eq!(site.banned(Client4(VISITORS.0 + 20), 20).0, 0);
    assert!(reply(&resume(&mut Site::known())).results.is_empty(), "nothing to resume");
}

/// History: 26 minutes after the attack `status` still said that banning is stopped.
#[test]
fn a_stop_ends_with_time_although_no_line_comes() {
    let mut site = stopped();
    for _ in 0..700 {
        site.run(1, &[]);
    }
    assert_eq!(site.engine.banning_stopped(), None);
    let resumed = |n: &&Notice| matches!(n, Notice::BlastRadius { stopped: false, .. });
    assert_eq!(site.notices.iter().filter(resumed).count(), 1);
}

#[test]
fn a_client_allowed_or_unbanned_by_hand_is_not_listed_any_more() {
    let mut site = Site::known();
    pause(&mut site, 600);
    site.run(20, &[(VISITORS, 40, &visit), (ATTACKERS, 2, &scan)]);
    let clients: Vec<Client> = site.engine.withheld().map(|(client, _)| client).collect();
    assert_eq!(clients.len(), 2);
    command(&mut site, Command::Unban { clients: vec![clients[0]], forget: true, reason: None });
    command(&mut site, Command::Allow { clients: vec![clients[1]], secs: None, reason: None });
    resume(&mut site);
    assert_eq!(site.banned(ATTACKERS, 2).0, 0);
}
