//! Runs other programs. Every command line is printed before it runs and is part of the error if it fails. Commands that
//! need root go through `sudo` for other users, with a notice.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};

/// The root of the workspace, independent of the current directory.
pub(crate) fn root_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

/// The cargo that runs this program, so that `cargo +nightly xtask` stays on nightly.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Build scripts that read these (ring's) would run again, and all that depends on them would be compiled again, whenever
    // `cargo build` and `cargo xtask build` take turns.
    forget_own_package(&mut command);
    command
}

/// Takes from a command's environment what cargo says there about this program's own package.
pub(crate) fn forget_own_package(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let shown = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| shown.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
}

/// A command that runs as root: directly if this process is root, through `sudo` otherwise.
pub(crate) fn as_root(program: impl Into<OsString>) -> Result<Command> {
    let program = program.into();
    if nix::unistd::geteuid().is_root() {
        return Ok(Command::new(program));
    }
    let shown = program.to_string_lossy().into_owned();
    if find("sudo").is_none() {
        bail!("`{shown}` needs root and sudo was not found: run this command as root");
    }
    eprintln!("xtask: running `{shown}` through sudo, which may ask for your password");
    let mut command = Command::new("sudo");
    command.arg("--").arg(program);
    Ok(command)
}

/// `cargo` with these arguments, whose built programs run as root. Only the programs go through `sudo`, not cargo itself:
/// otherwise the target folder would contain files of root.
pub(crate) fn cargo_as_root(arguments: &[&str]) -> Result<Command> {
    let mut command = cargo();
    command.args(arguments);
    let launcher = root_launcher()?;
    if !launcher.is_empty() {
        let triple = capture("rustc", &["--print", "host-tuple"])
            .context("could not get the host's target triple from rustc")?;
        let variable = format!("CARGO_TARGET_{}_RUNNER", triple.to_uppercase().replace(['-', '.'], "_"));
        command.env(variable, launcher.join(" "));
    }
    Ok(command)
}

/// What stands before a built program on its command line to make it root, with this process' environment: nothing if this
/// process is root.
pub(crate) fn root_launcher() -> Result<&'static [&'static str]> {
    if nix::unistd::geteuid().is_root() {
        return Ok(&[]);
    }
    // Asks for the password once, before several programs run at a time.
    run(&mut as_root("true")?)?;
    Ok(&["sudo", "--preserve-env", "--"])
}

/// Prints the command line and runs it. Its standard output is redirected to standard error, because standard output is
/// reserved for results.
///
/// # Errors
/// Fails if it cannot be started or does not succeed; the error contains the command line.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    run_for_output(command.stdout(std::io::stderr()))
}

/// As [`run`], but keeps its standard output: it is the result.
pub(crate) fn run_for_output(command: &mut Command) -> Result<()> {
    let line = command_line(command);
    eprintln!("$ {line}");
    let status = status(command)?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs it without printing the command line, for programs whose exit code is the result.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    let line = command_line(command);
    command.status().with_context(|| format!("could not start `{line}`"))
}

/// The trimmed standard output of a program; `None` if it is not installed or fails. For version queries and the like,
/// where the difference does not matter.
pub(crate) fn capture(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Finds a program on `PATH`, in the `sbin` folders (missing from the `PATH` of ordinary users) or where cargo installs
/// programs.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.extend(cargo_bin_folder());
    folders.into_iter().map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// `PATH`, and after it the folder where cargo installs programs.
pub(crate) fn path_with_cargo_bin() -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(cargo_bin_folder());
    std::env::join_paths(folders).context("could not add cargo's folder of programs to PATH")
}

fn cargo_bin_folder() -> Option<PathBuf> {
    Some(cargo_home()?.join("bin"))
}

/// `CARGO_HOME`, or its default.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
}

fn command_line(command: &Command) -> String {
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
    fn only_existing_programs_are_found() {
        assert!(find("sh").is_some());
        assert_eq!(find("no-such-program-here"), None);
    }
}
