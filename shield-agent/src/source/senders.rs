//! Who may send lines to a syslog socket. Whoever can write lines can have anybody banned, so only the users that nginx runs as
//! are believed; the kernel says who sent a datagram, and a sender cannot choose it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use nix::unistd::{Group, Uid, User};

use super::stream::Listener;
use crate::text::access as text;
use shield_engine::event::PartState;

/// The users that distributions run nginx as, besides root, whose master process writes too. `nobody`, nginx's own default, is
/// not here: other programs share that user, and so do the processes of containers without a name on this host.
const USUAL: [&str; 3] = ["www-data", "nginx", "http"];

/// The mode of a socket whose users are in one group, and of one that has to be open. Nothing can be read from the socket.
const GROUP_ALONE: u32 = 0o660;
pub(super) const ANYBODY: u32 = 0o666;

/// The time for which a refused datagram says something of now.
const REFUSED_COUNTS_MS: u64 = 60_000;

/// The time for which an accepted one does: nginx seldom changes its user, and whoever is refused must not make a quiet site's
/// source look blind.
const ACCEPTED_COUNTS_MS: u64 = 3_600_000;

/// The least time between two changes of what is said.
const SAID_EVERY_MS: u64 = 10_000;

/// Users that are counted by themselves; further ones together.
const MAX_COUNTED: usize = 16;

/// Who is believed, and what was seen.
#[derive(Debug)]
pub(super) struct Senders {
    believed: Vec<u32>,
    access: Access,
    accepted: u64,
    /// Refused datagrams by user; those without a user count for `u32::MAX`.
    refused: BTreeMap<u32, u64>,
    said: Said,
}

/// The group and the mode of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access {
    pub group: Option<u32>,
    pub mode: u32,
}

/// What was said last, and the counts as of then.
#[derive(Debug)]
struct Said {
    at_ms: Option<u64>,
    state: PartState,
    accepted: u64,
    refused: u64,
    accepted_ms: Option<u64>,
    refused_ms: Option<u64>,
}

impl Senders {
    /// # Errors
    /// When this host does not have one of the configured users, or the group.
    pub(super) fn of(listener: &Listener) -> Result<Senders> {
        let found: Vec<(u32, Option<u32>)> = if listener.users.is_empty() {
            let usual = USUAL.iter().filter_map(|name| User::from_name(name).ok().flatten());
            usual.map(|user| (user.uid.as_raw(), Some(user.gid.as_raw()))).collect()
        } else {
            listener.users.iter().map(|name| user(name)).collect::<Result<_>>()?
        };
        let group = listener.group.as_deref().map(group).transpose()?;
        let groups: Vec<Option<u32>> =
            found.iter().filter(|(uid, _)| *uid != 0).map(|(_, gid)| *gid).collect();
        let access = access(group, &groups);
        let mut believed: Vec<u32> = found.into_iter().map(|(uid, _)| uid).collect();
        if listener.users.is_empty() {
            // Whoever is the agent's user can do worse than to write lines.
            believed.extend([0, Uid::current().as_raw()]);
        }
        let state = PartState::Active { detail: text::LISTENING.to_owned() };
        let said = Said { at_ms: None, state, accepted: 0, refused: 0, accepted_ms: None, refused_ms: None };
        Ok(Senders { believed, access, accepted: 0, refused: BTreeMap::new(), said })
    }

    pub(super) fn access(&self) -> Access {
        self.access
    }

    /// Whether this user's datagram is read.
    pub(super) fn admit(&mut self, uid: Option<u32>) -> bool {
        if uid.is_some_and(|uid| self.believed.contains(&uid)) {
            self.accepted += 1;
            return true;
        }
        let mut uid = uid.unwrap_or(u32::MAX);
        if self.refused.len() >= MAX_COUNTED && !self.refused.contains_key(&uid) {
            uid = u32::MAX;
        }
        *self.refused.entry(uid).or_default() += 1;
        false
    }

