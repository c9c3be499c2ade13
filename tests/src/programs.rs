//! Counts the programs that the iptables enforcer runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use shield_agent::test_support::enforce::iptables::programs::{Host, Programs};

/// The real host's programs, with a counter of some of their runs.
pub struct Counted {
    is_counted: fn(&str) -> bool,
    runs: Arc<AtomicUsize>,
}

impl Counted {
    /// Counts the runs of the programs whose name `is_counted` accepts in `runs`.
    pub fn new(is_counted: fn(&str) -> bool, runs: &Arc<AtomicUsize>) -> Counted {
        Counted { is_counted, runs: Arc::clone(runs) }
    }
}

impl Programs for Counted {
    fn run(&mut self, argv: &[&str], stdin: &[u8], line: &mut dyn FnMut(&str)) -> Result<()> {
        let is_counted = argv.first().is_some_and(|program| (self.is_counted)(program));
        self.runs.fetch_add(usize::from(is_counted), Ordering::Relaxed);
        Host.run(argv, stdin, line)
    }

    fn another(&self) -> Box<dyn Programs> {
        Box::new(Counted::new(self.is_counted, &self.runs))
    }

    fn read_proc(&mut self, path: &str) -> Option<String> {
        Host.read_proc(path)
    }

    fn generation(&mut self) -> Option<u32> {
        Host.generation()
    }

    fn have_netlink(&self) -> bool {
        Host.have_netlink()
    }
}
