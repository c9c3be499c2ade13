//! The messages of a fleet: subjects and payloads. Pure.
//!
//! `shield.v1.ban.ORIGIN.FAMILY.KEY`, `shield.v1.lift.ORIGIN.FAMILY.KEY`, `shield.v1.host.ORIGIN`. Who says something and of
//! whom stands in the subject alone: the server lets a host publish below its own name and nowhere else, and what a payload
//! says of itself would prove nothing. The stream keeps one message a subject, so that a host's newest word replaces its last.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use shield_engine::client::Client;
use shield_engine::origin::{Origin, OriginKind, RemoteBan, Said};

/// All subjects of the stream.
pub(crate) const ALL: &str = "shield.v1.>";
/// The format of the payloads. Others are counted and left out.
const VERSION: u32 = 1;
/// The longest payload: whoever sends a longer one is not read.
pub(crate) const MAX_BYTES: usize = 4_096;
/// The grounds are cut to this many characters.
const MAX_WHY: usize = 200;

/// The payload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Payload {
    v: u32,
    /// See [`shield_engine::origin::Statement::stamp`].
    stamp: u64,
    /// The sender's wall clock when it published this.
    sent_ms: i64,
    #[serde(flatten)]
    body: Body,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "says", rename_all = "snake_case")]
enum Body {
    Banned {
        since_ms: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ends_ms: Option<i64>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        why: String,
    },
    Withdrawn,
    Lifted {
        at_ms: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// Only that the host is there.
    Hello,
    Complete {
        bans: u64,
    },
}

/// A message that was received.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Heard {
    pub origin: Origin,
    pub stamp: u64,
    pub sent_ms: i64,
    /// `None` for a greeting.
    pub said: Option<Said>,
}

/// Why a message is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    /// Its subject is none of the fleet's.
    Subject,
    /// It was written by a newer Shield.
    Newer,
    Payload,
}

/// A message to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub subject: String,
    pub payload: Vec<u8>,
}

/// The subject of the host's own state.
pub(crate) fn host_subject(name: &str) -> String {
    format!("shield.v1.host.{name}")
}

pub(crate) fn hello(name: &str, stamp: u64, sent_ms: i64) -> Outgoing {
    outgoing(host_subject(name), stamp, sent_ms, Body::Hello)
}

/// What this host says. `None` of what is never said.
pub(crate) fn outgoing_of(name: &str, stamp: u64, sent_ms: i64, said: Said) -> Outgoing {
    let of = |kind: &str, client: Client| format!("shield.v1.{kind}.{name}.{}", key(client));
    match said {
        Said::Banned(RemoteBan { client, since_ms, ends_ms, why, is_suspicion: _ }) => {
            let why = why.chars().take(MAX_WHY).collect();
            outgoing(of("ban", client), stamp, sent_ms, Body::Banned { since_ms, ends_ms, why })
        }
        Said::Withdrawn(client) => outgoing(of("ban", client), stamp, sent_ms, Body::Withdrawn),
        Said::Lifted { client, at_ms, note } => {
            let note = note.map(|note| note.chars().take(MAX_WHY).collect());
            outgoing(of("lift", client), stamp, sent_ms, Body::Lifted { at_ms, note })
        }
        Said::Complete { bans } => outgoing(host_subject(name), stamp, sent_ms, Body::Complete { bans }),
    }
}

fn outgoing(subject: String, stamp: u64, sent_ms: i64, body: Body) -> Outgoing {
    let payload = serde_json::to_vec(&Payload { v: VERSION, stamp, sent_ms, body })
        .expect("numbers and strings have a form in JSON");
    Outgoing { subject, payload }
}

/// Reads a message.
pub(crate) fn read(subject: &str, payload: &[u8]) -> Result<Heard, Unread> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let rest = subject.strip_prefix("shield.v1.").ok_or(Unread::Subject)?;
    let mut tokens = rest.split('.');
    let kind = tokens.next().ok_or(Unread::Subject)?;
    let origin =
        tokens.next().and_then(|name| Origin::new(OriginKind::Fleet, name)).ok_or(Unread::Subject)?;
    if payload.len() > MAX_BYTES {
        return Err(Unread::Payload);
    }
    let Version { v } = serde_json::from_slice(payload).map_err(|_| Unread::Payload)?;
    if v > VERSION {
        return Err(Unread::Newer);
    }
    let Payload { stamp, sent_ms, body, .. } =
        serde_json::from_slice(payload).map_err(|_| Unread::Payload)?;
    let mut client = || {
        let client = parse_key(tokens.next()?, tokens.next()?)?;
        tokens.next().is_none().then_some(client)
    };
    let said = match (kind, body) {
        ("ban", Body::Banned { since_ms, ends_ms, why }) => {
            let client = client().ok_or(Unread::Subject)?;
            Some(Said::Banned(RemoteBan { client, since_ms, ends_ms, why, is_suspicion: false }))
        }
        ("ban", Body::Withdrawn) => Some(Said::Withdrawn(client().ok_or(Unread::Subject)?)),
        ("lift", Body::Lifted { at_ms, note }) => {
            Some(Said::Lifted { client: client().ok_or(Unread::Subject)?, at_ms, note })
        }
        ("host", Body::Hello) => None,
        ("host", Body::Complete { bans }) => Some(Said::Complete { bans }),
        _ => return Err(Unread::Payload),
    };
    Ok(Heard { origin, stamp, sent_ms, said })
}

