//! Generic webhook: every event as JSON, in batches.
//!
//! The body is `{"source":"shield","version":1,"host":"web1","events":[{"at":"2026-05-11T22:07:33.000Z","severity":"warning",
//! "text":"192.0.2.7 banned for 10 min: …","event":"banned",…}],"left_out":0}`, as docs/operating.md describes it; the events' other
//! fields are those of the audit log. `left_out` counts earlier events that did not fit or could not be delivered.

use std::collections::VecDeque;

use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::queue::{EventQueue, Kind, Payload};
use crate::api::events;
use crate::text;
use shield_engine::action::Notice;

/// Maximum number of waiting events.
const MAX_WAITING: usize = 1_000;
/// Maximum number of events in one body.
const MAX_PER_BODY: usize = 100;

/// Grows when a field changes its meaning or goes; new fields come without it.
const VERSION: u32 = 1;

/// The queue in front of a webhook.
#[derive(Debug)]
pub(super) struct WebhookQueue {
    host: String,
    waiting: VecDeque<Box<RawValue>>,
    left_out: u64,
}

impl Default for WebhookQueue {
    fn default() -> WebhookQueue {
        WebhookQueue { host: super::host(), waiting: VecDeque::new(), left_out: 0 }
    }
}

#[derive(Serialize)]
struct TimedEvent<'a> {
    at: String,
    severity: &'static str,
    /// In plain words.
    text: String,
    #[serde(flatten)]
    notice: &'a Notice,
}

impl EventQueue for WebhookQueue {
    fn push(&mut self, notice: &Notice, at_ms: i64) {
        if self.waiting.len() == MAX_WAITING {
            self.left_out += 1;
            return;
        }
        let (severity, text) = (events::severity(notice).name(), text::notice_line(notice));
        let event = TimedEvent { at: super::audit::stamp(at_ms), severity, text, notice };
        match serde_json::value::to_raw_value(&event) {
            Ok(event) => self.waiting.push_back(event),
            Err(_) => self.left_out += 1,
        }
    }

    fn waiting(&self) -> u64 {
        self.waiting.len() as u64
    }

    fn take(&mut self) -> Payload {
        let events: Vec<Box<RawValue>> = self.waiting.drain(..self.waiting.len().min(MAX_PER_BODY)).collect();
        let left_out = std::mem::take(&mut self.left_out);
        let body = json!({
            "source": "shield",
            "version": VERSION,
            "host": self.host,
            "events": events,
            "left_out": left_out,
        })
        .to_string();
        Payload { body, events: events.len() as u64 + left_out, kind: Kind::Messages }
    }

    fn count_lost(&mut self, events: u64) {
        self.left_out += events;
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn parsed(payload: &Payload) -> serde_json::Value {
        serde_json::from_str(&payload.body).unwrap()
    }

    #[test]
    fn an_event_carries_everything() {
        let mut queue = WebhookQueue::default();
        queue.push(&samples::banned(), samples::AT_MS);
        let body = parsed(&queue.take());
        let event = &body["events"][0];
        assert_eq!(event["at"], "2026-05-11T22:07:33.000Z");
        assert_eq!(event["event"], "banned");
        assert_eq!(event["client"], "192.0.2.156");
        assert_eq!(event["severity"], "warning");
        assert!(event["text"].as_str().unwrap().starts_with("192.0.2.156 banned for 10 min: "), "{event}");
        assert_eq!(
            (&body["version"], body["host"].as_str()),
            (&json!(1), Some(super::super::host().as_str()))
        );
        assert_eq!(event["evidence"]["top_paths"][0]["path"], "/<script>alert(1)</script>");
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let mut queue = WebhookQueue::default();
        for _ in 0..1_250 {
            queue.push(&samples::banned(), samples::AT_MS);
        }
        let first = queue.take();
        assert_eq!((parsed(&first)["events"].as_array().unwrap().len(), first.events), (100, 350));
        assert_eq!(parsed(&first)["left_out"], 250);
        queue.count_lost(7);
        assert_eq!(parsed(&queue.take())["left_out"], 7);
    }
}
