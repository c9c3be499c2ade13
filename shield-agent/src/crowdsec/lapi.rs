//! CrowdSec's local API, as a machine sees it: logging in, its allowlist, alerts.

use anyhow::{Context as _, Result, anyhow, bail};
use reqwest::{Client as Http, Method, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Value, json};

use super::alerts::scope;
use super::decisions::go_duration_ms;
use super::machine::Machine;
use super::{MAX_ANSWER, REPEATED};
use crate::notify::post;
use crate::text;
use shield_engine::client::Client;

/// A machine that is logged in.
pub(super) struct Lapi {
    http: Http,
    base: Url,
    machine: Machine,
    token: String,
    /// Older ones have no allowlists.
    pub has_allowlists: bool,
}

/// The login was refused: the server does not know this machine, or not by this password.
#[derive(Debug)]
pub(super) struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    text: String,
}

/// An alert of this machine, of which only its decisions matter.
#[derive(Debug, Deserialize)]
struct Stored {
    decisions: Option<Vec<StoredDecision>>,
}

#[derive(Debug, Deserialize)]
struct StoredDecision {
    duration: String,
    origin: String,
    value: String,
}

impl Lapi {
    pub(super) async fn open(http: Http, base: Url, machine: Machine) -> Result<Lapi> {
        let mut lapi = Lapi { http, base, machine, token: String::new(), has_allowlists: false };
        lapi.log_in().await?;
        let lists = lapi.ask(Method::GET, "allowlists", &[], None).await?;
        lapi.has_allowlists = match lists.status {
            StatusCode::OK => true,
            StatusCode::NOT_FOUND => false,
            _ => return Err(lapi.unexpected("for its allowlists", &lists)),
        };
        Ok(lapi)
    }

    async fn log_in(&mut self) -> Result<()> {
        #[derive(Deserialize)]
        struct LoggedIn {
            token: String,
        }
        self.token.clear();
        let Machine { login, .. } = &self.machine;
        let body = json!({ "machine_id": login, "password": self.machine.expose(), "scenarios": [] });
        let answer = self.send(Method::POST, self.url("watchers/login"), Some(&body)).await?;
        match answer.status {
            StatusCode::OK => {
                let logged_in: LoggedIn =
                    serde_json::from_str(&answer.text).map_err(|_| anyhow!(text::crowdsec::NO_TOKEN))?;
                self.token = logged_in.token;
                Ok(())
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let said = self.said(&answer);
                Err(Refused(text::crowdsec::login_refused(login, answer.status.as_u16(), &said)).into())
            }
            _ => Err(self.unexpected("to the login", &answer)),
        }
    }

    /// This machine's decisions in force: the client, and how long they hold.
    pub(super) async fn active(&mut self) -> Result<Vec<(Client, i64)>> {
        let origin = self.machine.origin();
        let query = [
            ("origin", origin.as_str()),
            ("has_active_decision", "true"),
            ("include_capi", "false"),
            ("limit", "0"),
        ];
        let answer = self.ask(Method::GET, "alerts", &query, None).await?;
        if answer.status != StatusCode::OK {
            return Err(self.unexpected("for this host's alerts", &answer));
        }
        let alerts: Option<Vec<Stored>> = serde_json::from_str(&answer.text)
            .map_err(|error| anyhow!(text::crowdsec::no_alerts(&error.to_string())))?;
        let decisions = alerts.into_iter().flatten().flat_map(|alert| alert.decisions.unwrap_or_default());
        let own = decisions.filter(|decision| decision.origin == origin);
        // What cannot be read is none that this host has told.
        Ok(own.filter_map(|own| Some((own.value.parse().ok()?, go_duration_ms(&own.duration)?))).collect())
    }

    /// Whether CrowdSec's own allowlist has the client: alerts with decisions would pass it by.
    pub(super) async fn is_allowed(&mut self, client: Client) -> Result<bool> {
        if !self.has_allowlists {
            return Ok(false);
        }
        let (_, value) = scope(client);
        let path = format!("allowlists/check/{}", value.replace('/', "%2F"));
        let answer = self.ask(Method::HEAD, &path, &[], None).await?;
        match answer.status {
            StatusCode::OK => Ok(true),
            StatusCode::NO_CONTENT => Ok(false),
            _ => Err(self.unexpected(&format!("whether its allowlist has {client}"), &answer)),
        }
    }

    /// Whether it took them. It did not where it says that something is wrong with them.
    pub(super) async fn tell(&mut self, alerts: &[Value]) -> Result<Result<(), String>> {
        let body = Value::Array(alerts.to_vec());
        let answer = self.ask(Method::POST, "alerts", &[], Some(&body)).await?;
        match answer.status {
            StatusCode::OK | StatusCode::CREATED => Ok(Ok(())),
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Ok(Err(self.said(&answer))),
            _ => Err(self.unexpected("to an alert", &answer)),
        }
    }

    /// Takes back this machine's decisions about the client, and nobody else's.
    pub(super) async fn take_back(&mut self, client: Client) -> Result<()> {
        let (scope, value) = scope(client);
        let origin = self.machine.origin();
        let query = [("scopes", scope), ("value", value.as_str()), ("origin", origin.as_str())];
        let answer = self.ask(Method::DELETE, "decisions", &query, None).await?;
        match answer.status {
            StatusCode::OK => Ok(()),
            _ => Err(self.unexpected(&format!("to the end of the ban of {client}"), &answer)),
        }
    }

    /// Asks as the machine, and logs in anew where the last login is over: one holds for an hour.
    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer> {
        let mut url = self.url(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let answer = self.send(method.clone(), url.clone(), body).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        self.log_in().await?;
        self.send(method, url, body).await
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/v1/{path}", self.base.path().trim_end_matches('/')));
        url
    }

    async fn send(&self, method: Method, url: Url, body: Option<&Value>) -> Result<Answer> {
        let failed = |error: reqwest::Error| anyhow!(post::chain(&error.without_url()));
        let mut request = self.http.request(method, url);
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status();
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            text.extend_from_slice(&chunk);
            if text.len() > MAX_ANSWER {
                bail!(text::crowdsec::too_large(&text::bytes(MAX_ANSWER as u64)));
            }
        }
        let text = String::from_utf8(text).context("could not read its answer as text")?;
        Ok(Answer { status, text })
    }

    fn unexpected(&self, to_what: &str, answer: &Answer) -> anyhow::Error {
        anyhow!(text::crowdsec::unexpected(to_what, answer.status.as_u16(), &self.said(answer)))
    }

    /// The beginning of an answer, without the password and the token should it repeat them.
    fn said(&self, answer: &Answer) -> String {
        let secrets = [self.machine.expose(), &self.token];
        let mut said = answer.text.clone();
        for secret in secrets.into_iter().filter(|secret| !secret.is_empty()) {
            said = said.replace(secret, "[secret]");
        }
        text::printable(&said.trim().chars().take(REPEATED).collect::<String>())
    }
}
