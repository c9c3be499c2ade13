//! The networks that must never be banned, and the only constructor of [`BannableClient`].
//!
//! Invariant 3: every ban, whether of the detector, an import or a restart, passes [`Allowlist::admit`]; that of an operator
//! [`Allowlist::admit_by_hand`], and so does its restoration.

use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::bans::short::{Others, Short};
use crate::bans::spans::Spans;
use crate::vocab::client::Client;

/// The origin of an allowlist entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum AllowReason {
    Configured,
    /// Added by an operator at run time and kept in the store.
    Operator,
    OwnAddress,
    /// Loopback, link-local, multicast or unspecified: never a client that can be dropped.
    Special,
    Gateway,
    Resolver,
    /// The remote end of a live SSH session on this host.
    SshSession,
    /// The remote end of an earlier SSH session on this host.
    SshRecent,
    /// A trusted proxy: banning it would ban everybody behind it.
    TrustedProxy,
    SearchEngine,
    /// A content delivery network: behind its addresses are all visitors of the sites that use it.
    Cdn,
    /// A private or shared address: on a public site a proxy, a gateway or a carrier's NAT.
    Private,
}

impl AllowReason {
    /// Whether it protects from rules alone, and not from operators.
    pub fn is_infrastructure(self) -> bool {
        matches!(self, AllowReason::Cdn | AllowReason::Private)
    }

    /// The reason for people.
    pub fn describe(self) -> &'static str {
        match self {
            AllowReason::Configured => "allowed in the configuration",
            AllowReason::Operator => "allowed by an operator",
            AllowReason::OwnAddress => "an address of this host",
            AllowReason::Special => "a loopback, link-local, multicast or unspecified address",
            AllowReason::Gateway => "a gateway of this host",
            AllowReason::Resolver => "a DNS resolver of this host",
            AllowReason::SshSession => "the far end of a live SSH session",
            AllowReason::SshRecent => "the far end of an earlier SSH session (ssh_keep in [allow])",
            AllowReason::TrustedProxy => "a trusted proxy",
            AllowReason::SearchEngine => "a search engine, verified by DNS",
            AllowReason::Cdn => "a content delivery network (cdn_ranges in [allow])",
            AllowReason::Private => "a private network (private_networks in [allow])",
        }
    }
}

/// An allowlist entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Allowed {
    /// A /32 or /128 for a single address.
    pub network: IpNet,
    pub reason: AllowReason,
}

/// A client that the allowlist let through: the only kind that enforcers accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BannableClient(Client);

impl BannableClient {
    pub fn client(self) -> Client {
        self.0
    }
}

/// A [`BannableClient`] of a [`Bannables`] in five bytes without padding, for large tables.
#[derive(Debug, Clone, Copy)]
pub struct PackedBannable {
    number: [u8; 4],
    is_other: bool,
}

/// The clients of one table that do not fit into a [`PackedBannable`].
#[derive(Debug, Clone, Default)]
pub struct Bannables(Others);

impl Bannables {
    /// Packs a client. Each call takes room, until [`Bannables::forget`].
    pub fn pack(&mut self, client: BannableClient) -> PackedBannable {
        let (number, is_other) = self.0.shorten(client.0).parts();
        PackedBannable { number: number.to_le_bytes(), is_other }
    }

    /// Unpacks a client of this table.
    pub fn unpack(&self, packed: PackedBannable) -> BannableClient {
        BannableClient(self.0.client(packed.short()))
    }

    /// Forgets a client of this table.
    pub fn forget(&mut self, packed: PackedBannable) {
        self.0.forget(packed.short());
    }
}

impl PackedBannable {
    fn short(self) -> Short {
        Short::of_parts(u32::from_le_bytes(self.number), self.is_other)
    }
}

impl fmt::Display for BannableClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Networks that are protected whatever the configuration says.
const SPECIAL: [&str; 9] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::/128",
    "::1/128",
    "fe80::/10",
    "ff00::/8",
];

/// Two sorted tables, walked only for the few clients that one of their networks has to do with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowlist {
    entries: List,
    /// Kept apart, because it is long, enforcers need not know it, and operators may ban what is in it.
    infrastructure: List,
}

/// Sorted entries, with the addresses that they cover.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct List {
    sorted: Vec<Allowed>,
    spans: Spans,
}

impl List {
    fn new(mut entries: Vec<Allowed>) -> List {
        // The stable sort merges runs that are sorted already: a long list costs the owner's thread no more than a walk.
        entries.sort();
        entries.dedup();
        let spans = Spans::of(entries.iter().map(|entry| entry.network));
        List { sorted: entries, spans }
    }

