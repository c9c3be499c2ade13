//! One contract for every enforcer: the simulated host, real iptables in both flavours, its sets in ipset and in nftables,
//! XDP in both modes, and the files that nginx looks for.
//!
//! Covers the behaviour that all enforcers share; that of single enforcers is tested elsewhere (`iptables_*.rs`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use shield_agent::test_support::clock;
use shield_agent::test_support::enforce::iptables::programs::{Host, NotInstalled, Programs};
use shield_agent::test_support::enforce::iptables::{Backend, IptablesEnforcer, Settings, Version};
use shield_agent::test_support::enforce::nginx::{self, Backend as NginxBackend, MapEnforcer, NginxEnforcer};
use shield_agent::test_support::enforce::simulator::SimulatedHost;
use shield_agent::test_support::enforce::xdp::{self, XdpEnforcer};
use shield_agent::test_support::enforce::{Ban, Desired, Enforcer, Failure, Slow};
use shield_common::{Ban as KernelBan, KeyV4, map_name};
use shield_engine::allowlist::Allowlist;
use shield_engine::client::Client;
use shield_engine::event::EnforcerName;
use shield_engine::slowed::{SlowLimits, SlowRate};
use shield_engine::time::{Ends, Now};
use shield_tests::bpffs::Bpffs;
use shield_tests::netns::{End, Namespace, connect};
use shield_tests::programs::Counted;
use shield_tests::proxied::ProxiedNginx;
use shield_tests::{command, old_kernel};

/// A kernel with an enforcer, and with other programs that change it.
trait World {
    /// A new enforcer, as a restarted agent creates one.
    fn enforcer(&self) -> Box<dyn Enforcer>;
    /// Removes everything that the enforcer has installed, as a firewall reload does.
    fn flush(&self) -> Result<()>;
    /// The state in the kernel that belongs to Shield.
    fn ours(&self) -> Result<Vec<String>>;
    /// The state in the kernel that belongs to other programs.
    fn others(&self) -> Result<Vec<String>>;
    fn now(&self) -> Now {
        clock::now()
    }
}

fn ban(text: &str, ends: Ends) -> Ban {
    let client: Client = text.parse().expect("a client");
    Ban { client: Allowlist::default().admit(client, 64).expect("bannable"), ends }
}

fn client(text: &str) -> Client {
    text.parse().expect("a client")
}

fn table(bans: &[Ban]) -> Desired {
    let mut desired = Desired::default();
    bans.iter().zip(1..).for_each(|(ban, serial)| desired.insert(*ban, serial));
    desired
}

fn all_done(failures: &[Failure]) -> Result<()> {
    ensure!(failures.is_empty(), "{failures:?}");
    Ok(())
}

/// The clients that the kernel holds, sorted; duplicates stay visible.
fn held(enforcer: &mut dyn Enforcer, now: Now) -> Result<Vec<String>> {
    let mut held: Vec<Client> = enforcer.observe(now)?.into_iter().map(|(client, _)| client).collect();
    held.sort_unstable();
    Ok(held.iter().map(ToString::to_string).collect())
}

fn expect_held(enforcer: &mut dyn Enforcer, now: Now, expected: &[&str]) -> Result<()> {
    let held = held(enforcer, now)?;
    ensure!(held == expected, "held {held:?}, expected {expected:?}");
    ensure!(enforcer.is_intact(expected.len())?, "not intact with {expected:?}");
    ensure!(!enforcer.is_intact(expected.len() + 1)?, "one ban too few went unnoticed");
    Ok(())
}

/// Runs one part of the contract between a start and a clean-up that must leave nothing.
fn part(
    world: &dyn World,
    name: &str,
    body: impl FnOnce(&mut dyn Enforcer, Now) -> Result<()>,
) -> Result<()> {
    let others = world.others()?;
    let now = world.now();
    let mut enforcer = world.enforcer();
    enforcer.start(&[], now).with_context(|| format!("{name}: start"))?;
    body(&mut *enforcer, now).with_context(|| name.to_owned())?;
    enforcer.cleanup().with_context(|| format!("{name}: cleanup"))?;
    let left = world.ours()?;
    ensure!(left.is_empty(), "{name}: cleanup left {left:?}");
    ensure!(world.others()? == others, "{name}: somebody else's rules changed");
    ensure!(enforcer.cleanup()?.is_empty(), "{name}: a second cleanup found something");
    Ok(())
}

