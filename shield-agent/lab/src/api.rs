//! The control service's API, JSON over its unix socket alone: `openapi.json` beside this file describes it, and is served too.

use std::sync::Arc;

use axum::extract::{Path, Query, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use crate::create::Request;
use crate::environment::Environment;
use crate::health::Health;
use crate::logs;
use crate::outage::{self, Mode};
use crate::service::Service;

/// What it can do, for programs.
pub const OPENAPI: &str = include_str!("openapi.json");

/// An answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What was wrong, and what to do.
    pub message: String,
}

/// What is left of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// Its id.
    pub id: String,
    /// The archive with its logs.
    pub archive: std::path::PathBuf,
}

/// What is to break.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outage {
    /// The outage's name, or `recover`.
    pub mode: String,
}

/// What an outage broke, or what recovering mended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Sentences for people.
    pub done: Vec<String>,
}

/// How many lines of each log.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Lines {
    #[serde(default = "hundred")]
    n: usize,
}

fn hundred() -> usize {
    100
}

struct Failure(StatusCode, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(Refusal { message: self.1 })).into_response()
    }
}

type Answer<T> = Result<T, Failure>;
type It = Shared<Arc<Service>>;

pub(crate) fn routes(service: Arc<Service>) -> Router {
    Router::new()
        .route("/labs", get(list).post(create))
        .route("/labs/{id}", delete(destroy))
        .route("/labs/{id}/logs", get(read_logs))
        .route("/labs/{id}/health", get(health))
        .route("/labs/{id}/outage", post(outage))
        .route("/openapi.json", get(async || ([(header::CONTENT_TYPE, "application/json")], OPENAPI)))
        .fallback(async || Failure(StatusCode::NOT_FOUND, "could not find it: see /openapi.json".to_owned()))
        .with_state(service)
}

async fn list(Shared(service): It) -> Answer<Json<Vec<Environment>>> {
    work(move || service.state().list(), StatusCode::INTERNAL_SERVER_ERROR).await.map(Json)
}

async fn create(Shared(service): It, body: String) -> Answer<(StatusCode, Json<Environment>)> {
    let request: Request = serde_json::from_str(&body)
        .map_err(|error| Failure(StatusCode::BAD_REQUEST, format!("could not read the request: {error}")))?;
    request.check().map_err(|error| Failure(StatusCode::BAD_REQUEST, format!("{error:#}")))?;
    let made = work(move || service.create(&request), StatusCode::INTERNAL_SERVER_ERROR).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

async fn destroy(Shared(service): It, Path(id): Path<String>) -> Answer<Json<Gone>> {
    let id = work(
        {
            let (service, id) = (Arc::clone(&service), id.clone());
            // One whose file cannot be read is taken down by its whole id.
            move || {
                service.state().find(&id).map(|it| it.id).or_else(|error| {
                    if service.state().folder_of(&id)?.is_dir() { Ok(id) } else { Err(error) }
                })
            }
        },
        StatusCode::NOT_FOUND,
    )
    .await?;
    let gone = work(
        move || {
            let archive = service.destroy(&id)?;
            Ok(archive.map(|archive| Gone { id, archive }))
        },
        StatusCode::INTERNAL_SERVER_ERROR,
    );
    let missing = || Failure(StatusCode::NOT_FOUND, "could not find it: it is gone already".to_owned());
    gone.await?.map(Json).ok_or_else(missing)
}

async fn read_logs(
    Shared(service): It,
    Path(id): Path<String>,
    Query(Lines { n }): Query<Lines>,
) -> Answer<Json<Vec<logs::Log>>> {
    let read = move || Ok(logs::read(&service.state().find(&id)?, n));
    work(read, StatusCode::NOT_FOUND).await.map(Json)
}

async fn health(Shared(service): It, Path(id): Path<String>) -> Answer<Json<Health>> {
    let read = move || Ok(Health::read(&service.state().find(&id)?));
    work(read, StatusCode::NOT_FOUND).await.map(Json)
}

async fn outage(Shared(service): It, Path(id): Path<String>, body: String) -> Answer<Json<Done>> {
    let wrong = |error| Failure(StatusCode::BAD_REQUEST, format!("could not read the request: {error:#}"));
    let outage: Outage = serde_json::from_str(&body).map_err(|error| wrong(error.into()))?;
    let step = Step::of(&outage.mode).map_err(wrong)?;
    let find = {
        let service = Arc::clone(&service);
        move || Ok(service.state().find(&id)?.id)
    };
    let id = work(find, StatusCode::NOT_FOUND).await?;
    let act = move || service.alone(&id, || step.take(&mut service.state().find(&id)?));
    Ok(Json(Done { done: work(act, StatusCode::INTERNAL_SERVER_ERROR).await? }))
}

/// An outage, or the end of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Break this.
    Break(Mode),
    /// Mend what is wrong.
    Recover,
}

impl Step {
    /// The step of this name.
    ///
    /// # Errors
    /// Lists the names if it is none.
    pub fn of(name: &str) -> anyhow::Result<Self> {
        if name == "recover" { Ok(Self::Recover) } else { Ok(Self::Break(name.parse()?)) }
    }

    /// Takes it, and says what was done.
    ///
    /// # Errors
    /// As those of the outage.
    pub fn take(self, environment: &mut Environment) -> anyhow::Result<Vec<String>> {
        match self {
            Self::Break(mode) => Ok(vec![outage::start(environment, mode)?]),
            Self::Recover => outage::recover(environment),
        }
    }
}

/// Runs on a thread that may wait. `status` is that of a failure.
async fn work<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    status: StatusCode,
) -> Answer<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Failure(status, format!("{error:#}"))),
        Err(error) => Err(Failure(StatusCode::INTERNAL_SERVER_ERROR, format!("could not finish: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_document_has_every_route_and_every_outage() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
        let source = include_str!("api.rs");
        let routes: BTreeSet<&str> = source
            .lines()
            .filter_map(|line| line.trim().strip_prefix(".route(\"")?.split('"').next())
            .collect();
        assert_eq!(paths.iter().map(|path| path.as_str()).collect::<BTreeSet<_>>(), routes);
        let modes = &document["components"]["schemas"]["Outage"]["properties"]["mode"]["enum"];
        let modes: Vec<&str> = modes.as_array().unwrap().iter().map(|mode| mode.as_str().unwrap()).collect();
        assert!(modes.iter().all(|mode| Step::of(mode).is_ok()), "{modes:?}");
        assert_eq!(modes.len(), Mode::ALL.len() + 1);
        assert!(Step::of("burn").is_err());
    }
}
