//! Fields that a client's text could imitate, in a line whose address and time stand before that text.
//!
//! In `$remote_addr|$time_iso8601|$request_uri|$status|$http_user_agent` nothing tells for certain where the target ends:
//! nginx does not escape `|`, and a target like `/|200|0|` looks like the end of one. Address and time cannot be reached by it,
//! so the most that a client gains is a choice between the status that nginx wrote and one of its own. Every place at which
//! the status can stand is found. A line with one is read as any other. Of several the one that speaks most against the client
//! counts, and the line is marked as salvaged. What nginx wrote is always among them.

use memchr::memmem;

use super::Escape;
use super::compile::{Field, Literal};
use super::read::{Spans, size, status};
use super::variable::{Class, Take, may_contain};

/// Client's texts, and numbers between them.
#[derive(Debug)]
pub(super) struct Guess {
    /// What the first text, whose start is certain, is taken for.
    first: Take,
    /// What separates the texts before the numbers from each other, and the last one from the numbers.
    left: Box<[Literal]>,
    /// The status and what stands beside it; empty when the status stands elsewhere.
    numbers: Box<[Number]>,
    /// What separates the texts behind the numbers from each other.
    right: Box<[Literal]>,
    /// Nothing stands behind the numbers.
    ends_in_numbers: bool,
    escape: Escape,
}

#[derive(Debug)]
struct Number {
    take: Take,
    class: Class,
    then: Literal,
}

/// A place of the numbers in a text.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Where the separator before them begins.
    start: usize,
    status: Option<(usize, usize)>,
    size: Option<(usize, usize)>,
    rank: u8,
}

impl Guess {
    /// Makes a guess of fields of which those behind the first text cannot be found for certain. `None` when one of them must be.
    pub(super) fn of(zone: &[Field], escape: Escape) -> Option<Guess> {
        let (first, others) = zone.split_first()?;
        let is_certain = |take: Take| {
            !matches!(
                take,
                Take::Status
                    | Take::Size
                    | Take::Skip
                    | Take::Host
                    | Take::Server
                    | Take::Realip
                    | Take::User
            )
        };
        if is_text(first)
            && !is_certain_place(first.take)
            && !others.iter().any(|field| is_certain(field.take))
        {
            Guess::with_numbers(zone, escape)
        } else {
            None
        }
    }

    fn with_numbers(zone: &[Field], escape: Escape) -> Option<Guess> {
        let is_bounded = |at: usize| {
            let field = &zone[at];
            let then = field.then.as_bytes().first();
            let is_last = at + 1 == zone.len();
            !is_text(field)
                && (is_last || then.is_some_and(|byte| !may_contain(field.class, escape, *byte, false)))
        };
        let (from, to) = match zone.iter().position(|field| field.take == Take::Status) {
            Some(at) if is_bounded(at) => {
                let from = (1..at).rev().take_while(|at| is_bounded(*at)).last().unwrap_or(at);
                let to = (at + 1..zone.len()).take_while(|at| is_bounded(*at)).last().unwrap_or(at);
                (from, to + 1)
            }
            Some(_) => return None,
            None => (1, 1),
        };
        let literals =
            |fields: &[Field]| fields.iter().map(|field| Literal::new(field.then.as_bytes())).collect();
        let number = |field: &Field| Number {
            take: field.take,
            class: field.class,
            then: Literal::new(field.then.as_bytes()),
        };
        let (left, right) = (zone.get(..from)?, zone.get(to..)?);
        if !left.iter().all(|field| is_rare(&field.then)) {
            return None;
        }
        Some(Guess {
            first: zone[0].take,
            left: literals(left),
            numbers: zone.get(from..to)?.iter().map(number).collect(),
            right: right.split_last().map_or_else(Box::default, |(_, fields)| literals(fields)),
            ends_in_numbers: right.is_empty(),
            escape,
        })
    }