/// The whole contract.
fn contract(world: &dyn World) -> Result<()> {
    part(world, "ban and lift are idempotent", idempotent)?;
    part(world, "IPv4, IPv6 and networks", families)?;
    part(world, "an end moves", |enforcer, now| moved_end(enforcer, now))?;
    part(world, "exempt networks inside a banned one", exempt)?;
    part(world, "a flush heals", |enforcer, now| heals(world, enforcer, now))?;
    part(world, "a second flush heals too", |enforcer, now| heals(world, enforcer, now))?;
    part(world, "what nobody wants goes", unwanted)?;
    part(world, "a restart takes over", |enforcer, now| restart(world, enforcer, now))?;
    part(world, "many at once", many)?;
    part(world, "a slowed client is not dropped", slowed)?;
    part(world, "drops are counted from zero", counted)
}

/// The parts of the contract that list maps of every kind. A listing element by element takes seconds.
fn listings(world: &dyn World) -> Result<()> {
    part(world, "IPv4, IPv6 and networks", families)?;
    part(world, "exempt networks inside a banned one", exempt)?;
    part(world, "a restart takes over", |enforcer, now| restart(world, enforcer, now))
}

/// XDP polices it, iptables makes no rule for it, and neither takes it for a ban.
fn slowed(enforcer: &mut dyn Enforcer, now: Now) -> Result<()> {
    let rate = SlowRate { per_sec: 20, burst: 200 };
    let limits = SlowLimits { connections: rate, packets: rate };
    let slow =
        |text: &str| Slow { client: ban(text, Ends::Never).client, ends: Ends::after(now, 600_000), limits };
    let names = |enforcer: &mut dyn Enforcer| -> Result<Vec<String>> {
        let mut names: Vec<String> = enforcer.observe_slowed()?.iter().map(Client::to_string).collect();
        names.sort();
        Ok(names)
    };
    let polices = enforcer.name() == EnforcerName::Xdp;
    let expected = |all: &[&str]| -> Vec<String> {
        all.iter().filter(|_| polices).map(|name| (*name).to_owned()).collect()
    };
    all_done(&enforcer.ensure_banned(&[ban("192.0.2.1", Ends::Never)], now))?;
    enforcer.ensure_slowed(&[slow("192.0.2.9"), slow("2001:db8:9::/64")], now)?;
    expect_held(enforcer, now, &["192.0.2.1"])?;
    ensure!(names(enforcer)? == expected(&["192.0.2.9", "2001:db8:9::/64"]));
    let wanted = table(&[ban("192.0.2.1", Ends::Never)]);
    ensure!(enforcer.is_intact(wanted.len())?, "slowed clients are no bans");
    ensure!(enforcer.reconcile(&wanted, &[], now)?.is_none(), "nothing is to be repaired");
    ensure!(names(enforcer)? == expected(&["192.0.2.9", "2001:db8:9::/64"]));
    // Worse than before: banned first, then let go from the slow lane.
    all_done(&enforcer.ensure_banned(&[ban("192.0.2.9", Ends::Never)], now))?;
    enforcer.ensure_slowed(&[slow("2001:db8:9::/64")], now)?;
    expect_held(enforcer, now, &["192.0.2.1", "192.0.2.9"])?;
    ensure!(names(enforcer)? == expected(&["2001:db8:9::/64"]));
    enforcer.ensure_slowed(&[], now)?;
    ensure!(names(enforcer)?.is_empty());
    Ok(())
}