    fn insert(&mut self, entry: Allowed) {
        if let Err(at) = self.sorted.binary_search(&entry) {
            self.sorted.insert(at, entry);
            self.spans.insert(entry.network);
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut Vec<Allowed>)) {
        let mut entries = std::mem::take(&mut self.sorted);
        change(&mut entries);
        *self = List::new(entries);
    }

    /// The first entry, in their order, for which this holds; only of entries that overlap the client.
    fn find(&self, client: Client, is_hit: impl FnMut(&&Allowed) -> bool) -> Option<&Allowed> {
        if self.spans.touch(client) { self.sorted.iter().find(is_hit) } else { None }
    }
}

impl Default for Allowlist {
    fn default() -> Allowlist {
        Allowlist::new([])
    }
}

impl Allowlist {
    /// An allowlist of these entries and the special networks.
    pub fn new(entries: impl IntoIterator<Item = Allowed>) -> Allowlist {
        let special = SPECIAL.iter().map(|text| Allowed {
            network: text.parse().expect("the constant networks are well-formed"),
            reason: AllowReason::Special,
        });
        let (infrastructure, entries): (Vec<Allowed>, Vec<Allowed>) =
            special.chain(entries).map(canonical).partition(|entry| entry.reason.is_infrastructure());
        Allowlist { entries: List::new(entries), infrastructure: List::new(infrastructure) }
    }

    /// Adds an entry. A network may have several, one per reason.
    pub fn add(&mut self, entry: Allowed) {
        let entry = canonical(entry);
        let list =
            if entry.reason.is_infrastructure() { &mut self.infrastructure } else { &mut self.entries };
        list.insert(entry);
    }

    /// Removes the entry for exactly this network and reason; returns whether there was one.
    pub fn remove(&mut self, network: IpNet, reason: AllowReason) -> bool {
        let before = self.entries.sorted.len();
        let network = Client::of_network(network).network();
        self.entries.change(|entries| entries.retain(|e| !(e.network == network && e.reason == reason)));
        self.entries.sorted.len() != before
    }

    /// Replaces every entry that has one of `reasons` by `entries`, so that an address that left the host is dropped.
    pub fn refresh(&mut self, reasons: &[AllowReason], entries: impl IntoIterator<Item = Allowed>) {
        let (infrastructure, others): (Vec<_>, Vec<_>) =
            entries.into_iter().map(canonical).partition(|entry| entry.reason.is_infrastructure());
        for (list, added) in [(&mut self.entries, others), (&mut self.infrastructure, infrastructure)] {
            list.change(|list| {
                list.retain(|entry| !reasons.contains(&entry.reason));
                list.extend(added);
            });
        }
    }

    /// The number of all entries: what one comparison costs.
    pub(crate) fn len(&self) -> usize {
        self.entries.sorted.len() + self.infrastructure.sorted.len()
    }

    /// Every entry, sorted by network, without infrastructure.
    pub fn entries(&self) -> &[Allowed] {
        &self.entries.sorted
    }

    /// Every entry that covers a client or lies inside it, infrastructure last.
    pub fn about(&self, client: Client) -> Vec<Allowed> {
        let covers = |entry: &Allowed| Client::of_network(entry.network).covers(client.network());
        let entries = self.entries.sorted.iter();
        let entries = entries.filter(|entry| covers(entry) || client.covers(entry.network));
        // A banned network may hold infrastructure: that protects only what is inside of it.
        entries.chain(self.infrastructure.sorted.iter().filter(|entry| covers(entry))).copied().collect()
    }

    /// The networks that enforcers must let through even inside a banned network. Special ones are left out.
    pub fn exempt_networks(&self) -> Vec<IpNet> {
        let mut nets: Vec<IpNet> =
            self.entries().iter().filter(|e| e.reason != AllowReason::Special).map(|e| e.network).collect();
        nets.dedup();
        nets
    }

    /// Returns the client as bannable, or the entry that protects it.
    ///
    /// A single client is protected when it overlaps an entry: an IPv6 /64 that holds one allowed address must not be
    /// banned whole. A network wider than every entry inside it may be banned, because those entries stay exempt in the
    /// enforcers.
    ///
    /// Infrastructure is protected from rules, and from lists that others made.
    pub fn admit(&self, client: Client, ipv6_prefix: u8) -> Result<BannableClient, Allowed> {
        let bannable = self.admit_by_hand(client, ipv6_prefix)?;
        let is_inside = |entry: &&Allowed| Client::of_network(entry.network).covers(client.network());
        match self.infrastructure.find(client, is_inside) {
            Some(entry) => Err(*entry),
            None => Ok(bannable),
        }
    }

