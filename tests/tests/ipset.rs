//! Sets of bans in the real kernel: the `ipset` program lists the elements that were added through netlink, one invalid
//! element fails alone, and no process is started for a ban.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shield_agent::test_support::clock;
use shield_agent::test_support::enforce::iptables::{Backend, IptablesEnforcer, Settings};
use shield_agent::test_support::enforce::{Ban, Desired, Drops, Enforcer, Failure};
use shield_engine::allowlist::Allowlist;
use shield_engine::client::Client;
use shield_engine::time::Ends;
use shield_tests::command;
use shield_tests::netns::Namespace;
use shield_tests::programs::Counted;

/// More than fit into one message, so that a listing has several parts too.
const MANY: u32 = 5_000;
/// No more than fit into ipset's smallest hash.
const FEW: usize = 1_000;
/// The longest timeout of ipset, in seconds.
const LONGEST: u64 = 2_147_483;

fn settings() -> Settings {
    Settings { backend: Backend::Ipset, ..Settings::default() }
}

fn inside(label: &str, test: impl FnOnce() + Send) {
    Namespace::create(label).unwrap().enter(test);
}

fn started(settings: Settings) -> IptablesEnforcer {
    let mut enforcer = IptablesEnforcer::new(settings);
    enforcer.start(&[], clock::now()).unwrap();
    enforcer
}

fn ban(client: &str, ends: Ends) -> Ban {
    let client: Client = client.parse().unwrap();
    Ban { client: Allowlist::default().admit(client, 64).expect("no special address"), ends }
}

fn many(ends: Ends) -> Vec<Ban> {
    (0..MANY).map(|n| ban(&format!("10.1.{}.{}", n / 256, n % 256), ends)).collect()
}

fn in_seconds(secs: u64) -> Ends {
    Ends::after(clock::now(), secs * 1_000)
}

fn clients(failures: &[Failure]) -> Vec<String> {
    failures.iter().map(|failure| failure.client.to_string()).collect()
}

/// The elements that the program lists: `CLIENT timeout SECS packets N bytes N`, in order.
fn saved(set: &str) -> Vec<String> {
    let text = command::run(&["ipset", "save", set]).unwrap();
    let prefix = format!("add {set} ");
    let mut elements: Vec<String> =
        text.lines().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).collect();
    elements.sort_unstable();
    elements
}

fn timeout_of(element: &str) -> u64 {
    element.split(' ').nth(2).unwrap().parse().unwrap()
}

#[test]
fn the_program_reads_what_netlink_wrote() {
    inside("ipsetsame", || {
        let mut enforcer = started(settings());
        let bans = [
            ban("192.0.2.1", Ends::Never),
            ban("192.0.2.0/24", in_seconds(600)),
            ban("198.51.100.7", in_seconds(LONGEST * 3)),
            ban("2001:db8:1::/64", in_seconds(60)),
            ban("2001:db8::1/128", Ends::Never),
        ];
        assert_eq!(clients(&enforcer.ensure_banned(&bans, clock::now())), [""; 0]);
        let v4 = saved("shield4");
        assert_eq!(v4[1], "192.0.2.1 timeout 0 packets 0 bytes 0");
        assert!(v4[0].starts_with("192.0.2.0/24 "), "{v4:?}");
        assert!((595..=601).contains(&timeout_of(&v4[0])), "{v4:?}");
        assert!((LONGEST - 5..=LONGEST).contains(&timeout_of(&v4[2])), "{v4:?}");
        let v6 = saved("shield6");
        assert!(v6[0].starts_with("2001:db8:1::/64 timeout "), "{v6:?}");
        assert_eq!(v6[1], "2001:db8::1 timeout 0 packets 0 bytes 0");

        let mut observed = enforcer.observe(clock::now()).unwrap();
        observed.sort_unstable_by_key(|(client, _)| *client);
        let mut expected: Vec<Client> = bans.iter().map(|ban| ban.client.client()).collect();
        expected.sort_unstable();
        assert_eq!(observed.iter().map(|(client, _)| *client).collect::<Vec<_>>(), expected);

        let absent = "203.0.113.9".parse().unwrap();
        let lifted = [absent, bans[1].client.client(), bans[3].client.client()];
        assert_eq!(clients(&enforcer.ensure_lifted(&lifted)), [""; 0]);
        assert_eq!((saved("shield4").len(), saved("shield6").len()), (2, 1));
        enforcer.cleanup().unwrap();
    });
}

