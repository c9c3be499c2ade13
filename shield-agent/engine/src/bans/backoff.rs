//! The backoff ladder: the n-th offence gets the n-th term, later ones the last term. The slow lane can be a step before the
//! first term.

use std::fmt;
use std::num::NonZeroU32;

use crate::vocab::time::{Ends, Now};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term {
    Secs(u64),
    Permanent,
}

impl Term {
    pub fn secs(self) -> Option<u64> {
        if let Term::Secs(secs) = self { Some(secs) } else { None }
    }

    pub fn ends(self, start: Now) -> Ends {
        match self {
            Term::Secs(secs) => Ends::after(start, secs.saturating_mul(1000)),
            Term::Permanent => Ends::Never,
        }
    }
}

/// The ladder of terms, and the time after which offences are forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    terms: Vec<Term>,
    forget_after_secs: u64,
    /// Whether the first offence is slowed, and the first term is that of the second.
    slow_first: bool,
}

/// A ladder that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadLadder {
    Empty,
    ZeroTerm,
    Descending,
}

impl fmt::Display for BadLadder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadLadder::Empty => "needs at least one term",
            BadLadder::ZeroTerm => "a term of zero seconds bans nobody",
            BadLadder::Descending => "each term must be at least as long as the one before it",
        })
    }
}

impl std::error::Error for BadLadder {}

impl Default for Backoff {
    /// 10 min, 30 min, 2 h, permanent; forgotten after 30 days.
    fn default() -> Backoff {
        let terms = [Term::Secs(600), Term::Secs(1800), Term::Secs(7200), Term::Permanent];
        Backoff { terms: terms.to_vec(), forget_after_secs: 30 * 86_400, slow_first: false }
    }
}

impl Backoff {
    /// # Errors
    /// A ladder that is empty, descends, or holds a term of zero seconds.
    pub fn new(terms: Vec<Term>, forget_after_secs: u64) -> Result<Backoff, BadLadder> {
        if terms.is_empty() {
            return Err(BadLadder::Empty);
        }
        let length = |term: &Term| match term {
            Term::Secs(secs) => *secs,
            Term::Permanent => u64::MAX,
        };
        if terms.iter().any(|t| length(t) == 0) {
            return Err(BadLadder::ZeroTerm);
        }
        if !terms.is_sorted_by_key(length) {
            return Err(BadLadder::Descending);
        }
        Ok(Backoff { terms, forget_after_secs, slow_first: false })
    }

    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// Puts the slow lane before the first term, or takes it away.
    pub fn set_slow_first(&mut self, slow_first: bool) {
        self.slow_first = slow_first;
    }

    /// Whether the slow lane is the step before the first term.
    pub fn is_slow_first(&self) -> bool {
        self.slow_first
    }

    /// Whether the n-th offence is slowed where that is possible.
    pub(crate) fn is_slowed(&self, offence: NonZeroU32) -> bool {
        self.slow_first && offence == NonZeroU32::MIN
    }

    /// The term of the n-th offence, or of the first where nobody can be slowed. Offences beyond the ladder get its last term.
    pub fn term(&self, offence: NonZeroU32) -> Term {
        let before = (offence.get() as usize - 1).saturating_sub(usize::from(self.slow_first));
        self.terms[before.min(self.terms.len() - 1)]
    }

    /// Whether offences still count at `now_secs`, when the last ban ended or the last offence was at `last_secs`.
    /// A clock that was set back forgets nothing.
    pub fn is_remembered(&self, last_secs: i64, now_secs: i64) -> bool {
        let idle = now_secs.saturating_sub(last_secs);
        idle <= 0 || (idle as u64) < self.forget_after_secs
    }

    /// Seconds without a ban after which offences are forgotten.
    pub fn forget_after_secs(&self) -> u64 {
        self.forget_after_secs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nth(offence: u32) -> NonZeroU32 {
        NonZeroU32::new(offence).unwrap()
    }

    #[test]
    fn the_default_ladder() {
        let terms: Vec<Term> = (1..6).map(|n| Backoff::default().term(nth(n))).collect();
        let [m10, m30, h2, ever] = [Term::Secs(600), Term::Secs(1800), Term::Secs(7200), Term::Permanent];
        assert_eq!(terms, [m10, m30, h2, ever, ever]);
    }

    #[test]
    fn the_slow_lane_is_a_step_before_the_first_term() {
        let mut backoff = Backoff::default();
        assert!(!backoff.is_slowed(nth(1)));
        backoff.set_slow_first(true);
        assert_eq!([1, 2, 3].map(|n| backoff.is_slowed(nth(n))), [true, false, false]);
        let terms: Vec<Term> = (1..6).map(|n| backoff.term(nth(n))).collect();
        let [m10, m30, h2, ever] = [Term::Secs(600), Term::Secs(1800), Term::Secs(7200), Term::Permanent];
        assert_eq!(terms, [m10, m10, m30, h2, ever], "the first, where nobody can be slowed");
    }

    #[test]
    fn offences_are_forgotten_only_after_the_whole_time() {
        let backoff = Backoff::default();
        let month = 30 * 86_400;
        assert!(backoff.is_remembered(1000, 1000 + month - 1));
        assert!(!backoff.is_remembered(1000, 1000 + month));
        assert!(backoff.is_remembered(1000, 0), "a clock that went back forgets nothing");
    }

    #[test]
    fn a_ladder_that_goes_down_is_refused() {
        assert!(Backoff::new(vec![], 1) == Err(BadLadder::Empty));
        assert!(Backoff::new(vec![Term::Secs(0)], 1) == Err(BadLadder::ZeroTerm));
        assert!(Backoff::new(vec![Term::Permanent, Term::Secs(5)], 1) == Err(BadLadder::Descending));
        assert!(Backoff::new(vec![Term::Secs(5), Term::Secs(5)], 1).is_ok());
    }

    proptest! {
        #[test]
        fn terms_never_shrink(mut secs in prop::collection::vec(1u64..1_000_000, 1..8), n in 1u32..50) {
            secs.sort_unstable();
            let longest = *secs.last().unwrap();
            let backoff = Backoff::new(secs.into_iter().map(Term::Secs).collect(), 1).unwrap();
            let len = |term| if let Term::Secs(s) = term { s } else { u64::MAX };
            prop_assert!(len(backoff.term(nth(n))) <= len(backoff.term(nth(n + 1))));
            prop_assert!(len(backoff.term(nth(n))) <= longest);
        }
    }
}
