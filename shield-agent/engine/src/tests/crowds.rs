//! Crowds of visitors and attackers on one site: who is banned, how soon, and how many requests pass before.

use std::collections::BTreeMap;

use super::*;
use crate::settings::NetworkAction;
use crate::vocab::request::SourceId;

/// The site is watched for this long before anything happens.
const KNOWN_SECS: u64 = 600;

pub(super) type Asked = (String, u16);

fn ask(path: impl Into<String>, status: u16) -> Asked {
    (path.into(), status)
}

/// A kind of client: what its n-th member asks for at second `t`.
type Kind<'a> = (Client4, u32, &'a dyn Fn(u32, u64) -> Vec<Asked>);

/// The first address of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Client4(pub(super) u32);

pub(super) const VISITORS: Client4 = Client4(0xc633_6400);
pub(super) const ATTACKERS: Client4 = Client4(0xcb00_7100);
const OTHERS: Client4 = Client4(0x0900_0000);

pub(super) struct Site {
    pub(super) engine: Engine,
    pub(super) now: Now,
    /// The second of each client's first ban.
    pub(super) banned: BTreeMap<Client, u64>,
    passed: BTreeMap<Client4, u64>,
    pub(super) began: Now,
    pub(super) notices: Vec<Notice>,
    /// The slow lane as it was saved last.
    lane: Vec<u8>,
}

impl Site {
    pub(super) fn new() -> Site {
        let settings = Settings { enforcers: EnforcerName::KERNEL.to_vec(), ..Settings::default() };
        let engine = Engine::new(settings, Policy::default(), Allowlist::default(), 1, 7);
        Site {
            engine,
            now: T0,
            began: T0,
            banned: BTreeMap::new(),
            passed: BTreeMap::new(),
            notices: Vec::new(),
            lane: Vec::new(),
        }
    }

    /// The same where XDP is in force.
    fn known_with_xdp() -> Site {
        let mut site = Site::known();
        let state = PartState::Active { detail: "native on eth0".to_owned() };
        let report = PartReport { part: "xdp".to_owned(), state, repaired: None };
        site.engine.handle(Event::Part(report), site.now);
        site
    }

    /// A site with 40 visitors that was watched for a while.
    pub(super) fn known() -> Site {
        let mut site = Site::new();
        site.run(KNOWN_SECS, &[(VISITORS, 40, &visit)]);
        assert!(site.banned.is_empty());
        site.began = site.now;
        site
    }

    fn secs(&self) -> u64 {
        (self.now.boot_ms - self.began.boot_ms) / 1000
    }

