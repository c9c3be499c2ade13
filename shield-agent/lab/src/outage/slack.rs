//! What stands for Slack refuses messages, and the app is told to be slow or to fail: both are the app's own doing, see
//! [`crate::app`].

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::environment::Environment;
use crate::guard;
use crate::launch::{APP, SLACK};
use crate::wire::{Answer, Request};

const WITHIN: Duration = Duration::from_secs(5);
/// What a part of the app says of itself when it is well.
const WELL: &str = "well";

/// Lets Slack answer with an error.
pub(super) fn refuse(environment: &Environment, server: &str) -> Result<String> {
    ask(environment, server, SLACK, "POST", "/chaos?mode=error")?;
    Ok(format!("Slack refuses what the agent on {server} posts"))
}

/// Lets Slack and the app answer as they should.
pub(super) fn accept(environment: &Environment, server: &str) -> Result<Vec<String>> {
    let mut said = Vec::new();
    for (part, address) in [("Slack", SLACK), ("the app", APP)] {
        let state = ask(environment, server, address, "GET", "/chaos")?;
        if state != WELL {
            ask(environment, server, address, "POST", "/chaos?mode=recover")?;
            said.push(format!("{part} of {server} was told to misbehave ({state}) and is well again"));
        }
    }
    Ok(said)
}

/// Whether both parts of the app answer, whatever they say.
pub(super) fn answers(environment: &Environment, server: &str) -> bool {
    [SLACK, APP].into_iter().all(|address| ask(environment, server, address, "GET", "/chaos").is_ok())
}

fn ask(
    environment: &Environment,
    server: &str,
    address: &str,
    method: &'static str,
    path: &str,
) -> Result<String> {
    let address = address.parse().context("could not parse the app's address")?;
    let request = Request { method, ..Request::get(path) };
    let answer: Answer = guard::namespace(environment, server)?
        .enter(|| request.send(address, None, WITHIN))?
        .with_context(|| format!("could not ask the app of {server}"))?;
    ensure!(answer.status == 200, "could not ask the app of {server}: it answered {}", answer.status);
    Ok(String::from_utf8_lossy(&answer.body).trim().to_owned())
}
