//! Slack: up to three events as messages of their own, more of them as a digest, what needs somebody at once before all others, in Block Kit with a plain-text
//! fall-back. All values are plain text to Slack (no markup, links or mentions), because clients choose some of them.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use super::Links;
use super::message::{self, Message};
use super::queue::{EventQueue, Kind, Payload};
use crate::text::{printable, utc};
use shield_engine::action::Notice;
use shield_engine::client::Client;
use shield_engine::verdict::Rule;

/// Events that have a message of their own; with one more, all go into a digest.
const MAX_MESSAGES: usize = 3;
/// Urgent events that wait for a message of their own; further ones are summed up, apart from what is not urgent. A part that flaps
/// must not fill a channel.
const MAX_URGENT: usize = 10;
/// Banned clients that a digest names.
const MAX_BANNED: usize = 10;
/// Other events that a digest lists.
const MAX_OTHERS: usize = 10;
/// Maximum characters of a value (Slack accepts 3,000 in a section).
const VALUE_CHARS: usize = 250;

/// The queue in front of Slack.
#[derive(Debug)]
pub(super) struct SlackQueue {
    host: String,
    links: Links,
    /// Never in the digest of the others.
    urgent: VecDeque<(Notice, i64)>,
    further_urgent: Option<Digest>,
    messages: Vec<(Notice, i64)>,
    digest: Option<Digest>,
    lost: u64,
}

/// Many events, counted.
#[derive(Debug)]
struct Digest {
    title: &'static str,
    host: String,
    first_ms: i64,
    last_ms: i64,
    counts: BTreeMap<&'static str, u64>,
    rules: BTreeMap<Rule, u64>,
    banned: Vec<Client>,
    others: Vec<String>,
}

impl Default for SlackQueue {
    fn default() -> SlackQueue {
        SlackQueue::of(super::host())
    }
}

impl SlackQueue {
    pub(super) fn of(host: String) -> SlackQueue {
        SlackQueue {
            host,
            links: Links::default(),
            urgent: VecDeque::new(),
            further_urgent: None,
            messages: Vec::new(),
            digest: None,
            lost: 0,
        }
    }

    fn message(&self, notice: &Notice, at_ms: i64) -> Option<Message> {
        let message = message::message(notice, at_ms, &self.host)?;
        Some(Message { link: self.links.page().map(|page| message::link(&page, notice)), ..message })
    }
}

impl EventQueue for SlackQueue {
    fn link_to(&mut self, links: &Links) {
        self.links = links.clone();
    }

    fn push(&mut self, notice: &Notice, at_ms: i64) {
        if self.message(notice, at_ms).is_none() {
            return;
        }
        if message::is_urgent(notice) {
            if self.urgent.len() < MAX_URGENT {
                self.urgent.push_back((notice.clone(), at_ms));
            } else {
                let new = || Digest::new("SHIELD: FURTHER URGENT EVENTS", at_ms, self.host.clone());
                self.further_urgent.get_or_insert_with(new).add(notice, at_ms);
            }
            return;
        }
        if self.digest.is_none() && self.messages.len() < MAX_MESSAGES {
            self.messages.push((notice.clone(), at_ms));
            return;
        }
        let digest =
            self.digest.get_or_insert_with(|| Digest::new("SHIELD DIGEST", at_ms, self.host.clone()));
        for (notice, at_ms) in self.messages.drain(..) {
            digest.add(&notice, at_ms);
        }
        digest.add(notice, at_ms);
    }

    fn is_urgent(&self) -> bool {
        !self.urgent.is_empty() || self.further_urgent.is_some()
    }

    fn waiting(&self) -> u64 {
        let digests = [&self.further_urgent, &self.digest].into_iter().flatten();
        (self.urgent.len() + self.messages.len()) as u64 + digests.map(Digest::events).sum::<u64>()
    }

    fn take(&mut self) -> Payload {
        let lost = std::mem::take(&mut self.lost);
        if !self.urgent.is_empty() {
            let urgent: Vec<_> = self.urgent.drain(..self.urgent.len().min(MAX_MESSAGES)).collect();
            return self.in_full(&urgent, lost);
        }
        if let Some(digest) = self.further_urgent.take().or_else(|| self.digest.take()) {
            let body = body(&[Message { link: self.links.page(), ..digest.message() }], lost);
            return Payload { body, events: digest.events() + lost, kind: Kind::Digest };
        }
        let messages = std::mem::take(&mut self.messages);
        self.in_full(&messages, lost)
    }