fn idempotent(enforcer: &mut dyn Enforcer, now: Now) -> Result<()> {
    let a = ban("192.0.2.1", Ends::after(now, 600_000));
    let b = ban("192.0.2.2", Ends::Never);
    all_done(&enforcer.ensure_lifted(&[client("192.0.2.1")]))?;
    for _ in 0..3 {
        all_done(&enforcer.ensure_banned(&[a, b, a], now))?;
        expect_held(enforcer, now, &["192.0.2.1", "192.0.2.2"])?;
    }
    for _ in 0..2 {
        all_done(&enforcer.ensure_lifted(&[client("192.0.2.1"), client("192.0.2.77")]))?;
        expect_held(enforcer, now, &["192.0.2.2"])?;
    }
    all_done(&enforcer.ensure_banned(&[], now))?;
    all_done(&enforcer.ensure_lifted(&[client("192.0.2.2")]))?;
    expect_held(enforcer, now, &[])
}

fn families(enforcer: &mut dyn Enforcer, now: Now) -> Result<()> {
    let texts = ["192.0.2.1", "198.51.100.0/24", "2001:db8:1::/64", "2001:db8:2::/48", "2001:db8:3::1/128"];
    let bans = texts.map(|text| ban(text, Ends::after(now, 60_000)));
    all_done(&enforcer.ensure_banned(&bans, now))?;
    expect_held(enforcer, now, &texts)?;
    // A network that overlaps other bans is a ban of its own, and lifting it leaves the others.
    all_done(&enforcer.ensure_banned(&[ban("192.0.2.0/24", Ends::Never)], now))?;
    all_done(&enforcer.ensure_lifted(&[client("192.0.2.1")]))?;
    expect_held(enforcer, now, &["192.0.2.0/24", texts[1], texts[2], texts[3], texts[4]])
}

fn moved_end(enforcer: &mut dyn Enforcer, now: Now) -> Result<()> {
    let who = client("192.0.2.1");
    for ends in
        [Ends::after(now, 60_000), Ends::after(now, 7_200_000), Ends::after(now, 120_000), Ends::Never]
    {
        all_done(&enforcer.ensure_banned(&[ban("192.0.2.1", ends)], now))?;
        for (held, kernel_ends) in enforcer.observe(now)? {
            ensure!(held == who, "held {held}");
            let Some(kernel_ends) = kernel_ends else { continue };
            match (ends.remaining_ms(now), kernel_ends.remaining_ms(now)) {
                (None, None) => {}
                (Some(want), Some(is)) => {
                    ensure!(want.abs_diff(is) <= 3_000, "{want} ms wanted, {is} ms held");
                }
                (want, is) => anyhow::bail!("{want:?} wanted, {is:?} held"),
            }
        }
    }
    // A ban that exceeds the kernel's longest timeout is held too.
    let years = Ends::after(now, 3 * 365 * 86_400_000);
    all_done(&enforcer.ensure_banned(&[ban("192.0.2.1", years)], now))?;
    expect_held(enforcer, now, &["192.0.2.1"])
}

fn exempt(enforcer: &mut dyn Enforcer, now: Now) -> Result<()> {
    let networks = ["192.0.2.9/32".parse()?, "2001:db8::5/128".parse()?];
    let bans = [ban("192.0.2.0/24", Ends::Never), ban("2001:db8::/64", Ends::Never)];
    enforcer.ensure_exempt(&networks)?;
    all_done(&enforcer.ensure_banned(&bans, now))?;
    ensure!(enforcer.reconcile(&table(&bans), &networks, now)?.is_none(), "something to repair");
    expect_held(enforcer, now, &["192.0.2.0/24", "2001:db8::/64"])?;
    enforcer.ensure_exempt(&[])?;
    ensure!(
        enforcer.reconcile(&table(&bans), &[], now)?.is_none(),
        "something to repair without exempt networks"
    );
    Ok(())
}

