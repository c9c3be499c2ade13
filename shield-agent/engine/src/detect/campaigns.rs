//! Campaigns: the same small list of targets, in any order, from many addresses. What the clients that rules banned had
//! asked for in vain is kept; where two of these lists are alike, the third client is recognised by three targets of theirs.
//!
//! Kept out: what clients in good standing ask for, and the names that every well-behaved robot tries (`robots.txt`), or
//! attackers could ban search engines by asking for them too. Only what failed or is shaped like a probe counts, and only
//! of clients that load no assets, so that a page with broken links makes no campaign of its readers.
//!
//! Clients that keep just below what a rule allows are compared with each other in the same way, by more targets.
//!
//! Bounded: [`MAX_MEMBERS`] lists of at most [`MAX_TARGETS`] targets, with their index at most 1.5 MB. Lists are forgotten
//! after a day.

use std::collections::{BTreeSet, VecDeque};

use crate::detect::hash::Seeded;
use crate::seeded_map::{SeededMap, SeededState};

/// Lists kept at most; beyond it the oldest is forgotten.
const MAX_MEMBERS: usize = 1_024;

/// A client that asked for more than this went through a word list, which says nothing about others.
const MAX_TARGETS: usize = 64;

/// Shared targets that make a member of a campaign.
pub(crate) const SHARED_TARGETS: usize = 3;

/// Banned clients that must have asked for them: one could be a coincidence.
pub(crate) const SHARED_BY: usize = 2;

/// Targets in vain that make a client a suspect before any rule fires: two thirds of what a rule allows in 10 min.
pub(crate) const SUSPECT_TARGETS: usize = 20;

/// Targets that suspects share with each other.
pub(crate) const SUSPECT_SHARED: usize = 10;

const MAX_SUSPECTS: usize = 256;

/// Requests after which a client is left to the other rules.
pub(crate) const FIRST_REQUESTS: u32 = 12;

/// Lists compared with each other for one client, the newest.
const MAX_COMPARED: usize = 24;

const REMEMBERED_SECS: u32 = 86_400;

/// Targets that robots and browsers ask for on their own, whether they exist or not.
const CONVENTIONAL: [&str; 18] = [
    "/robots.txt",
    "/sitemap.xml",
    "/sitemap_index.xml",
    "/sitemap.txt",
    "/favicon.ico",
    "/favicon.png",
    "/ads.txt",
    "/app-ads.txt",
    "/sellers.json",
    "/humans.txt",
    "/security.txt",
    "/llms.txt",
    "/feed",
    "/feed.xml",
    "/rss.xml",
    "/atom.xml",
    "/browserconfig.xml",
    "/manifest.json",
];

/// What one banned client had asked for.
#[derive(Debug, Clone)]
struct Member {
    client: u128,
    learned_at: u32,
    /// Sorted.
    targets: Box<[u32]>,
}

impl Member {
    fn shares(&self, targets: &[u32]) -> usize {
        targets.iter().filter(|target| self.knows(**target)).count()
    }

    fn knows(&self, target: u32) -> bool {
        self.targets.binary_search(&target).is_ok()
    }
}

/// The lists of banned clients.
pub(crate) struct Campaigns {
    /// Oldest first.
    members: VecDeque<Member>,
    /// The number of members that asked for a target.
    known: SeededMap<u32, u16>,
    /// Lists of clients for which no rule fired, oldest first.
    suspects: VecDeque<Member>,
    conventional: BTreeSet<u32>,
}

impl Campaigns {
    /// `hash` computes the keys of targets.
    pub(crate) fn new(hash: Seeded, hasher: SeededState) -> Campaigns {
        // Failed pages below one directory are one target, whose key ends behind the first letter of their name.
        let well_known = (b'a'..=b'z').map(|letter| [b"/.well-known/", &[letter][..]].concat());
        let names = CONVENTIONAL.iter().map(|name| name.as_bytes().to_vec()).chain(well_known);
        Campaigns {
            members: VecDeque::new(),
            known: SeededMap::with_hasher(hasher),
            suspects: VecDeque::new(),
            conventional: names.map(|name| hash.bytes(&name) as u32).collect(),
        }
    }

    /// Learns what a client asked for in vain until it was banned at `second`.
    pub(crate) fn learn(&mut self, client: u128, targets: impl Iterator<Item = u32>, second: u32) {
        self.forget(client);
        self.suspects.retain(|member| member.client != client);
        let mut targets: Vec<u32> = targets.filter(|target| !self.conventional.contains(target)).collect();
        targets.sort_unstable();
        targets.dedup();
        if !(SHARED_TARGETS..=MAX_TARGETS).contains(&targets.len()) {
            return;
        }
        if self.members.len() >= MAX_MEMBERS {
            self.forget_oldest();
        }
        for target in &targets {
            let known = self.known.entry(*target).or_default();
            *known = known.saturating_add(1);
        }
        self.members.push_back(Member { client, learned_at: second, targets: targets.into() });
    }

    /// Whether there is no list of a banned client that another could be like.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether a client that asks for this target could be one of a campaign.
    #[inline]
    pub(crate) fn may_know(&self, target: u32) -> bool {
        !self.members.is_empty() && self.known.contains_key(&target)
    }