#[test]
fn a_ban_made_again_moves_its_end_and_keeps_its_counters() {
    inside("ipsetagain", || {
        let mut enforcer = started(settings());
        command::run(&[
            "ipset",
            "add",
            "shield4",
            "192.0.2.1",
            "timeout",
            "9",
            "packets",
            "3",
            "bytes",
            "180",
        ])
        .unwrap();
        let bans = [ban("192.0.2.1", in_seconds(600))];
        assert_eq!(clients(&enforcer.ensure_banned(&bans, clock::now())), [""; 0]);
        let held = saved("shield4");
        assert!((595..=601).contains(&timeout_of(&held[0])), "{held:?}");
        assert!(held[0].ends_with(" packets 3 bytes 180"), "{held:?}");
        let drops = enforcer.drops(&[bans[0].client.client()]).unwrap();
        assert_eq!(drops, [Some(Drops { packets: 3, bytes: 180 })]);
        enforcer.cleanup().unwrap();
    });
}

/// A full set takes new ends of what it holds, and nothing new: the kernel stops there, in the middle of a message. (A
/// hash of more than 1,024 buckets is full a little late: the kernel counts in regions.)
#[test]
fn one_bad_element_fails_alone() {
    inside("ipsetbad", || {
        let mut enforcer = started(Settings { max_entries_v4: FEW, ..settings() });
        let bans = &many(in_seconds(600))[..FEW];
        assert_eq!(clients(&enforcer.ensure_banned(bans, clock::now())), [""; 0]);
        let mut bans = many(in_seconds(6_000))[..FEW].to_vec();
        for (at, client) in [(0, "192.0.2.1"), (333, "192.0.2.0/24"), (334, "192.0.2.2")] {
            bans.insert(at, ban(client, Ends::Never));
        }
        bans.push(ban("192.0.2.3", Ends::Never));
        bans.push(ban("2001:db8::/64", Ends::Never));
        let failures = enforcer.ensure_banned(&bans, clock::now());
        assert_eq!(clients(&failures), ["192.0.2.1", "192.0.2.0/24", "192.0.2.2", "192.0.2.3"]);
        let error = format!("{:#}", failures[0].error);
        assert!(
            error.starts_with("could not add to the set shield4: the set is full; raise max_bans_ipv4"),
            "{error}"
        );
        let held = saved("shield4");
        assert_eq!(held.len(), FEW);
        assert!(held.iter().all(|element| (5_900..=6_001).contains(&timeout_of(element))), "{held:?}");
        assert_eq!(saved("shield6").len(), 1);
        enforcer.cleanup().unwrap();
    });
}

#[test]
fn a_full_set_is_reported_and_holds_what_it_can() {
    inside("ipsetfull", || {
        let mut enforcer = started(Settings { max_entries_v4: FEW, ..settings() });
        let failures = enforcer.ensure_banned(&many(in_seconds(600)), clock::now());
        assert_eq!(failures.len(), MANY as usize - FEW);
        assert!(
            failures.iter().all(|f| f.error.to_string().contains("the set is full")),
            "{}",
            failures[0].error
        );
        assert_eq!(saved("shield4").len(), FEW);
        enforcer.cleanup().unwrap();
    });
}