fn heals(world: &dyn World, enforcer: &mut dyn Enforcer, now: Now) -> Result<()> {
    let texts = ["192.0.2.1", "198.51.100.0/24", "2001:db8:1::/64"];
    let bans = texts.map(|text| ban(text, Ends::after(now, 600_000)));
    all_done(&enforcer.ensure_banned(&bans, now))?;
    world.flush()?;
    ensure!(!enforcer.is_intact(3)?, "a flush went unnoticed");
    let repair = enforcer.reconcile(&table(&bans), &[], now)?.context("nothing was found after a flush")?;
    ensure!(!repair.found.is_empty(), "{repair:?}");
    expect_held(enforcer, now, &texts)?;
    ensure!(enforcer.reconcile(&table(&bans), &[], now)?.is_none(), "applied twice it still does something");
    // Orders work after a flush, whether or not it has been noticed.
    world.flush()?;
    all_done(&enforcer.ensure_banned(&[ban("192.0.2.3", Ends::Never)], now))?;
    all_done(&enforcer.ensure_lifted(&[client("192.0.2.1")]))?;
    let bans = [bans[1], bans[2], ban("192.0.2.3", Ends::Never)];
    enforcer.reconcile(&table(&bans), &[], now)?;
    expect_held(enforcer, now, &["192.0.2.3", "198.51.100.0/24", "2001:db8:1::/64"])
}

fn unwanted(enforcer: &mut dyn Enforcer, now: Now) -> Result<()> {
    let wanted = ban("192.0.2.1", Ends::Never);
    let stale = [ban("192.0.2.2", Ends::Never), ban("2001:db8::/64", Ends::Never)];
    all_done(&enforcer.ensure_banned(&[wanted, stale[0], stale[1]], now))?;
    let repair = enforcer.reconcile(&table(&[wanted]), &[], now)?.context("nothing was found")?;
    ensure!((repair.restored, repair.removed) == (0, 2), "{repair:?}");
    expect_held(enforcer, now, &["192.0.2.1"])?;
    let missing = ban("192.0.2.3", Ends::after(now, 60_000));
    let past = ban("192.0.2.4", Ends::after(now, 0));
    let repair = enforcer
        .reconcile(&table(&[wanted, missing, past]), &[], now.plus_ms(1))?
        .context("found nothing")?;
    ensure!((repair.restored, repair.removed) == (1, 0), "{repair:?}");
    expect_held(enforcer, now, &["192.0.2.1", "192.0.2.3"])
}

fn restart(world: &dyn World, enforcer: &mut dyn Enforcer, now: Now) -> Result<()> {
    let bans = [ban("192.0.2.1", Ends::after(now, 600_000)), ban("2001:db8:1::/64", Ends::Never)];
    all_done(&enforcer.ensure_banned(&bans, now))?;
    let before = world.ours()?;
    let mut next = world.enforcer();
    next.start(&[], now)?;
    ensure!(next.reconcile(&table(&bans), &[], now)?.is_none(), "a restart found something to repair");
    ensure!(world.ours()?.len() == before.len(), "a restart changed {before:?} to {:?}", world.ours()?);
    expect_held(&mut *next, now, &["192.0.2.1", "2001:db8:1::/64"])?;
    all_done(&next.ensure_lifted(&[client("192.0.2.1")]))?;
    // A ban that was lifted while the agent was down is removed by the next agent's first reconcile.
    let mut third = world.enforcer();
    third.start(&[], now)?;
    third.reconcile(&table(&[]), &[], now)?;
    expect_held(&mut *third, now, &[])
}

/// Adds, moves and lifts more bans than fit into one batch.
fn many(enforcer: &mut dyn Enforcer, now: Now) -> Result<()> {
    let bans: Vec<Ban> = (0..2_000)
        .map(|n| ban(&format!("10.9.{}.{}", n / 250, n % 250), Ends::after(now, 600_000)))
        .collect();
    all_done(&enforcer.ensure_banned(&bans, now))?;
    all_done(&enforcer.ensure_banned(&bans, now))?;
    ensure!(enforcer.observe(now)?.len() == 2_000, "not all held, or twice");
    ensure!(enforcer.is_intact(2_000)?, "not intact");
    ensure!(enforcer.reconcile(&table(&bans), &[], now)?.is_none(), "something to repair");
    let clients: Vec<Client> = bans[..1_990].iter().map(|ban| ban.client.client()).collect();
    all_done(&enforcer.ensure_lifted(&clients))?;
    enforcer.reconcile(&table(&bans[1_990..]), &[], now)?;
    ensure!(enforcer.observe(now)?.len() == 10, "not all lifted");
    ensure!(enforcer.is_intact(10)?, "not intact after lifts");
    Ok(())
}

