//! A clock that a test sets ahead, for the real agent binary: hours pass in it while the test takes seconds.
//!
//! The agent's wall clock and boot clock go ahead together, as when a machine was suspended. The kernel has no such clock for one
//! process (a time namespace's offset is fixed, and has no wall clock), so a library of a page (`clock.c`) stands before the C
//! library's function.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};

use crate::command;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/clock.c");

/// The clock of one agent.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    path: PathBuf,
    file: File,
    ahead: Duration,
}

impl Clock {
    /// Makes a clock that agrees with the kernel's, with its files in `folder`.
    ///
    /// # Errors
    /// Fails without a C compiler, which a Rust toolchain needs as well.
    pub fn create(folder: &Path) -> Result<Clock> {
        let (library, path) = (folder.join("clock.so"), folder.join("clock"));
        let output =
            library.to_str().context("could not name the clock's library: the folder's name is not UTF-8")?;
        command::run(&["cc", "-shared", "-fPIC", "-O2", "-o", output, SOURCE])?;
        fs::write(&path, 0_i64.to_ne_bytes()).context("could not write the clock")?;
        let file = File::options().write(true).open(&path).context("could not open the clock")?;
        Ok(Clock { library, path, file, ahead: Duration::ZERO })
    }

    /// The launcher of an agent with this clock ([`crate::agent::Agent::start_under`]).
    pub fn launcher(&self) -> [String; 3] {
        [
            "env".to_owned(),
            format!("LD_PRELOAD={}", self.library.display()),
            format!("SHIELD_TESTS_CLOCK={}", self.path.display()),
        ]
    }

    /// Sets the clock ahead, for all that the agent does from now on.
    ///
    /// # Errors
    /// Fails if its file cannot be written.
    pub fn advance(&mut self, by: Duration) -> Result<()> {
        self.ahead += by;
        let ms = self.ahead.as_millis() as i64;
        self.file.write_all_at(&ms.to_ne_bytes(), 0).context("could not set the clock")
    }

    /// The agent's wall clock, in seconds since the epoch.
    pub fn now_secs(&self) -> u64 {
        let since = (SystemTime::now() + self.ahead).duration_since(SystemTime::UNIX_EPOCH);
        since.expect("the clock is after 1970").as_secs()
    }
}
