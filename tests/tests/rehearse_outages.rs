//! Every outage in a real environment: something is broken, `recover` mends just that, and all is well.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::net::Ipv4Addr;
use std::time::Duration;

use rustix::process::Signal;
use shield_lab::agent_api::AgentApi;
use shield_lab::attack::{self, Kind};
use shield_lab::environment::{Environment, Part, Role};
use shield_lab::guard;
use shield_lab::outage::{self, Mode};
use shield_lab::state::State;
use shield_lab::wire::Request;
use shield_tests::lab::kernel::XdpBans;
use shield_tests::rehearse::Labs;
use shield_tests::wait;

/// An address of the environment's attackers.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);

/// For a busy machine: an enforcer tries again after up to half a minute.
const MENDED_WITHIN: Duration = Duration::from_secs(120);

/// A visitor is served, and the agent has no fault.
fn is_well(environment: &Environment) -> anyhow::Result<Option<()>> {
    // Asked more often, the visitor would be one who floods.
    wait::sleep(Duration::from_millis(400))?;
    let faults =
        AgentApi::of(environment, "server").faults().unwrap_or_else(|error| vec![format!("{error:#}")]);
    let visitor = environment.machine(Role::Visitor).unwrap();
    let server = environment.machine(Role::Server).unwrap().addresses[0];
    let answer = guard::namespace(environment, &visitor.name)?
        .enter(|| Request::get("/").send((server, 80).into(), None, Duration::from_secs(2)))?;
    let is_served = answer.is_ok_and(|answer| answer.status == 200);
    Ok((is_served && faults.is_empty() && is_banned(environment).unwrap_or(false)).then_some(()))
}

/// Both enforcers of the kernel still drop the attacker, whom the agent's own states say nothing of.
fn is_banned(environment: &Environment) -> anyhow::Result<bool> {
    let rules = guard::namespace(environment, "server")?.run(&["iptables", "--wait", "-S"])?;
    let is_hooked = rules.lines().any(|rule| rule.starts_with("-A INPUT") && rule.ends_with("-j SHIELD"));
    let is_ruled =
        rules.lines().any(|rule| rule.contains(&format!("-s {ATTACKER}/32")) && rule.ends_with("DROP"));
    let links = guard::namespace(environment, "server")?.run(&["ip", "-details", "link", "show", "eth0"])?;
    let is_attached = links.contains("prog/xdp");
    Ok(is_hooked && is_ruled && is_attached && XdpBans::open(&environment.pins("server"))?.holds(ATTACKER)?)
}

#[test]
fn after_every_outage_recover_leaves_nothing_wrong() {
    let labs = Labs::create("outages").unwrap();
    let id = labs.make(1, &[]).unwrap();
    let mut environment = State::of(Some(labs.folder())).unwrap().find(&id).unwrap();
    let banned = attack::run(&environment, Kind::Flood, Kind::Flood.limits(), &[ATTACKER.into()]).unwrap();
    assert!(banned.banned_after_ms.is_some(), "{banned:?}");
    let mut failed = Vec::new();
    for mode in Mode::ALL {
        if let Err(error) = breaks_and_recovers(&mut environment, mode) {
            failed.push(format!("{}: {error:#}", mode.name()));
        }
    }
    // What no outage ends, an operator or the kernel's lack of memory may.
    for part in [Part::App, Part::Nginx] {
        if let Err(error) = ends_and_recovers(&mut environment, part) {
            failed.push(format!("{}: {error:#}", part.name()));
        }
    }
    labs.run(&["destroy", &id]).unwrap();
    assert!(failed.is_empty(), "{failed:#?}");
}

fn ends_and_recovers(environment: &mut Environment, part: Part) -> anyhow::Result<()> {
    wait::until("all to be well before", MENDED_WITHIN, || is_well(environment))?;
    let latest = environment.processes.iter().rfind(|process| process.part == part).unwrap();
    let process = guard::process(environment, latest)?;
    process.signal(Signal::KILL)?;
    anyhow::ensure!(process.wait_for_end(10_000)?, "could not see its end");
    let mended = outage::recover(environment)?;
    anyhow::ensure!(mended.len() == 1 && mended[0].contains("started again"), "recovering said {mended:?}");
    wait::until("all to be well again", MENDED_WITHIN, || is_well(environment))
}

fn breaks_and_recovers(environment: &mut Environment, mode: Mode) -> anyhow::Result<()> {
    wait::until("all to be well before", MENDED_WITHIN, || is_well(environment))?;
    outage::start(environment, mode)?;
    let mended = outage::recover(environment)?;
    anyhow::ensure!(mended.is_empty() == mends_itself(mode), "recovering said {mended:?}");
    wait::until("all to be well again", MENDED_WITHIN, || is_well(environment)).map_err(|error| {
        let faults = AgentApi::of(environment, "server").faults();
        error.context(format!("{faults:?}"))
    })?;
    // Nothing is left to mend: what is well is not touched.
    let again = outage::recover(environment)?;
    anyhow::ensure!(again.is_empty(), "recovering once more said {again:?}");
    Ok(())
}

/// What the agent or nginx mends, or what is over at once.
fn mends_itself(mode: Mode) -> bool {
    matches!(mode, Mode::FlushFirewall | Mode::XdpOff | Mode::Unpin | Mode::Rotate | Mode::Truncate)
}
