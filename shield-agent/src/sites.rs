//! Requests by site, as far as the log names the server section that answered. Each source counts its own lines, on its own
//! thread; whoever asks adds the sources up.
//!
//! A log can be configured so that the name is what its client sent (`$host`). So the number of names is bounded, and what is
//! no plain name is counted with the others. Which names are kept is decided as in "space saving": a new one takes the place of
//! the one with the least weight and inherits it, so that a site with more than one in [`NAMES`] of the lines is kept, however
//! many names are made up beside it. What a name had counted when it lost its place is counted with the others: all sums are exact.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use shield_engine::request::Batch;

/// Names that a source tells apart.
pub(crate) const NAMES: usize = 64;

/// A longer one is none that DNS knows.
const NAME_BYTES: usize = 100;

/// Sites that are remembered of one client's last lines.
const SITES_OF_A_BAN: usize = 8;

/// The steps of the last minute, and one that is being filled.
const STEP_MS: u64 = 10_000;
const STEPS: usize = 7;

/// Requests of one site.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub requests: u64,
    /// With a status of 400 to 499.
    pub client_errors: u64,
    /// With a status of 500 or more.
    pub server_errors: u64,
    /// Requests read within the last minute.
    pub in_minute: u64,
    /// Those of them with a status of 400 or more.
    pub errors_in_minute: u64,
}

impl Counts {
    fn add(&mut self, other: Counts) {
        self.requests += other.requests;
        self.client_errors += other.client_errors;
        self.server_errors += other.server_errors;
        self.in_minute += other.in_minute;
        self.errors_in_minute += other.errors_in_minute;
    }
}

/// The requests of all sites.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SiteCounts {
    pub named: BTreeMap<String, Counts>,
    /// Of names that found no place, or are none.
    pub other: Counts,
    /// Of lines that name no site.
    pub unnamed: Counts,
}

impl SiteCounts {
    /// Adds another source's. The number of names stays bounded by the number of sources.
    pub(crate) fn add(&mut self, other: SiteCounts) {
        for (name, counts) in other.named {
            self.named.entry(name).or_default().add(counts);
        }
        self.other.add(other.other);
        self.unnamed.add(other.unnamed);
    }

    /// Leaves the `most` sites with the most requests, and counts the rest with the others.
    pub(crate) fn bounded(mut self, most: usize) -> SiteCounts {
        while self.named.len() > most {
            let least = self.named.iter().min_by_key(|(_, counts)| counts.requests);
            let Some(name) = least.map(|(name, _)| name.clone()) else { break };
            self.other.add(self.named.remove(&name).unwrap_or_default());
        }
        self
    }
}

/// The counters of one source.
#[derive(Debug, Default)]
pub(crate) struct Sites(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    named: Vec<Site>,
    /// Where the site of the line before is: most lines are of the same.
    last: usize,
    other: Counter,
    unnamed: Counter,
}

#[derive(Debug, Default)]
struct Site {
    name: Vec<u8>,
    weight: u64,
    counter: Counter,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counter {
    total: Counts,
    /// Requests and errors of the steps, and which steps they are.
    steps: [(u64, u64, u64); STEPS],
}

impl Counter {
    fn count(&mut self, status: u16, step: u64) {
        let (is_client_error, is_server_error) = (matches!(status, 400..500), status >= 500);
        self.total.requests += 1;
        self.total.client_errors += u64::from(is_client_error);
        self.total.server_errors += u64::from(is_server_error);
        let slot = &mut self.steps[(step % STEPS as u64) as usize];
        if slot.0 != step {
            *slot = (step, 0, 0);
        }
        slot.1 += 1;
        slot.2 += u64::from(is_client_error || is_server_error);
    }

    /// Takes over what another one counted.
    fn absorb(&mut self, other: &Counter) {
        self.total.add(other.total);
        for (slot, theirs) in self.steps.iter_mut().zip(other.steps) {
            match slot.0.cmp(&theirs.0) {
                std::cmp::Ordering::Less => *slot = theirs,
                std::cmp::Ordering::Equal => *slot = (slot.0, slot.1 + theirs.1, slot.2 + theirs.2),
                std::cmp::Ordering::Greater => {}
            }
        }
    }

