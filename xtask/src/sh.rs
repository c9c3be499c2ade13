//! Starting other programs: every command line is printed before it runs, stands in the error when it fails, and goes
//! through `sudo` (said so) when it needs root and we are not.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};

/// The folder of the workspace, whatever the current one is.
pub(crate) fn root_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

/// The cargo that runs us, as the developer chose it (`cargo +nightly xtask` stays on nightly).
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A command that will run as root: itself when we are root, through `sudo` otherwise.
///
/// # Errors
/// When we are not root and there is no sudo.
pub(crate) fn as_root(program: impl Into<OsString>) -> Result<Command> {
    let program = program.into();
    if nix::unistd::geteuid().is_root() {
        return Ok(Command::new(program));
    }
    let shown = program.to_string_lossy().into_owned();
    if find("sudo").is_none() {
        bail!("`{shown}` needs root, and there is no sudo here: run this as root");
    }
    eprintln!("xtask: not root: `{shown}` goes through sudo, which may ask for your password");
    let mut command = Command::new("sudo");
    command.arg("--").arg(program);
    Ok(command)
}

/// `cargo` with these arguments, what it builds running as root: built by us, run through `sudo` when we are not root.
///
/// # Errors
/// When we are not root and there is no sudo.
pub(crate) fn cargo_as_root(arguments: &[&str]) -> Result<Command> {
    let mut command = cargo();
    command.args(arguments);
    if !nix::unistd::geteuid().is_root() {
        as_root("the built program")?;
        let triple = ask("rustc", &["--print", "host-tuple"]).context("asked rustc which machine this is")?;
        let variable = format!("CARGO_TARGET_{}_RUNNER", triple.to_uppercase().replace(['-', '.'], "_"));
        command.env(variable, "sudo --preserve-env --");
    }
    Ok(command)
}

/// Prints the command line, runs it, and fails when it fails. What it prints on standard output goes to standard error:
/// ours is for results.
///
/// # Errors
/// When it cannot be started, or ends with anything but success; the command line is in the error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    run_for_output(command.stdout(std::io::stderr()))
}

/// As [`run`], and what it prints is the result.
///
/// # Errors
/// As for [`run`].
pub(crate) fn run_for_output(command: &mut Command) -> Result<()> {
    let line = line(command);
    eprintln!("$ {line}");
    let status = status(command)?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs it without printing the command line, for programs whose exit code is the answer.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    let line = line(command);
    command.status().with_context(|| format!("started `{line}`"))
}

/// What it prints on standard output, `None` when it is not there or fails: for asking a tool about itself.
pub(crate) fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Where a program is: on `PATH`, or where distributions keep those of root, or where cargo installs.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.extend(cargo_bin_folder());
    folders.into_iter().map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Where `cargo install` puts programs.
fn cargo_bin_folder() -> Option<PathBuf> {
    Some(cargo_home()?.join("bin"))
}

/// Cargo's folder for what it downloads and installs.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_named_in_the_error() {
        let error = run(Command::new("false").arg("--why")).unwrap_err().to_string();
        assert!(error.starts_with("`false --why` failed"), "{error}");
    }

    #[test]
    fn programs_are_found_by_name_and_nothing_is_made_up() {
        assert!(find("sh").is_some());
        assert_eq!(find("no-such-program-here"), None);
    }
}
