//! Work below the priority of whatever runs meanwhile: compilers often leave a core idle, and tests wait for a kernel or a clock.

use std::thread::JoinHandle;

use anyhow::{Context as _, Result};

/// How nice it is to the rest.
const NICENESS: i32 = 10;

/// Work that has begun.
pub(crate) struct Background<T>(JoinHandle<Result<T>>);

impl<T: Send + 'static> Background<T> {
    /// Begins, on a thread of its own.
    pub(crate) fn start(work: impl FnOnce() -> Result<T> + Send + 'static) -> Background<T> {
        Background(std::thread::spawn(move || {
            // On Linux that is the priority of this thread and of what it starts.
            rustix::process::setpriority_process(None, NICENESS)
                .context("could not lower the priority of work in the background")?;
            work()
        }))
    }

    /// Waits for the result.
    pub(crate) fn wait(self) -> Result<T> {
        self.0.join().expect("the work returns its errors")
    }
}