/// With another size of sets in the configuration, all elements are copied into a new one, ends and counters too. A set left
/// behind by an agent that was killed meanwhile made every later start fail.
#[test]
fn a_set_of_another_size_is_replaced_with_all_that_is_in_it() {
    inside("ipsetsize", || {
        let mut enforcer = started(settings());
        assert_eq!(clients(&enforcer.ensure_banned(&many(in_seconds(600)), clock::now())), [""; 0]);
        let line = "add shield4 10.1.7.7 timeout 500 packets 3 bytes 180";
        command::run(&["sh", "-c", &format!("echo {line} | ipset -exist restore")]).unwrap();
        command::run(&["ipset", "create", "shield4-new", "hash:ip"]).unwrap();
        drop(enforcer);

        let mut enforcer = started(Settings { max_entries_v4: 6_000, ..settings() });
        assert!(enforcer.is_intact(MANY as usize).unwrap());
        let header = command::run(&["ipset", "list", "-t", "shield4"]).unwrap();
        assert!(header.contains(" maxelem 6000 "), "{header}");
        let held = saved("shield4");
        assert_eq!(held.len(), MANY as usize);
        let counted = held.iter().find(|element| element.starts_with("10.1.7.7 ")).unwrap();
        assert!((490..=500).contains(&timeout_of(counted)), "{counted}");
        assert!(counted.ends_with(" packets 3 bytes 180"), "{counted}");
        enforcer.cleanup().unwrap();
        assert_eq!(command::run(&["ipset", "list", "-n"]).unwrap(), "");
    });
}

/// One process a ban cost 3 ms, and one every 2 s for the check.
#[test]
fn no_process_is_started_for_a_ban() {
    inside("ipsetcount", || {
        let runs = Arc::new(AtomicUsize::new(0));
        let programs = Box::new(Counted::new(|program| program == "ipset", &runs));
        let mut enforcer = IptablesEnforcer::with_programs(settings(), programs);
        enforcer.start(&[], clock::now()).unwrap();
        let before = runs.load(Ordering::Relaxed);
        assert!(before > 0, "the program makes the sets");

        let bans = [ban("192.0.2.1", Ends::Never), ban("2001:db8::/64", Ends::Never)];
        assert_eq!(clients(&enforcer.ensure_banned(&bans, clock::now())), [""; 0]);
        assert!(enforcer.is_intact(2).unwrap());
        command::run(&["ipset", "del", "shield4", "192.0.2.1"]).unwrap();
        let mut desired = Desired::default();
        bans.iter().zip(1..).for_each(|(ban, serial)| desired.insert(*ban, serial));
        let repair = enforcer.reconcile(&desired, &[], clock::now()).unwrap().expect("one was missing");
        assert_eq!(repair.found, "1 ban was missing");
        assert_eq!(clients(&enforcer.ensure_lifted(&[bans[0].client.client()])), [""; 0]);
        assert_eq!(enforcer.observe(clock::now()).unwrap().len(), 1);
        assert_eq!(runs.load(Ordering::Relaxed), before);
        enforcer.cleanup().unwrap();
    });
}

/// The sets of `backend = "ipset"` are created before the number of bans to restore is known; growing them to a million took
/// a third of the restore.
#[test]
fn an_empty_set_is_recreated_before_many_bans_are_added() {
    inside("ipsetgrow", || {
        let mut enforcer = started(settings());
        let hash_of = |set: &str| {
            let header = command::run(&["ipset", "list", "-t", set]).unwrap();
            let size = header.split(' ').skip_while(|word| *word != "hashsize").nth(1);
            size.unwrap().parse::<usize>().unwrap()
        };
        assert_eq!(hash_of("shield4"), 1_024);
        let mut desired = Desired::default();
        for n in 0..40_000_u32 {
            let client = format!("10.{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255);
            desired.insert(ban(&client, in_seconds(600)), u64::from(n));
        }
        enforcer.reconcile(&desired, &[], clock::now()).unwrap();
        // The kernel may double it once more, where its hash (another one for each set) spreads unevenly.
        assert!(matches!(hash_of("shield4"), 16_384 | 32_768), "{}", hash_of("shield4"));
        assert_eq!(saved("shield4").len(), 40_000);
        // It has no elements, so it cannot have grown by itself.
        assert_eq!(hash_of("shield6"), 16_384);
        assert!(enforcer.is_intact(40_000).unwrap());
        assert!(enforcer.reconcile(&desired, &[], clock::now()).unwrap().is_none());
        enforcer.cleanup().unwrap();
        assert_eq!(command::run(&["ipset", "list", "-n"]).unwrap(), "");
    });
}
