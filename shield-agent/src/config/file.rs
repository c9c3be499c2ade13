//! The configuration's file: read whole or not at all, and read again by a reload under the same command line.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::OFlag;

use super::{Config, DEFAULT_PATH};

/// The longest file read. Some 100,000 networks fit in it.
const MOST_BYTES: u64 = 4 << 20;

/// Attempts to read a file that changes meanwhile.
const ATTEMPTS: usize = 3;

/// Where the configuration comes from: the file, and what the command line puts in its place.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin {
    /// `--config`.
    pub named: Option<PathBuf>,
    /// `--log`.
    pub log: Option<PathBuf>,
    /// `--from-start`.
    pub from_start: bool,
}

impl Origin {
    /// Reads the configuration at the start.
    ///
    /// # Errors
    /// When the file cannot be read or is invalid; the message names the file, line, column and key, and what is accepted.
    pub(crate) fn load(&self) -> Result<Config> {
        let config = Config::load(self.named.as_deref())?;
        Ok(self.with_command_line(config))
    }

    /// Reads it again for an agent that runs with `in_force`.
    ///
    /// # Errors
    /// As of [`Origin::load`]; also when the file is gone, or empty, which it was not before.
    pub(crate) fn load_again(&self, in_force: &Config) -> Result<Config> {
        let path = self.path();
        let text = match read(path, Reading::Again) {
            Ok(text) => text,
            Err(error) if self.named.is_none() && in_force.file.is_none() && is_missing(&error) => {
                return Ok(self.with_command_line(Config::parse("")?));
            }
            Err(error) if is_missing(&error) => {
                bail!("could not find the configuration {}: put it back", path.display())
            }
            Err(error) => return Err(error),
        };
        if text.is_empty() && in_force.file.is_some() {
            bail!(
                "could not use {}: it is empty; to go back to the defaults, write a line such as `# defaults` into it",
                path.display()
            );
        }
        let config = Config::parse(&text).with_context(|| format!("could not use {}", path.display()))?;
        Ok(self.with_command_line(Config { file: Some(path.to_owned()), ..config }))
    }

    /// The file that is read.
    pub(crate) fn path(&self) -> &Path {
        self.named.as_deref().unwrap_or(Path::new(DEFAULT_PATH))
    }

    fn with_command_line(&self, config: Config) -> Config {
        let config = match &self.log {
            Some(log) => config.with_log(log.clone()),
            None => config,
        };
        if self.from_start { config.reading_from_start() } else { config }
    }
}

pub(super) fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// From whatever was named, also a pipe: it has its content once.
    First,
    /// From a file: opening a pipe that nobody writes to would wait for ever.
    Again,
}

/// Reads the file.
///
/// # Errors
/// When it cannot be read, is no file, is too long, is no text, or changes while it is read.
pub(super) fn read(path: &Path, reading: Reading) -> Result<String> {
    for _ in 0..ATTEMPTS {
        if let Some(bytes) = read_once(path, reading)? {
            return text(path, bytes);
        }
    }
    bail!(
        "could not read the configuration {}: it changed each time while it was read; write it under another name and \
         rename that, then try again",
        path.display()
    )
}

/// Returns `None` when the file changed meanwhile.
fn read_once(path: &Path, reading: Reading) -> Result<Option<Vec<u8>>> {
    let could_not = || format!("could not read the configuration {}", path.display());
    let mut options = File::options();
    options.read(true);
    if reading == Reading::Again {
        options.custom_flags(OFlag::O_NONBLOCK.bits());
    }
    let mut file = options.open(path).with_context(could_not)?;
    let before = file.metadata().with_context(could_not)?;
    let kind = before.file_type();
    let is_once_only = kind.is_fifo() || kind.is_socket();
    if kind.is_dir() || (is_once_only && reading == Reading::Again) {
        let found = if kind.is_dir() { "a directory" } else { "a pipe, which has its content only once" };
        bail!("{}: it is {found}; write a file there", could_not());
    }
    let mut bytes = Vec::new();
    (&mut file).take(MOST_BYTES + 1).read_to_end(&mut bytes).with_context(could_not)?;
    if bytes.len() as u64 > MOST_BYTES {
        bail!("{}: it is longer than {}; is it the right file?", could_not(), crate::text::bytes(MOST_BYTES));
    }
    let after = file.metadata().with_context(could_not)?;
    let is_whole = !kind.is_file() || (same(&before, &after) && bytes.len() as u64 == after.len());
    Ok(is_whole.then_some(bytes))
}

fn same(before: &Metadata, after: &Metadata) -> bool {
    let version = |meta: &Metadata| (meta.len(), meta.mtime(), meta.mtime_nsec());
    version(before) == version(after)
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count() + 1;
        anyhow::anyhow!("could not use {}: line {line} is no UTF-8 text", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(path: &Path, in_force: &Config) -> Result<Config> {
        let origin = Origin { named: Some(path.to_owned()), ..Origin::default() };
        origin.load_again(in_force)
    }

    #[test]
    fn what_is_no_configuration_any_more_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shield.toml");
        std::fs::write(&path, "[ban]\nmax_bans = 5\n").unwrap();
        let in_force = Config::load(Some(&path)).unwrap();
        assert_eq!(again(&path, &in_force).unwrap().engine.max_bans, 5);
        let check = |expected: &str| {
            let message = format!("{:#}", again(&path, &in_force).unwrap_err());
            assert!(message.contains(expected) && message.contains("shield.toml"), "{message}");
        };
        std::fs::write(&path, "").unwrap();
        check("it is empty");
        std::fs::write(&path, "[ban]\nmax_bnas = 5\nmax_share = 7\n").unwrap();
        check("2 mistakes");
        std::fs::write(&path, b"# \xff\n").unwrap();
        check("line 1 is no UTF-8 text");
        std::fs::write(&path, vec![b'#'; 10 << 20]).unwrap();
        check("longer than 4.0 MiB");
        std::fs::remove_file(&path).unwrap();
        check("could not find");
        std::fs::create_dir(&path).unwrap();
        check("it is a directory");
        std::fs::remove_dir(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        check("it is a pipe");
    }

    /// A writer that never stops: what is read is a version that was there, or an error; never a mixture of two.
    #[test]
    fn a_file_is_never_read_half() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shield.toml");
        let version = |n: usize| format!("[ban]\nmax_bans = {n}\n{}[page]\n", "# filler\n".repeat(n % 3_000));
        std::fs::write(&path, version(1)).unwrap();
        let (written, stop) = (path.clone(), std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
        let stopped = std::sync::Arc::clone(&stop);
        let writer = std::thread::spawn(move || {
            let mut n = 1;
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                n += 997;
                std::fs::write(&written, version(n)).unwrap();
            }
        });
        for _ in 0..300 {
            if let Ok(text) = read(&path, Reading::Again)
                && !text.is_empty()
            {
                let n = text.lines().nth(1).and_then(|line| line.strip_prefix("max_bans = "));
                assert_eq!(text, version(n.unwrap().parse().unwrap()));
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        writer.join().unwrap();
    }
}
