//! Reads a list over HTTP: every answer is a list, "unchanged", or a reason in words.

use std::time::Duration;

use reqwest::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, LAST_MODIFIED, LOCATION, TRANSFER_ENCODING,
};
use reqwest::{Response, StatusCode, Url, Version};
use serde::{Deserialize, Serialize};

use super::settings::{Settings, Transport, is_on_this_host, shown};
use crate::clock;
use crate::notify::{post, secret};
use crate::text;

const MAX_REDIRECTS: usize = 5;
/// The longest validator that is kept.
const MAX_VALIDATOR: usize = 1_024;

/// Bounds of one reading.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// For all of it, redirects and body included.
    pub time: Duration,
    pub bytes: usize,
}

impl Limits {
    pub(super) const USUAL: Limits = Limits { time: Duration::from_secs(120), bytes: 32 << 20 };
}

/// What the server gave a list to be recognised by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Validators {
    pub etag: Option<String>,
    pub modified: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fetched {
    New { body: Vec<u8>, validators: Validators },
    Unchanged,
}

/// Why a list could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub why: String,
    /// The pause that the server asks for.
    pub retry_after: Option<Duration>,
}

impl From<String> for Failed {
    fn from(why: String) -> Failed {
        Failed { why, retry_after: None }
    }
}

impl From<&str> for Failed {
    fn from(why: &str) -> Failed {
        why.to_owned().into()
    }
}

/// Reads the list, unless it is as `known`.
pub(super) async fn fetch(
    settings: &Settings,
    known: &Validators,
    limits: Limits,
) -> Result<Fetched, Failed> {
    match tokio::time::timeout(limits.time, within(settings, known, limits)).await {
        Ok(done) => done,
        Err(_) => Err(text::blocklist::too_slow(limits.time.as_secs()).into()),
    }
}

async fn within(settings: &Settings, known: &Validators, limits: Limits) -> Result<Fetched, Failed> {
    let login = settings.credentials.as_ref().map(|from| secret::load_text(from, "credentials")).transpose();
    let login = login.map_err(|error| format!("{error:#}"))?;
    let mut url = settings.url.clone();
    for _ in 0..=MAX_REDIRECTS {
        let response = get(settings, &url, login.as_deref(), known, limits).await?;
        let status = response.status();
        if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
            url = next(settings, &url, &response)?;
            continue;
        }
        if status == StatusCode::NOT_MODIFIED && *known != Validators::default() {
            return Ok(Fetched::Unchanged);
        }
        if status != StatusCode::OK {
            let retry_after = post::retry_after(&response, clock::now().wall_ms);
            return Err(Failed {
                why: text::blocklist::answered(&shown(&url), &status.to_string()),
                retry_after,
            });
        }
        let validators = validators(response.headers());
        let body = body(response, limits).await?;
        return Ok(Fetched::New { body, validators });
    }
    Err(text::blocklist::REDIRECTS.into())
}

async fn get(
    settings: &Settings,
    url: &Url,
    login: Option<&str>,
    known: &Validators,
    limits: Limits,
) -> Result<Response, Failed> {
    // Its own time limit never comes first: it would say less.
    let http = post::http_client(url.scheme(), limits.time * 2).map_err(|error| format!("{error:#}"))?;
    let mut request = http.get(url.clone());
    // To nobody but whom they are for.
    if let Some(login) = login
        && url.origin() == settings.url.origin()
    {
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        request = request.basic_auth(user, Some(password));
    }
    for (name, value) in [(IF_NONE_MATCH, &known.etag), (IF_MODIFIED_SINCE, &known.modified)] {
        if let Some(value) = value.as_deref().and_then(|value| HeaderValue::from_str(value).ok()) {
            request = request.header(name, value);
        }
    }
    request.send().await.map_err(|error| post::chain(&error.without_url()).into())
}

/// Where a redirect leads.
fn next(settings: &Settings, url: &Url, response: &Response) -> Result<Url, Failed> {
    let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
    let Some(next) = to.and_then(|to| url.join(to).ok()).filter(Url::has_host) else {
        return Err(text::blocklist::bad_redirect(&shown(url)).into());
    };
    let is_allowed = match next.scheme() {
        "https" => true,
        // A list from elsewhere has no business with this host's own servers.
        "http" => {
            settings.transport == Transport::Any || (is_on_this_host(&settings.url) && is_on_this_host(&next))
        }
        _ => false,
    };
    if is_allowed { Ok(next) } else { Err(text::blocklist::insecure(&shown(&next)).into()) }
}

fn validators(headers: &HeaderMap) -> Validators {
    let value = |name: HeaderName| {
        let value = headers.get(name)?.to_str().ok()?;
        (value.len() <= MAX_VALIDATOR).then(|| value.to_owned())
    };
    Validators { etag: value(ETAG), modified: value(LAST_MODIFIED) }
}

async fn body(mut response: Response, limits: Limits) -> Result<Vec<u8>, Failed> {
    let headers = response.headers();
    if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        let encoding = text::printable(&String::from_utf8_lossy(encoding.as_bytes()));
        return Err(text::blocklist::compressed(&encoding).into());
    }
    let has_end = response.version() >= Version::HTTP_2
        || headers.contains_key(CONTENT_LENGTH)
        || headers.contains_key(TRANSFER_ENCODING);
    if response.content_length().is_some_and(|length| length > limits.bytes as u64) {
        return Err(text::blocklist::too_large(limits.bytes).into());
    }
    let mut body = Vec::new();
    loop {
        let chunk = response.chunk().await.map_err(|error| post::chain(&error.without_url()))?;
        let Some(chunk) = chunk else {
            let is_whole = has_end || body.ends_with(b"\n");
            return if is_whole { Ok(body) } else { Err(text::blocklist::CUT_OFF.into()) };
        };
        if body.len() + chunk.len() > limits.bytes {
            return Err(text::blocklist::too_large(limits.bytes).into());
        }
        body.extend_from_slice(&chunk);
    }
}
