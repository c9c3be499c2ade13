//! Random sequences of bans, lifts, restarts, firewall reloads and failing commands on the simulated host, compared with a
//! model that only knows which clients should be dropped.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;

use crate::enforce::ban::Ban;
use crate::enforce::desired::Desired;
use crate::enforce::enforcer::Enforcer as _;
use crate::enforce::iptables::{Backend, IptablesEnforcer, Settings, Version};
use crate::enforce::simulator::SimulatedHost;
use shield_engine::allowlist::Allowlist;
use shield_engine::client::Client;
use shield_engine::time::{Ends, Now};

/// Few enough that steps often concern the same client, enough to cross `MAX_RULES` both ways.
const CLIENTS: usize = 12;
const MAX_RULES: usize = 5;
const EXEMPT: &str = "192.0.2.9/32";
const OTHERS_RULE: &str = "-s 203.0.113.5/32 -j ACCEPT";

#[derive(Debug, Clone)]
enum Step {
    Ban(Vec<usize>, u64),
    Lift(Vec<usize>),
    Restart,
    Advance(u64),
    Exempt,
    NoExempt,
    FlushRules,
    FlushRuleset,
    FlushSets,
    RuleBeforeOurs,
    RuleInOurChain,
    Docker,
    Fail(&'static str, usize),
    Reconcile,
}

fn step() -> impl Strategy<Value = Step> {
    let some = || prop::collection::vec(0..CLIENTS, 1..6);
    prop_oneof![
        6 => (some(), 1u64..200).prop_map(|(clients, secs)| Step::Ban(clients, secs)),
        4 => some().prop_map(Step::Lift),
        1 => Just(Step::Restart),
        2 => (1u64..120).prop_map(Step::Advance),
        1 => Just(Step::Exempt),
        1 => Just(Step::NoExempt),
        1 => Just(Step::FlushRules),
        1 => Just(Step::FlushRuleset),
        1 => Just(Step::FlushSets),
        1 => Just(Step::RuleBeforeOurs),
        1 => Just(Step::RuleInOurChain),
        1 => Just(Step::Docker),
        1 => (prop_oneof![Just("iptables-restore"), Just("ip6tables-save"), Just("ipset")], 1usize..4)
            .prop_map(|(command, times)| Step::Fail(command, times)),
        3 => Just(Step::Reconcile),
    ]
}

fn client(n: usize) -> Client {
    match n % 3 {
        0 => format!("192.0.2.{n}").parse().expect("an address"),
        1 => format!("2001:db8:{n}::/64").parse().expect("a prefix"),
        _ => format!("198.51.{n}.0/24").parse().expect("a network"),
    }
}

/// An address of this client.
fn source(client: Client) -> IpAddr {
    client.network().addr()
}

struct Run {
    host: SimulatedHost,
    settings: Settings,
    enforcer: IptablesEnforcer,
    model: BTreeMap<Client, Ban>,
    exempt: Vec<IpNet>,
    now: Now,
}

impl Run {
    fn new(host: SimulatedHost, backend: Backend) -> Run {
        host.insert_rule(Version::V4, "INPUT", OTHERS_RULE);
        let settings = Settings { backend, max_rules: MAX_RULES, ..Settings::default() };
        let mut enforcer = host.enforcer(settings.clone());
        let now = Now { wall_ms: 1_700_000_000_000, boot_ms: 0 };
        enforcer.start(&[], now).expect("the simulated host is sound");
        Run { host, settings, enforcer, model: BTreeMap::new(), exempt: Vec::new(), now }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Ban(clients, secs) => self.ban(clients, *secs),
            Step::Lift(clients) => self.lift(clients.iter().map(|n| client(*n)).collect()),
            Step::Restart => self.restart(),
            Step::Advance(secs) => self.advance(*secs),
            Step::Exempt => self.set_exempt(vec![EXEMPT.parse().expect("a network")]),
            Step::NoExempt => self.set_exempt(Vec::new()),
            Step::FlushRules => self.host.flush_rules(),
            Step::FlushRuleset => self.host.flush_ruleset(),
            Step::FlushSets => self.host.flush_sets(),
            Step::RuleBeforeOurs => self.host.insert_rule(Version::V4, "INPUT", "-i lo -j ACCEPT"),
            Step::RuleInOurChain if self.host.has_chain(Version::V4, "SHIELD") => {
                self.host.insert_rule(Version::V4, "SHIELD", OTHERS_RULE);
            }
            Step::RuleInOurChain => {}
            Step::Docker => self.host.add_chain(Version::V4, "DOCKER-USER"),
            Step::Fail(command, times) => self.host.fail(command, *times, "injected"),
            Step::Reconcile => self.reconcile(),
        }
    }

