//! Runs one command to its end, with the command line and what it said in the error.
//!
//! Argument vectors only, never a shell. Where it runs (which network namespace) is the caller's thread's business:
//! see [`crate::netns`].

use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs `argv` and returns what it printed on standard output.
///
/// # Errors
/// When it cannot be started (the error names the program and says that it may not be installed), or when it ends with
/// anything but success.
pub fn run(argv: &[&str]) -> Result<String> {
    let output = output(argv)?;
    if !output.status.success() {
        bail!("`{}` failed ({}): {}", argv.join(" "), output.status, said(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `argv` to its end and returns its output whatever its exit code, for callers who expect a failure.
///
/// # Errors
/// When it cannot be started.
pub fn output(argv: &[&str]) -> Result<Output> {
    let (program, arguments) = argv.split_first().context("ran an empty command line")?;
    Command::new(program).args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).output().with_context(
        || format!("started `{}` (is {program} installed? `cargo xtask setup`)", argv.join(" ")),
    )
}

fn said(output: &Output) -> String {
    let text = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    String::from_utf8_lossy(text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_an_error_that_names_it_and_what_it_said() {
        let error = run(&["ls", "/nowhere/at/all"]).unwrap_err().to_string();
        assert!(error.contains("ls /nowhere/at/all") && error.contains("No such file"), "{error}");
    }

    #[test]
    fn a_missing_program_is_an_error_that_names_it() {
        let error = format!("{:#}", run(&["no-such-program-here"]).unwrap_err());
        assert!(error.contains("is no-such-program-here installed?"), "{error}");
    }
}
