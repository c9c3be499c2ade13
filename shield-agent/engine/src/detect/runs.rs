//! Numbers that are tried one after the other in one place: `?author=1`, `/user/2`, `/invoice/1003.pdf`, refused or sent
//! elsewhere. Whoever follows links meets the numbers that exist, and in no order.

use crate::detect::stable_hash::StableHash;

/// Runs remembered at once, one a client and place; a power of two. Another one may take the place of one.
const SLOTS: usize = 1 << 12;

/// A run goes on for as long as its numbers come within this time and distance: a program with several connections gets
/// their order a little wrong.
const MAX_PAUSE_SECS: u32 = 600;
const MAX_STEP: u64 = 4;

/// A run counts from this length on.
const MIN_RUN: u16 = 12;

/// Weights in tenths of a failed path, for each number. WordPress tells the name of `?author=1` by a redirect, and no page
/// links to it.
const IN_A_RUN: u8 = 5;
const AUTHOR: u8 = 20;

#[derive(Debug, Clone, Copy, Default)]
struct Run {
    /// A hash of the client and the place; 0 for none.
    mark: u64,
    last: u64,
    second: u32,
    len: u16,
}

/// The clients that were not served in one place lately: where many are not, the site is broken.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    hash: u64,
    /// The slot of [`MAX_PAUSE_SECS`] that the clients are of.
    slot: u32,
    /// As bits: an estimate from below. Of this slot and the one before.
    clients: [u64; 2],
}

/// Places remembered at once; a power of two.
const PLACES: usize = 1 << 10;

/// So many other clients that are not served in a place excuse a client.
const EXCUSED_BY: u32 = 3;

impl Place {
    /// Notes a client, and returns how many others were there.
    fn others(&mut self, hash: u64, client: u64, second: u32) -> u32 {
        let slot = second / MAX_PAUSE_SECS;
        if self.hash != hash || slot > self.slot + 1 {
            *self = Place { hash, slot, ..Place::default() };
        } else if slot > self.slot {
            (self.slot, self.clients) = (slot, [0, self.clients[0]]);
        }
        let bit = 1 << (client >> 58);
        self.clients[0] |= bit;
        ((self.clients[0] | self.clients[1]) & !bit).count_ones()
    }
}

pub(crate) struct Runs {
    runs: Box<[Run]>,
    places: Box<[Place]>,
}

impl Default for Runs {
    fn default() -> Runs {
        Runs {
            runs: vec![Run::default(); SLOTS].into_boxed_slice(),
            places: vec![Place::default(); PLACES].into_boxed_slice(),
        }
    }
}

/// A number that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tried {
    /// In tenths of a failed path.
    pub weight: u8,
    /// The place and the number.
    pub key: u64,
}

impl Runs {
    /// Notes a request that was not served, and returns what it weighs if it belongs to a run.
    pub(crate) fn tried(
        &mut self,
        path: &[u8],
        query: &[u8],
        client: u64,
        status: u16,
        second: u32,
    ) -> Option<Tried> {
        let is_moved = matches!(status, 301 | 308);
        if !is_moved && !matches!(status, 302 | 303 | 307 | 403 | 404) {
            return None;
        }
        let (place, number, is_author) = numbered(path, query)?;
        let key = place ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if is_author {
            return Some(Tried { weight: AUTHOR, key });
        }
        // A site that moved sends its crawlers on from everything.
        if is_moved {
            return None;
        }
        let others = self.places[(place >> 20) as usize % PLACES].others(place, client, second);
        let mark = (place ^ client).max(1);
        let run = &mut self.runs[(mark >> 20) as usize % SLOTS];
        let goes_on = run.mark == mark
            && second.saturating_sub(run.second) < MAX_PAUSE_SECS
            && run.last.abs_diff(number) <= MAX_STEP;
        let len = match goes_on {
            true if run.last == number => run.len,
            true => run.len.saturating_add(1),
            false => 1,
        };
        *run = Run { mark, last: number, second, len };
        (len >= MIN_RUN && others < EXCUSED_BY).then_some(Tried { weight: IN_A_RUN, key })
    }
}

