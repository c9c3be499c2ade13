//! The check behind invariant 1: `shield-agent/src/engine` does no I/O, reads no clock, and knows neither tokio nor aya.
//!
//! It reads the sources as tokens (proc-macro2), so that comments, documentation and strings may say anything, and
//! resolves `use` groups (`use std::{fs, net::TcpStream}`) into whole paths. It does not follow names through other
//! modules: a pure-looking helper elsewhere that does I/O is for the reviewer to see.

use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use anyhow::{Context as _, Result, anyhow, bail};
use proc_macro2::{Delimiter, Ident, Punct, Spacing, TokenStream, TokenTree};

/// Paths that must not begin a path in the engine, with the reason.
const FORBIDDEN_PREFIXES: &[(&str, &str)] = &[
    ("tokio", "the engine knows no runtime"),
    ("aya", "the engine knows no kernel"),
    ("aya_log", "the engine knows no kernel"),
    ("libc", "the engine makes no system calls"),
    ("nix", "the engine makes no system calls"),
    ("rusqlite", "the engine does no I/O; the store does"),
    ("std::fs", "the engine does no I/O"),
    ("std::io::stdin", "the engine does no I/O"),
    ("std::process", "the engine starts no processes"),
    ("std::os::unix::net", "the engine opens no sockets"),
    ("std::thread", "the engine is run by its owner, and runs nothing itself"),
    ("std::env", "the engine is told its settings"),
    ("fs", "the engine does no I/O"),
    ("process", "the engine starts no processes"),
];

/// Names that must not end a path anywhere in the engine, with the reason.
const FORBIDDEN_ENDINGS: &[(&str, &str)] = &[
    ("SystemTime::now", "time is an argument"),
    ("Instant::now", "time is an argument"),
    ("Timestamp::now", "time is an argument"),
    ("Zoned::now", "time is an argument"),
    ("TcpStream", "the engine opens no sockets"),
    ("TcpListener", "the engine opens no sockets"),
    ("UdpSocket", "the engine opens no sockets"),
    ("UnixStream", "the engine opens no sockets"),
    ("UnixListener", "the engine opens no sockets"),
    ("UnixDatagram", "the engine opens no sockets"),
    ("ToSocketAddrs", "the engine asks no resolver"),
];

/// Checks every Rust file under `folder`.
///
/// # Errors
/// When a file names what the engine must not know: each place with file, line and reason. Also when there is no Rust
/// file at all, because then the folder has moved and the check checks nothing.
pub fn check(folder: &Path) -> Result<()> {
    let files = rust_files(folder)?;
    if files.is_empty() {
        bail!("found no Rust file in {}: has the engine moved?", folder.display());
    }
    let mut found = Vec::new();
    for file in files {
        let source = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let impurities =
            impurities(&source).with_context(|| format!("read the tokens of {}", file.display()))?;
        found.extend(impurities.iter().map(|(line, what)| format!("{}:{line}: {what}", file.display())));
    }
    if found.is_empty() { Ok(()) } else { bail!("the engine is not pure:\n  {}", found.join("\n  ")) }
}

/// Line and explanation of everything in this source that the engine must not name.
fn impurities(source: &str) -> Result<Vec<(usize, String)>> {
    let tokens = TokenStream::from_str(source).map_err(|error| anyhow!("not Rust: {error}"))?;
    let mut paths = Vec::new();
    collect_paths(tokens, &[], &mut paths);
    Ok(paths.iter().filter_map(|path| Some((path.line, verdict(&path.segments)?))).collect())
}

fn verdict(segments: &[String]) -> Option<String> {
    let path = segments.join("::");
    let is_bare = segments.len() == 1;
    let prefix = FORBIDDEN_PREFIXES.iter().find(|(prefix, _)| {
        // A bare `process` or `fs` is somebody's variable or field; a crate or module is followed by something.
        !is_bare && (path == *prefix || path.starts_with(&format!("{prefix}::")))
    });
    let ending =
        FORBIDDEN_ENDINGS.iter().find(|(end, _)| path == *end || path.ends_with(&format!("::{end}")));
    prefix.or(ending).map(|(_, reason)| format!("`{path}`: {reason}"))
}

struct FoundPath {
    segments: Vec<String>,
    line: usize,
}

/// Every path in the tokens, `use` groups resolved. `prefix` is what stands before the group we are in.
fn collect_paths(tokens: TokenStream, prefix: &[String], found: &mut Vec<FoundPath>) {
    let mut path = OpenPath { segments: prefix.to_vec(), prefix: prefix.len(), line: 0, wants_more: true };
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(ident) => path.push(&ident, found),
            TokenTree::Punct(punct) if is_colon(&punct) && punct.spacing() == Spacing::Joint => {
                // The second colon of `::`; a single colon is a type annotation and ends a path.
                tokens.next();
                path.wants_more = true;
            }
            TokenTree::Group(group) if path.wants_more && group.delimiter() == Delimiter::Brace => {
                collect_paths(group.stream(), &path.segments, found);
                path.close_without_counting();
            }
            TokenTree::Group(group) => {
                path.close(found);
                collect_paths(group.stream(), &[], found);
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => path.close(found),
        }
    }
    path.close(found);
}

