//! An enforcer whose set-up begins before the bans are known: on a thread of its own, while they are read from the database.
//!
//! Setting up loads programs and runs others, which takes as long as reading the bans. It changes no ban: what is in the kernel
//! stays until the first reconcile, which needs them all.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use ipnet::IpNet;

use super::enforcer::Enforcer;
use shield_engine::event::EnforcerName;
use shield_engine::time::Now;

/// See the module.
pub(crate) enum Ahead {
    /// Nothing has begun.
    #[cfg(any(test, feature = "test-support"))]
    Fresh(Box<dyn Enforcer>),
    Begun {
        name: EnforcerName,
        thread: JoinHandle<Begun>,
    },
}

/// An enforcer after its first start, if there was one.
pub(crate) struct Begun {
    pub enforcer: Box<dyn Enforcer>,
    /// The outer error is a panic.
    pub start: Option<std::thread::Result<Result<()>>>,
}

impl Ahead {
    /// Begins to set `enforcer` up, and returns at once.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn begin(mut enforcer: Box<dyn Enforcer>, exempt: Vec<IpNet>, now: Now) -> Result<Ahead> {
        let name = enforcer.name();
        let thread = std::thread::Builder::new().name(format!("start-{}", name.name()));
        let start = move || {
            let start = catch_unwind(AssertUnwindSafe(|| enforcer.start(&exempt, now)));
            Begun { enforcer, start: Some(start) }
        };
        let thread = thread
            .spawn(start)
            .with_context(|| format!("could not start the thread that sets up {}", name.name()))?;
        Ok(Ahead::Begun { name, thread })
    }

    pub(crate) fn name(&self) -> EnforcerName {
        match self {
            #[cfg(any(test, feature = "test-support"))]
            Ahead::Fresh(enforcer) => enforcer.name(),
            Ahead::Begun { name, .. } => *name,
        }
    }

    /// Waits until the set-up is over.
    pub(crate) fn finish(self) -> Begun {
        match self {
            #[cfg(any(test, feature = "test-support"))]
            Ahead::Fresh(enforcer) => Begun { enforcer, start: None },
            Ahead::Begun { thread, .. } => thread.join().expect("the thread catches its enforcer's panics"),
        }
    }
}