fn counted(enforcer: &mut dyn Enforcer, now: Now) -> Result<()> {
    all_done(&enforcer.ensure_banned(&[ban("192.0.2.1", Ends::Never)], now))?;
    let drops = enforcer.drops(&[client("192.0.2.1"), client("192.0.2.9")])?;
    ensure!(drops.len() == 2 && drops[1].is_none(), "{drops:?}");
    ensure!(drops[0].is_none_or(|drops| drops.packets == 0), "{drops:?}");
    ensure!(enforcer.total_drops()?.packets == 0, "dropped something without traffic");
    Ok(())
}

/// The simulated host, with a rule of another program.
struct Simulated {
    host: SimulatedHost,
    settings: Settings,
}

impl World for Simulated {
    fn enforcer(&self) -> Box<dyn Enforcer> {
        Box::new(self.host.enforcer(self.settings.clone()))
    }

    fn flush(&self) -> Result<()> {
        self.host.flush_ruleset();
        self.host.flush_sets();
        self.host.insert_rule(Version::V4, "INPUT", FOREIGN);
        Ok(())
    }

    fn ours(&self) -> Result<Vec<String>> {
        let mut ours = self.host.sets();
        for version in Version::ALL {
            ours.extend(self.host.rules(version, "SHIELD"));
            ours.extend(
                self.host.rules(version, "INPUT").into_iter().filter(|rule| rule.ends_with("SHIELD")),
            );
        }
        Ok(ours)
    }

    fn others(&self) -> Result<Vec<String>> {
        Ok(self
            .host
            .rules(Version::V4, "INPUT")
            .into_iter()
            .filter(|rule| !rule.ends_with("SHIELD"))
            .collect())
    }

    fn now(&self) -> Now {
        Now { wall_ms: 1_700_000_000_000, boot_ms: 50_000 }
    }
}

const FOREIGN: &str = "-s 203.0.113.5/32 -j ACCEPT";

fn on_simulated_host(settings: Settings) {
    let host = SimulatedHost::new();
    host.set_time(50_000);
    host.insert_rule(Version::V4, "INPUT", FOREIGN);
    contract(&Simulated { host, settings }).unwrap();
}

/// A network namespace with real iptables, and with rules and sets of another program.
struct Real {
    settings: Settings,
    has_ipset: HasIpset,
}

/// The availability of ipset.
#[derive(Clone, Copy)]
enum HasIpset {
    Yes,
    /// Only through its program, as on kernels with another version of the protocol.
    WithoutNetlink,
    No,
}

/// This host without ipset, so that nftables' own sets are used.
struct WithoutIpset(Host);

impl Programs for WithoutIpset {
    fn run(&mut self, argv: &[&str], stdin: &[u8], line: &mut dyn FnMut(&str)) -> Result<()> {
        if argv[0] == "ipset" {
            return Err(NotInstalled("ipset".to_owned()).into());
        }
        self.0.run(argv, stdin, line)
    }

    fn another(&self) -> Box<dyn Programs> {
        Box::new(WithoutIpset(Host))
    }

    fn read_proc(&mut self, path: &str) -> Option<String> {
        self.0.read_proc(path)
    }
}

/// This host, whose sets are filled by the ipset program.
struct WithoutNetlink(Host);

impl Programs for WithoutNetlink {
    fn run(&mut self, argv: &[&str], stdin: &[u8], line: &mut dyn FnMut(&str)) -> Result<()> {
        self.0.run(argv, stdin, line)
    }

    fn another(&self) -> Box<dyn Programs> {
        Box::new(WithoutNetlink(Host))
    }

    fn read_proc(&mut self, path: &str) -> Option<String> {
        self.0.read_proc(path)
    }
}

impl Real {
    fn iptables(&self, arguments: &[&str]) -> Result<String> {
        let mut argv = vec![self.settings.program_v4.as_str(), "--wait"];
        argv.extend(arguments);
        command::run(&argv)
    }

    fn foreign(&self) -> Result<()> {
        self.iptables(&["-A", "INPUT", "-s", "203.0.113.5", "-p", "tcp", "--dport", "22", "-j", "ACCEPT"])
            .map(drop)
    }