fn is_colon(punct: &Punct) -> bool {
    punct.as_char() == ':'
}

/// A path that is being read.
struct OpenPath {
    segments: Vec<String>,
    /// How many of the segments stood before the group.
    prefix: usize,
    line: usize,
    /// Whether the next identifier belongs to it: at its beginning and after `::`.
    wants_more: bool,
}

impl OpenPath {
    fn push(&mut self, ident: &Ident, found: &mut Vec<FoundPath>) {
        if !self.wants_more {
            self.close(found);
        }
        self.line = ident.span().start().line;
        self.segments.push(ident.to_string());
        self.wants_more = false;
    }

    fn close(&mut self, found: &mut Vec<FoundPath>) {
        if self.segments.len() > self.prefix {
            found.push(FoundPath { segments: self.segments.clone(), line: self.line });
        }
        self.close_without_counting();
    }

    fn close_without_counting(&mut self) {
        self.segments.truncate(self.prefix);
        self.wants_more = true;
    }
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = std::fs::read_dir(folder).with_context(|| format!("listed {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("listed {}", folder.display()))?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sh;

    #[test]
    fn the_engine_is_pure() {
        check(&sh::root_folder().join("shield-agent/src/engine")).unwrap();
    }

    #[test]
    fn each_forbidden_thing_is_caught() {
        let cases = [
            ("use tokio::sync::mpsc;", "tokio::sync::mpsc"),
            ("async fn f() { tokio::time::sleep(d).await; }", "tokio::time::sleep"),
            ("use {tokio::spawn, serde::Serialize};", "tokio::spawn"),
            ("use aya::maps::HashMap;", "aya::maps::HashMap"),
            ("fn f() -> Result<aya::Ebpf> { }", "aya::Ebpf"),
            ("use std::fs;", "std::fs"),
            ("use std::fs::File;", "std::fs::File"),
            ("use std::{collections::HashMap, fs, time::Duration};", "std::fs"),
            ("use std::{io, fs::{self, File}};", "std::fs::self"),
            ("fn f() { let x = vec![::std::fs::read(p)]; }", "std::fs::read"),
            ("fn f() { fs::write(p, b) }", "fs::write"),
            ("use std::net::TcpStream;", "std::net::TcpStream"),
            ("use std::net::{IpAddr, UdpSocket};", "std::net::UdpSocket"),
            ("fn f(s: TcpListener) {}", "TcpListener"),
            ("fn f(s: std::fs::File) {}", "std::fs::File"),
            ("use std::os::unix::net::UnixStream;", "std::os::unix::net::UnixStream"),
            ("use std::process::Command;", "std::process::Command"),
            ("fn f() { process::Command::new(x); }", "process::Command::new"),
            ("use std::{process::Command as C};", "std::process::Command"),
            ("fn f() { SystemTime::now() }", "SystemTime::now"),
            ("fn f() { std::time::SystemTime::now() }", "std::time::SystemTime::now"),
            ("fn f() { assert!(t < Instant::now()); }", "Instant::now"),
            ("fn f() { let now = std::time::Instant::now; }", "std::time::Instant::now"),
            ("fn f() { jiff::Timestamp::now() }", "jiff::Timestamp::now"),
        ];
        for (source, named) in cases {
            let found = impurities(source).unwrap();
            assert!(
                found.iter().any(|(_, what)| what.contains(&format!("`{named}`"))),
                "{source}: {found:?}"
            );
        }
    }

    #[test]
    fn words_in_comments_strings_and_other_names_are_fine() {
        let pure = r##"
            //! No tokio, aya, std::fs, TcpStream; never SystemTime::now().
            /* Instant::now() */
            /// See [`std::process::Command`].
            use std::net::IpAddr;
            use std::time::{Duration, SystemTime};
            use super::event::Command;
            fn f(command: Command, process: u32, fs: u8) -> &'static str {
                let now = process; // tokio::spawn
                match command { Command::Ban { .. } => "std::fs::read", _ => r#"Instant::now"# }
            }
            struct S { tokio: u8, fs: (u8, u8) }
            fn g(s: S) { s.fs; s.tokio; S { tokio: 1, fs: (1, 2) }; clock.now() }
        "##;
        assert_eq!(impurities(pure).unwrap(), vec![]);
    }

    #[test]
    fn the_place_is_named() {
        assert_eq!(impurities("\n\nuse std::fs;\n").unwrap()[0].0, 3);
    }

    #[test]
    fn an_empty_folder_is_an_error_because_then_nothing_is_checked() {
        let folder = sh::root_folder().join("shield-agent/tests-of-nothing");
        assert!(check(&folder).is_err());
    }
}
