//! The list of bans for other programs, which poll it: an entity tag that costs nothing to compare, and one text shared by all
//! who ask.

use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::Mutex;

use super::backend::{Backend, Refusal};
use crate::edge::format::EdgeFormat;
use crate::random;

/// A text at most this old is shared although bans have changed since.
const SHARED_FOR: Duration = Duration::from_millis(250);
/// A text that took long to make is shared this many times as long, so that whoever asks takes a tenth of a processor at most.
const PART_OF_THE_TIME: u32 = 10;

/// The texts of the list.
pub(super) struct Exports {
    /// Versions count from each start of the agent.
    run: u64,
    /// The last one of each format.
    last: Mutex<Vec<Made>>,
}

#[derive(Clone)]
struct Made {
    format: EdgeFormat,
    version: u64,
    text: Bytes,
    at: Instant,
    took: Duration,
}

impl Default for Exports {
    fn default() -> Exports {
        // Without the device two runs may have the same tags, if they started in the same nanosecond.
        let clock = || jiff::Timestamp::now().as_nanosecond() as u64;
        let run = random::bytes().map(u64::from_ne_bytes).unwrap_or_else(|_| clock());
        Exports { run, last: Mutex::default() }
    }
}

impl Exports {
    /// The list, or 304 when one of the tags in `known` (an `If-None-Match`) is that of the present one.
    pub(super) async fn answer(
        &self,
        backend: &dyn Backend,
        format: EdgeFormat,
        known: &str,
    ) -> Result<Response, Refusal> {
        let tag = self.tag(format, backend.edge_version());
        if is_known(known, &tag) {
            return Ok(not_modified(&tag));
        }
        let made = self.made(backend, format).await?;
        let tag = self.tag(format, made.version);
        if is_known(known, &tag) {
            return Ok(not_modified(&tag));
        }
        let headers = [
            (header::CONTENT_TYPE, format.content_type()),
            (header::ETAG, tag.as_str()),
            (header::CACHE_CONTROL, "no-cache"),
        ];
        Ok((headers, made.text).into_response())
    }

    fn tag(&self, format: EdgeFormat, version: u64) -> String {
        format!("\"{}-{:x}-{version}\"", format.name(), self.run)
    }

    /// One text is made at a time, however many ask.
    async fn made(&self, backend: &dyn Backend, format: EdgeFormat) -> Result<Made, Refusal> {
        let mut made_before = self.last.lock().await;
        let version = backend.edge_version();
        let is_fresh = |made: &&Made| {
            let shared_for = SHARED_FOR.max(made.took * PART_OF_THE_TIME);
            made.format == format && (made.version == version || made.at.elapsed() < shared_for)
        };
        if let Some(made) = made_before.iter().find(is_fresh) {
            return Ok(made.clone());
        }
        let began = Instant::now();
        let list = backend.edge_list().await?;
        let version = list.version;
        let text = tokio::task::spawn_blocking(move || format.write(&list)).await;
        let text = text.map_err(|error| Refusal::Internal(error.into()))?;
        let made = Made { format, version, text: text.into(), at: Instant::now(), took: began.elapsed() };
        made_before.retain(|made| made.format != format);
        made_before.push(made.clone());
        Ok(made)
    }
}

/// RFC 9110, section 13.1.2: a list of tags, weak ones too, or `*`.
fn is_known(known: &str, tag: &str) -> bool {
    known.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

fn not_modified(tag: &str) -> Response {
    let headers = [(header::ETAG, tag), (header::CACHE_CONTROL, "no-cache")];
    (StatusCode::NOT_MODIFIED, headers, Body::empty()).into_response()
}
