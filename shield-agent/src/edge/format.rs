//! Lists and their changes as texts. Pure.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::list::EdgeList;
use crate::text;
use shield_engine::client::Client;

/// The comment of Cloudflare's entries that were not made for a certain host.
const COMMENT: &str = "shield";

/// The format of a list for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EdgeFormat {
    /// One address or network a line; `#` begins a comment.
    #[default]
    Plain,
    /// A map file of HAProxy: an address or network and `1` a line.
    HaproxyMap,
    /// A JSON array of items as Cloudflare's lists take them.
    Cloudflare,
}

impl EdgeFormat {
    pub(crate) fn name(self) -> &'static str {
        match self {
            EdgeFormat::Plain => "plain",
            EdgeFormat::HaproxyMap => "haproxy-map",
            EdgeFormat::Cloudflare => "cloudflare",
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            EdgeFormat::Plain | EdgeFormat::HaproxyMap => "text/plain; charset=utf-8",
            EdgeFormat::Cloudflare => "application/json",
        }
    }

    /// The whole list.
    pub(crate) fn write(self, list: &EdgeList) -> String {
        match self {
            EdgeFormat::Plain => lines(list, ""),
            EdgeFormat::HaproxyMap => lines(list, " 1"),
            EdgeFormat::Cloudflare => json!(items(list.clients.iter())).to_string() + "\n",
        }
    }
}

/// An item of a list of Cloudflare's.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "test-support", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "test-support", schemars(rename = "CloudflareItem"))]
pub(crate) struct Item {
    /// An address or a network.
    pub ip: String,
    /// Tells Shield's items from others.
    pub comment: String,
}

fn lines(list: &EdgeList, value: &str) -> String {
    let mut out = String::with_capacity(list.clients.len() * 18);
    for client in &list.clients {
        writeln!(out, "{client}{value}").expect("a String takes everything");
    }
    for network in &list.left_out {
        writeln!(out, "# {}", text::edge::left_out(network)).expect("a String takes everything");
    }
    out
}

fn items<'a>(clients: impl Iterator<Item = &'a Client>) -> Vec<Item> {
    let names = clients.filter_map(|client| cloudflare_item(*client));
    names.map(|ip| Item { ip, comment: COMMENT.to_owned() }).collect()
}

/// How a list of Cloudflare's names this client. `None` where it cannot: it takes IPv4 down to /8 and IPv6 from /12 to /64,
/// and to widen a client would ban others.
pub(crate) fn cloudflare_item(client: Client) -> Option<String> {
    let network = client.network();
    let lengths = if network.addr().is_ipv4() { 8..=32 } else { 12..=64 };
    lengths.contains(&network.prefix_len()).then(|| client.to_string())
}

/// Reads a [`EdgeFormat::Plain`] list.
///
/// # Errors
/// The line that is not in it.
pub(crate) fn read_plain(list: &str) -> Result<BTreeSet<Client>, String> {
    let entries = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    entries.map(|line| line.parse().map_err(|_| line.to_owned())).collect()
}

/// Writes the changes from one list to the next.
#[derive(Debug)]
pub(crate) struct Changes {
    format: EdgeFormat,
    /// HAProxy's map, as its configuration names it.
    map: String,
    /// What the reader has; `None` before the first list.
    last: Option<BTreeSet<Client>>,
}

impl Changes {
    pub(crate) fn new(format: EdgeFormat, map: &str) -> Changes {
        Changes { format, map: map.to_owned(), last: None }
    }

    /// The text of what differs from the list before, empty where nothing does.
    pub(crate) fn to(&mut self, now: BTreeSet<Client>) -> String {
        let is_first = self.last.is_none();
        let last = self.last.take().unwrap_or_default();
        let added: Vec<&Client> = now.difference(&last).collect();
        let removed: Vec<&Client> = last.difference(&now).collect();
        let is_same = added.is_empty() && removed.is_empty() && !is_first;
        let text = if is_same { String::new() } else { self.write(&added, &removed, is_first, now.len()) };
        self.last = Some(now);
        text
    }

