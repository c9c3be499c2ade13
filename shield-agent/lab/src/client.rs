//! What commands ask of the control service.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

use crate::api::{Done, Gone, Outage, Refusal};
use crate::create;
use crate::environment::Environment;
use crate::state::State;
use crate::wire::Request;

/// Ten environments may be made at once on a small machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Whether a control service answers.
pub fn is_up(state: &State) -> bool {
    Request::get("/openapi.json")
        .send_to(&state.socket(), Duration::from_secs(5))
        .is_ok_and(|answer| answer.status == 200)
}

/// Has an environment made.
///
/// # Errors
/// Fails with the service's words.
pub fn create(state: &State, request: &create::Request) -> Result<Environment> {
    let body = serde_json::to_string(request).context("could not write the request")?;
    ask(state, &Request { method: "POST", body: &body, ..Request::get("/labs") })
}

/// Has an environment taken down.
///
/// # Errors
/// Fails with the service's words.
pub fn destroy(state: &State, id: &str) -> Result<Gone> {
    ask(state, &Request { method: "DELETE", ..Request::get(&format!("/labs/{id}")) })
}

/// Has something broken in an environment, or mended.
///
/// # Errors
/// Fails with the service's words.
pub fn outage(state: &State, id: &str, mode: &str) -> Result<Done> {
    let outage = Outage { mode: mode.to_owned() };
    let body = serde_json::to_string(&outage).context("could not write the request")?;
    let target = format!("/labs/{id}/outage");
    ask(state, &Request { method: "POST", body: &body, ..Request::get(&target) })
}

fn ask<T: DeserializeOwned>(state: &State, request: &Request<'_>) -> Result<T> {
    let answer = request.send_to(&state.socket(), PATIENCE).context("could not ask the control service")?;
    if !(200..300).contains(&answer.status) {
        match serde_json::from_slice::<Refusal>(&answer.body) {
            Ok(refusal) => bail!("{}", refusal.message),
            Err(_) => bail!("could not ask the control service: it answers {}", answer.status),
        }
    }
    serde_json::from_slice(&answer.body).context("could not read the control service's answer")
}
