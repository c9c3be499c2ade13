//! `lab up` and `lab down`: the control service, in the background unless asked otherwise.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use shield_lab::client;
use shield_lab::front::Front;
use shield_lab::service::{self, Settings};
use shield_lab::state::State;

use super::super::{Exit, print};
use super::UpArgs;
use crate::text;

/// It sweeps up what an earlier one left before it answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts the control service, and returns once it answers.
pub(super) fn up(state: &State, args: &UpArgs) -> Result<Exit> {
    let settings = Settings { port: args.port, poll: Duration::from_secs(args.poll.max(1)) };
    if args.foreground {
        service::run(state, settings)?;
        return Ok(Exit::Done);
    }
    if client::is_up(state) {
        bail!("could not start: a control service runs already; `shield-agent lab down` ends it");
    }
    state.create()?;
    let log = state.folder().join("service.log");
    let output = File::create(&log).with_context(|| format!("could not write {}", log.display()))?;
    let errors = output.try_clone().context("could not duplicate the log's descriptor")?;
    let program = std::env::current_exe().context("could not get this program's own path")?;
    let mut command = Command::new(program);
    command.args(["lab", "--state"]).arg(state.folder()).args(["up", "--foreground"]);
    command.args(["--port", &args.port.to_string(), "--poll", &format!("{}s", args.poll.max(1))]);
    // A signal to this terminal is none for it.
    command.process_group(0).stdin(Stdio::null()).stdout(output).stderr(errors);
    let mut child = command.spawn().context("could not start the control service")?;
    let deadline = Instant::now() + PATIENCE;
    while !client::is_up(state) {
        let ended = child.try_wait().context("could not wait for the control service")?;
        if ended.is_some() || Instant::now() >= deadline {
            let said = fs::read_to_string(&log).unwrap_or_default();
            bail!("could not start the control service: {}", said.trim());
        }
        thread::sleep(Duration::from_millis(20));
    }
    let port = Front::of(state).map_or(args.port, |front| front.port);
    print::text(&format!(
        "the control service runs (process {}); environments are shown on 127.0.0.1:{port}, each as ID.localhost\n",
        child.id()
    ))?;
    Ok(Exit::Done)
}

/// Ends the control service, and with it every environment.
pub(super) fn down(state: &State) -> Result<Exit> {
    if !service::stop(state, PATIENCE)? {
        let gone = match service::clear(state)?.len() as u64 {
            0 => "there was no environment either".to_owned(),
            count => format!("{} taken down", text::plural(count, "environment was", "environments were")),
        };
        print::text(&format!("no control service runs; {gone}\n"))?;
        return Ok(Exit::Done);
    }
    print::text("the control service has ended, and all environments with it; their logs are kept\n")?;
    Ok(Exit::Done)
}
