//! What CrowdSec decided, as it tells it: everything at first, then what is new and what was taken back. Pure.
//!
//! A client may have several decisions, of which each ends by itself. The server tells the longest alone, so that one whose end
//! was never told cannot be taken back by its number: then everything is asked anew.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::text::{self, printable};
use shield_engine::client::Client;
use shield_engine::origin::RemoteBan;

/// An answer of `/v1/decisions/stream`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Stream {
    pub new: Option<Vec<Decision>>,
    pub deleted: Option<Vec<Decision>>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Decision {
    id: u64,
    /// `3h59m58.9s`; negative in the past.
    duration: String,
    #[serde(default)]
    origin: String,
    #[serde(default)]
    scenario: String,
    scope: String,
    #[serde(rename = "type")]
    kind: String,
    value: String,
}

/// The answer to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Remedy {
    /// A captcha: something speaks against it, and that is all.
    Suspicion,
    Ban,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    remedy: Remedy,
    ends_ms: i64,
    why: String,
}

/// What changed.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub banned: Vec<RemoteBan>,
    pub withdrawn: Vec<Client>,
    /// A decision was taken back that was never told.
    pub is_gap: bool,
}

/// The decisions in force.
#[derive(Debug, Default)]
pub(super) struct Book {
    clients: BTreeMap<Client, BTreeMap<u64, Held>>,
    /// Decisions since the last whole answer that Shield cannot carry out, such as about countries.
    pub ignored: u64,
    /// What marks the decisions that this host itself asked for: they confirm nothing.
    pub own_origin: Option<String>,
}

impl Book {
    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Takes over everything that is in force.
    pub(super) fn replace(
        &mut self,
        stream: Stream,
        ipv6_prefix: u8,
        now_ms: i64,
    ) -> Result<Changes, String> {
        let mut whole = Book { own_origin: self.own_origin.clone(), ..Book::default() };
        let all = Stream { deleted: None, ..stream };
        let changes = whole.apply(all, ipv6_prefix, now_ms)?;
        *self = whole;
        Ok(changes)
    }

    /// Takes over what changed. After an error nothing is.
    pub(super) fn apply(&mut self, stream: Stream, ipv6_prefix: u8, now_ms: i64) -> Result<Changes, String> {
        let read = |decisions: Option<Vec<Decision>>| {
            let is_own = |decision: &Decision| self.own_origin.as_ref() == Some(&decision.origin);
            let read = decisions.unwrap_or_default().into_iter().filter(|decision| !is_own(decision));
            read.map(|decision| read_one(decision, ipv6_prefix, now_ms)).collect::<Result<Vec<_>, String>>()
        };
        let (new, deleted) = (read(stream.new)?, read(stream.deleted)?);
        let (mut touched, mut changes) = (BTreeSet::new(), Changes::default());
        for (client, id, _) in deleted.into_iter().flatten() {
            let Some(held) = self.clients.get_mut(&client) else { continue };
            changes.is_gap |= held.remove(&id).is_none();
            touched.insert(client);
        }
        for one in new {
            let Some((client, id, held)) = one else {
                self.ignored += 1;
                continue;
            };
            if held.ends_ms > now_ms {
                self.clients.entry(client).or_default().insert(id, held);
                touched.insert(client);
            }
        }
        for client in touched {
            let held = self.clients.entry(client).or_default();
            held.retain(|_, held| held.ends_ms > now_ms);
            let strongest = held.values().map(|held| held.remedy).max();
            let of = held.values().filter(|held| Some(held.remedy) == strongest);
            match of.max_by_key(|held| held.ends_ms) {
                None => {
                    self.clients.remove(&client);
                    changes.withdrawn.push(client);
                }
                Some(held) => changes.banned.push(RemoteBan {
                    client,
                    since_ms: now_ms,
                    ends_ms: Some(held.ends_ms),
                    why: held.why.clone(),
                    is_suspicion: held.remedy == Remedy::Suspicion,
                }),
            }
        }
        Ok(changes)
    }

    /// Takes out what has ended: nobody says so.
    pub(super) fn expire(&mut self, now_ms: i64) {
        self.clients.retain(|_, held| {
            held.retain(|_, held| held.ends_ms > now_ms);
            !held.is_empty()
        });
    }
}