    fn everything(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for program in [&self.settings.program_v4, &self.settings.program_v6] {
            let saved = command::run(&[&format!("{program}-save"), "-t", "filter"])?;
            lines.extend(saved.lines().filter(|line| line.starts_with("-A")).map(str::to_owned));
        }
        lines.extend(command::run(&["ipset", "list", "-n"])?.lines().map(|name| format!("set {name}")));
        lines.extend(command::run(&["nft", "list", "tables"])?.lines().map(str::to_owned));
        lines.retain(|line| !line.ends_with(" filter"));
        Ok(lines)
    }
}

fn is_ours(line: &str) -> bool {
    line.to_lowercase().contains("shield")
}

impl World for Real {
    fn enforcer(&self) -> Box<dyn Enforcer> {
        let programs: Box<dyn Programs> = match self.has_ipset {
            HasIpset::Yes => Box::new(Host),
            HasIpset::WithoutNetlink => Box::new(WithoutNetlink(Host)),
            HasIpset::No => Box::new(WithoutIpset(Host)),
        };
        Box::new(IptablesEnforcer::with_programs(self.settings.clone(), programs))
    }

    fn flush(&self) -> Result<()> {
        command::run(&["nft", "flush", "ruleset"])?;
        for program in ["iptables-legacy", "ip6tables-legacy"] {
            command::run(&[program, "--wait", "-F"])?;
            command::run(&[program, "--wait", "-X"])?;
        }
        command::run(&["ipset", "flush"])?;
        self.foreign()
    }

    fn ours(&self) -> Result<Vec<String>> {
        Ok(self.everything()?.into_iter().filter(|line| is_ours(line)).collect())
    }

    fn others(&self) -> Result<Vec<String>> {
        Ok(self.everything()?.into_iter().filter(|line| !is_ours(line)).collect())
    }
}

fn on_real_kernel(label: &str, settings: Settings, has_ipset: HasIpset) {
    let namespace = Namespace::create(label).unwrap();
    namespace.enter(|| {
        let world = Real { settings, has_ipset };
        command::run(&["ipset", "create", "theirs", "hash:ip"]).unwrap();
        world.foreign().unwrap();
        contract(&world).unwrap();
    });
    let name = namespace.name().to_owned();
    drop(namespace);
    assert!(!shield_tests::netns::left_by(std::process::id()).unwrap().contains(&name));
}

/// Listing 10,000 rules takes 80 ms, which once delayed new bans every 2 s.
#[test]
fn chains_are_listed_by_the_check_only_when_a_rule_has_changed() {
    let namespace = Namespace::create("gener").unwrap();
    namespace.enter(|| {
        for (flavour, counts_up) in [("nft", true), ("legacy", false)] {
            let [v4, v6] = ["iptables", "ip6tables"].map(|program| format!("{program}-{flavour}"));
            let settings = Settings {
                backend: Backend::Rules,
                program_v4: v4.clone(),
                program_v6: v6,
                ..Settings::default()
            };
            let listings = Arc::new(AtomicUsize::new(0));
            let programs = Box::new(Counted::new(|program| program.ends_with("-save"), &listings));
            let mut enforcer = IptablesEnforcer::with_programs(settings, programs);
            enforcer.start(&[], clock::now()).unwrap();
            let failures = enforcer.ensure_banned(&[ban("192.0.2.1", Ends::Never)], clock::now());
            assert!(failures.is_empty(), "{failures:?}");
            assert!(enforcer.is_intact(1).unwrap(), "{flavour}");
            let before = listings.load(Ordering::Relaxed);
            assert!(enforcer.is_intact(1).unwrap(), "{flavour}");
            assert_eq!(listings.load(Ordering::Relaxed) == before, counts_up, "{flavour}");
            command::run(&[&v4, "--wait", "-I", "INPUT", "1", "-i", "lo", "-j", "ACCEPT"]).unwrap();
            assert!(!enforcer.is_intact(1).unwrap(), "{flavour}: a rule before ours");
            command::run(&[&v4, "--wait", "-D", "INPUT", "-i", "lo", "-j", "ACCEPT"]).unwrap();
            assert!(enforcer.is_intact(1).unwrap(), "{flavour}: gone again");
            enforcer.cleanup().unwrap();
        }
    });
}

