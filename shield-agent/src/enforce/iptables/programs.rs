//! Running iptables' programs: argv arrays, `LC_ALL=C`, the command line and its error output in every error.
//!
//! Owns processes and nothing about rules. The trait is the seam at which `enforce::simulator` takes the kernel's place.

use std::fmt;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::generation;

/// The most of a failing program's error output that goes into its error, in bytes.
const MAX_STDERR_BYTES: u64 = 2_000;

/// Something that runs programs: the host, or a simulation of one.
pub trait Programs: Send {
    /// Runs `argv` with `stdin`, calls `line` with each line of its output, and returns when it has ended.
    ///
    /// # Errors
    /// [`NotInstalled`], [`Failed`] when it ended with another code than 0, or an I/O error.
    fn run(&mut self, argv: &[&str], stdin: &[u8], line: &mut dyn FnMut(&str)) -> Result<()>;

    /// Another one for another thread, on the same host.
    fn another(&self) -> Box<dyn Programs>;

    /// The content of a file of the kernel (`/proc/...`); `None` when there is no such file.
    fn read_proc(&mut self, path: &str) -> Option<String>;

    /// nftables' generation, which every change of a rule counts up; `None` where that cannot be known.
    fn generation(&mut self) -> Option<u32> {
        None
    }

    /// Returns `true` if netlink, opened by the calling thread, reaches the kernel that these programs change.
    fn have_netlink(&self) -> bool {
        false
    }
}

/// Runs `argv` for its effect.
pub(super) fn act(programs: &mut dyn Programs, argv: &[&str], stdin: &str) -> Result<()> {
    programs.run(argv, stdin.as_bytes(), &mut |_| {})
}

/// This host's own programs.
#[derive(Debug, Default)]
pub struct Host;

impl Programs for Host {
    fn run(&mut self, argv: &[&str], stdin: &[u8], line: &mut dyn FnMut(&str)) -> Result<()> {
        let [program, arguments @ ..] = argv else { bail!("could not run a program: no name was given") };
        let mut child = Command::new(program)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| not_started(program, error))?;
        let child_stdin = child.stdin.take().expect("stdin is a pipe");
        let child_stdout = child.stdout.take().expect("stdout is a pipe");
        let child_stderr = child.stderr.take().expect("stderr is a pipe");
        // All three pipes at once: a program that fills one while we wait at another would never end.
        let (stderr, read) = std::thread::scope(|scope| {
            scope.spawn(move || feed(child_stdin, stdin));
            let stderr = scope.spawn(move || read_stderr(child_stderr));
            let read = each_line(child_stdout, line);
            (stderr.join().unwrap_or_default(), read)
        });
        let command = || argv.join(" ");
        let status = child.wait().with_context(|| format!("could not wait for `{}`", command()))?;
        if !status.success() {
            return Err(Failed { command: command(), status: status.to_string(), stderr }.into());
        }
        read.with_context(|| format!("could not read the output of `{}`", command()))
    }

    fn another(&self) -> Box<dyn Programs> {
        Box::new(Host)
    }

    fn read_proc(&mut self, path: &str) -> Option<String> {
        std::fs::read_to_string(path).ok()
    }

    fn generation(&mut self) -> Option<u32> {
        generation::now().ok()
    }

    fn have_netlink(&self) -> bool {
        true
    }
}

fn not_started(program: &str, error: std::io::Error) -> anyhow::Error {
    if error.kind() == ErrorKind::NotFound {
        return NotInstalled(program.to_owned()).into();
    }
    anyhow::Error::new(error).context(format!("could not start {program}"))
}

/// The program is not on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotInstalled(pub String);

impl fmt::Display for NotInstalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not installed (package {})", self.0, package(&self.0))
    }
}

impl std::error::Error for NotInstalled {}

fn package(program: &str) -> &'static str {
    match program {
        "ipset" => "ipset",
        "nft" => "nftables",
        _ => "iptables",
    }
}

/// The program ended with another exit code than 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    /// The command line.
    pub(crate) command: String,
    pub(crate) status: String,
    pub(crate) stderr: String,
}

impl Failed {
    /// Returns `true` if another program held iptables' lock for longer than this one waited.
    pub(super) fn is_locked(&self) -> bool {
        self.stderr.contains("holding the xtables lock")
    }

    /// Returns `true` if the program's part of the kernel is not on this host.
    fn is_unsupported(&self) -> bool {
        const MESSAGES: [&str; 4] = [
            "Address family not supported",
            "do you need to insmod",
            "Table does not exist",
            "Protocol not supported",
        ];
        MESSAGES.iter().any(|message| self.stderr.contains(message))
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failed { command, status, stderr } = self;
        let stderr = if stderr.is_empty() { "no error output" } else { stderr };
        write!(f, "`{command}` ended with {status}: {stderr}")
    }
}

impl std::error::Error for Failed {}

/// Returns `true` if the program, or its part of the kernel, is not on this host: nothing of ours can be there then.
pub(super) fn is_absent(error: &anyhow::Error) -> bool {
    error.downcast_ref::<NotInstalled>().is_some()
        || error.downcast_ref::<Failed>().is_some_and(Failed::is_unsupported)
}

/// A program that ends early closes its end; its exit code is the error then, so a failed write is none.
fn feed(mut stdin: ChildStdin, bytes: &[u8]) {
    let _ = stdin.write_all(bytes);
}

fn read_stderr(mut stderr: ChildStderr) -> String {
    let mut bytes = Vec::new();
    let _ = stderr.by_ref().take(MAX_STDERR_BYTES).read_to_end(&mut bytes);
    // The rest is read and dropped, so that the program can end.
    let _ = std::io::copy(&mut stderr, &mut std::io::sink());
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

fn each_line(stdout: ChildStdout, line: &mut dyn FnMut(&str)) -> std::io::Result<()> {
    let mut reader = BufReader::with_capacity(64 * 1024, stdout);
    let mut text = String::new();
    loop {
        text.clear();
        if reader.read_line(&mut text)? == 0 {
            return Ok(());
        }
        line(text.trim_end_matches('\n'));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(argv: &[&str], stdin: &str) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        Host.run(argv, stdin.as_bytes(), &mut |line| lines.push(line.to_owned()))?;
        Ok(lines)
    }

    #[test]
    fn lines_come_out_and_no_pipe_blocks() {
        let big = "x".repeat(100).to_owned() + "\n";
        let lines = run(&["cat"], &big.repeat(10_000)).unwrap();
        assert_eq!(lines.len(), 10_000);
    }

    #[test]
    fn an_error_has_the_command_line_and_its_error_output() {
        let error = run(&["ls", "/nowhere at all"], "").unwrap_err().to_string();
        assert!(
            error.starts_with("`ls /nowhere at all` ended with exit status: 2: ls: cannot access"),
            "{error}"
        );
    }

    #[test]
    fn what_is_absent_from_the_host() {
        let failed = |stderr: &str| {
            let failed = Failed {
                command: "ip6tables-save".to_owned(),
                status: "exit status: 3".to_owned(),
                stderr: stderr.to_owned(),
            };
            anyhow::Error::new(failed).context("could not list the IPv6 filter table")
        };
        assert!(is_absent(&failed("ip6tables-save v1.8.9 (legacy): do you need to insmod?")));
        assert!(is_absent(&NotInstalled("nft".to_owned()).into()));
        assert!(!is_absent(&failed("Permission denied (you must be root)")));
    }

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let error = run(&["iptables-nowhere-restore"], "").unwrap_err().to_string();
        assert_eq!(error, "iptables-nowhere-restore is not installed (package iptables)");
    }
}
