//! Runs one configured command: no shell, a time limit, and its output in every error.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::text::nginx;

/// How often the end of a command is looked for.
const POLL: Duration = Duration::from_millis(10);
/// The most of a command's output that is read, in bytes.
const MAX_OUTPUT: usize = 1 << 20;

/// What a command did that ended by itself.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// Both its outputs.
    pub(super) output: String,
}

/// Runs `argv` and waits for its end. Its output goes through a file in `folder`, because a pipe would stay open as long as any
/// process that it leaves behind.
pub(super) fn run(argv: &[String], folder: &Path, limit: Duration) -> Result<Ended> {
    let [program, arguments @ ..] = argv else { bail!("could not run a command: no name was given") };
    let shown = argv.join(" ");
    let path = folder.join(".output");
    let output = File::create(&path).with_context(|| format!("could not create {}", path.display()))?;
    let errors = output.try_clone().context("could not use the file for the output twice")?;
    let child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("could not run `{shown}`"));
    let status = child.and_then(|child| wait(child, &shown, limit));
    let said = fs::read(&path).unwrap_or_default();
    fs::remove_file(&path).with_context(|| format!("could not remove {}", path.display()))?;
    let said = String::from_utf8_lossy(&said[..said.len().min(MAX_OUTPUT)]).into_owned();
    Ok(Ended { status: status?, output: said })
}

fn wait(mut child: Child, shown: &str, limit: Duration) -> Result<ExitStatus> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().with_context(|| format!("could not wait for `{shown}`"))? {
            return Ok(status);
        }
        if began.elapsed() >= limit {
            let group = Pid::from_raw(child.id().try_into().unwrap_or(i32::MAX));
            // With what it has started. It is ours and not waited for, so the id is still its own.
            let _ = killpg(group, Signal::SIGKILL);
            let _ = child.wait();
            bail!(nginx::took_too_long(shown, limit));
        }
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_words(argv: &[&str], limit: Duration) -> Result<Ended> {
        let folder = tempfile::tempdir().unwrap();
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        let result = run(&argv, folder.path(), limit);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "something was left");
        result
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn arguments_reach_a_program_as_they_are() {
        let ended = run_words(&["printf", "%s|", "a b", "$(id)", ";rm", ""], LONG).unwrap();
        assert!(ended.status.success());
        assert_eq!(ended.output, "a b|$(id)|;rm||");
    }

    #[test]
    fn a_failure_has_both_outputs() {
        let ended = run_words(&["sh", "-c", "echo one; echo two >&2; exit 3"], LONG).unwrap();
        assert_eq!((ended.status.code(), ended.output.as_str()), (Some(3), "one\ntwo\n"));
        let missing = run_words(&["/nowhere/nginx", "-t"], LONG).err().unwrap();
        assert!(format!("{missing:#}").contains("could not run `/nowhere/nginx -t`"), "{missing:#}");
    }

    #[test]
    fn what_does_not_end_is_ended_with_all_that_it_started() {
        let error =
            run_words(&["sh", "-c", "sleep 600 & sleep 600"], Duration::from_millis(50)).err().unwrap();
        assert!(error.to_string().contains("sleep 600"), "{error:#}");
    }

    /// A daemon that keeps the output open does not hold us up.
    #[test]
    fn what_a_command_leaves_behind_is_not_waited_for() {
        let began = Instant::now();
        let ended = run_words(&["sh", "-c", "sleep 15 & echo done"], LONG).unwrap();
        assert!(began.elapsed() < Duration::from_secs(10));
        assert_eq!(ended.output, "done\n");
    }
}