    fn at(&self, step: u64) -> Counts {
        let recent = self.steps.iter().filter(|(at, ..)| at + STEPS as u64 > step && *at <= step);
        let (in_minute, errors_in_minute) = recent.fold((0, 0), |sum, slot| (sum.0 + slot.1, sum.1 + slot.2));
        Counts { in_minute, errors_in_minute, ..self.total }
    }
}

impl Sites {
    /// Counts the lines of a batch, read at `now_ms` (boot clock). Makes no memory for a name that is known.
    pub(crate) fn count(&self, batch: &Batch, now_ms: u64) {
        let (mut table, step) = (self.lock(), step_of(now_ms));
        for line in &batch.lines {
            table.counter_of(batch.server_of(line)).count(line.status, step);
        }
    }

    pub(crate) fn snapshot(&self, now_ms: u64) -> SiteCounts {
        let (table, step) = (self.lock(), step_of(now_ms));
        let text = |site: &Site| String::from_utf8_lossy(&site.name).into_owned();
        SiteCounts {
            named: table.named.iter().map(|site| (text(site), site.counter.at(step))).collect(),
            other: table.other.at(step),
            unnamed: table.unnamed.at(step),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Steps begin at 1, so that an empty slot is of none of them.
fn step_of(now_ms: u64) -> u64 {
    now_ms / STEP_MS + STEPS as u64
}

impl Table {
    fn counter_of(&mut self, server: &[u8]) -> &mut Counter {
        if self.named.get(self.last).is_none_or(|site| site.name != server) {
            if is_unnamed(server) {
                return &mut self.unnamed;
            }
            let Some(at) = self.place_of(server) else { return &mut self.other };
            self.last = at;
        }
        let site = &mut self.named[self.last];
        site.weight += 1;
        &mut site.counter
    }

    fn place_of(&mut self, server: &[u8]) -> Option<usize> {
        if let Some(at) = self.named.iter().position(|site| site.name == server) {
            return Some(at);
        }
        if !is_name(server) {
            return None;
        }
        if self.named.len() < NAMES {
            self.named.push(Site { name: server.to_vec(), ..Site::default() });
            return Some(self.named.len() - 1);
        }
        let (at, least) = self.named.iter_mut().enumerate().min_by_key(|(_, site)| site.weight)?;
        self.other.absorb(&least.counter);
        least.counter = Counter::default();
        least.name.clear();
        least.name.extend_from_slice(server);
        Some(at)
    }
}

/// What nginx writes where it has no name.
fn is_unnamed(server: &[u8]) -> bool {
    matches!(server, b"" | b"-")
}

fn is_name(server: &[u8]) -> bool {
    server.len() <= NAME_BYTES && server.iter().all(u8::is_ascii_graphic)
}

/// The sites of a client's lines, most asked for first.
pub(crate) fn most_asked<'a>(servers: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let mut counts: BTreeMap<&[u8], u32> = BTreeMap::new();
    for server in servers.filter(|server| !is_unnamed(server) && is_name(server)) {
        if counts.len() < NAMES || counts.contains_key(server) {
            *counts.entry(server).or_default() += 1;
        }
    }
    let mut sites: Vec<(&[u8], u32)> = counts.into_iter().collect();
    sites.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    sites.iter().take(SITES_OF_A_BAN).map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shield_logline::{Output, Parser, Settings};

    fn batch(lines: &[(&str, u16)]) -> Batch {
        let line = |(name, status): &(&str, u16)| {
            format!(
                "{{\"time\":\"2026-05-11T22:07:33+00:00\",\"remote_addr\":\"192.0.2.7\",\"method\":\"GET\",\"path\":\"/\",\
                 \"status\":{status},\"size\":5,\"server_name\":\"{name}\"}}\n"
            )
        };
        let mut block = lines.iter().map(line).collect::<String>().into_bytes();
        let (end, mut out) = (block.len(), Output::default());
        Parser::new(&Settings::default()).parse_block(&mut block, 0, end, &mut out);
        assert_eq!(out.lines.len(), lines.len());
        Batch { bytes: block, lines: out.lines, ..Batch::default() }
    }

    fn requests(counts: &SiteCounts) -> Vec<(&str, u64)> {
        counts.named.iter().map(|(name, counts)| (name.as_str(), counts.requests)).collect()
    }

    #[test]
    fn requests_are_counted_by_site_and_class_of_status() {
        let sites = Sites::default();
        let lines =
            [("a.example", 200), ("b.example", 404), ("a.example", 503), ("a.example", 301), ("", 404)];
        sites.count(&batch(&lines), 5_000);
        let seen = sites.snapshot(5_000);
        assert_eq!(requests(&seen), [("a.example", 3), ("b.example", 1)]);
        let of_a = seen.named["a.example"];
        assert_eq!((of_a.client_errors, of_a.server_errors, of_a.errors_in_minute), (0, 1, 1));
        assert_eq!(seen.named["b.example"].client_errors, 1);
        assert_eq!((seen.unnamed.requests, seen.unnamed.client_errors, seen.other.requests), (1, 1, 0));
        assert_eq!(sites.snapshot(65_000).named["a.example"].in_minute, 3);
        let later = sites.snapshot(75_000).named["a.example"];
        assert_eq!((later.in_minute, later.requests), (0, 3));
    }

    /// Whoever may name the site must not be able to hide the real ones, nor to fill the memory.
    #[test]
    fn made_up_names_are_bounded_and_push_no_busy_site_out() {
        let sites = Sites::default();
        let names: Vec<String> = (0..5_000).map(|n| format!("{n}.made-up.example")).collect();
        sites.count(&batch(&names[..500].iter().map(|name| (name.as_str(), 200)).collect::<Vec<_>>()), 0);
        // The real site is asked for once in ten lines, and comes when all places are taken.
        for ten in names.chunks(9) {
            let mut lines: Vec<(&str, u16)> = ten.iter().map(|name| (name.as_str(), 404)).collect();
            lines.push(("shop.example.org", 200));
            sites.count(&batch(&lines), 0);
        }
        let seen = sites.snapshot(0);
        assert_eq!(seen.named.len(), NAMES);
        let real = seen.named["shop.example.org"].requests;
        assert!(real > 500, "{real} of 556 are counted by name");
        let all: u64 = seen.named.values().map(|counts| counts.requests).sum::<u64>() + seen.other.requests;
        assert_eq!(all, 500 + 5_000 + 556, "no request is counted twice or lost");
        let minute: u64 =
            seen.named.values().map(|counts| counts.in_minute).sum::<u64>() + seen.other.in_minute;
        assert_eq!(minute, all);
        let few = seen.bounded(2);
        assert!(few.named.len() == 2 && few.named.contains_key("shop.example.org"));
        assert_eq!(few.named.values().map(|counts| counts.requests).sum::<u64>() + few.other.requests, all);
    }

    #[test]
    fn what_is_no_name_is_counted_with_the_others() {
        let sites = Sites::default();
        let long = "a".repeat(NAME_BYTES + 1);
        sites.count(
            &batch(&[(&long, 200), ("a b", 200), ("<script>\\u0007", 200), ("-", 200), ("good", 200)]),
            0,
        );
        let seen = sites.snapshot(0);
        assert_eq!((requests(&seen), seen.other.requests, seen.unnamed.requests), (vec![("good", 1)], 3, 1));
    }

    #[test]
    fn the_sites_of_a_ban_are_few_and_the_most_asked_first() {
        let names: Vec<String> = (0..100).map(|n| format!("{n:03}.example")).collect();
        let asked =
            names.iter().map(String::as_bytes).chain([b"shop".as_slice(); 3]).chain([b"-".as_slice(); 9]);
        let shop_first = [b"shop".as_slice()].into_iter().chain(asked);
        let sites = most_asked(shop_first);
        assert_eq!(
            (sites.len(), sites[0].as_str(), sites[1].as_str()),
            (SITES_OF_A_BAN, "shop", "000.example")
        );
        assert_eq!(most_asked([b"a b".as_slice(), b""].into_iter()), [""; 0]);
    }
}
