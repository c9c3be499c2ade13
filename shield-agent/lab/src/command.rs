//! Runs a command to completion; errors contain its command line and output.
//!
//! Takes argument vectors, never a shell's command line. The command runs in the network namespace of the calling thread:
//! see [`crate::netns`].

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs `argv` and returns its standard output.
///
/// # Errors
/// Fails if the program cannot be started (the error names it and suggests installing it), or if it does not succeed.
pub fn run(argv: &[&str]) -> Result<String> {
    let output = output(argv)?;
    if !output.status.success() {
        bail!("`{}` failed ({}): {}", argv.join(" "), output.status, message(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `argv` and returns its output with any exit code, for callers that expect a failure.
///
/// # Errors
/// Fails if the program cannot be started.
pub fn output(argv: &[&str]) -> Result<Output> {
    let (program, arguments) = argv.split_first().context("could not run an empty command line")?;
    Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("could not start `{}` (is {program} installed?)", argv.join(" ")))
}

/// Runs `argv` with `input` as its standard input.
///
/// # Errors
/// As for [`run`].
pub fn run_with(argv: &[&str], input: &str) -> Result<()> {
    let shown = argv.join(" ");
    let (program, arguments) = argv.split_first().context("could not run an empty command line")?;
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        command.spawn().with_context(|| format!("could not start `{shown}` (is {program} installed?)"))?;
    // A program that ends early breaks the pipe; its own message says why.
    let _ = child.stdin.take().map(|mut pipe| pipe.write_all(input.as_bytes()));
    let output = child.wait_with_output().with_context(|| format!("could not wait for `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` failed ({}): {}", output.status, message(&output));
    }
    Ok(())
}

/// Standard error, or standard output for programs that report errors there.
fn message(output: &Output) -> String {
    let text = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    String::from_utf8_lossy(text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_failing_command_has_its_name_and_output() {
        let error = run(&["ls", "/nowhere/at/all"]).unwrap_err().to_string();
        assert!(error.contains("ls /nowhere/at/all") && error.contains("No such file"), "{error}");
    }

    #[test]
    fn a_missing_program_is_an_error_that_names_it() {
        let error = format!("{:#}", run(&["no-such-program-here"]).unwrap_err());
        assert!(error.contains("is no-such-program-here installed?"), "{error}");
    }
}