    fn count_lost(&mut self, events: u64) {
        self.lost += events;
    }
}

impl SlackQueue {
    fn in_full(&self, notices: &[(Notice, i64)], lost: u64) -> Payload {
        let messages: Vec<Message> =
            notices.iter().filter_map(|(notice, at_ms)| self.message(notice, *at_ms)).collect();
        Payload { body: body(&messages, lost), events: messages.len() as u64 + lost, kind: Kind::Messages }
    }
}

impl Digest {
    fn new(title: &'static str, at_ms: i64, host: String) -> Digest {
        Digest {
            title,
            host,
            first_ms: at_ms,
            last_ms: at_ms,
            counts: BTreeMap::new(),
            rules: BTreeMap::new(),
            banned: Vec::new(),
            others: Vec::new(),
        }
    }

    fn add(&mut self, notice: &Notice, at_ms: i64) {
        let Some(message) = message::message(notice, at_ms, &self.host) else { return };
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
        lines.push(("Host", self.host.clone()));
        lines.push(("From", utc(self.first_ms)));
        lines.push(("To", utc(self.last_ms)));
        Message { title: self.title, lines, link: None }
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
        messages.push(Message { title: "SHIELD", lines: vec![("Missing here", missing)], link: None });
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

fn blocks(message: &Message) -> Vec<Value> {
    let plain_text = |text: &str| json!({ "type": "plain_text", "text": escaped(text), "emoji": false });
    let plain = Message { link: None, ..message.clone() }.plain();
    let lines = plain.split_once('\n').map_or("", |(_, lines)| lines);
    let mut blocks = vec![
        json!({ "type": "header", "text": plain_text(message.title) }),
        json!({ "type": "section", "text": plain_text(lines) }),
    ];
    // The only markup: of the configuration's address and an address of a client, neither of which can hold a sign of markup.
    blocks.extend(message.link.as_ref().map(|link| {
        let text = format!("<{}|Open the page>", escaped(link));
        json!({ "type": "context", "elements": [{ "type": "mrkdwn", "text": text }] })
    }));
    blocks
}

fn shortened(message: &Message) -> Message {
    let lines = message.lines.iter().map(|(label, value)| (*label, cut(&printable(value)))).collect();
    Message { title: message.title, lines, link: message.link.clone() }
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
        let mut queue = SlackQueue::of("web1".into());
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
                     • Timestamp: 2026-05-11T22:07:33Z\n\
                     • Why: z-score=5.43 &gt; threshold=2.0\n\
                     • Requests: 223 requests in 60 s, 4 of them failed\n\
                     • Paths: /&lt;script&gt;alert(1)&lt;/script&gt; (223x)\n\
                     • Offence: 1\n\
                     • Host: web1\n\
                     • Undo: shield-agent unban 192.0.2.156\n\
                     • Severity: warning";
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
    fn a_message_links_to_its_client_on_the_page() {
        let links = Links::default();
        let mut queue = SlackQueue::of("web1".into());
        queue.link_to(&links);
        let mut posted = |notice: Notice| -> Value {
            queue.push(&notice, samples::AT_MS);
            serde_json::from_str(&queue.take().body).unwrap()
        };
        assert!(!posted(samples::banned())["text"].as_str().unwrap().contains("Page"));
        links.set(Some("https://shield.example.net/"));
        let banned = posted(samples::banned());
        let last = "\n• Page: https://shield.example.net/#client=192.0.2.156";
        assert!(banned["text"].as_str().unwrap().ends_with(last), "{banned}");
        let context = json!({ "type": "context", "elements": [{ "type": "mrkdwn",
            "text": "<https://shield.example.net/#client=192.0.2.156|Open the page>" }] });
        assert_eq!(banned["blocks"][2], context);
        let network = posted(samples::banned_by_hand("x"));
        assert!(network["text"].as_str().unwrap().ends_with("#client=2001:db8:1:2::/64"), "{network}");
        let part = posted(samples::degraded("xdp"));
        assert!(part["text"].as_str().unwrap().ends_with("\n• Page: https://shield.example.net/"), "{part}");
    }

    #[test]
    fn nothing_from_outside_is_markup() {
        let nasty = "<!channel> <https://evil.example|click> *bold* & `code`\n• IP: 192.0.2.1";
        let body = body_of(&[samples::banned_by_hand(nasty)]);
        let text = body["text"].as_str().unwrap();
        assert!(!text.contains('<') && !text.contains('>'), "{text}");
        assert!(text.contains("&lt;!channel&gt; &lt;https://evil.example|click&gt; *bold* &amp;"), "{text}");
        assert_eq!(text.lines().count(), 8, "a line break from outside begins no line: {text}");
        for block in body["blocks"].as_array().unwrap() {
            assert_eq!(block["text"]["type"], "plain_text");
        }
    }

    #[test]
    fn long_values_are_cut() {
        let body = body_of(&[samples::banned_by_hand(&"é".repeat(10_000))]);
        assert!(body["text"].as_str().unwrap().chars().count() < 1_000);
    }

    #[test]
    fn three_events_are_three_messages_and_a_fourth_makes_a_digest() {
        let anomaly_over = Notice::GlobalAnomalyEnded { rate: 0.2, mean: 0.1, lasted_secs: 90 };
        let three = [samples::banned(), samples::lifted(), anomaly_over];
        assert_eq!(body_of(&three)["blocks"].as_array().unwrap().len(), 6);
        let mut four = three.to_vec();
        four.push(samples::banned_by_hand("<b>"));
        let expected = "SHIELD DIGEST\n\
             • GLOBAL TRAFFIC BACK TO NORMAL: 1\n\
             • IP BANNED: 2 (z_score 1, operator 1)\n\
             • IP UNBANNED: 1\n\
             • Banned: 192.0.2.156, 2001:db8:1:2::/64\n\
             • Event: GLOBAL TRAFFIC BACK TO NORMAL: 0.20 req/s; 0.10 req/s; 90 seconds; 2026-05-11T22:07:33Z; web1; info\n\
             • Events in all: 4, each of them in the audit log\n\
             • Host: web1\n\
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
        let urgent: u64 = std::iter::from_fn(|| queue.is_urgent().then(|| queue.take().events)).sum();
        assert_eq!(urgent, 50_000, "none of those is in the digest");
        let payload = queue.take();
        assert_eq!((payload.events, payload.kind), (50_000, Kind::Digest));
        assert!(payload.body.contains("IP BANNED: 50000 (z_score 50000)"));
        assert!(payload.body.contains("and 49990 more"));
        assert!(payload.body.len() < 10_000, "{} bytes", payload.body.len());
        let json: Value = serde_json::from_str(&payload.body).unwrap();
        let section = json["blocks"][1]["text"]["text"].as_str().unwrap();
        assert!(section.chars().count() <= 3_000, "Slack takes no more: {}", section.chars().count());
    }

    /// Critical events used to disappear in the digest of the attack that they were about.
    #[test]
    fn what_is_urgent_comes_first_and_is_in_no_digest() {
        let mut queue = SlackQueue::of("web1".into());
        for n in 0..50u32 {
            let client = Client::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n));
            queue.push(&samples::banned_client(client), samples::AT_MS);
        }
        let stopped = Notice::BlastRadius { stopped: true, reason: "51 bans in 60 s > 50".into() };
        queue.push(&stopped, samples::AT_MS);
        assert!(queue.is_urgent());
        let first = queue.take();
        assert_eq!((first.events, first.kind), (1, Kind::Messages));
        assert!(
            first.body.contains("AUTOMATIC BANNING STOPPED") && first.body.contains("shield-agent resume")
        );
        assert!(!queue.is_urgent());
        assert_eq!((queue.take().events, queue.waiting()), (50, 0));
    }

    #[test]
    fn urgent_events_beyond_the_first_are_summed_up_before_all_others() {
        let mut queue = SlackQueue::of("web1".into());
        queue.push(&samples::banned(), samples::AT_MS);
        (0..MAX_URGENT + 5).for_each(|_| queue.push(&samples::degraded("xdp"), samples::AT_MS));
        assert_eq!(queue.waiting(), MAX_URGENT as u64 + 6);
        let mut bodies = Vec::new();
        while queue.is_urgent() {
            bodies.push(queue.take().body);
        }
        let last = bodies.pop().unwrap();
        assert!(
            last.contains("SHIELD: FURTHER URGENT EVENTS") && last.contains("SHIELD DEGRADED: 5"),
            "{last}"
        );
        assert!(bodies.iter().all(|body| body.contains("SHIELD DEGRADED") && !body.contains("FURTHER")));
        assert!(queue.take().body.contains("IP BANNED"));
        assert_eq!(queue.waiting(), 0);
    }

    #[test]
    fn what_is_for_the_audit_log_alone_is_not_posted() {
        let mut queue = SlackQueue::default();
        queue.push(&Notice::Stopping { bans: 1 }, samples::AT_MS);
        assert_eq!(queue.waiting(), 0);
    }
}
