//! Sets kept by ipset: `hash:net` with timeouts and counters, dropped by one rule of our iptables chain.
//!
//! `hash:net` holds single addresses, IPv6 prefixes and networks alike; a look-up costs one hash probe for each prefix
//! length in use. Sets are created, swapped and destroyed by the `ipset` program (`text`), which happens rarely. Elements
//! are added, removed and listed over netlink (`kernel`, with the bytes in `message`): a process for every ban cost 3 ms.
//! Where netlink does not reach the kernel's ipset, the program does that too.

mod kernel;
mod message;
mod set;
mod text;

use std::sync::Once;

use anyhow::{Context as _, Result, anyhow};

use self::kernel::Kernel;
use self::set::{Header, SETS, Verb};
use super::chain::Rule;
use super::programs::{Programs, act};
use super::sets::{Element, SetStore, Version};
use crate::enforce::ban::{Drops, Failure};
use crate::enforce::pieces::in_pieces;
use shield_engine::client::Client;

/// The fewest buckets of a new hash. The kernel doubles it as it fills.
const MIN_HASH: usize = 1024;
/// An empty set is recreated when its hash would have to grow by more than this factor.
const TOLERATED_GROWTH: usize = 4;
/// Elements of a set that are copied into its replacement at once.
const COPIED_AT_ONCE: usize = 8_000;

/// The store of sets in ipset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ipset {
    /// The most elements of the IPv4 and of the IPv6 set.
    pub(super) max_entries: [usize; 2],
}

/// The name of a set's replacement while that is being filled.
const REPLACEMENT: [&str; 2] = ["shield4-new", "shield6-new"];

impl Ipset {
    fn headers(&self, programs: &mut dyn Programs) -> Result<[Option<Header>; 2]> {
        match open_kernel(programs) {
            Ok(mut kernel) => Ok([kernel.header(SETS[0])?, kernel.header(SETS[1])?]),
            Err(_) => text::headers(programs),
        }
    }

    fn create_line(&self, name: &str, version: Version, room: usize) -> String {
        let family = match version {
            Version::V4 => "inet",
            Version::V6 => "inet6",
        };
        let (max, buckets) = (self.max_entries[version as usize], self.buckets_for(version, room));
        format!(
            "create {name} hash:net family {family} hashsize {buckets} maxelem {max} timeout 0 counters\n"
        )
    }

    /// The buckets for `room` elements. A bucket holds up to 12, but the hash spreads them unevenly, and grows as soon as one
    /// bucket is full: so a few in each.
    fn buckets_for(&self, version: Version, room: usize) -> usize {
        (room.min(self.max_entries[version as usize]) / 4).next_power_of_two().max(MIN_HASH)
    }

    /// Returns `true` if a set can stay. An empty one is recreated in the right size, because growing its hash step by step takes a
    /// third of the time that filling it does.
    fn is_suitable(&self, header: Header, version: Version, room: usize) -> bool {
        let starts_small =
            header.entries == 0 && header.buckets * TOLERATED_GROWTH < self.buckets_for(version, room);
        header.is_ours && header.max_entries == self.max_entries[version as usize] && !starts_small
    }

    /// Replaces a set that has our name and other parameters. Its elements are copied into a new one, which is swapped in
    /// atomically, so that no client gets through meanwhile.
    fn replace(&self, programs: &mut dyn Programs, version: Version, room: usize) -> Result<()> {
        let (name, replacement) = (SETS[version as usize], REPLACEMENT[version as usize]);
        // An agent that was killed at this point left one behind.
        destroy(programs, &[replacement])?;
        let create = self.create_line(replacement, version, room);
        act(programs, &["ipset", "restore"], &create)?;
        let mut reader = programs.another();
        let mut failed = None;
        let add = |piece: &[Element]| {
            let failures = change(programs, (replacement, &create), Verb::Add, piece, |element| *element);
            failed = failed.take().or(failures.into_iter().next().map(|failure| failure.error));
        };
        let listed = in_pieces(COPIED_AT_ONCE, add, |each| list(&mut *reader, name, each));
        if let Some(error) = listed.err().or(failed) {
            let error = anyhow!("{error:#}").context(format!("could not copy the set {name} into a new one"));
            act(programs, &["ipset", "destroy", replacement], "")?;
            return Err(error);
        }
        act(programs, &["ipset", "restore"], &format!("swap {name} {replacement}\ndestroy {replacement}\n"))
    }
}

