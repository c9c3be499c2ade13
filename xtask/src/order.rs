//! The order in which test binaries begin: longest first, so that the last one to end does not run on beside idle lanes.
//!
//! How long they take is what they took when all tests ran last, from a file in the target folder; before the first run here it is what
//! they took on a machine with two cores (`test-times.json`, a copy of that file). What is in neither comes first, because it may be
//! long.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::binaries::Binary;
use crate::build;

/// Those of another machine.
const COMMITTED: &str = include_str!("../test-times.json");

/// Seconds by the name of a binary.
#[derive(Debug, Default)]
pub(crate) struct Times(BTreeMap<String, f64>);

impl Times {
    /// Those of earlier runs here, and for other binaries the committed ones. A file that cannot be read counts for nothing, because
    /// they only save time.
    pub(crate) fn read() -> Times {
        let mut times: BTreeMap<String, f64> = serde_json::from_str(COMMITTED).unwrap_or_default();
        let here: BTreeMap<String, f64> =
            fs::read(file()).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        times.extend(here);
        Times(times)
    }

    /// Notes what a binary took.
    pub(crate) fn note(&mut self, name: &str, secs: f64) {
        self.0.insert(name.to_owned(), secs);
    }

    /// Keeps them for the next run. Without them that run is slower and not wrong, so that a failure is only said.
    pub(crate) fn write(&self) {
        let text = serde_json::to_vec_pretty(&self.0).expect("names and finite numbers are JSON");
        if let Err(error) = fs::write(file(), text) {
            eprintln!("could not keep the tests' times in {}: {error}", file().display());
        }
    }

    /// Sorts binaries: those without a time first, then the longest.
    pub(crate) fn sort(&self, binaries: &mut [Binary]) {
        let time = |binary: &Binary| self.0.get(&binary.name).copied().unwrap_or(f64::INFINITY);
        binaries.sort_by(|a, b| time(b).total_cmp(&time(a)).then_with(|| a.name.cmp(&b.name)));
    }
}

fn file() -> PathBuf {
    build::target_folder().join("test-times.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_times_are_read() {
        let times: BTreeMap<String, f64> = serde_json::from_str(COMMITTED).unwrap();
        assert!(times.values().any(|secs| *secs > 60.0), "{times:?}");
    }

    #[test]
    fn the_unknown_come_first_and_then_the_longest() {
        let binary = |name: &str| Binary {
            name: name.to_owned(),
            executable: PathBuf::new(),
            folder: PathBuf::new(),
            alone: None,
            waits: false,
        };
        let mut times = Times::default();
        times.note("short", 0.5);
        times.note("long", 61.0);
        times.note("gone", 90.0);
        let mut binaries = ["new", "short", "added", "long"].map(binary);
        times.sort(&mut binaries);
        assert_eq!(binaries.map(|binary| binary.name), ["added", "new", "long", "short"]);
    }
}