/// The place of the number in a target, the number, and whether it is an author's. A number in the query goes before one at
/// the end of the path.
fn numbered(path: &[u8], query: &[u8]) -> Option<(u64, u64, bool)> {
    let parameter =
        query.strip_prefix(b"?").unwrap_or_default().split(|byte| *byte == b'&').find_map(|pair| {
            let at = memchr::memchr(b'=', pair)?;
            Some((&pair[..at], number_of(&pair[at + 1..])?))
        });
    if let Some((name, number)) = parameter {
        let mut place = StableHash::of(path);
        place.add(b"?");
        place.add(name);
        return Some((place.finish(), number, name == b"author"));
    }
    // What lies below a number belongs to an item that the client was told of: `/items/7/picture`.
    let at = memchr::memrchr(b'/', path)? + 1;
    let stem = memchr::memchr(b'.', &path[at..]).map_or(path.len(), |dot| at + dot);
    let number = number_of(&path[at..stem])?;
    let mut place = StableHash::of(&path[..at]);
    place.add(&path[stem..]);
    Some((place.finish(), number, false))
}

/// Longer numbers are times, which programs count up to get around caches.
const MAX_DIGITS: usize = 8;

fn number_of(text: &[u8]) -> Option<u64> {
    let is_number = (1..=MAX_DIGITS).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    is_number.then(|| text.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tenths that these targets weigh together.
    fn weight(targets: impl Iterator<Item = String>, status: u16) -> u32 {
        let mut runs = Runs::default();
        let mut weigh = |(n, target): (usize, String)| {
            let at = target.find('?').unwrap_or(target.len());
            let (path, query) = target.as_bytes().split_at(at);
            runs.tried(path, query, 7, status, 1000 + n as u32).map_or(0, |tried| u32::from(tried.weight))
        };
        targets.enumerate().map(&mut weigh).sum()
    }

    #[test]
    fn numbers_one_after_the_other_are_a_run() {
        let to = |n: u64| 1..=n;
        assert_eq!(weight(to(11).map(|n| format!("/user/{n}")), 404), 0, "too short");
        assert_eq!(weight(to(30).map(|n| format!("/user/{n}")), 403), 19 * 5);
        assert_eq!(weight(to(30).map(|n| format!("/order?id={n}")), 302), 19 * 5);
        assert_eq!(weight(to(30).map(|n| format!("/invoice/{n}.pdf")), 404), 19 * 5);
        assert_eq!(weight(to(30).map(|n| format!("/order?id={}&x=y", 900 - n)), 404), 19 * 5, "backwards");
        assert_eq!(weight(to(30).map(|n| format!("/user/{}", n ^ 1)), 404), 19 * 5, "two connections");
        assert_eq!(weight(to(7).map(|n| format!("/?author={n}")), 301), 7 * 20);
        for (targets, status, why) in [
            ("/t?id=", 301, "a forum that moved"),
            ("/user/", 200, "served"),
            ("/user/", 410, "gone, and said so"),
            ("/word", 404, "no number of its own"),
            ("/feed?_=17676000000", 404, "a time"),
        ] {
            assert_eq!(weight(to(40).map(|n| format!("{targets}{n}")), status), 0, "{why}");
        }
        assert_eq!(weight(to(40).map(|n| format!("/p/{}", n * 37 % 1000)), 404), 0, "dead links in no order");
        assert_eq!(weight((0..40).map(|_| "/user/7".to_owned()), 404), 0, "one page again and again");
        assert_eq!(
            weight(to(40).map(|n| format!("/Items/{n}/Images")), 404),
            0,
            "an item's picture is missing"
        );
    }

    #[test]
    fn a_place_that_fails_for_others_too_is_the_servers_fault() {
        let mut runs = Runs::default();
        let mut tried = |client: u64, n: u32| {
            let path = format!("/article/{n}");
            runs.tried(path.as_bytes(), b"", client << 58, 404, 1000 + n).is_some()
        };
        let alone = (0..20).filter(|n| tried(1, *n)).count();
        (2..5).for_each(|client| {
            tried(client, 20);
        });
        let among_others = (20..40).filter(|n| tried(1, *n)).count();
        assert_eq!((alone, among_others), (9, 0));
    }

    #[test]
    fn clients_and_places_have_runs_of_their_own() {
        let mut runs = Runs::default();
        for n in 0..40_u32 {
            let path = format!("/user/{n}");
            let tried = runs.tried(path.as_bytes(), b"", u64::from(n % 4) << 30, 404, 1000 + n);
            assert_eq!(tried, None, "each of four clients asked for ten");
        }
    }
}
