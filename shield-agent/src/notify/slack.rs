//! Slack: up to three events as messages of their own, more of them as a digest, in Block Kit with a plain-text
//! fall-back. All values are plain text to Slack (no markup, links or mentions), because clients choose some of them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::message::{self, Message};
use super::queue::{EventQueue, Kind, Payload};
use crate::text::{printable, utc};
use shield_engine::action::Notice;
use shield_engine::client::Client;
use shield_engine::verdict::Rule;

/// Events that have a message of their own; with one more, all go into a digest.
const MAX_MESSAGES: usize = 3;
/// Banned clients that a digest names.
const MAX_BANNED: usize = 10;
/// Other events that a digest lists.
const MAX_OTHERS: usize = 10;
/// Maximum characters of a value (Slack accepts 3,000 in a section).
const VALUE_CHARS: usize = 250;

/// The queue in front of Slack.
#[derive(Debug, Default)]
pub(super) struct SlackQueue {
    messages: Vec<(Notice, i64)>,
    digest: Option<Digest>,
    lost: u64,
}

/// Many events, counted.
#[derive(Debug)]
struct Digest {
    first_ms: i64,
    last_ms: i64,
    counts: BTreeMap<&'static str, u64>,
    rules: BTreeMap<Rule, u64>,
    banned: Vec<Client>,
    others: Vec<String>,
}

impl EventQueue for SlackQueue {
    fn push(&mut self, notice: &Notice, at_ms: i64) {
        if message::message(notice, at_ms).is_none() {
            return;
        }
        if self.digest.is_none() && self.messages.len() < MAX_MESSAGES {
            self.messages.push((notice.clone(), at_ms));
            return;
        }
        let digest = self.digest.get_or_insert_with(|| Digest::new(at_ms));
        for (notice, at_ms) in self.messages.drain(..) {
            digest.add(&notice, at_ms);
        }
        digest.add(notice, at_ms);
    }

    fn waiting(&self) -> u64 {
        self.messages.len() as u64 + self.digest.as_ref().map_or(0, Digest::events)
    }

    fn take(&mut self) -> Payload {
        let lost = std::mem::take(&mut self.lost);
        if let Some(digest) = self.digest.take() {
            let body = body(&[digest.message()], lost);
            return Payload { body, events: digest.events() + lost, kind: Kind::Digest };
        }
        let messages = std::mem::take(&mut self.messages);
        let messages: Vec<Message> =
            messages.iter().filter_map(|(notice, at_ms)| message::message(notice, *at_ms)).collect();
        Payload { body: body(&messages, lost), events: messages.len() as u64 + lost, kind: Kind::Messages }
    }

    fn count_lost(&mut self, events: u64) {
        self.lost += events;
    }
}

impl Digest {
    fn new(at_ms: i64) -> Digest {
        Digest {
            first_ms: at_ms,
            last_ms: at_ms,
            counts: BTreeMap::new(),
            rules: BTreeMap::new(),
            banned: Vec::new(),
            others: Vec::new(),
        }
    }

    fn add(&mut self, notice: &Notice, at_ms: i64) {
        let Some(message) = message::message(notice, at_ms) else { return };
        self.first_ms = self.first_ms.min(at_ms);
        self.last_ms = self.last_ms.max(at_ms);
        *self.counts.entry(message.title).or_default() += 1;
        match notice {
            Notice::Banned(ban) => {
                *self.rules.entry(ban.ban.rule).or_default() += 1;
                if self.banned.len() < MAX_BANNED {
                    self.banned.push(ban.ban.client);
                }
            }
            Notice::Lifted { .. } => {}
            _ if self.others.len() < MAX_OTHERS => self.others.push(one_line(&message)),
            _ => {}
        }
    }

    fn events(&self) -> u64 {
        self.counts.values().sum()
    }

