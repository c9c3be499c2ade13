//! `shield-agent notify test`: one message to each receiver, posted at once and without the agent, and what came of it.

use std::time::Duration;

use serde_json::json;

use super::dispatch::Answer;
use super::post;
use super::secret::Secret;
use crate::clock;
use crate::config::UrlFrom;
use crate::text;

/// The time for a receiver's answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came of the test of one receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trial {
    /// `slack` or `webhook`.
    pub receiver: &'static str,
    pub result: Result<(), String>,
}

/// Posts a test message to each configured receiver.
pub(crate) async fn test_posts(slack: Option<&UrlFrom>, webhook: Option<&UrlFrom>) -> Vec<Trial> {
    let (host, text) = (super::host(), text::test_message(&super::host()));
    let for_slack = json!({ "text": text, "mrkdwn": false, "parse": "none" }).to_string();
    let at = super::audit::stamp(clock::now().wall_ms);
    let event = json!({ "at": at, "event": "test", "severity": "info", "text": text });
    let for_webhook =
        json!({ "source": "shield", "version": 1, "host": host, "events": [event], "left_out": 0 })
            .to_string();
    let mut trials = Vec::new();
    for (receiver, from, body) in [("slack", slack, for_slack), ("webhook", webhook, for_webhook)] {
        let Some(from) = from else { continue };
        trials.push(Trial { receiver, result: test_post(from, body).await });
    }
    trials
}

async fn test_post(from: &UrlFrom, body: String) -> Result<(), String> {
    let url = Secret::load(from).map_err(|error| format!("{error:#}"))?;
    match post::once(&url, PATIENCE, body).await.map_err(|error| format!("{error:#}"))? {
        Answer::Accepted => Ok(()),
        Answer::Refused(why) | Answer::Failed { why, .. } => Err(why),
    }
}