    /// The state at `now_ms` (boot clock). Degraded while nothing but refused datagrams comes: then nginx may run as a user that
    /// is not believed.
    pub(super) fn state(&mut self, now_ms: u64) -> PartState {
        let said = &mut self.said;
        let refused: u64 = self.refused.values().sum();
        if self.accepted > said.accepted {
            (said.accepted, said.accepted_ms) = (self.accepted, Some(now_ms));
        }
        let is_new = refused > said.refused;
        if is_new {
            (said.refused, said.refused_ms) = (refused, Some(now_ms));
        }
        let is_within = |at_ms: Option<u64>, ms| at_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < ms);
        let is_blind =
            is_within(said.refused_ms, REFUSED_COUNTS_MS) && !is_within(said.accepted_ms, ACCEPTED_COUNTS_MS);
        let was_blind = matches!(said.state, PartState::Degraded { .. });
        let is_due = said.at_ms.is_none_or(|at_ms| now_ms.saturating_sub(at_ms) >= SAID_EVERY_MS);
        if refused > 0 && (is_due || is_blind != was_blind) {
            said.at_ms = Some(now_ms);
            let most = self.refused.iter().max_by_key(|(_, count)| **count).map_or(u32::MAX, |(uid, _)| *uid);
            let who = name_of(most);
            said.state = if is_blind && was_blind {
                // Another user in the same reason would be told anew.
                said.state.clone()
            } else if is_blind {
                PartState::Degraded { reason: text::only_refused_senders(&who) }
            } else {
                PartState::Active { detail: text::refused_senders(refused, &who) }
            };
        }
        said.state.clone()
    }
}

/// A group that holds all of these users as their own gets the socket; otherwise it is open, and the credentials decide alone.
fn access(group: Option<u32>, groups: &[Option<u32>]) -> Access {
    let common = match groups {
        [Some(first), rest @ ..] if rest.iter().all(|other| *other == Some(*first)) => Some(*first),
        _ => None,
    };
    match group.or(common) {
        Some(group) => Access { group: Some(group), mode: GROUP_ALONE },
        None => Access { group: None, mode: ANYBODY },
    }
}

/// The number and the own group of a user, given by name or number. A number need not have a name: it may be of a container.
fn user(name: &str) -> Result<(u32, Option<u32>)> {
    if let Ok(uid) = name.parse::<u32>() {
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        return Ok((uid, user.map(|user| user.gid.as_raw())));
    }
    let found = User::from_name(name).ok().flatten();
    let user = found.with_context(|| {
        format!("could not find the user {name:?} of `users` on this host: correct [[source]] users")
    })?;
    Ok((user.uid.as_raw(), Some(user.gid.as_raw())))
}

fn group(name: &str) -> Result<u32> {
    if let Ok(gid) = name.parse::<u32>() {
        return Ok(gid);
    }
    let found = Group::from_name(name).ok().flatten();
    let group = found.with_context(|| {
        format!("could not find the group {name:?} on this host: correct [[source]] group")
    })?;
    Ok(group.gid.as_raw())
}

fn name_of(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn senders() -> Senders {
        Senders::of(&Listener { users: vec!["33".to_owned()], ..Listener::from("/x") }).unwrap()
    }

    #[test]
    fn one_group_gets_the_socket_and_several_leave_it_open() {
        let check = |group, groups: &[Option<u32>], expected: (Option<u32>, u32)| {
            let found = access(group, groups);
            assert_eq!((found.group, found.mode), expected);
        };
        check(None, &[Some(33)], (Some(33), GROUP_ALONE));
        check(None, &[Some(33), Some(33)], (Some(33), GROUP_ALONE));
        check(None, &[Some(33), Some(101)], (None, ANYBODY));
        check(None, &[Some(33), None], (None, ANYBODY));
        check(None, &[], (None, ANYBODY));
        check(Some(7), &[Some(33), Some(101)], (Some(7), GROUP_ALONE));
    }

    #[test]
    fn only_believed_users_are_read_and_a_socket_that_refuses_all_is_degraded() {
        let mut senders = senders();
        assert!(matches!(senders.state(0), PartState::Active { .. }));
        assert!(!senders.admit(Some(1_000)) && !senders.admit(Some(0)) && !senders.admit(None));
        let blind = senders.state(1_000);
        assert!(matches!(blind, PartState::Degraded { .. }));
        assert!(!senders.admit(Some(1_000)));
        assert_eq!(senders.state(30_000), blind, "the same reason is no news");
        assert!(senders.admit(Some(33)));
        let PartState::Active { detail } = senders.state(31_000) else { panic!("nginx is read") };
        assert!(detail.contains("4 datagrams"), "{detail}");
    }

    /// Somebody who sends for ever can neither fill memory nor the list of events.
    #[test]
    fn a_flood_is_counted_in_little_room_and_said_seldom() {
        let mut senders = senders();
        assert!(senders.admit(Some(33)));
        senders.state(0);
        let mut states = Vec::new();
        for n in 0..10_000_u32 {
            assert!(!senders.admit(Some(1_000 + n)));
            let state = senders.state(u64::from(n));
            if states.last() != Some(&state) {
                states.push(state);
            }
        }
        assert!(senders.refused.len() <= MAX_COUNTED + 1);
        assert_eq!(senders.refused.values().sum::<u64>(), 10_000);
        assert!(states.len() <= 3 && states.iter().all(|state| matches!(state, PartState::Active { .. })));
    }
}
