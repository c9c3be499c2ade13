//! Running a program: with a time limit, a clean environment, and its output in files, so that no output is too long.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use super::stage::Staging;
use crate::text;

/// Where root's own programs are; the caller's path could lead elsewhere.
pub(super) const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Of what a program says about its failure.
const SAID_CHARS: usize = 600;
/// Of its output.
const MAX_OUTPUT_BYTES: u64 = 1 << 30;

/// What a program did.
#[derive(Debug)]
pub(super) struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    stderr: String,
}

impl Ended {
    pub(super) fn is_good(&self) -> bool {
        self.code == Some(0)
    }

    /// Its own words, or how it ended where it has none.
    pub(super) fn said(&self) -> String {
        let words = [self.stderr.trim(), self.stdout.trim()].into_iter().find(|words| !words.is_empty());
        match (words, self.code) {
            (Some(words), _) => {
                let lines: Vec<&str> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
                text::printable(&lines.join("; ")).chars().take(SAID_CHARS).collect()
            }
            (None, Some(code)) => format!("it ended with the exit code {code} and said nothing"),
            (None, None) => "a signal ended it".to_owned(),
        }
    }
}

/// Runs a program to its end.
///
/// # Errors
/// When it cannot be started, or takes longer than `at_most`: then it is killed.
pub(super) async fn run<S: AsRef<OsStr>>(
    program: &Path,
    arguments: &[S],
    at_most: Duration,
    staging: &Staging,
) -> Result<Ended> {
    let could_not = || format!("could not run {}", program.display());
    let (out, err) = (staging.path("stdout"), staging.path("stderr"));
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(File::create(&out).with_context(could_not)?)
        .stderr(File::create(&err).with_context(could_not)?)
        .kill_on_drop(true)
        .spawn()
        .with_context(could_not)?;
    let Ok(ended) = tokio::time::timeout(at_most, child.wait()).await else {
        let _ = child.kill().await;
        bail!("it did not end within {}", text::duration(at_most.as_secs()));
    };
    let code = ended.with_context(could_not)?.code();
    let read = |path: &Path| -> Result<String> {
        if path.metadata()?.len() > MAX_OUTPUT_BYTES {
            bail!("its output is longer than {}", text::bytes(MAX_OUTPUT_BYTES));
        }
        Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
    };
    Ok(Ended { code, stdout: read(&out)?, stderr: read(&err)? })
}