    fn message(&self) -> Message {
        let mut lines: Vec<(&'static str, String)> =
            self.counts.iter().map(|(title, count)| (*title, self.count_text(title, *count))).collect();
        if !self.banned.is_empty() {
            lines.push(("Banned", self.banned_text()));
        }
        lines.extend(self.others.iter().map(|line| ("Event", line.clone())));
        lines.push(("Events in all", format!("{}, each of them in the audit log", self.events())));
        lines.push(("From", utc(self.first_ms)));
        lines.push(("To", utc(self.last_ms)));
        Message { title: "SHIELD DIGEST", lines }
    }

    fn count_text(&self, title: &str, count: u64) -> String {
        if title != "IP BANNED" {
            return count.to_string();
        }
        let rules: Vec<String> = self.rules.iter().map(|(rule, count)| format!("{rule} {count}")).collect();
        format!("{count} ({})", rules.join(", "))
    }

    fn banned_text(&self) -> String {
        let named: Vec<String> = self.banned.iter().map(Client::to_string).collect();
        let all: u64 = self.rules.values().sum();
        match all - named.len() as u64 {
            0 => named.join(", "),
            more => format!("{} and {more} more", named.join(", ")),
        }
    }
}

fn one_line(message: &Message) -> String {
    let values: Vec<&str> = message.lines.iter().map(|(_, value)| value.as_str()).collect();
    format!("{}: {}", message.title, values.join("; "))
}

fn body(messages: &[Message], lost: u64) -> String {
    let mut messages: Vec<Message> = messages.iter().map(shortened).collect();
    if lost > 0 {
        let events = if lost == 1 { "event" } else { "events" };
        let missing = format!("{lost} earlier {events} could not be posted; the audit log has them");
        messages.push(Message { title: "SHIELD", lines: vec![("Missing here", missing)] });
    }
    let text: Vec<String> = messages.iter().map(|message| escaped(&message.plain())).collect();
    let blocks: Vec<Value> = messages.iter().flat_map(blocks).collect();
    json!({
        "text": text.join("\n\n"),
        "blocks": blocks,
        "mrkdwn": false,
        "parse": "none",
        "link_names": false,
        "unfurl_links": false,
        "unfurl_media": false,
    })
    .to_string()
}

fn blocks(message: &Message) -> [Value; 2] {
    let plain_text = |text: &str| json!({ "type": "plain_text", "text": escaped(text), "emoji": false });
    let plain = message.plain();
    let lines = plain.split_once('\n').map_or("", |(_, lines)| lines);
    [
        json!({ "type": "header", "text": plain_text(message.title) }),
        json!({ "type": "section", "text": plain_text(lines) }),
    ]
}

fn shortened(message: &Message) -> Message {
    let lines = message.lines.iter().map(|(label, value)| (*label, cut(&printable(value)))).collect();
    Message { title: message.title, lines }
}

fn cut(value: &str) -> String {
    match value.char_indices().nth(VALUE_CHARS) {
        Some((at, _)) => format!("{}…", &value[..at]),
        None => value.to_owned(),
    }
}

/// Escapes the three characters that Slack requires to be escaped in any text.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn body_of(notices: &[Notice]) -> Value {
        let mut queue = SlackQueue::default();
        notices.iter().for_each(|notice| queue.push(notice, samples::AT_MS));
        let payload = queue.take();
        assert_eq!(queue.waiting(), 0);
        serde_json::from_str(&payload.body).unwrap()
    }

    #[test]
    fn a_ban_in_block_kit_with_a_plain_text_fall_back() {
        let lines = "• IP: 192.0.2.156\n\
                     • Condition: z-score=5.43 &gt; threshold=2.0\n\
                     • Current rate: 3.72 req/s\n\
                     • Baseline: 0.10 req/s\n\
                     • Ban duration: 600 seconds\n\
                     • Timestamp: 2026-05-11T22:07:33Z";
        let expected = json!({
            "text": format!("IP BANNED\n{lines}"),
            "blocks": [
                { "type": "header", "text": { "type": "plain_text", "text": "IP BANNED", "emoji": false } },
                { "type": "section", "text": { "type": "plain_text", "text": lines, "emoji": false } },
            ],
            "mrkdwn": false,
            "parse": "none",
            "link_names": false,
            "unfurl_links": false,
            "unfurl_media": false,
        });
        assert_eq!(body_of(&[samples::banned()]), expected);
    }

    #[test]
    fn nothing_from_outside_is_markup() {
        let nasty = "<!channel> <https://evil.example|click> *bold* & `code`\n• IP: 192.0.2.1";
        let body = body_of(&[samples::banned_by_hand(nasty)]);
        let text = body["text"].as_str().unwrap();
        assert!(!text.contains('<') && !text.contains('>'), "{text}");
        assert!(text.contains("&lt;!channel&gt; &lt;https://evil.example|click&gt; *bold* &amp;"), "{text}");
        assert_eq!(text.lines().count(), 5, "a line break from outside begins no line: {text}");
        for block in body["blocks"].as_array().unwrap() {
            assert_eq!(block["text"]["type"], "plain_text");
        }
    }

    #[test]
    fn long_values_are_cut() {
        let body = body_of(&[samples::banned_by_hand(&"é".repeat(10_000))]);
        assert!(body["text"].as_str().unwrap().chars().count() < 500);
    }

    #[test]
    fn three_events_are_three_messages_and_a_fourth_makes_a_digest() {
        let three = [samples::banned(), samples::lifted(), samples::degraded("xdp")];
        assert_eq!(body_of(&three)["blocks"].as_array().unwrap().len(), 6);
        let mut four = three.to_vec();
        four.push(samples::banned_by_hand("<b>"));
        let expected = "SHIELD DIGEST\n\
             • IP BANNED: 2 (z_score 1, operator 1)\n\
             • IP UNBANNED: 1\n\
             • SHIELD DEGRADED: 1\n\
             • Banned: 192.0.2.156, 2001:db8:1:2::/64\n\
             • Event: SHIELD DEGRADED: xdp; the program was detached; 2026-05-11T22:07:33Z\n\
             • Events in all: 4, each of them in the audit log\n\
             • From: 2026-05-11T22:07:33Z\n\
             • To: 2026-05-11T22:07:33Z";
        assert_eq!(body_of(&four)["text"], expected);
    }

    #[test]
    fn a_digest_of_any_number_of_events_is_small() {
        let mut queue = SlackQueue::default();
        for n in 0..50_000u32 {
            let client = Client::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n));
            queue.push(&samples::banned_client(client), samples::AT_MS + i64::from(n));
            queue.push(&samples::degraded(&"part".repeat(100)), samples::AT_MS);
        }
        let payload = queue.take();
        assert_eq!((payload.events, payload.kind), (100_000, Kind::Digest));
        assert!(payload.body.contains("IP BANNED: 50000 (z_score 50000)"));
        assert!(payload.body.contains("and 49990 more"));
        assert!(payload.body.len() < 10_000, "{} bytes", payload.body.len());
        let json: Value = serde_json::from_str(&payload.body).unwrap();
        let section = json["blocks"][1]["text"]["text"].as_str().unwrap();
        assert!(section.chars().count() <= 3_000, "Slack takes no more: {}", section.chars().count());
    }

    #[test]
    fn what_is_for_the_audit_log_alone_is_not_posted() {
        let mut queue = SlackQueue::default();
        queue.push(&Notice::Stopping { bans: 1 }, samples::AT_MS);
        assert_eq!(queue.waiting(), 0);
    }
}