/// `4.c6336407`, `4.c6336400_24`, `6.20010db8000100020000000000000000_64`. No text form of an address may stand in a subject,
/// where dots and colons mean something else.
fn key(client: Client) -> String {
    match client.network() {
        IpNet::V4(net) if net.prefix_len() == 32 => format!("4.{:08x}", net.addr().to_bits()),
        IpNet::V4(net) => format!("4.{:08x}_{}", net.addr().to_bits(), net.prefix_len()),
        IpNet::V6(net) => format!("6.{:032x}_{}", net.addr().to_bits(), net.prefix_len()),
    }
}

fn parse_key(family: &str, key: &str) -> Option<Client> {
    let (bits, length) = match key.split_once('_') {
        Some((bits, length)) => (bits, Some(length.parse::<u8>().ok()?)),
        None => (key, None),
    };
    let is_hex = |digits: usize| bits.len() == digits && bits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let net = match family {
        "4" if is_hex(8) => {
            let addr = Ipv4Addr::from_bits(u32::from_str_radix(bits, 16).ok()?);
            IpNet::V4(Ipv4Net::new(addr, length.unwrap_or(32)).ok()?)
        }
        "6" if is_hex(32) => {
            let addr = Ipv6Addr::from_bits(u128::from_str_radix(bits, 16).ok()?);
            IpNet::V6(Ipv6Net::new(addr, length?).ok()?)
        }
        _ => return None,
    };
    Some(Client::of_network(net))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banned(text: &str) -> Said {
        let client = text.parse().unwrap();
        Said::Banned(RemoteBan {
            client,
            since_ms: 5,
            ends_ms: Some(9),
            why: "probing".to_owned(),
            is_suspicion: false,
        })
    }

    #[test]
    fn what_is_said_is_heard() {
        for text in ["192.0.2.7", "192.0.2.0/24", "0.0.0.0/0", "2001:db8:1:2::/64", "2001:db8::1/128", "::/0"]
        {
            let client = text.parse().unwrap();
            let lifted = Said::Lifted { client, at_ms: 3, note: Some("a mistake".to_owned()) };
            for said in [banned(text), Said::Withdrawn(client), lifted, Said::Complete { bans: 7 }] {
                let Outgoing { subject, payload } = outgoing_of("web-3", 11, 12, said.clone());
                let heard = read(&subject, &payload).unwrap();
                assert_eq!((heard.stamp, heard.sent_ms, heard.said), (11, 12, Some(said)), "{subject}");
                assert_eq!(heard.origin.name(), "web-3");
                assert!(subject.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*' && byte != b'>'));
            }
        }
        let Outgoing { subject, payload } = hello("web-3", 1, 2);
        assert_eq!(read(&subject, &payload).unwrap().said, None);
    }

    #[test]
    fn the_texts_are_stable() {
        let ban = outgoing_of("web-3", 11, 12, banned("192.0.2.7"));
        assert_eq!(ban.subject, "shield.v1.ban.web-3.4.c0000207");
        let text =
            r#"{"v":1,"stamp":11,"sent_ms":12,"says":"banned","since_ms":5,"ends_ms":9,"why":"probing"}"#;
        assert_eq!(String::from_utf8(ban.payload).unwrap(), text);
    }

    #[test]
    fn what_is_not_understood_is_said_to_be() {
        let good = outgoing_of("web-3", 11, 12, banned("192.0.2.7")).payload;
        for subject in [
            "shield.v1.ban.web-3.4.c0000207.more",
            "shield.v1.ban.web-3.4.c000020",
            "shield.v1.ban.web-3.4.+0000207",
            "shield.v1.ban.web-3.4.c0000207_33",
            "shield.v1.ban.web-3.6.20010db8000100020000000000000000",
            "shield.v1.ban.web-3",
            "shield.v1.ban..4.c0000207",
            "shield.v2.ban.web-3.4.c0000207",
            "",
        ] {
            assert_eq!(read(subject, &good), Err(Unread::Subject), "{subject}");
        }
        let subject = "shield.v1.ban.web-3.4.c0000207";
        let newer = br#"{"v":2,"whatever":true}"#;
        assert_eq!(read(subject, newer), Err(Unread::Newer));
        assert_eq!(read("shield.v1.lift.web-3.4.c0000207", &good), Err(Unread::Payload), "a ban is no lift");
        for bad in [&b""[..], b"{", b"{\"v\":1}", b"\xff\xfe", &[b' '; MAX_BYTES + 1]] {
            assert_eq!(read(subject, bad), Err(Unread::Payload));
        }
    }
}