    /// Runs `secs` seconds with these kinds of clients. Requests of banned clients do not arrive.
    pub(super) fn run(&mut self, secs: u64, kinds: &[Kind<'_>]) {
        for _ in 0..secs {
            let t = self.secs();
            let mut batch = Batch { live: true, source: Some(SourceId(3)), ..Batch::default() };
            for (first, count, asks) in kinds {
                for n in 0..*count {
                    let addr = std::net::Ipv4Addr::from_bits(first.0 + n);
                    if self.engine.ledger().ban_over(addr.into()).is_some() {
                        continue;
                    }
                    for (path, status) in asks(n, t) {
                        *self.passed.entry(*first).or_default() += 1;
                        push(&mut batch, addr.into(), &path, status, self.now);
                    }
                }
            }
            let lines = self.engine.handle(Event::Lines(&batch), self.now);
            self.note(lines);
            self.now = self.now.plus_ms(1000);
            let tick = self.engine.handle(Event::Tick, self.now);
            self.note(tick);
        }
    }

    pub(super) fn note(&mut self, actions: Vec<Action>) {
        let second = self.secs();
        for action in actions {
            match action {
                Action::Enforce(Order::Ban { client, .. }) => {
                    self.banned.entry(client.client()).or_insert(second);
                }
                Action::Announce(notice) => self.notices.push(notice),
                Action::Persist(Record::Slowed(lane)) => self.lane = lane,
                _ => {}
            }
        }
    }

    /// How many of a kind are banned, and the second by which they were.
    pub(super) fn banned(&self, first: Client4, count: u32) -> (usize, u64) {
        let of_kind = (0..count).map(|n| Client::from(std::net::Ipv4Addr::from_bits(first.0 + n)));
        let seconds: Vec<u64> = of_kind.filter_map(|client| self.banned.get(&client).copied()).collect();
        (seconds.len(), seconds.into_iter().max().unwrap_or(0))
    }

    fn passed(&self, first: Client4) -> u64 {
        self.passed.get(&first).copied().unwrap_or(0)
    }
}

/// A page with its assets every 20 s.
pub(super) fn visit(n: u32, t: u64) -> Vec<Asked> {
    if !(t + u64::from(n)).is_multiple_of(20) {
        return Vec::new();
    }
    let page = ask(format!("/article/{}", (t / 20 + u64::from(n)) % 30), 200);
    let assets = (0..5).map(|i| ask(format!("/static/{i}.css"), 200));
    [page].into_iter().chain(assets).collect()
}

pub(super) fn flood(_: u32, _: u64) -> Vec<Asked> {
    vec![ask("/", 200); 15]
}

pub(super) fn word(n: u32, t: u64, i: u64) -> Asked {
    ask(format!("/word{n}x{t}x{i}.php"), 404)
}

/// History: of 200 attackers 40 were banned, and with them every limit was used up; 145,600 of 180,000 requests passed.
#[test]
fn a_botnet_larger_than_the_site_is_banned_whole() {
    for count in [200, 2_000] {
        let mut site = Site::known();
        site.run(60, &[(VISITORS, 40, &visit), (ATTACKERS, count, &flood)]);
        let (banned, by) = site.banned(ATTACKERS, count);
        assert_eq!((banned, site.banned(VISITORS, 40).0), (count as usize, 0));
        assert!(by <= 10, "the last of {count} was banned after {by} s");
        assert!(site.passed(ATTACKERS) <= u64::from(count) * 60, "{} passed", site.passed(ATTACKERS));
        assert!(!site.engine.is_stopped_by_blast_radius());
    }
}

/// A wave that goes on: new addresses every minute, for longer than any span that is counted.
#[test]
fn a_lasting_wave_is_never_let_through() {
    let mut site = Site::known();
    for wave in 0..15 {
        let first = Client4(ATTACKERS.0 + wave * 1_000);
        site.run(60, &[(VISITORS, 40, &visit), (first, 300, &flood)]);
        assert_eq!(site.banned(first, 300).0, 300, "wave {wave}");
    }
    assert_eq!(site.banned(VISITORS, 40).0, 0);
}

/// History: 20 throw-away addresses used up the limit, and 60,040 requests of the true attackers passed.
#[test]
fn throw_away_addresses_buy_nothing() {
    let thrown_away = |n: u32, t: u64| (0..8).map(|i| word(n, t, i)).collect();
    let mut site = Site::known();
    site.run(30, &[(VISITORS, 40, &visit), (OTHERS, 20, &thrown_away)]);
    assert_eq!(site.banned(OTHERS, 20).0, 20);
    let began = site.secs();
    site.run(60, &[(VISITORS, 40, &visit), (ATTACKERS, 20, &flood)]);
    let (banned, by) = site.banned(ATTACKERS, 20);
    assert!(banned == 20 && by <= began + 10, "{banned} by {by}");
}

/// Every visitor suddenly fails, on what it was served before and on what it never asked for.
#[test]
fn a_broken_deploy_bans_no_visitor() {
    for is_alike in [true, false] {
        let fail = |n: u32, t: u64| {
            let which = if is_alike { 0 } else { n };
            (0..2).map(|i| ask(format!("/new{which}-{t}-{i}/data.php"), 404)).collect::<Vec<_>>()
        };
        // People come and go: each tries for a quarter of a minute.
        let try_it =
            |n: u32, t: u64| if (t + u64::from(n) * 7) % 120 < 15 { fail(n, t) } else { visit(n, t) };
        let mut site = Site::known();
        site.run(300, &[(VISITORS, 40, &try_it)]);
        assert_eq!(site.banned(VISITORS, 40).0, 0, "alike: {is_alike}");
        let stops = |n: &&Notice| matches!(n, Notice::BlastRadius { stopped: true, .. });
        assert_eq!(site.notices.iter().filter(stops).count(), 1, "said once");
        let told: Vec<usize> = (site.notices.iter())
            .filter_map(|n| if let Notice::Withheld { bans, .. } = n { Some(bans.len()) } else { None })
            .collect();
        assert!(told.len() <= 31, "{} notices in 300 s, alike: {is_alike}", told.len());
        let withheld: usize = told.iter().sum();
        // Each visitor tries three times.
        assert!(withheld <= 120, "{withheld} withheld, alike: {is_alike}");
        // An attacker who comes now is not protected by it.
        site.run(30, &[(VISITORS, 40, &try_it), (ATTACKERS, 5, &flood)]);
        assert_eq!(site.banned(ATTACKERS, 5).0, 5);
        // Mended: nobody is banned for what is past, and bans resume.
        site.run(1_300, &[(VISITORS, 40, &visit)]);
        assert_eq!(site.banned(VISITORS, 40).0, 0);
        assert!(!site.engine.is_stopped_by_blast_radius());
    }
}

#[test]
fn what_visitors_were_served_before_fails_for_ten_minutes_and_nobody_is_charged() {
    let broken = |n: u32, t: u64| {
        (0..3).map(|i| ask(format!("/article/{}", (t + i + u64::from(n)) % 30), 404)).collect::<Vec<_>>()
    };
    let mut site = Site::known();
    site.run(600, &[(VISITORS, 40, &broken)]);
    assert_eq!(site.banned(VISITORS, 40).0, 0);
}

/// A new agent knows nobody. Attackers are banned all the same, and visitors are not hit.
#[test]
fn a_cold_start_under_attack_and_without() {
    let mut site = Site::new();
    site.run(60, &[(VISITORS, 40, &visit)]);
    assert_eq!(site.banned(VISITORS, 40).0, 0);
    let mut site = Site::new();
    site.run(60, &[(VISITORS, 40, &visit), (ATTACKERS, 200, &flood)]);
    let (banned, by) = site.banned(ATTACKERS, 200);
    assert!(banned == 200 && by <= 10, "{banned} by {by}");
    assert_eq!(site.banned(VISITORS, 40).0, 0);
}

/// 200 addresses first behave like visitors, so that far more clients in good standing are hit than the limits allow.
/// What they get out of it is bounded by what they put in, and the visitors lose nothing.
#[test]
fn standing_that_is_built_up_to_use_the_limit_up_costs_what_it_gains() {
    let scan = |n: u32, t: u64| (0..3).map(|i| word(n, t, i)).collect::<Vec<_>>();
    for attack in [&flood as &dyn Fn(u32, u64) -> Vec<Asked>, &scan] {
        let mut site = Site::known();
        site.run(300, &[(VISITORS, 40, &visit), (ATTACKERS, 200, &visit)]);
        let built_up = site.passed(ATTACKERS);
        let began = site.secs();
        site.run(300, &[(VISITORS, 40, &visit), (ATTACKERS, 200, attack)]);
        let gained = site.passed(ATTACKERS) - built_up;
        let (banned, by) = site.banned(ATTACKERS, 200);
        assert_eq!((banned, site.banned(VISITORS, 40).0), (200, 0));
        // Until a rule fires it takes what it takes for anybody: 45 requests of this flood, 15 of this scan.
        assert!(gained <= built_up + 200 * 60, "{gained} for {built_up}");
        assert!(by - began <= 60, "the last was banned {} s after the attack began", by - began);
    }
}

/// Three assets make anybody a visitor. Newcomers that use it are worth little, and once.
#[test]
fn a_page_and_its_assets_buy_an_attacker_thirty_requests() {
    let first_a_page = |n: u32, t: u64| {
        if t.is_multiple_of(3600) { visit(0, 0) } else { (0..3).map(|i| word(n, t, i)).collect() }
    };
    let mut site = Site::known();
    site.run(3600 - site.secs() % 3600, &[(VISITORS, 40, &visit)]);
    let start = site.secs();
    site.run(120, &[(VISITORS, 40, &visit), (ATTACKERS, 100, &first_a_page)]);
    let (banned, by) = site.banned(ATTACKERS, 100);
    assert_eq!((banned, site.banned(VISITORS, 40).0), (100, 0));
    assert!(by - start <= 20, "{}", by - start);
    assert!(site.passed(ATTACKERS) <= 100 * (6 + 15 + 30 + 6), "{}", site.passed(ATTACKERS));
}

#[test]
fn operators_are_not_limited() {
    let mut site = Site::known();
    let broken = |n: u32, t: u64| (0..3).map(|i| word(n, t, i)).collect::<Vec<_>>();
    site.run(45, &[(VISITORS, 40, &broken)]);
    assert!(site.engine.is_stopped_by_blast_radius());
    assert!(reply(&site.engine.handle(ban_command("198.51.100.1", None), site.now)).results[0].ok);
}

const HOPPED: u128 = 0x2001_0db8_0007 << 80;

/// One batch of one request each, from the nth /64 of one /48, unless the client is banned or `lane` has no connection left
/// for it.
fn hop(site: &mut Site, lane: &mut Lane, n: u32, path: &str, status: u16) -> bool {
    let addr = std::net::Ipv6Addr::from_bits(HOPPED | u128::from(n) << 64 | 1);
    let mut batch = Batch { live: true, source: Some(SourceId(3)), ..Batch::default() };
    push(&mut batch, addr.into(), path, status, site.now);
    let client = Client::of_addr(addr.into(), 64);
    if site.engine.ledger().ban_over(client).is_some() || !lane.lets_through(site, client) {
        return false;
    }
    let actions = site.engine.handle(Event::Lines(&batch), site.now);
    site.note(actions);
    true
}

/// What is left of the connections of a slowed network.
#[derive(Default)]
struct Lane {
    left: f64,
    at_ms: Option<u64>,
}

impl Lane {
    fn lets_through(&mut self, site: &Site, client: Client) -> bool {
        let Some(slowed) = site.engine.slowed_over(client) else { return true };
        let rate = slowed.limits.connections;
        let now = site.now.boot_ms;
        let passed_ms = now - self.at_ms.replace(now).unwrap_or(0);
        let filled = self.left + passed_ms as f64 / 1000.0 * f64::from(rate.per_sec);
        self.left = filled.min(f64::from(rate.burst));
        let lets_through = self.left >= 1.0;
        self.left -= if lets_through { 1.0 } else { 0.0 };
        lets_through
    }
}

/// What came of 3,200 requests, each from another /64 of one /48.
#[derive(Debug)]
struct Hopped {
    passed: u32,
    networks: usize,
    proposed: usize,
    slowed: usize,
}

fn hops(site: &mut Site, per_sec: u32, path: &dyn Fn(u32) -> String, good: u32) -> Hopped {
    let (mut passed, mut lane) = (0, Lane::default());
    for n in 0..3_200 {
        if n % per_sec == 0 {
            site.run(1, &[(VISITORS, 40, &visit)]);
        }
        passed += u32::from(hop(site, &mut lane, n, &path(n), 404));
        // Others in the network are served.
        if n < good {
            hop(site, &mut lane, 40_000 + n, "/", 200);
        }
    }
    assert_eq!(site.banned(VISITORS, 40).0, 0);
    let is_network = |client: &&Client| client.network().prefix_len() == 48;
    let is_proposed = |notice: &&Notice| matches!(notice, Notice::NetworkProposed { .. });
    Hopped {
        passed,
        networks: site.banned.keys().filter(is_network).count(),
        proposed: site.notices.iter().filter(is_proposed).count(),
        slowed: site.engine.slowed().filter(|(_, slowed)| slowed.client.network().prefix_len() == 48).count(),
    }
}

/// History: 3,200 requests, each from another /64 of one /48, all passed.
#[test]
fn hopping_through_an_ipv6_network_is_stopped() {
    let word = |n: u32| format!("/word{n}.php");
    for (path, good) in [(&word as &dyn Fn(u32) -> String, 0), (&|_| "/.env".to_owned(), 0), (&word, 3)] {
        let hopped = |mut site: Site, per_sec, action| {
            site.engine.settings.networks.action = action;
            hops(&mut site, per_sec, path, good)
        };
        // A client that the attacker lets behave well protects nothing.
        let banned = hopped(Site::known(), 10, NetworkAction::Ban);
        assert!(banned.passed <= 50 && banned.networks == 1 && banned.proposed >= 1, "{banned:?}");
        // The operator decides about a network, and is asked; meanwhile its clients share the connections of one.
        let slowed = hopped(Site::known_with_xdp(), 50, NetworkAction::Propose);
        assert!(slowed.networks == 0 && slowed.proposed >= 1 && slowed.slowed == 1, "{slowed:?}");
        assert!(slowed.passed <= 100 + 12 + 2 * 64, "{slowed:?}");
        let proposed = hopped(Site::known(), 50, NetworkAction::Propose);
        assert!(proposed.networks == 0 && proposed.proposed >= 1 && proposed.slowed == 0, "{proposed:?}");
        let off = hopped(Site::known_with_xdp(), 50, NetworkAction::Off);
        assert!(off.networks == 0 && off.slowed == 0, "{off:?}");
    }
}

#[test]
fn a_carriers_network_is_neither_banned_nor_slowed() {
    let word = |n: u32| format!("/word{n}.php");
    for action in [NetworkAction::Ban, NetworkAction::Propose] {
        let mut site = Site::known_with_xdp();
        site.engine.settings.networks.action = action;
        let hopped = hops(&mut site, 50, &word, 1_600);
        assert_eq!((hopped.passed, hopped.networks, hopped.slowed), (3_200, 0, 0), "{hopped:?}");
    }
}

#[test]
fn a_slowed_network_outlives_a_restart_and_ends_with_the_hopping_or_by_an_operator() {
    let word = |n: u32| format!("/word{n}.php");
    let network = Client::of_network("2001:db8:7::/48".parse().unwrap());
    let inside = Client::of_addr("2001:db8:7:ffff::1".parse().unwrap(), 64);
    let slowed = || {
        let mut site = Site::known_with_xdp();
        assert_eq!(hops(&mut site, 50, &word, 0).slowed, 1);
        site
    };
    let mut site = slowed();
    site.run(1, &[]);
    let mut again = Site::new();
    again.engine.restore_slowed(&site.lane, site.now).unwrap();
    assert_eq!(again.engine.slowed_over(inside).map(|slowed| slowed.client), Some(network));
    site.run(600, &[]);
    assert!(site.engine.slowed_over(inside).is_none(), "it is quiet");

    let mut site = slowed();
    let said = |actions: Vec<Action>| reply(&actions).results[0].message.clone();
    assert_eq!(
        said(site.engine.handle(unban_command("2001:db8:7:ffff::1"), site.now)),
        "was not banned, but is slowed as part of 2001:db8:7::/48: unban that network"
    );
    assert_eq!(said(site.engine.handle(unban_command("2001:db8:7::/48"), site.now)), "no longer slowed");
    hop(&mut site, &mut Lane::default(), 50_000, "/.env", 404);
    site.run(1, &[]);
    assert!(site.engine.slowed_over(inside).is_none(), "it is judged anew");
}

/// What the `n`th client of a campaign asks for: the same 20 targets in its own order, one in 4 s.
fn in_campaign(n: u32, t: u64) -> Vec<Asked> {
    let nth = (t / 4 * 7 + u64::from(n) * 3) % 20;
    if t.is_multiple_of(4) { vec![ask(format!("/shell{nth}.php"), 404)] } else { Vec::new() }
}

#[test]
fn the_third_client_of_a_campaign_is_known_by_its_third_request() {
    let mut site = Site::known();
    for n in 0..12 {
        let first = Client4(OTHERS.0 + n * 0x1_0000);
        let start = site.secs();
        site.run(
            80,
            &[(VISITORS, 40, &visit), (first, 1, &|_, t| in_campaign(n, t - start + n as u64 * 4 % 4))],
        );
        assert_eq!(site.banned(first, 1).0, 1, "client {n}");
        // The sooner the first two are banned, the fewer of the targets are known.
        let expected = if n < 2 { 5..=15 } else { 3..=6 };
        assert!(expected.contains(&site.passed(first)), "client {n} made {} requests", site.passed(first));
    }
    assert_eq!(site.banned(VISITORS, 40).0, 0);
}

/// Two attackers get banned for what others ask for as well: what every robot tries, what visitors fail on, what a page
/// with broken links makes its readers ask for.
#[test]
fn a_campaign_cannot_be_turned_against_others() {
    let poison: Vec<String> = ["/robots.txt", "/sitemap.xml", "/ads.txt", "/.well-known/security.txt"]
        .into_iter()
        .map(str::to_owned)
        .chain((0..4).map(|n| format!("/dead{n}.php")))
        .chain((0..12).map(|n| format!("/x{n}.php")))
        .collect();
    let mut site = Site::known();
    // Visitors now and then follow a dead link.
    let follow = |n: u32, t: u64| {
        let dead = (t + u64::from(n)).is_multiple_of(100);
        visit(n, t).into_iter().chain(dead.then(|| ask(format!("/dead{}.php", t / 100 % 4), 404))).collect()
    };
    // In several networks: a target is known to be asked for from three on.
    let groups: Vec<Client4> = (0..4).map(|n| Client4(0x0a00_0000 + n * 0x1_0000)).collect();
    let kinds: Vec<Kind<'_>> = groups.iter().map(|first| (*first, 10, &follow as _)).collect();
    site.run(900, &kinds);
    for n in 0..3 {
        let first = Client4(OTHERS.0 + n * 0x1_0000);
        let start = site.secs();
        let asks = |_: u32, t: u64| vec![ask(poison[(t - start) as usize % poison.len()].clone(), 404)];
        site.run(20, &[(first, 1, &asks)]);
        assert_eq!(site.banned(first, 1).0, 1);
    }
    let robot = |_: u32, t: u64| {
        let path = &poison[t as usize % 4];
        if t.is_multiple_of(7) { vec![ask(path.clone(), 404)] } else { Vec::new() }
    };
    let reader = |_: u32, t: u64| {
        let page = if t.is_multiple_of(60) { visit(0, 0) } else { Vec::new() };
        let dead = t.is_multiple_of(60).then(|| (0..4).map(|n| ask(format!("/x{n}.php"), 404)));
        page.into_iter().chain(dead.into_iter().flatten()).collect::<Vec<_>>()
    };
    let lost = |_: u32, t: u64| {
        if t.is_multiple_of(9) { vec![ask(format!("/dead{}.php", t / 9 % 4), 404)] } else { Vec::new() }
    };
    site.run(60 - site.secs() % 60, &[]);
    let (robots, readers, followers) = (Client4(0x0b00_0000), Client4(0x0c00_0000), Client4(0x0d00_0000));
    site.run(120, &[(robots, 1, &robot), (readers, 1, &reader), (followers, 1, &lost)]);
    assert_eq!([robots, readers, followers].map(|first| site.banned(first, 1).0), [0, 0, 0]);
}

/// History: 38 addresses with 29 failed paths each: none did enough alone.
#[test]
fn many_addresses_that_each_keep_below_every_rule_are_stopped() {
    // One path in 20 s, so that 30 take 10 min; everybody the same list, or each in one network its own.
    let alike = |n: u32, t: u64| {
        let nth = t / 20;
        let is_time = (t + u64::from(n)).is_multiple_of(20) && nth < 29;
        if is_time {
            vec![ask(format!("/list{}.php", (nth * 11 + u64::from(n)) % 29), 404)]
        } else {
            Vec::new()
        }
    };
    let own = |n: u32, t: u64| {
        let is_time = (t + u64::from(n)).is_multiple_of(20) && t / 20 < 29;
        if is_time { vec![ask(format!("/list{n}-{}.php", t / 20), 404)] } else { Vec::new() }
    };
    let run = |kinds: &[Kind<'_>]| {
        let mut site = Site::known();
        let start = site.secs();
        let shifted: Vec<_> = kinds
            .iter()
            .map(|(first, count, asks)| (*first, *count, move |n: u32, t: u64| asks(n, t - start)))
            .collect();
        let mut kinds: Vec<Kind<'_>> =
            shifted.iter().map(|(first, count, asks)| (*first, *count, asks as _)).collect();
        kinds.push((VISITORS, 40, &visit));
        site.run(600, &kinds);
        assert_eq!(site.banned(VISITORS, 40).0, 0);
        kinds.iter().filter(|kind| kind.0 != VISITORS).map(|kind| site.passed(kind.0)).sum::<u64>()
    };
    let one_network = run(&[(ATTACKERS, 38, &own)]);
    assert!(one_network <= 38 * 4, "{one_network} of 1102");
    let scattered: Vec<_> = (0..38).map(|n| (Client4(OTHERS.0 + n * 0x1_0000), n)).collect();
    let asks: Vec<_> = scattered.iter().map(|(_, n)| move |_: u32, t: u64| alike(*n, t)).collect();
    let kinds: Vec<Kind<'_>> =
        scattered.iter().zip(&asks).map(|((first, _), asks)| (*first, 1, asks as _)).collect();
    let one_list = run(&kinds);
    assert!(one_list <= 38 * 21, "{one_list} of 1102");
}
