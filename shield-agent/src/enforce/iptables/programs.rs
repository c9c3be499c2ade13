//! Running iptables' programs: argv arrays, `LC_ALL=C`, the command line and what it said in every error.
//!
//! Owns processes and nothing about rules. The trait is the seam at which `enforce::simulator` takes the kernel's place.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};

use super::generation;

/// At most so much of what a failing program said goes into its error, in bytes.
const MAX_STDERR_BYTES: u64 = 2_000;

/// Something that runs programs: the host, or a simulation of one.
pub trait Programs: Send {
    /// Runs `argv` with `stdin`, calls `line` with each line it prints, and returns when it has ended well.
    ///
    /// # Errors
    /// When it is not installed (the error names the package), cannot be run or ends with another code than 0: with
    /// the command line and what it said.
    fn run(&mut self, argv: &[&str], stdin: &[u8], line: &mut dyn FnMut(&str)) -> Result<()>;

    /// Another one for another thread, on the same host.
    fn another(&self) -> Box<dyn Programs>;

    /// What a file of the kernel says (`/proc/…`); `None` when there is no such file.
    fn read_proc(&mut self, path: &str) -> Option<String>;

    /// nftables' generation, which every change of a rule counts up; `None` where that cannot be known.
    fn generation(&mut self) -> Option<u32> {
        None
    }

    /// Whether netlink, opened by the calling thread, reaches the kernel that these programs change.
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
        let [program, arguments @ ..] = argv else { bail!("ran a program without a name") };
        let mut child = Command::new(program)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| not_started(program, error))?;
        let input = child.stdin.take().expect("stdin was asked to be a pipe");
        let output = child.stdout.take().expect("stdout was asked to be a pipe");
        let complaints = child.stderr.take().expect("stderr was asked to be a pipe");
        // All three pipes at once: a program that fills one while we wait at another would never end.
        let (said, read) = std::thread::scope(|scope| {
            scope.spawn(move || feed(input, stdin));
            let said = scope.spawn(move || gather(complaints));
            let read = each_line(output, line);
            (said.join().unwrap_or_default(), read)
        });
        let status = child.wait().with_context(|| format!("waited for `{}`", argv.join(" ")))?;
        check(argv, status, &said)?;
        read.with_context(|| format!("read what `{}` printed", argv.join(" ")))
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
    anyhow::Error::new(error).context(format!("started {program}"))
}

/// The program is not on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotInstalled(pub String);

impl std::fmt::Display for NotInstalled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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

/// A program that ends early closes its end; its exit code tells why, so that is no error here.
fn feed(mut input: std::process::ChildStdin, bytes: &[u8]) {
    let _ = input.write_all(bytes);
}

fn gather(complaints: std::process::ChildStderr) -> String {
    let mut bytes = Vec::new();
    let mut complaints = complaints;
    let _ = complaints.by_ref().take(MAX_STDERR_BYTES).read_to_end(&mut bytes);
    // The rest is read and dropped, so that the program can end.
    let _ = std::io::copy(&mut complaints, &mut std::io::sink());
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

fn each_line(output: std::process::ChildStdout, line: &mut dyn FnMut(&str)) -> std::io::Result<()> {
    let mut reader = BufReader::with_capacity(64 * 1024, output);
    let mut text = String::new();
    loop {
        text.clear();
        if reader.read_line(&mut text)? == 0 {
            return Ok(());
        }
        line(text.trim_end_matches('\n'));
    }
}

fn check(argv: &[&str], status: ExitStatus, said: &str) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let said = if said.is_empty() { "it said nothing" } else { said };
    bail!("`{}` ended with {status}: {said}", argv.join(" "))
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
    fn an_error_has_the_command_line_and_what_it_said() {
        let error = run(&["ls", "/nowhere at all"], "").unwrap_err().to_string();
        assert!(
            error.starts_with("`ls /nowhere at all` ended with exit status: 2: ls: cannot access"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let error = run(&["iptables-nowhere-restore"], "").unwrap_err().to_string();
        assert_eq!(error, "iptables-nowhere-restore is not installed (package iptables)");
    }
}