/// A network namespace with an XDP program's interface in it.
struct Card {
    settings: xdp::Settings,
}

impl World for Card {
    fn enforcer(&self) -> Box<dyn Enforcer> {
        Box::new(XdpEnforcer::new(self.settings.clone()))
    }

    fn flush(&self) -> Result<()> {
        let maps = self.settings.pin_folder.join("maps");
        if !maps.exists() {
            return Ok(());
        }
        let map = Map::HashMap(MapData::from_pin(maps.join(map_name::BANS_V4))?);
        let mut bans: HashMap<_, KeyV4, KernelBan> = map.try_into()?;
        for key in bans.keys().collect::<Result<Vec<_>, _>>()? {
            bans.remove(&key)?;
        }
        Ok(std::fs::remove_dir_all(&self.settings.pin_folder)?)
    }

    fn ours(&self) -> Result<Vec<String>> {
        let pins =
            command::run(&["find", &self.settings.pin_folder.parent().unwrap().display().to_string()])?;
        // A bpffs shows two files of the kernel's own.
        let mut ours: Vec<String> =
            pins.lines().skip(1).filter(|path| !path.ends_with(".debug")).map(str::to_owned).collect();
        let links = command::run(&["ip", "-d", "link"])?;
        ours.extend(links.lines().filter(|line| line.contains("prog/xdp")).map(|_| "a program".to_owned()));
        Ok(ours)
    }

    fn others(&self) -> Result<Vec<String>> {
        // Only names, because a link's state still changes for some time after it is brought up.
        let links = command::run(&["ip", "-o", "-br", "link"])?;
        Ok(links.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
    }
}

fn on_card(mode: xdp::Mode, held_to: fn(&dyn World) -> Result<()>) {
    let (namespace, bpffs) = (Namespace::create("card").unwrap(), Bpffs::mount().unwrap());
    let end = |interface| End { namespace: &namespace, interface, addresses: &[] };
    connect(end("eth0"), end("peer0")).unwrap();
    let settings = xdp::Settings {
        interfaces: xdp::Selection::Named(vec!["eth0".to_owned()]),
        mode,
        pin_folder: bpffs.path().join("shield"),
        ..xdp::Settings::default()
    };
    namespace.enter(|| held_to(&Card { settings })).unwrap();
}

#[test]
fn xdp_in_native_mode() {
    on_card(xdp::Mode::Native, contract);
}

#[test]
fn xdp_in_generic_mode() {
    on_card(xdp::Mode::Generic, contract);
}

/// History: on Linux 5.10, which has no batches for tries, XDP never came up ("Unknown error 524").
#[test]
fn xdp_on_a_kernel_without_batches() {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            old_kernel::refuse_batches().unwrap();
            on_card(xdp::Mode::Native, listings);
        });
        thread.join().unwrap();
    });
}

/// A folder in a tmpfs, with a file of another program.
struct Files {
    settings: nginx::Settings,
}

impl World for Files {
    fn enforcer(&self) -> Box<dyn Enforcer> {
        match self.settings.backend {
            NginxBackend::Files => Box::new(NginxEnforcer::new(self.settings.clone())),
            NginxBackend::Map => Box::new(MapEnforcer::new(self.settings.clone())),
        }
    }

    fn flush(&self) -> Result<()> {
        command::run(&[
            "find",
            &self.folder(),
            "-mindepth",
            "1",
            "-type",
            "f",
            "-not",
            "-name",
            "theirs",
            "-delete",
        ])
        .map(drop)
    }

    fn ours(&self) -> Result<Vec<String>> {
        let found = command::run(&["find", &self.folder(), "-type", "f", "-not", "-name", "theirs"])?;
        Ok(found.lines().map(str::to_owned).collect())
    }

    fn others(&self) -> Result<Vec<String>> {
        let found = command::run(&["find", &self.folder(), "-name", "theirs"])?;
        Ok(found.lines().map(str::to_owned).collect())
    }
}

