//! Slack's side: a few events as messages of their own, more of them as a digest, in Block Kit with a plain-text
//! fall-back. Everything that came from outside is plain text to Slack: no markup, no links, no mentions.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::mailbox::{Kind, Mailbox, Parcel};
use super::words::{self, Message};
use crate::text::{printable, utc};
use shield_engine::action::Notice;
use shield_engine::client::Client;
use shield_engine::verdict::Rule;

/// Events up to which each has a message of its own.
const FEW: usize = 3;
/// Banned clients that a digest names.
const NAMED: usize = 10;
/// Other events that a digest tells in a line each.
const TOLD: usize = 10;
/// Characters of one value at most (Slack takes 3,000 a section).
const VALUE_CHARS: usize = 250;

/// Collects events for Slack.
#[derive(Debug, Default)]
pub(super) struct SlackBox {
    few: Vec<(Notice, i64)>,
    digest: Option<Digest>,
    lost: u64,
}

/// Events in numbers.
#[derive(Debug)]
struct Digest {
    first_ms: i64,
    last_ms: i64,
    counts: BTreeMap<&'static str, u64>,
    rules: BTreeMap<Rule, u64>,
    banned: Vec<Client>,
    others: Vec<String>,
}

impl Mailbox for SlackBox {
    fn put(&mut self, notice: &Notice, at_ms: i64) {
        if words::message(notice, at_ms).is_none() {
            return;
        }
        if self.digest.is_none() && self.few.len() < FEW {
            self.few.push((notice.clone(), at_ms));
            return;
        }
        let digest = self.digest.get_or_insert_with(|| Digest::new(at_ms));
        for (notice, at_ms) in self.few.drain(..) {
            digest.add(&notice, at_ms);
        }
        digest.add(notice, at_ms);
    }

    fn waiting(&self) -> u64 {
        self.few.len() as u64 + self.digest.as_ref().map_or(0, Digest::events)
    }

    fn take(&mut self) -> Parcel {
        let lost = std::mem::take(&mut self.lost);
        if let Some(digest) = self.digest.take() {
            let body = body(&[digest.message()], lost);
            return Parcel { body, events: digest.events() + lost, kind: Kind::Digest };
        }
        let few = std::mem::take(&mut self.few);
        let messages: Vec<Message> =
            few.iter().filter_map(|(notice, at_ms)| words::message(notice, *at_ms)).collect();
        Parcel { body: body(&messages, lost), events: messages.len() as u64 + lost, kind: Kind::Messages }
    }

    fn note_lost(&mut self, events: u64) {
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
        let Some(message) = words::message(notice, at_ms) else { return };
        self.first_ms = self.first_ms.min(at_ms);
        self.last_ms = self.last_ms.max(at_ms);
        *self.counts.entry(message.title).or_default() += 1;
        match notice {
            Notice::Banned(ban) => {
                *self.rules.entry(ban.ban.rule).or_default() += 1;
                if self.banned.len() < NAMED {
                    self.banned.push(ban.ban.client);
                }
            }
            Notice::Lifted { .. } => {}
            _ if self.others.len() < TOLD => self.others.push(in_a_line(&message)),
            _ => {}
        }
    }

    fn events(&self) -> u64 {
        self.counts.values().sum()
    }

    fn message(&self) -> Message {
        let mut lines: Vec<(&'static str, String)> =
            self.counts.iter().map(|(title, count)| (*title, self.count_words(title, *count))).collect();
        if !self.banned.is_empty() {
            lines.push(("Banned", self.banned_words()));
        }
        lines.extend(self.others.iter().map(|line| ("Event", line.clone())));
        lines.push(("Events in all", format!("{}, each of them in the audit log", self.events())));
        lines.push(("From", utc(self.first_ms)));
        lines.push(("To", utc(self.last_ms)));
        Message { title: "SHIELD DIGEST", lines }
    }

    fn count_words(&self, title: &str, count: u64) -> String {
        if title != "IP BANNED" {
            return count.to_string();
        }
        let rules: Vec<String> = self.rules.iter().map(|(rule, count)| format!("{rule} {count}")).collect();
        format!("{count} ({})", rules.join(", "))
    }

    fn banned_words(&self) -> String {
        let named: Vec<String> = self.banned.iter().map(Client::to_string).collect();
        let all: u64 = self.rules.values().sum();
        match all - named.len() as u64 {
            0 => named.join(", "),
            more => format!("{} and {more} more", named.join(", ")),
        }
    }
}

fn in_a_line(message: &Message) -> String {
    let values: Vec<&str> = message.lines.iter().map(|(_, value)| value.as_str()).collect();
    format!("{}: {}", message.title, values.join("; "))
}

fn body(messages: &[Message], lost: u64) -> String {
    let mut messages: Vec<Message> = messages.iter().map(shortened).collect();
    if lost > 0 {
        let events = if lost == 1 { "event" } else { "events" };
        let said = format!("{lost} earlier {events} could not be posted; the audit log has them");
        messages.push(Message { title: "SHIELD", lines: vec![("Missing here", said)] });
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

/// The three characters that Slack's texts must have escaped.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn body_of(notices: &[Notice]) -> Value {
        let mut mailbox = SlackBox::default();
        notices.iter().for_each(|notice| mailbox.put(notice, samples::AT_MS));
        let parcel = mailbox.take();
        assert_eq!(mailbox.waiting(), 0);
        serde_json::from_str(&parcel.body).unwrap()
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
        let mut mailbox = SlackBox::default();
        for n in 0..50_000u32 {
            let client = Client::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n));
            mailbox.put(&samples::banned_client(client), samples::AT_MS + i64::from(n));
            mailbox.put(&samples::degraded(&"part".repeat(100)), samples::AT_MS);
        }
        let parcel = mailbox.take();
        assert_eq!((parcel.events, parcel.kind), (100_000, Kind::Digest));
        assert!(parcel.body.contains("IP BANNED: 50000 (z_score 50000)"));
        assert!(parcel.body.contains("and 49990 more"));
        assert!(parcel.body.len() < 10_000, "{} bytes", parcel.body.len());
        let json: Value = serde_json::from_str(&parcel.body).unwrap();
        let section = json["blocks"][1]["text"]["text"].as_str().unwrap();
        assert!(section.chars().count() <= 3_000, "Slack takes no more: {}", section.chars().count());
    }

    #[test]
    fn what_is_for_the_audit_log_alone_is_not_posted() {
        let mut mailbox = SlackBox::default();
        mailbox.put(&Notice::Stopping { bans: 1 }, samples::AT_MS);
        assert_eq!(mailbox.waiting(), 0);
    }
}
