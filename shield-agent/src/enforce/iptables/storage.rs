//! The choice between single rules and sets, and the bans that found no room.
//!
//! Owns the decision alone. `migrate` moves the bans from one to the other.

use std::fmt;

use hashbrown::HashSet;

use super::ipset::Ipset;
use super::nft::Nft;
use super::programs::{NotInstalled, Programs};
use super::sets::SetStore;
use super::settings::{Backend, Settings};
use crate::enforce::ban::Drops;
use shield_engine::client::Client;

/// A kind of sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SetKind {
    Ipset(Ipset),
    Nft(Nft),
}

impl SetKind {
    /// All kinds, the preferred one first. nftables' sets need tables and hooks of their own, because iptables cannot match
    /// them.
    pub(super) fn all(settings: &Settings) -> [SetKind; 2] {
        let max_entries = settings.max_entries();
        [SetKind::Ipset(Ipset { max_entries }), SetKind::Nft(Nft { max_entries })]
    }

    pub(super) fn store(&self) -> &dyn SetStore {
        match self {
            SetKind::Ipset(ipset) => ipset,
            SetKind::Nft(nft) => nft,
        }
    }
}

/// Why bans cannot be kept in sets here.
#[derive(Debug)]
pub(super) struct SetsUnavailable(Vec<anyhow::Error>);

impl SetsUnavailable {
    /// Returns `true` if installing ipset would help.
    pub(super) fn is_for_want_of_ipset(&self) -> bool {
        self.0
            .iter()
            .any(|error| error.downcast_ref::<NotInstalled>().is_some_and(|missing| missing.0 == "ipset"))
    }
}

impl From<anyhow::Error> for SetsUnavailable {
    fn from(error: anyhow::Error) -> SetsUnavailable {
        SetsUnavailable(vec![error])
    }
}

impl fmt::Display for SetsUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{error:#}")?;
        }
        Ok(())
    }
}

/// See the module.
pub(super) struct Storage {
    settings: Settings,
    /// The sets in use; `None` for single rules.
    sets: Option<SetKind>,
    /// The reason that sets could not be used when they were last wanted.
    unavailable: Option<SetsUnavailable>,
    /// Clients whose bans found no room as single rules. A set, not a number: the same ban is refused again at every
    /// retry.
    refused: HashSet<Client>,
    /// The number of clients in the sets as of the last count.
    in_sets: usize,
    /// The drops of rules in the sets' own tables, as of the last reading.
    pub(super) own_drops: Drops,
}

impl Storage {
    pub(super) fn new(settings: Settings) -> Storage {
        Storage {
            settings,
            sets: None,
            unavailable: None,
            refused: HashSet::new(),
            in_sets: 0,
            own_drops: Drops::default(),
        }
    }

    /// Back to single rules, before it is known what an earlier run left.
    pub(super) fn reset(&mut self) {
        self.sets = None;
        self.unavailable = None;
        self.refused.clear();
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn sets(&self) -> Option<SetKind> {
        self.sets
    }

    pub(super) fn use_sets(&mut self, kind: SetKind) {
        self.sets = Some(kind);
    }

    pub(super) fn use_rules(&mut self) {
        self.sets = None;
    }

    pub(super) fn unavailable(&self) -> Option<&SetsUnavailable> {
        self.unavailable.as_ref()
    }

    pub(super) fn set_unavailable(&mut self, reason: impl Into<SetsUnavailable>) {
        self.unavailable = Some(reason.into());
    }

    /// Returns `true` if this many bans belong into sets. On the way back from sets to rules the limit is half as high, so that a
    /// number near it does not move everything back and forth.
    pub(super) fn wants_sets(&self, bans: usize) -> bool {
        match self.settings.backend {
            Backend::Rules => false,
            Backend::Ipset => true,
            Backend::Auto if self.sets.is_none() => bans > self.settings.max_rules,
            Backend::Auto => bans > self.settings.max_rules / 2,
        }
    }

    /// Returns `true` if this many bans are where they belong, as far as that is possible here.
    pub(super) fn suits(&self, bans: usize) -> bool {
        self.unavailable.is_some() || self.wants_sets(bans) == self.sets.is_some()
    }

    /// The first kind of sets that works here, the one in use before any other; keeps the reasons when none does.
    pub(super) fn find_sets(&mut self, programs: &mut dyn Programs) -> Option<SetKind> {
        if self.sets.is_some() {
            return self.sets;
        }
        let mut reasons = Vec::new();
        for kind in SetKind::all(&self.settings) {
            match kind.store().probe(programs) {
                Ok(()) => {
                    self.unavailable = None;
                    return Some(kind);
                }
                Err(error) => reasons.push(error),
            }
        }
        self.unavailable = Some(SetsUnavailable(reasons));
        None
    }

    /// The most single rules allowed.
    pub(super) fn max_rules(&self) -> usize {
        match (self.sets, &self.unavailable) {
            (None, Some(_)) => self.settings.max_rules_without_sets,
            _ => usize::MAX,
        }
    }

    pub(super) fn refuse(&mut self, client: Client) {
        self.refused.insert(client);
    }

    /// To be called when this client is banned, or is not wanted banned any more.
    pub(super) fn forget_refused(&mut self, client: &Client) {
        self.refused.remove(client);
    }

    pub(super) fn forget_all_refused(&mut self) {
        self.refused.clear();
    }

    pub(super) fn refused(&self) -> usize {
        self.refused.len()
    }

    pub(super) fn note_in_sets(&mut self, clients: usize) {
        self.in_sets = clients;
    }

    pub(super) fn in_sets(&self) -> usize {
        self.in_sets
    }
}