    /// The number of banned clients that a client is like, when they are enough for a campaign: like each other by
    /// [`SHARED_TARGETS`], and together they asked for as many of its own. Each was banned halfway through the list, so none
    /// knows all of it. Bans of the present second do not count, so that the order of its lines makes no difference.
    pub(crate) fn recognise(&self, client: u128, targets: &[u32], second: u32) -> Option<u32> {
        let shared: Vec<u32> = targets.iter().copied().filter(|target| self.may_know(*target)).collect();
        if shared.len() < SHARED_TARGETS {
            return None;
        }
        let is_like = |member: &&Member| {
            member.client != client && member.learned_at < second && member.shares(&shared) > 0
        };
        let like: Vec<&Member> = self.members.iter().rev().filter(is_like).take(MAX_COMPARED).collect();
        let campaigns = like.iter().map(|one| {
            let group = like.iter().filter(|other| one.shares(&other.targets) >= SHARED_TARGETS);
            let knows = |target: &&u32| group.clone().any(|member| member.knows(**target));
            (shared.iter().filter(knows).count(), group.clone().count())
        });
        let enough = campaigns.filter(|(known, clients)| *known >= SHARED_TARGETS && *clients >= SHARED_BY);
        enough.map(|(_, clients)| clients as u32).max()
    }

    /// Notes that a client keeps just below what a rule allows. Returns the number of others who share [`SUSPECT_SHARED`]
    /// targets with it, when they are enough for a campaign.
    pub(crate) fn suspect(&mut self, client: u128, mut targets: Vec<u32>, second: u32) -> Option<u32> {
        targets.retain(|target| !self.conventional.contains(target));
        targets.sort_unstable();
        self.suspects.retain(|member| member.client != client);
        let is_like = |member: &&Member| {
            member.client != client && member.learned_at < second && member.shares(&targets) >= SUSPECT_SHARED
        };
        let count = self.suspects.iter().chain(&self.members).filter(is_like).count();
        if self.suspects.len() >= MAX_SUSPECTS {
            self.suspects.pop_front();
        }
        targets.truncate(MAX_TARGETS);
        self.suspects.push_back(Member { client, learned_at: second, targets: targets.into() });
        (count >= SHARED_BY).then_some(count as u32)
    }

    /// Forgets a client's list: its ban was a mistake.
    pub(crate) fn forget(&mut self, client: u128) {
        if let Some(at) = self.members.iter().position(|member| member.client == client) {
            let gone = self.members.remove(at);
            gone.iter().for_each(|member| self.uncount(member));
        }
    }

    /// Forgets what is older than a day.
    pub(crate) fn expire(&mut self, second: u32) {
        let is_old = |member: &Member| second.saturating_sub(member.learned_at) >= REMEMBERED_SECS;
        while self.members.front().is_some_and(is_old) {
            self.forget_oldest();
        }
        self.suspects.retain(|member| !is_old(member));
    }

    fn forget_oldest(&mut self) {
        let gone = self.members.pop_front();
        gone.iter().for_each(|member| self.uncount(member));
    }

    fn uncount(&mut self, member: &Member) {
        for target in &member.targets {
            if let Some(known) = self.known.get_mut(target) {
                *known -= 1;
                if *known == 0 {
                    self.known.remove(target);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn campaigns() -> Campaigns {
        Campaigns::new(Seeded::new(1), SeededState::new(1))
    }

    #[test]
    fn two_lists_that_share_three_targets_make_a_campaign() {
        let mut campaigns = campaigns();
        campaigns.learn(1, [1, 2, 3, 4, 5].into_iter(), 100);
        assert_eq!(campaigns.recognise(9, &[1, 2, 3], 101), None, "one list is a coincidence");
        campaigns.learn(2, [7, 5, 3, 1].into_iter(), 100);
        assert_eq!(campaigns.recognise(9, &[5, 1, 3], 101), Some(2));
        assert_eq!(campaigns.recognise(9, &[5, 1, 3], 100), None, "not in the same second");
        assert_eq!(
            campaigns.recognise(9, &[2, 4, 7], 101),
            Some(2),
            "none knows all three, but both together"
        );
        assert_eq!(campaigns.recognise(9, &[5, 1, 8], 101), None);
        campaigns.learn(3, [20, 21, 22].into_iter(), 100);
        assert_eq!(campaigns.recognise(9, &[1, 20, 21], 101), None, "of two campaigns");
        assert_eq!(campaigns.recognise(2, &[5, 1, 3], 101), None, "a client is no campaign with itself");
        campaigns.forget(2);
        assert_eq!(campaigns.recognise(9, &[5, 1, 3], 101), None);
        campaigns.forget(1);
        assert!(!campaigns.may_know(5));
    }

    #[test]
    fn lists_are_forgotten_after_a_day_and_bounded() {
        let mut campaigns = campaigns();
        for client in 0..5_000_u32 {
            campaigns.learn(client.into(), (0..64).map(|n| client * 64 + n), 100);
        }
        assert_eq!(
            (campaigns.members.len(), campaigns.known.len()),
            (MAX_MEMBERS, MAX_MEMBERS * MAX_TARGETS)
        );
        campaigns.expire(100 + REMEMBERED_SECS);
        assert_eq!((campaigns.members.len(), campaigns.known.len()), (0, 0));
    }

    #[test]
    fn word_lists_and_the_names_that_all_robots_try_are_no_campaign() {
        let mut campaigns = campaigns();
        let conventional: Vec<u32> = campaigns.conventional.iter().copied().collect();
        for client in 1..=2 {
            campaigns.learn(client, conventional.iter().copied(), 100);
        }
        for client in 3..=4 {
            campaigns.learn(client, 1000..1065, 100);
        }
        assert_eq!(campaigns.recognise(9, &conventional, 101), None);
        assert_eq!(campaigns.recognise(9, &[1000, 1001, 1002], 101), None);
    }
}