/// `None` for one that Shield cannot carry out.
fn read_one(decision: Decision, ipv6_prefix: u8, now_ms: i64) -> Result<Option<(Client, u64, Held)>, String> {
    let Decision { id, duration, origin, scenario, scope, kind, value } = decision;
    let remedy = match kind.as_str() {
        "ban" => Remedy::Ban,
        "captcha" => Remedy::Suspicion,
        _ => return Ok(None),
    };
    if !scope.eq_ignore_ascii_case("ip") && !scope.eq_ignore_ascii_case("range") {
        return Ok(None);
    }
    let client: Client = value.trim().parse().map_err(|_| text::crowdsec::no_client(id, &value))?;
    let left_ms = go_duration_ms(&duration).ok_or_else(|| text::crowdsec::no_duration(id, &duration))?;
    let why = match origin.is_empty() {
        true => scenario,
        false => format!("{scenario} ({origin})"),
    };
    let held = Held { remedy, ends_ms: now_ms.saturating_add(left_ms), why: printable(&why) };
    Ok(Some((client.widened(ipv6_prefix), id, held)))
}

/// Reads a duration as Go writes it: `3h59m58.9s`, `-86.9ms`.
pub(super) fn go_duration_ms(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total_ms = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|char: char| !char.is_ascii_digit() && char != '.')?;
        let (number, with_unit) = rest.split_at(digits);
        let unit_len = with_unit.find(|char: char| char.is_ascii_digit()).unwrap_or(with_unit.len());
        let (unit, next) = with_unit.split_at(unit_len);
        let unit_ms = match unit {
            "ns" => 1e-6,
            "us" | "µs" | "μs" => 1e-3,
            "ms" => 1.0,
            "s" => 1_000.0,
            "m" => 60_000.0,
            "h" => 3_600_000.0,
            _ => return None,
        };
        total_ms += number.parse::<f64>().ok()? * unit_ms;
        rest = next;
    }
    (!text.is_empty() && text != "-" && text != "+").then_some((sign * total_ms) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    fn stream(json: &str) -> Stream {
        serde_json::from_str(json).unwrap()
    }

    fn decision(id: u64, duration: &str, scope: &str, kind: &str, value: &str) -> String {
        format!(
            "{{\"duration\":\"{duration}\",\"id\":{id},\"origin\":\"CAPI\",\"scenario\":\"crowdsecurity/ssh-bf\",\
             \"scope\":\"{scope}\",\"type\":\"{kind}\",\"value\":\"{value}\"}}"
        )
    }

    fn new(decisions: &[String]) -> Stream {
        stream(&format!("{{\"deleted\":null,\"new\":[{}]}}", decisions.join(",")))
    }

    fn deleted(decisions: &[String]) -> Stream {
        stream(&format!("{{\"new\":null,\"deleted\":[{}]}}", decisions.join(",")))
    }

    #[test]
    fn durations_as_go_writes_them() {
        let check = |text: &str, expected: Option<i64>| assert_eq!(go_duration_ms(text), expected, "{text}");
        check("3h59m58.5s", Some(14_398_500));
        check("-86.918735ms", Some(-86));
        check("1h", Some(3_600_000));
        check("1m0.25s", Some(60_250));
        check("1500000ns", Some(1));
        check("250µs", Some(0));
        check("0", Some(0));
        check("0s", Some(0));
        check("8760h0m0s", Some(31_536_000_000));
        for bad in ["", "-", "4", "4d", "h", "1h5", "1..5s", "x", "4 h", "1h-5m"] {
            check(bad, None);
        }
    }

    #[test]
    fn a_real_servers_answer() {
        // CrowdSec 1.4.6.
        let text = r#"{"deleted":null,"new":[{"duration":"3h59m53.815214533s","id":1,"origin":"cscli","scenario":"test","scope":"Ip","type":"ban","value":"203.0.113.5"},{"duration":"3h59m58.8s","id":3,"origin":"cscli","scenario":"manual 'captcha' from 'm1'","scope":"Ip","type":"captcha","value":"203.0.113.6"},{"duration":"23h59m56.8s","id":2,"origin":"cscli","scenario":"rng","scope":"Range","type":"ban","value":"198.51.100.0/24"}]}"#;
        let mut book = Book::default();
        let changes = book.replace(stream(text), 64, NOW).unwrap();
        let told: Vec<_> = changes
            .banned
            .iter()
            .map(|ban| (ban.client.to_string(), ban.is_suspicion, ban.why.as_str()))
            .collect();
        let expected = [
            ("198.51.100.0/24".to_owned(), false, "rng (cscli)"),
            ("203.0.113.5".to_owned(), false, "test (cscli)"),
            ("203.0.113.6".to_owned(), true, "manual 'captcha' from 'm1' (cscli)"),
        ];
        let sorted: BTreeSet<_> = told.into_iter().collect();
        assert_eq!(sorted, expected.into_iter().collect());
        let gone = r#"{"deleted":[{"duration":"-86.918735ms","id":1,"origin":"cscli","scenario":"test","scope":"Ip","type":"ban","value":"203.0.113.5"}],"new":null}"#;
        let changes = book.apply(stream(gone), 64, NOW).unwrap();
        assert_eq!(
            changes,
            Changes { withdrawn: vec!["203.0.113.5".parse().unwrap()], ..Changes::default() }
        );
    }

    #[test]
    fn a_client_is_let_go_with_its_last_decision() {
        let mut book = Book::default();
        let (short, long) =
            (decision(1, "1h", "Ip", "ban", "203.0.113.5"), decision(2, "4h", "Ip", "ban", "203.0.113.5"));
        let changes = book.replace(new(&[short.clone(), long.clone()]), 64, NOW).unwrap();
        assert_eq!(changes.banned[0].ends_ms, Some(NOW + 4 * 3_600_000));
        let changes = book.apply(deleted(&[long]), 64, NOW).unwrap();
        assert_eq!((changes.banned[0].ends_ms, changes.withdrawn.len()), (Some(NOW + 3_600_000), 0));
        let changes = book.apply(deleted(std::slice::from_ref(&short)), 64, NOW).unwrap();
        assert_eq!((changes.banned.len(), changes.withdrawn.len(), book.len()), (0, 1, 0));
        let changes = book.apply(deleted(&[short]), 64, NOW).unwrap();
        assert_eq!(changes, Changes::default(), "told twice");
    }

    #[test]
    fn what_this_host_asked_for_itself_confirms_nothing() {
        let mut book = Book { own_origin: Some("CAPI".to_owned()), ..Book::default() };
        let own = decision(1, "1h", "Ip", "ban", "203.0.113.5");
        let other = own.replace("CAPI", "shield:web-2").replace(".5", ".6");
        let changes = book.replace(new(&[own.clone(), other]), 64, NOW).unwrap();
        assert_eq!((changes.banned.len(), book.len(), book.ignored), (1, 1, 0), "another host's is one");
        assert_eq!(book.apply(deleted(&[own]), 64, NOW).unwrap(), Changes::default(), "and no gap");
    }

    #[test]
    fn one_taken_back_that_was_never_told_is_a_gap() {
        let mut book = Book::default();
        book.replace(new(&[decision(1, "1h", "Ip", "ban", "203.0.113.5")]), 64, NOW).unwrap();
        let changes =
            book.apply(deleted(&[decision(9, "-1s", "Ip", "ban", "203.0.113.5")]), 64, NOW).unwrap();
        assert!(changes.is_gap && changes.withdrawn.is_empty());
    }

    #[test]
    fn what_cannot_be_carried_out_is_counted_and_what_cannot_be_read_is_an_error() {
        let mut book = Book::default();
        let odd = [
            decision(1, "1h", "Country", "ban", "XX"),
            decision(2, "1h", "Ip", "mfa", "203.0.113.5"),
            decision(3, "-5s", "Ip", "ban", "203.0.113.6"),
            decision(4, "1h", "ip", "ban", "2001:db8::1"),
        ];
        let changes = book.replace(new(&odd), 64, NOW).unwrap();
        assert_eq!((changes.banned.len(), book.ignored, book.len()), (1, 2, 1));
        assert_eq!(changes.banned[0].client.to_string(), "2001:db8::/64");
        for bad in
            [decision(7, "soon", "Ip", "ban", "203.0.113.7"), decision(7, "1h", "Ip", "ban", "203.0.113")]
        {
            let why =
                book.apply(new(&[decision(6, "1h", "Ip", "ban", "203.0.113.9"), bad]), 64, NOW).unwrap_err();
            assert!(why.contains('7'), "{why}");
            assert_eq!(book.len(), 1, "nothing of it is taken over");
        }
        book.expire(NOW + 3_600_000);
        assert_eq!(book.len(), 0);
    }
}
