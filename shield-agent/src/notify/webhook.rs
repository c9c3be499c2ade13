//! Any webhook's side: every event as JSON, some at a time.
//!
//! The body is `{"source":"shield","events":[{"at":"2026-05-11T22:07:33.000Z","event":"banned",…}],"left_out":0}`;
//! the events' fields are those of the audit log. `left_out` counts earlier events that did not fit or were not taken.

use std::collections::VecDeque;

use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::mailbox::{Kind, Mailbox, Parcel};
use shield_engine::action::Notice;

/// Events that wait at most.
const WAITING: usize = 1_000;
/// Events in one body at most.
const AT_ONCE: usize = 100;

/// Collects events for a webhook.
#[derive(Debug, Default)]
pub(super) struct WebhookBox {
    waiting: VecDeque<Box<RawValue>>,
    left_out: u64,
}

/// An event with its time.
#[derive(Serialize)]
struct Timed<'a> {
    at: String,
    #[serde(flatten)]
    notice: &'a Notice,
}

impl Mailbox for WebhookBox {
    fn put(&mut self, notice: &Notice, at_ms: i64) {
        if self.waiting.len() == WAITING {
            self.left_out += 1;
            return;
        }
        match serde_json::value::to_raw_value(&Timed { at: super::audit::stamp(at_ms), notice }) {
            Ok(event) => self.waiting.push_back(event),
            Err(_) => self.left_out += 1,
        }
    }

    fn waiting(&self) -> u64 {
        self.waiting.len() as u64
    }

    fn take(&mut self) -> Parcel {
        let events: Vec<Box<RawValue>> = self.waiting.drain(..self.waiting.len().min(AT_ONCE)).collect();
        let left_out = std::mem::take(&mut self.left_out);
        let body = json!({ "source": "shield", "events": events, "left_out": left_out }).to_string();
        Parcel { body, events: events.len() as u64 + left_out, kind: Kind::Messages }
    }

    fn note_lost(&mut self, events: u64) {
        self.left_out += events;
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn parsed(parcel: &Parcel) -> serde_json::Value {
        serde_json::from_str(&parcel.body).unwrap()
    }

    #[test]
    fn an_event_carries_everything() {
        let mut mailbox = WebhookBox::default();
        mailbox.put(&samples::banned(), samples::AT_MS);
        let body = parsed(&mailbox.take());
        let event = &body["events"][0];
        assert_eq!(event["at"], "2026-05-11T22:07:33.000Z");
        assert_eq!(event["event"], "banned");
        assert_eq!(event["client"], "192.0.2.156");
        assert_eq!(event["evidence"]["top_paths"][0]["path"], "/<script>alert(1)</script>");
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let mut mailbox = WebhookBox::default();
        for _ in 0..1_250 {
            mailbox.put(&samples::banned(), samples::AT_MS);
        }
        let first = mailbox.take();
        assert_eq!((parsed(&first)["events"].as_array().unwrap().len(), first.events), (100, 350));
        assert_eq!(parsed(&first)["left_out"], 250);
        mailbox.note_lost(7);
        assert_eq!(parsed(&mailbox.take())["left_out"], 7);
    }
}