    /// The same for a ban that an operator makes: he may ban infrastructure.
    pub fn admit_by_hand(&self, client: Client, ipv6_prefix: u8) -> Result<BannableClient, Allowed> {
        let single = client.is_single(ipv6_prefix);
        let hit = self.entries.find(client, |entry| {
            Client::of_network(entry.network).covers(client.network())
                || ((single || entry.reason == AllowReason::Special) && client.covers(entry.network))
        });
        match hit {
            Some(entry) => Err(*entry),
            None => Ok(BannableClient(client)),
        }
    }
}

/// The entry as the list holds it: `::ffff:192.0.2.1` is the IPv4 address.
fn canonical(entry: Allowed) -> Allowed {
    Allowed { network: Client::of_network(entry.network).network(), ..entry }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> Allowlist {
        let allowed = |net: &str, reason| Allowed { network: net.parse().unwrap(), reason };
        Allowlist::new([
            allowed("192.0.2.10/32", AllowReason::OwnAddress),
            allowed("198.51.100.0/24", AllowReason::Configured),
            allowed("2001:db8:1:2::5/128", AllowReason::SshSession),
        ])
    }

    #[test]
    fn who_may_be_banned() {
        let check = |text: &str, expected: Option<AllowReason>| {
            let client: Client = text.parse().unwrap();
            assert_eq!(list().admit(client, 64).err().map(|e| e.reason), expected, "{text}");
        };
        check("192.0.2.11", None);
        check("192.0.2.10", Some(AllowReason::OwnAddress));
        check("198.51.100.77", Some(AllowReason::Configured));
        check("198.51.100.0/25", Some(AllowReason::Configured));
        check("2001:db8:1:2::/64", Some(AllowReason::SshSession));
        check("2001:db8:1:3::/64", None);
        check("127.0.0.1", Some(AllowReason::Special));
        check("0.0.0.0/0", Some(AllowReason::Special));
        check("::/0", Some(AllowReason::Special));
        check("fe80::/64", Some(AllowReason::Special));
        // A wider network may be banned; what is allowed inside it stays exempt in the enforcers.
        check("198.51.0.0/16", None);
        check("2001:db8::/32", None);
    }

    #[test]
    fn infrastructure_is_protected_from_rules_and_not_from_operators() {
        let mut list = list();
        let private = |net: &str| Allowed { network: net.parse().unwrap(), reason: AllowReason::Private };
        list.add(private("10.0.0.0/8"));
        list.add(private("fc00::/7"));
        for (text, is_protected) in [("10.1.2.3", true), ("fd00:1:2:3::/64", true), ("11.0.0.1", false)] {
            let client: Client = text.parse().unwrap();
            let reason = list.admit(client, 64).err().map(|entry| entry.reason);
            assert_eq!(reason, is_protected.then_some(AllowReason::Private), "{text}");
            assert!(list.admit_by_hand(client, 64).is_ok(), "{text}");
        }
        assert!(
            list.admit("10.0.0.0/7".parse().unwrap(), 64).is_ok(),
            "a wider network is the operator's business"
        );
        assert_eq!(list.exempt_networks().len(), 3, "enforcers drop what operators ban");
    }

    #[test]
    fn what_the_list_says_of_a_client_includes_infrastructure_around_it() {
        let mut list = list();
        list.add(Allowed { network: "203.0.113.0/24".parse().unwrap(), reason: AllowReason::Cdn });
        let check = |text: &str, expected: &[AllowReason]| {
            let reasons: Vec<AllowReason> =
                list.about(text.parse().unwrap()).iter().map(|entry| entry.reason).collect();
            assert_eq!(reasons, expected, "{text}");
        };
        check("203.0.113.9", &[AllowReason::Cdn]);
        check("203.0.0.0/16", &[]);
        check("198.51.100.7", &[AllowReason::Configured]);
        check("192.0.2.0/24", &[AllowReason::OwnAddress]);
        check("192.0.2.11", &[]);
    }

    #[test]
    fn exempt_networks_are_the_allowed_ones_without_the_special() {
        assert_eq!(list().exempt_networks().len(), 3);
    }

    #[test]
    fn refresh_replaces_only_its_own_reasons() {
        let mut list = list();
        list.refresh(&[AllowReason::SshSession], []);
        assert!(list.admit("2001:db8:1:2::/64".parse().unwrap(), 64).is_ok());
        assert!(list.admit("192.0.2.10".parse().unwrap(), 64).is_err());
    }

    #[test]
    fn removing_an_operators_entry_leaves_the_others() {
        let mut list = list();
        let net = "198.51.100.0/24".parse().unwrap();
        assert!(!list.remove(net, AllowReason::Operator));
        assert!(list.remove(net, AllowReason::Configured));
        assert!(list.admit("198.51.100.77".parse().unwrap(), 64).is_ok());
    }
}