    fn write(&self, added: &[&Client], removed: &[&Client], is_first: bool, total: usize) -> String {
        let each = |clients: &[&Client], line: &dyn Fn(&Client) -> String| -> String {
            clients.iter().map(|client| line(client) + "\n").collect()
        };
        match self.format {
            EdgeFormat::Plain => {
                each(added, &|client| format!("+ {client}"))
                    + &each(removed, &|client| format!("- {client}"))
                    + &format!("= {total}\n")
            }
            EdgeFormat::HaproxyMap => {
                let map = &self.map;
                // Adding a key that is there makes a second entry of it, so a map that others filled is emptied first.
                let first = if is_first { format!("clear map {map}\n") } else { String::new() };
                first
                    + &each(added, &|client| format!("add map {map} {client} 1"))
                    + &each(removed, &|client| format!("del map {map} {client}"))
            }
            EdgeFormat::Cloudflare => {
                let gone: Vec<String> =
                    removed.iter().filter_map(|client| cloudflare_item(**client)).collect();
                let added = items(added.iter().copied());
                let is_nothing = gone.is_empty() && added.is_empty() && !is_first;
                if is_nothing {
                    String::new()
                } else {
                    format!("{}\n", json!({"add": added, "remove": gone}))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn clients(texts: &[&str]) -> Vec<Client> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_list_in_every_format() {
        let list = EdgeList {
            version: 1,
            clients: clients(&["192.0.2.7", "198.51.100.0/24", "2001:db8::1/128", "2001:db8:1::/64"]),
            left_out: clients(&["203.0.113.0/24"]),
        };
        let left_out = "# 203.0.113.0/24 is banned and not listed: an address inside is exempt\n";
        let check = |format: EdgeFormat, expected: String| assert_eq!(format.write(&list), expected);
        let plain = "192.0.2.7\n198.51.100.0/24\n2001:db8::1/128\n2001:db8:1::/64\n";
        check(EdgeFormat::Plain, format!("{plain}{left_out}"));
        check(EdgeFormat::HaproxyMap, plain.replace('\n', " 1\n") + left_out);
        let item = |ip: &str| format!("{{\"comment\":\"shield\",\"ip\":\"{ip}\"}}");
        let items = ["192.0.2.7", "198.51.100.0/24", "2001:db8:1::/64"].map(item).join(",");
        check(EdgeFormat::Cloudflare, format!("[{items}]\n"));
        let read: Vec<Client> = read_plain(&EdgeFormat::Plain.write(&list)).unwrap().into_iter().collect();
        assert_eq!(read, list.clients);
        assert_eq!(read_plain("192.0.2.7\nnobody\n"), Err("nobody".to_owned()));
    }

    #[test]
    fn cloudflare_takes_no_client_that_would_have_to_be_widened() {
        let check = |client: &str, expected: Option<&str>| {
            assert_eq!(cloudflare_item(client.parse().unwrap()).as_deref(), expected, "{client}");
        };
        check("192.0.2.7", Some("192.0.2.7"));
        check("10.0.0.0/8", Some("10.0.0.0/8"));
        check("10.0.0.0/7", None);
        check("2001:db8::/64", Some("2001:db8::/64"));
        check("2001:db8::/65", None);
        check("2001:db8::1/128", None);
        check("2000::/11", None);
    }

    #[test]
    fn changes_in_every_format() {
        let check = |format: EdgeFormat, expected: [&str; 4]| {
            let mut changes = Changes::new(format, "/m");
            let lists: [&[&str]; 4] = [
                &["192.0.2.7", "2001:db8::1/128"],
                &["192.0.2.7", "2001:db8::1/128"],
                &["192.0.2.8", "2001:db8::1/128"],
                &["192.0.2.8"],
            ];
            let texts = lists.map(|list| changes.to(clients(list).into_iter().collect()));
            assert_eq!(texts, expected, "{format:?}");
        };
        check(
            EdgeFormat::Plain,
            [
                "+ 192.0.2.7\n+ 2001:db8::1/128\n= 2\n",
                "",
                "+ 192.0.2.8\n- 192.0.2.7\n= 2\n",
                "- 2001:db8::1/128\n= 1\n",
            ],
        );
        check(
            EdgeFormat::HaproxyMap,
            [
                "clear map /m\nadd map /m 192.0.2.7 1\nadd map /m 2001:db8::1/128 1\n",
                "",
                "add map /m 192.0.2.8 1\ndel map /m 192.0.2.7\n",
                "del map /m 2001:db8::1/128\n",
            ],
        );
        check(
            EdgeFormat::Cloudflare,
            [
                "{\"add\":[{\"comment\":\"shield\",\"ip\":\"192.0.2.7\"}],\"remove\":[]}\n",
                "",
                "{\"add\":[{\"comment\":\"shield\",\"ip\":\"192.0.2.8\"}],\"remove\":[\"192.0.2.7\"]}\n",
                "",
            ],
        );
        let nobody = |format| Changes::new(format, "/m").to(BTreeSet::new());
        assert_eq!(nobody(EdgeFormat::Plain), "= 0\n");
        assert_eq!(nobody(EdgeFormat::HaproxyMap), "clear map /m\n");
        assert_eq!(nobody(EdgeFormat::Cloudflare), "{\"add\":[],\"remove\":[]}\n");
    }

    proptest! {
        /// Whoever follows has exactly the list, whatever it was before: nothing is lost and nothing doubled.
        #[test]
        fn a_reader_of_the_changes_has_the_list(lists in prop::collection::vec(prop::collection::btree_set(0u8..20, 0..12), 1..20)) {
            let mut changes = Changes::new(EdgeFormat::Plain, "");
            let mut reader = BTreeSet::new();
            for list in lists {
                let list: BTreeSet<Client> =
                    list.into_iter().map(|n| format!("192.0.2.{n}").parse().unwrap()).collect();
                for line in changes.to(list.clone()).lines() {
                    let (sign, rest) = line.split_once(' ').unwrap();
                    match sign {
                        "+" => prop_assert!(reader.insert(rest.parse::<Client>().unwrap()), "doubled"),
                        "-" => prop_assert!(reader.remove(&rest.parse::<Client>().unwrap()), "never had it"),
                        _ => prop_assert_eq!(rest.parse::<usize>().unwrap(), reader.len()),
                    }
                }
                prop_assert_eq!(&reader, &list);
            }
        }
    }
}