    fn ban(&mut self, clients: &[usize], secs: u64) {
        let bans: Vec<Ban> = clients
            .iter()
            .map(|n| Ban {
                client: Allowlist::default().admit(client(*n), 64).expect("no special address"),
                ends: if secs < 10 { Ends::Never } else { Ends::after(self.now, secs * 1000) },
            })
            .collect();
        // A failed ban stays wanted, and is put in force by the next reconcile.
        let _ = self.enforcer.ensure_banned(&bans, self.now);
        self.model.extend(bans.iter().map(|ban| (ban.client.client(), *ban)));
    }

    fn lift(&mut self, clients: Vec<Client>) {
        let _ = self.enforcer.ensure_lifted(&clients);
        self.model.retain(|client, _| !clients.contains(client));
    }

    fn restart(&mut self) {
        self.enforcer = self.host.enforcer(self.settings.clone());
        // An injected failure may hit the start; the interpreter retries it.
        while self.enforcer.start(&self.exempt, self.now).is_err() {}
    }

    /// Advances the clock, and lifts what has ended, as the engine does.
    fn advance(&mut self, secs: u64) {
        self.now = self.now.plus_ms(secs * 1000);
        self.host.set_time(self.now.boot_ms);
        let over =
            self.model.values().filter(|ban| ban.ends.is_past(self.now)).map(|ban| ban.client.client());
        self.lift(over.collect());
    }

    fn set_exempt(&mut self, networks: Vec<IpNet>) {
        let _ = self.enforcer.ensure_exempt(&networks);
        self.exempt = networks;
    }

    /// Reconciles amid injected failures, then without them, and compares the kernel with the model.
    fn reconcile(&mut self) {
        let mut desired = Desired::default();
        self.model.values().zip(1..).for_each(|(ban, serial)| desired.insert(*ban, serial));
        let _ = self.enforcer.reconcile(&desired, &self.exempt, self.now);
        self.host.end_failures();
        self.enforcer.reconcile(&desired, &self.exempt, self.now).expect("no failure is left");
        let again = self.enforcer.reconcile(&desired, &self.exempt, self.now);
        assert_eq!(again.expect("no failure is left"), None, "applied twice it does nothing");
        assert!(self.enforcer.is_intact(desired.len()).expect("no failure is left"));
        self.check();
    }

    fn check(&mut self) {
        let mut held: Vec<Client> = self
            .enforcer
            .observe(self.now)
            .expect("observed")
            .into_iter()
            .map(|(client, _)| client)
            .collect();
        held.sort_unstable();
        assert_eq!(held, self.model.keys().copied().collect::<Vec<_>>(), "held is what is wanted, once each");
        for n in 0..CLIENTS {
            let (client, source) = (client(n), source(client(n)));
            let allowed = self.exempt.iter().any(|net| net.contains(&source));
            assert_eq!(self.host.send_from(source), self.model.contains_key(&client) && !allowed, "{client}");
        }
    }

    /// Ends a run: nothing of ours is left, and everything of others is.
    fn end(mut self) {
        self.reconcile();
        self.enforcer.cleanup().expect("cleaned up");
        assert_eq!(self.host.sets(), Vec::<String>::new());
        for version in Version::ALL {
            assert!(!self.host.has_chain(version, "SHIELD"));
            let input = self.host.rules(version, "INPUT");
            assert!(input.iter().all(|rule| rule == OTHERS_RULE || rule == "-i lo -j ACCEPT"), "{input:?}");
        }
    }
}

fn run(host: SimulatedHost, backend: Backend, steps: &[Step]) {
    let mut run = Run::new(host, backend);
    steps.iter().for_each(|step| run.take(step));
    run.end();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_kernel_ends_as_the_model(steps in prop::collection::vec(step(), 1..60)) {
        for backend in [Backend::Auto, Backend::Rules, Backend::Ipset] {
            run(SimulatedHost::new(), backend, &steps);
            run(SimulatedHost::with_nftables(), backend, &steps);
        }
    }
}
