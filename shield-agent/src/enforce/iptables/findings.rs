//! The account of one reconcile: what was found, what was repaired, and what could not be.

use anyhow::{Result, bail};

use crate::enforce::ban::Failure;
use crate::text::plural;
use shield_engine::event::Repair;

/// The errors of one reconcile that are spelled out; the others are counted. A full set makes a million of them.
const MAX_ERRORS: usize = 3;

/// See the module.
#[derive(Default)]
pub(super) struct Findings {
    faults: Vec<String>,
    /// Bans that were missing.
    pub(super) restored: usize,
    /// Entries that were not wanted, or there twice.
    pub(super) removed: usize,
    errors: Vec<String>,
    more_errors: usize,
}

impl Findings {
    pub(super) fn note(&mut self, fault: String) {
        self.faults.push(fault);
    }

    pub(super) fn note_all(&mut self, faults: Vec<String>) {
        self.faults.extend(faults);
    }

    /// Keeps the error of a step; the reconcile goes on with the next one.
    pub(super) fn check(&mut self, step: Result<()>) {
        if let Err(error) = step {
            self.fail(format!("{error:#}"));
        }
    }

    pub(super) fn fail_all(&mut self, errors: Vec<anyhow::Error>) {
        errors.into_iter().for_each(|error| self.fail(format!("{error:#}")));
    }

    pub(super) fn fail_each(&mut self, failures: Vec<Failure>) {
        for failure in failures {
            self.fail(format!("{}: {:#}", failure.client, failure.error));
        }
    }

    pub(super) fn fail(&mut self, error: String) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(error);
        } else {
            self.more_errors += 1;
        }
    }

    /// The repair in words; `None` when nothing was wrong.
    ///
    /// # Errors
    /// When something is still wrong: with the errors, and what was found besides.
    pub(super) fn finish(mut self) -> Result<Option<Repair>> {
        if !self.errors.is_empty() {
            bail!("{}", self.all_errors());
        }
        match self.restored {
            0 => {}
            1 => self.note("1 ban was missing".to_owned()),
            n => self.note(format!("{n} bans were missing")),
        }
        match self.removed {
            0 => {}
            1 => self.note("1 entry was unwanted or a duplicate".to_owned()),
            n => self.note(format!("{n} entries were unwanted or duplicates")),
        }
        if self.faults.is_empty() {
            return Ok(None);
        }
        let found = self.faults.join("; ");
        Ok(Some(Repair { found, restored: self.restored as u64, removed: self.removed as u64 }))
    }

    fn all_errors(&self) -> String {
        let mut text = self.errors.join("; ");
        if self.more_errors > 0 {
            text.push_str(&format!("; and {}", plural(self.more_errors as u64, "more error", "more errors")));
        }
        if !self.faults.is_empty() {
            text.push_str(&format!(" (found: {})", self.faults.join("; ")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(restored: usize, removed: usize) -> Option<String> {
        let findings = Findings { restored, removed, ..Findings::default() };
        findings.finish().unwrap().map(|repair| repair.found)
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!(found(0, 0), None);
        assert_eq!(found(1, 1).unwrap(), "1 ban was missing; 1 entry was unwanted or a duplicate");
        assert_eq!(found(2, 10).unwrap(), "2 bans were missing; 10 entries were unwanted or duplicates");
    }

    #[test]
    fn the_first_errors_are_spelled_out_and_the_others_counted() {
        let mut findings = Findings::default();
        (1..=5).for_each(|n| findings.fail(format!("error {n}")));
        findings.note("IPv4: chain SHIELD was gone".to_owned());
        let error = findings.finish().unwrap_err().to_string();
        let expected = "error 1; error 2; error 3; and 2 more errors (found: IPv4: chain SHIELD was gone)";
        assert_eq!(error, expected);
    }
}