    /// Takes the fields from `line[at..end]`. `None` when they do not stand there, and unless `is_worst` also when they can
    /// stand at several places.
    pub(super) fn take(
        &self,
        line: &[u8],
        at: usize,
        end: usize,
        is_worst: bool,
        spans: &mut Spans,
    ) -> Option<()> {
        let text = line.get(at..end)?;
        let (lead, left) = self.left.split_last()?;
        // The numbers stand behind all of the left texts, and before all of the right ones.
        let (mut earliest, mut first_end) = (0, None);
        for literal in left {
            let start = earliest + literal.finder.find(text.get(earliest..)?)?;
            first_end.get_or_insert(start);
            earliest = start + literal.text.len();
        }
        let mut latest = text.len();
        for literal in self.right.iter().rev() {
            latest = memmem::rfind(text.get(..latest)?, &literal.text)?;
        }
        let (mut best, mut count): (Option<Place>, u32) = (None, 0);
        let mut from = earliest;
        while let Some(found) = text.get(from..).and_then(|rest| lead.finder.find(rest)) {
            let start = from + found;
            from = start + 1;
            let Some(place) = self.place(text, start, start + lead.text.len(), latest) else { continue };
            count += 1;
            if !is_worst && count > 1 {
                return None;
            }
            if best.is_none_or(|best| best.rank < place.rank) {
                best = Some(place);
            }
        }
        let best = best?;
        let first_end = first_end.unwrap_or(best.start);
        if !is_worst && self.may_end_later(text, first_end, best.start) {
            return None;
        }
        spans.set(self.first, at, at + first_end);
        for (take, span) in [(Take::Status, best.status), (Take::Size, best.size)] {
            if let Some((start, end)) = span {
                spans.set(take, at + start, at + end);
            }
        }
        Some(())
    }

    /// Reads the numbers at `at`; `None` if none are there.
    fn place(&self, text: &[u8], start: usize, mut at: usize, latest: usize) -> Option<Place> {
        let mut place = Place { start, status: None, size: None, rank: 0 };
        for number in &self.numbers {
            let rest = text.get(at..)?;
            let is_other = |byte: &u8| !may_contain(number.class, self.escape, *byte, false);
            let end = at + rest.iter().position(is_other).unwrap_or(rest.len());
            let value = text.get(at..end)?;
            match number.take {
                Take::Status => {
                    place.rank = rank(status(value)?);
                    place.status = Some((at, end));
                }
                Take::Size => {
                    size(value)?;
                    place.size = Some((at, end));
                }
                _ => {}
            }
            number.then.is_at(text, end).then_some(())?;
            at = end + number.then.text.len();
        }
        let is_last = if self.ends_in_numbers { at == text.len() } else { at <= latest };
        is_last.then_some(place)
    }

    /// Returns whether the first text can also end behind `first_end`, with the numbers' separator at `numbers` or before.
    fn may_end_later(&self, text: &[u8], first_end: usize, numbers: usize) -> bool {
        if self.left.len() < 2 {
            return false;
        }
        let mut at = first_end + 1;
        for literal in &self.left {
            let found = text.get(at..).and_then(|rest| literal.finder.find(rest));
            let Some(found) = found.filter(|found| at + found <= numbers) else { return false };
            at += found + literal.text.len();
        }
        true
    }
}

fn is_text(field: &Field) -> bool {
    matches!(field.class, Class::Text | Class::Host)
}

/// Where a client must not be able to choose anything.
fn is_certain_place(take: Take) -> bool {
    matches!(take, Take::Addr | Take::Forwarded | Take::Time | Take::Status | Take::Size)
}

/// Returns whether hardly any target or agent contains this separator. With blanks, commas or quotes nearly every line would be
/// ambiguous.
fn is_rare(separator: &str) -> bool {
    separator.bytes().any(|byte| byte.is_ascii_control() || matches!(byte, b'|' | b'^'))
}

/// Ranks a status by how much it can speak against a client.
///
/// A success stands above a redirection and a server's failure, because a login that failed may have one.
pub(super) fn rank(status: u16) -> u8 {
    match status {
        404 => 6,
        408 | 429 | 444 | 499 => 1,
        401 | 410 => 4,
        400..=499 => 5,
        200..=299 => 3,
        300..=399 | 500..=599 => 2,
        _ => 0,
    }
}
