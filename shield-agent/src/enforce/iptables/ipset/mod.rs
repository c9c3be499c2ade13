//! Sets kept by ipset: `hash:net` with timeouts and counters, dropped by one rule of our iptables chain.
//!
//! `hash:net` holds single addresses, IPv6 prefixes and networks alike; a look-up costs one hash probe for each prefix
//! length in use. Sets are made, swapped and destroyed by the `ipset` program (`text`); elements go in, out and are
//! listed by netlink (`kernel`, whose bytes are `message`'s), or by the program where the kernel cannot be spoken to.

mod kernel;
mod message;
mod text;

use std::sync::Once;

use anyhow::{Context as _, Result, anyhow};

use self::kernel::Kernel;
use super::chain::Rule;
use super::programs::{Programs, act};
use super::sets::{Element, SetStore, Version};
use crate::enforce::{Drops, Failure};
use shield_engine::client::Client;

/// When so many single elements of a batch failed, it is given up: what is wrong is not one element.
const MAX_BAD_LINES: usize = 8;
/// ipset's smallest useful hash; it grows by doubling.
const MIN_HASH: usize = 1024;
/// A hash that has to grow by no more than this is left to grow.
const GROWS_UNNOTICED: usize = 4;

/// The store. Set names are this version's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ipset {
    /// The most elements of the IPv4 and of the IPv6 set.
    pub(super) max_entries: [usize; 2],
}

const SETS: [&str; 2] = ["shield4", "shield6"];
/// The name a set has while its replacement is filled.
const SPARE: [&str; 2] = ["shield4-new", "shield6-new"];

/// What is known of a set without listing it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Header {
    is_ours: bool,
    max_entries: usize,
    /// Buckets of its hash.
    hash: usize,
    entries: usize,
}

/// What is done with elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    /// One that is there gets the new timeout, and keeps its counters where none are given.
    Add,
    /// One that is not there is no error.
    Remove,
}

impl Verb {
    fn past(self) -> &'static str {
        match self {
            Verb::Add => "added to",
            Verb::Remove => "removed from",
        }
    }
}

impl Ipset {
    fn heads(&self, programs: &mut dyn Programs) -> Result<[Option<Header>; 2]> {
        match direct(programs) {
            Ok(mut kernel) => Ok([kernel.head(SETS[0])?, kernel.head(SETS[1])?]),
            Err(_) => text::heads(programs),
        }
    }

    fn create_line(&self, name: &str, version: Version, room: usize) -> String {
        let family = match version {
            Version::V4 => "inet",
            Version::V6 => "inet6",
        };
        let (max, hash) = (self.max_entries[version as usize], self.hash_for(version, room));
        format!("create {name} hash:net family {family} hashsize {hash} maxelem {max} timeout 0 counters\n")
    }

    /// Buckets hold up to 12 elements and fill evenly at a few.
    fn hash_for(&self, version: Version, room: usize) -> usize {
        (room.min(self.max_entries[version as usize]) / 4).next_power_of_two().max(MIN_HASH)
    }

    /// Whether a set can stay. One with nothing in it yet is made anew in the right size, because growing a hash step by
    /// step takes a third of the time that filling it does.
    fn suits(&self, header: Header, version: Version, room: usize) -> bool {
        let starts_small =
            header.entries == 0 && header.hash * GROWS_UNNOTICED < self.hash_for(version, room);
        header.is_ours && header.max_entries == self.max_entries[version as usize] && !starts_small
    }

    /// A set of our name with other parameters: its elements go into a new one that takes its place at once.
    fn replace(&self, programs: &mut dyn Programs, version: Version, room: usize) -> Result<()> {
        let (name, spare) = (SETS[version as usize], SPARE[version as usize]);
        let mut elements = Vec::new();
        list(programs, name, &mut |element| elements.push(element))?;
        // An agent that was killed on this way left one.
        destroy(programs, &[spare])?;
        let create = self.create_line(spare, version, room);
        act(programs, &["ipset", "restore"], &create)?;
        let failures = change(programs, (spare, &create), Verb::Add, &elements, |element| *element);
        if let Some(failure) = failures.first() {
            let error = anyhow!("{:#}", failure.error).context(format!("copied {name} into a larger set"));
            act(programs, &["ipset", "destroy", spare], "")?;
            return Err(error);
        }
        act(programs, &["ipset", "restore"], &format!("swap {name} {spare}\ndestroy {spare}\n"))
    }
}

/// The kernel itself, where this thread can speak to it.
fn direct(programs: &dyn Programs) -> Result<Kernel> {
    if programs.have_netlink() { Kernel::open() } else { Err(anyhow!("these programs stand for no kernel")) }
}

/// Adds or removes elements of the set that `create` makes. All are tried; those that failed are returned.
fn change<T>(
    programs: &mut dyn Programs,
    (set, create): (&str, &str),
    verb: Verb,
    items: &[T],
    element: impl Fn(&T) -> Element,
) -> Vec<Failure> {
    static SAID: Once = Once::new();
    match direct(programs) {
        Ok(mut kernel) => kernel.change(set, verb, items, element),
        Err(reason) => {
            SAID.call_once(|| {
                tracing::info!(reason = format!("{reason:#}"), "filled sets by the ipset program");
            });
            text::change(programs, (set, create), verb, items, element)
        }
    }
}

fn list(programs: &mut dyn Programs, set: &str, each: &mut dyn FnMut(Element)) -> Result<()> {
    match direct(programs) {
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
        match self.heads(programs)?[version as usize] {
            None => act(programs, &["ipset", "restore"], &self.create_line(name, version, room))
                .with_context(|| format!("made the set {name}")),
            Some(header) if self.suits(header, version, room) => Ok(()),
            Some(_) => self.replace(programs, version, room),
        }
    }

    fn counts(&self, programs: &mut dyn Programs) -> Result<[Option<usize>; 2]> {
        Ok(self.heads(programs)?.map(|header| header.map(|header| header.entries)))
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
        destroy(programs, &[SETS[version as usize], SPARE[version as usize]])
    }
}

/// Destroys those of these sets that there are; says whether there was one.
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
