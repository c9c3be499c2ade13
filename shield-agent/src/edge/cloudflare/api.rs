//! Cloudflare's API for lists: requests as HTTP, answers of any kind as [`Answer`]s. Decides nothing.

use std::time::Duration;

use anyhow::{Context as _, Result};
use reqwest::{Client as Http, Method, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Value, json};

use super::settings::Settings;
use super::sync::{Answer, Failure, FailureKind, Listed, Progress, Request};
use crate::clock;
use crate::notify::post;
use crate::text;

/// Timeout of one call, its answer's body included.
pub(super) const TIMEOUT: Duration = Duration::from_secs(20);
/// The largest answer that is read. A page of 500 items is about 100 kB.
const MAX_ANSWER: usize = 4 << 20;
/// Items of a page, the most that the API gives.
const PAGE: &str = "500";
/// Characters of a message that are repeated.
const REPEATED: usize = 200;

/// Speaks to the API.
#[derive(Debug)]
pub(super) struct Api {
    http: Http,
    account: Url,
    list: String,
    comment: String,
}

#[derive(Deserialize)]
struct Envelope {
    success: bool,
    #[serde(default)]
    errors: Vec<Message>,
    #[serde(default)]
    result: Value,
    #[serde(default)]
    result_info: Value,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct Item {
    id: String,
    ip: Option<String>,
    comment: Option<String>,
}

impl Api {
    pub(super) fn new(settings: &Settings, timeout: Duration) -> Result<Api> {
        let base = settings.api.as_str().trim_end_matches('/');
        let account = format!("{base}/accounts/{}/rules/lists", settings.account);
        let account = Url::parse(&account).with_context(|| format!("could not use the address {account}"))?;
        let http =
            post::http_client(account.scheme(), timeout).context("could not set up calls to Cloudflare")?;
        Ok(Api { http, account, list: settings.list.clone(), comment: settings.comment.clone() })
    }

    pub(super) async fn call(&self, token: &str, request: &Request) -> Answer {
        let (method, path, body) = self.parts(request);
        let mut url = self.account.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path);
        }
        if let Request::Items { cursor } = request {
            url.query_pairs_mut().append_pair("per_page", PAGE);
            if let Some(cursor) = cursor {
                url.query_pairs_mut().append_pair("cursor", cursor);
            }
        }
        let mut call = self.http.request(method, url).bearer_auth(token);
        if let Some(body) = body {
            call = call.json(&body);
        }
        match call.send().await {
            Ok(response) => read(response, request).await,
            Err(error) => unknown(post::chain(&error.without_url())),
        }
    }

    fn parts<'a>(&'a self, request: &'a Request) -> (Method, Vec<&'a str>, Option<Value>) {
        let items = vec![self.list.as_str(), "items"];
        match request {
            Request::Items { .. } => (Method::GET, items, None),
            Request::Add(list) => {
                let item = |ip: &String| json!({"ip": ip, "comment": self.comment});
                (Method::POST, items, Some(list.iter().map(item).collect()))
            }
            Request::Remove(ids) => {
                let ids: Value = ids.iter().map(|id| json!({"id": id})).collect();
                (Method::DELETE, items, Some(json!({"items": ids})))
            }
            Request::Operation(id) => (Method::GET, vec!["bulk_operations", id], None),
        }
    }
}

fn failure(kind: FailureKind, why: String, retry_after: Option<Duration>) -> Answer {
    Answer::Failed(Failure { kind, why, retry_after })
}

fn unknown(why: String) -> Answer {
    failure(FailureKind::Unknown, why, None)
}

async fn read(response: Response, request: &Request) -> Answer {
    let status = response.status();
    let retry_after = post::retry_after(&response, clock::now().wall_ms);
    let body = match whole(response).await {
        Ok(body) => body,
        Err(why) => return unknown(why),
    };
    let envelope = serde_json::from_slice::<Envelope>(&body);
    if !status.is_success() {
        let said = envelope.map(|envelope| messages(&envelope.errors)).unwrap_or_default();
        return failure(kind_of(status), text::cloudflare::answered(status.as_u16(), &said), retry_after);
    }
    match envelope {
        Ok(envelope) if envelope.success => {
            let nonsense = || unknown(text::cloudflare::nonsense(&String::from_utf8_lossy(&body)));
            understood(envelope, request).unwrap_or_else(nonsense)
        }
        Ok(envelope) => {
            let said = messages(&envelope.errors);
            failure(FailureKind::Refused, text::cloudflare::answered(status.as_u16(), &said), retry_after)
        }
        Err(_) => unknown(text::cloudflare::nonsense(&String::from_utf8_lossy(&body))),
    }
}

fn kind_of(status: StatusCode) -> FailureKind {
    match status {
        StatusCode::TOO_MANY_REQUESTS => FailureKind::Busy,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => FailureKind::Denied,
        StatusCode::REQUEST_TIMEOUT => FailureKind::Unknown,
        status if status.is_client_error() => FailureKind::Refused,
        _ => FailureKind::Unknown,
    }
}

/// The body, unless it is larger than anything that the API says.
async fn whole(mut response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > MAX_ANSWER => {
                return Err(text::cloudflare::too_large(MAX_ANSWER as u64));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            Err(error) => return Err(post::chain(&error.without_url())),
        }
    }
}

/// `None` where the answer does not fit the request.
fn understood(envelope: Envelope, request: &Request) -> Option<Answer> {
    match request {
        Request::Items { .. } => {
            let items: Vec<Item> = serde_json::from_value(envelope.result).ok()?;
            let next = &envelope.result_info["cursors"]["after"];
            let next = next.as_str().filter(|cursor| !cursor.is_empty()).map(str::to_owned);
            let listed = |item: Item| Listed {
                id: item.id,
                client: item.ip.and_then(|ip| ip.parse().ok()),
                comment: item.comment.unwrap_or_default(),
            };
            Some(Answer::Page { items: items.into_iter().map(listed).collect(), next })
        }
        Request::Add(_) | Request::Remove(_) => {
            let id = envelope.result["operation_id"].as_str()?;
            // It becomes a part of an address.
            let is_id = !id.is_empty()
                && id.len() <= 64
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            is_id.then(|| Answer::Begun { operation: id.to_owned() })
        }
        Request::Operation(_) => Some(Answer::Operation(match envelope.result["status"].as_str()? {
            "pending" | "running" => Progress::Going,
            "completed" => Progress::Completed,
            "failed" => Progress::Failed(text::cloudflare::failed(&shortened(
                envelope.result["error"].as_str().unwrap_or_default(),
            ))),
            _ => return None,
        })),
    }
}

fn messages(errors: &[Message]) -> String {
    let each = errors.iter().map(|error| format!("{} ({})", error.message, error.code));
    shortened(&each.collect::<Vec<_>>().join("; "))
}

fn shortened(text: &str) -> String {
    text::printable(&text.chars().take(REPEATED).collect::<String>())
}