/// The kernel's ipset, where netlink reaches the kernel that `programs` change.
fn open_kernel(programs: &dyn Programs) -> Result<Kernel> {
    if programs.have_netlink() { Kernel::open() } else { Err(anyhow!("netlink does not reach this kernel")) }
}

/// Adds or removes elements of the set that the line `create` creates. All are tried; those that failed are returned.
fn change<T>(
    programs: &mut dyn Programs,
    (set, create): (&str, &str),
    verb: Verb,
    items: &[T],
    element: impl Fn(&T) -> Element,
) -> Vec<Failure> {
    static LOGGED: Once = Once::new();
    match open_kernel(programs) {
        Ok(mut kernel) => kernel.change(set, verb, items, element),
        Err(reason) => {
            LOGGED.call_once(|| {
                tracing::info!(
                    reason = format!("{reason:#}"),
                    "netlink does not reach ipset; sets are filled by the ipset program"
                );
            });
            text::change(programs, (set, create), verb, items, element)
        }
    }
}

fn list(programs: &mut dyn Programs, set: &str, each: &mut dyn FnMut(Element)) -> Result<()> {
    match open_kernel(programs) {
        Ok(mut kernel) => kernel.list(set, each),
        Err(_) => text::list(programs, set, each),
    }
}

impl SetStore for Ipset {
    fn name(&self) -> &'static str {
        "ipset"
    }

    fn probe(&self, programs: &mut dyn Programs) -> Result<()> {
        programs.run(&["ipset", "list", "-n"], b"", &mut |_| {})
    }

    fn ensure(&self, programs: &mut dyn Programs, version: Version, room: usize) -> Result<()> {
        let name = SETS[version as usize];
        match self.headers(programs)?[version as usize] {
            None => act(programs, &["ipset", "restore"], &self.create_line(name, version, room))
                .with_context(|| format!("could not create the set {name}")),
            Some(header) if self.is_suitable(header, version, room) => Ok(()),
            Some(_) => self.replace(programs, version, room),
        }
    }

    fn counts(&self, programs: &mut dyn Programs) -> Result<[Option<usize>; 2]> {
        Ok(self.headers(programs)?.map(|header| header.map(|header| header.entries)))
    }

    fn list(
        &self,
        programs: &mut dyn Programs,
        version: Version,
        each: &mut dyn FnMut(Element),
    ) -> Result<()> {
        list(programs, SETS[version as usize], each)
    }

    fn add(&self, programs: &mut dyn Programs, version: Version, elements: &[Element]) -> Vec<Failure> {
        let name = SETS[version as usize];
        let create = self.create_line(name, version, elements.len());
        change(programs, (name, &create), Verb::Add, elements, |element| *element)
    }

    fn remove(&self, programs: &mut dyn Programs, version: Version, clients: &[Client]) -> Vec<Failure> {
        let name = SETS[version as usize];
        let create = self.create_line(name, version, clients.len());
        change(programs, (name, &create), Verb::Remove, clients, |client| Element {
            client: *client,
            timeout_secs: 0,
            drops: Drops::default(),
        })
    }

    fn exempt(&self, _: &mut dyn Programs, _: Version, _: &[ipnet::IpNet]) -> Result<()> {
        Ok(())
    }

    fn rule(&self, version: Version) -> Option<Rule> {
        Some(Rule::DropSet(SETS[version as usize].to_owned()))
    }

    fn own_drops(&self, _: &mut dyn Programs) -> Result<Drops> {
        Ok(Drops::default())
    }

    fn destroy(&self, programs: &mut dyn Programs, version: Version) -> Result<bool> {
        destroy(programs, &[SETS[version as usize], REPLACEMENT[version as usize]])
    }
}

/// Destroys those of these sets that exist; returns whether one did.
fn destroy(programs: &mut dyn Programs, sets: &[&str]) -> Result<bool> {
    let mut names = Vec::new();
    programs.run(&["ipset", "list", "-n"], b"", &mut |line| names.push(line.to_owned()))?;
    let mut was_there = false;
    for set in sets.iter().filter(|set| names.iter().any(|name| name == *set)) {
        act(programs, &["ipset", "destroy", set], "")?;
        was_there = true;
    }
    Ok(was_there)
}