impl Files {
    fn folder(&self) -> String {
        self.settings.folder.display().to_string()
    }
}

#[test]
fn files_for_nginx() {
    let tmpfs = tempfile::tempdir_in("/dev/shm").unwrap();
    let folder = tmpfs.path().join("deny");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("theirs"), "").unwrap();
    contract(&Files { settings: nginx::Settings { folder, ..nginx::Settings::default() } }).unwrap();
}

/// Every change has a real nginx read its maps anew.
#[test]
fn maps_for_nginx() {
    let tmpfs = tempfile::tempdir_in("/dev/shm").unwrap();
    let folder = tmpfs.path().join("deny");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("theirs"), "").unwrap();
    let mut settings = nginx::Settings {
        folder,
        backend: NginxBackend::Map,
        reload_every: std::time::Duration::ZERO,
        ..nginx::Settings::default()
    };
    let nginx = ProxiedNginx::start_for(tmpfs.path(), &settings).unwrap();
    settings.commands = nginx.commands();
    contract(&Files { settings }).unwrap();
}

fn settings(backend: Backend, flavour: &str) -> Settings {
    Settings {
        backend,
        program_v4: format!("iptables{flavour}"),
        program_v6: format!("ip6tables{flavour}"),
        ..Settings::default()
    }
}

#[test]
fn rules_on_the_simulated_host() {
    on_simulated_host(settings(Backend::Rules, ""));
}

#[test]
fn auto_on_the_simulated_host() {
    on_simulated_host(settings(Backend::Auto, ""));
}

#[test]
fn ipset_on_the_simulated_host() {
    on_simulated_host(settings(Backend::Ipset, ""));
}

#[test]
fn rules_with_iptables_nft() {
    on_real_kernel("nft", settings(Backend::Rules, "-nft"), HasIpset::Yes);
}

#[test]
fn rules_with_iptables_legacy() {
    on_real_kernel("legacy", settings(Backend::Rules, "-legacy"), HasIpset::Yes);
}

#[test]
fn auto_with_whichever_iptables() {
    on_real_kernel("auto", settings(Backend::Auto, ""), HasIpset::Yes);
}

#[test]
fn ipset_with_iptables_nft() {
    on_real_kernel("ipsetnft", settings(Backend::Ipset, "-nft"), HasIpset::Yes);
}

#[test]
fn ipset_with_iptables_legacy() {
    on_real_kernel("ipsetleg", settings(Backend::Ipset, "-legacy"), HasIpset::Yes);
}

#[test]
fn ipset_by_its_program() {
    on_real_kernel("ipsetprog", settings(Backend::Ipset, "-nft"), HasIpset::WithoutNetlink);
}

#[test]
fn nftables_sets_where_ipset_is_absent() {
    on_real_kernel("nftsets", settings(Backend::Ipset, "-nft"), HasIpset::No);
}

/// Flushed chains with intact sets drop nothing, although every ban is still listed.
#[test]
fn nftables_chains_that_were_flushed_heal() {
    let namespace = Namespace::create("nftflush").unwrap();
    namespace.enter(|| {
        let world = Real { settings: settings(Backend::Ipset, "-nft"), has_ipset: HasIpset::No };
        let (mut enforcer, now) = (world.enforcer(), world.now());
        let bans = [ban("192.0.2.1", Ends::Never)];
        enforcer.start(&[], now).unwrap();
        all_done(&enforcer.ensure_banned(&bans, now)).unwrap();
        command::run(&["nft", "flush", "chain", "ip", "shield", "input"]).unwrap();
        assert!(!enforcer.is_intact(1).unwrap());
        let repair = enforcer.reconcile(&table(&bans), &[], now).unwrap().expect("something was found");
        assert!(repair.found.contains("IPv4: the set of banned clients was gone"), "{}", repair.found);
        expect_held(&mut *enforcer, now, &["192.0.2.1"]).unwrap();
        assert!(command::run(&["nft", "list", "chain", "ip", "shield", "input"]).unwrap().contains("@len32"));
        enforcer.cleanup().unwrap();
    });
}
