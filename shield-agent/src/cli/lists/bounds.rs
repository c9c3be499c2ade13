//! The bounds of an entry: what the agent would refuse, and networks that are wider than a list is likely to mean. They
//! are checked before the first entry is sent, because a refusal in the middle leaves half a list in force.

use ipnet::IpNet;

use super::{Entry, Parsed, Wrong};
use crate::api::types::{MAX_REASON_CHARS, MAX_TERM_SECS, Term};
use crate::text::{count, plural};
use shield_engine::client::Client;

/// The widest networks that are banned without `--force`. Registries give no wider block to one holder.
const WIDEST_IPV4: u8 = 8;
const WIDEST_IPV6: u8 = 19;

/// Returns the number of addresses in a network that is too wide to be banned without `--force`, in words.
pub(crate) fn width_to_confirm(client: Client) -> Option<String> {
    match client.network() {
        IpNet::V4(net) if net.prefix_len() < WIDEST_IPV4 => {
            Some(plural(1 << (32 - net.prefix_len()), "address", "addresses"))
        }
        IpNet::V6(net) if net.prefix_len() < WIDEST_IPV6 => {
            Some(format!("2^{} networks of the size /64", 64 - net.prefix_len()))
        }
        _ => None,
    }
}

/// Whether networks that are too wide are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wide {
    Refused,
    Accepted,
}

impl Parsed {
    /// Moves entries that must not be sent to the invalid ones, and cuts reasons that are too long.
    pub(crate) fn bounded(mut self, wide: Wide) -> Parsed {
        for mut entry in std::mem::take(&mut self.entries) {
            if let Some(width) = width_to_confirm(entry.client) {
                let place = entry.client.to_string();
                let why = format!("covers {width}");
                match wide {
                    Wide::Accepted => self.remarks.push(Wrong { place, why }),
                    Wide::Refused => {
                        self.wrong(place, format!("{why}: to ban so many, import it with --force"));
                        continue;
                    }
                }
            }
            if let Some(Term::Secs(secs)) = entry.term
                && secs > MAX_TERM_SECS
            {
                self.wrong(
                    entry.client.to_string(),
                    format!("its term of {secs} s is longer than {} s (100 years)", count(MAX_TERM_SECS)),
                );
                continue;
            }
            if let Some(remark) = entry.cut_reason() {
                self.remarks.push(remark);
            }
            self.entries.push(entry);
        }
        self
    }
}

impl Entry {
    fn cut_reason(&mut self) -> Option<Wrong> {
        let reason = self.reason.as_mut()?;
        let (end, _) = reason.char_indices().nth(MAX_REASON_CHARS)?;
        let chars = reason.chars().count() as u64;
        reason.truncate(end);
        let kept = count(MAX_REASON_CHARS as u64);
        Some(Wrong {
            place: self.client.to_string(),
            why: format!("its reason of {} characters was cut to {kept}", count(chars)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(client: &str, term: Option<Term>, reason: Option<String>) -> Entry {
        Entry { client: client.parse().unwrap(), term, reason }
    }

    fn of(entries: Vec<Entry>) -> Parsed {
        Parsed { entries, ..Parsed::default() }
    }

    fn in_words(list: &[Wrong]) -> String {
        list.iter().map(|wrong| format!("{}: {}\n", wrong.place, wrong.why)).collect()
    }

    #[test]
    fn networks_wider_than_one_holder_has_need_force() {
        let list =
            ["32.0.0.0/3", "0.0.0.0/0", "10.0.0.0/8", "2000::/3", "::/0", "2001:db8::/19", "192.0.2.7"];
        let entries = || of(list.iter().map(|client| entry(client, None, None)).collect());
        let refused = entries().bounded(Wide::Refused);
        assert_eq!(
            in_words(&refused.wrong),
            "32.0.0.0/3: covers 536,870,912 addresses: to ban so many, import it with --force\n\
             0.0.0.0/0: covers 4,294,967,296 addresses: to ban so many, import it with --force\n\
             2000::/3: covers 2^61 networks of the size /64: to ban so many, import it with --force\n\
             ::/0: covers 2^64 networks of the size /64: to ban so many, import it with --force\n"
        );
        assert_eq!(refused.entries.len(), 3);
        let forced = entries().bounded(Wide::Accepted);
        assert_eq!((forced.entries.len(), forced.wrong.len(), forced.remarks.len()), (7, 0, 4));
        assert!(in_words(&forced.remarks).starts_with("32.0.0.0/3: covers 536,870,912 addresses\n"));
    }

    #[test]
    fn a_reason_that_is_too_long_is_cut_between_characters_and_reported() {
        let parsed =
            of(vec![entry("192.0.2.7", None, Some("ü".repeat(MAX_REASON_CHARS + 1)))]).bounded(Wide::Refused);
        assert_eq!(parsed.entries[0].reason, Some("ü".repeat(MAX_REASON_CHARS)));
        assert_eq!(in_words(&parsed.remarks), "192.0.2.7: its reason of 1,001 characters was cut to 1,000\n");
        let exact =
            of(vec![entry("192.0.2.7", None, Some("x".repeat(MAX_REASON_CHARS)))]).bounded(Wide::Refused);
        assert!(exact.remarks.is_empty());
    }

    #[test]
    fn a_term_that_the_agent_refuses_is_invalid_before_anything_is_sent() {
        let parsed = of(vec![
            entry("192.0.2.7", Some(Term::Secs(MAX_TERM_SECS)), None),
            entry("192.0.2.8", Some(Term::Secs(MAX_TERM_SECS + 1)), None),
        ])
        .bounded(Wide::Refused);
        assert_eq!(parsed.entries.len(), 1);
        assert!(in_words(&parsed.wrong).starts_with("192.0.2.8: its term of 3155760001 s is longer"));
    }
}
