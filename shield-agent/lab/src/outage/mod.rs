//! What breaks in an environment, to order: each outage does what a bad day does, through the guard, so that nothing else breaks.
//!
//! [`recover`] keeps no record of outages. It looks at what is wrong now, whoever broke it, and mends just that. What the
//! agent mends by itself (its rules, its programs) is left to the agent: that it does is what an outage is to show.

mod clock;
mod disk;
mod firewall;
mod load;
mod log;
mod network;
mod process;
mod slack;
mod xdp;

pub use load::run as run_load;

use std::str::FromStr;

use anyhow::{Context as _, Error, Result, bail};
use serde::{Deserialize, Serialize};

use crate::environment::{Environment, Machine, Role};

/// An outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The agent is killed.
    Crash,
    /// The agent stands still.
    Pause,
    /// No packet reaches the server.
    Network,
    /// Every processor is busy.
    Stress,
    /// All rules and chains of the server's firewall are gone.
    FlushFirewall,
    /// The agent's XDP program is detached.
    XdpOff,
    /// The agent's pins are gone.
    Unpin,
    /// nginx's log is renamed, and nginx opens a new one.
    Rotate,
    /// nginx's log is emptied.
    Truncate,
    /// The agent's state cannot be written.
    DiskFull,
    /// The agent's wall clock is ahead by ten minutes.
    Clock,
    /// Slack refuses every message.
    SlackDown,
}

impl Mode {
    /// Every outage.
    pub const ALL: [Mode; 12] = [
        Mode::Crash,
        Mode::Pause,
        Mode::Network,
        Mode::Stress,
        Mode::FlushFirewall,
        Mode::XdpOff,
        Mode::Unpin,
        Mode::Rotate,
        Mode::Truncate,
        Mode::DiskFull,
        Mode::Clock,
        Mode::SlackDown,
    ];

    /// Its name on the command line and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Crash => "crash",
            Mode::Pause => "pause",
            Mode::Network => "network",
            Mode::Stress => "stress",
            Mode::FlushFirewall => "flush-firewall",
            Mode::XdpOff => "xdp-off",
            Mode::Unpin => "unpin",
            Mode::Rotate => "rotate",
            Mode::Truncate => "truncate",
            Mode::DiskFull => "disk-full",
            Mode::Clock => "clock",
            Mode::SlackDown => "slack-down",
        }
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Mode> {
        let found = Mode::ALL.into_iter().find(|mode| mode.name() == name);
        found.with_context(|| {
            let names = Mode::ALL.map(Mode::name).join(", ");
            format!("could not find an outage `{name}`; there are {names}, and `recover`")
        })
    }
}

/// Breaks something in an environment, and says what.
///
/// # Errors
/// Fails if the guard refuses it, or if what is to break is not there.
pub fn start(environment: &mut Environment, mode: Mode) -> Result<String> {
    let servers = servers(environment)?;
    let mut said = Vec::new();
    for server in &servers {
        said.push(start_on(environment, server, mode)?);
    }
    said.dedup();
    Ok(said.join("; "))
}

fn start_on(environment: &mut Environment, server: &str, mode: Mode) -> Result<String> {
    match mode {
        Mode::Crash => process::crash(environment, server),
        Mode::Pause => process::pause(environment, server),
        Mode::Network => network::cut(environment),
        Mode::Stress => load::start(environment, server),
        Mode::FlushFirewall => firewall::flush(environment, server),
        Mode::XdpOff => xdp::detach(environment, server),
        Mode::Unpin => xdp::unpin(environment, server),
        Mode::Rotate => log::rotate(environment, server),
        Mode::Truncate => log::truncate(environment, server),
        Mode::DiskFull => disk::fill(environment, server),
        Mode::Clock => clock::set_ahead(environment, server),
        Mode::SlackDown => slack::refuse(environment, server),
    }
}

/// Looks at one thing of a server, mends it, and says what it mended.
type Step = fn(&mut Environment, &str) -> Result<Vec<String>>;

/// Looks at what is wrong in an environment and mends just that; says what it was. What the agent mends by itself needs some
/// seconds more.
///
/// # Errors
/// Fails with everything that could not be mended, after all that could be was.
pub fn recover(environment: &mut Environment) -> Result<Vec<String>> {
    // In this order: a process must run and reach its disk before others can ask it.
    const STEPS: [Step; 8] = [
        |environment, _| network::join(environment),
        |environment, server| load::end(environment, server),
        |environment, server| disk::clear(environment, server),
        |environment, server| clock::set_right(environment, server),
        |environment, server| process::go_on(environment, server),
        |environment, server| process::start_again(environment, server),
        |environment, server| log::reopen(environment, server),
        |environment, server| slack::accept(environment, server),
    ];
    let (mut mended, mut failed) = (Vec::new(), Vec::new());
    for server in servers(environment)? {
        for step in STEPS {
            match step(environment, &server) {
                Ok(said) => mended.extend(said),
                Err(error) => failed.push(format!("{error:#}")),
            }
        }
    }
    if !failed.is_empty() {
        bail!("could not mend everything: {}", failed.join("; "));
    }
    Ok(mended)
}

/// The names of the machines with an agent.
fn servers(environment: &Environment) -> Result<Vec<String>> {
    let of_role = |machine: &&Machine| machine.role == Role::Server;
    let names: Vec<String> =
        environment.machines.iter().filter(of_role).map(|machine| machine.name.clone()).collect();
    if names.is_empty() {
        bail!("could not find a server in the environment {}", environment.id);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outage_is_found_by_its_name_and_an_unknown_one_is_told_the_others() {
        for mode in Mode::ALL {
            assert_eq!(mode.name().parse::<Mode>().unwrap(), mode);
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.name());
        }
        let error = "flood".parse::<Mode>().unwrap_err().to_string();
        assert!(error.contains("disk-full") && error.contains("recover"), "{error}");
    }
}
