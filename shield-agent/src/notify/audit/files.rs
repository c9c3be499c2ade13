//! The log's files: the one being written and those that were rotated away, compressed or not, in the order they were
//! written.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use super::chain::{self, Head};

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Bytes of the end of a rotated file that are searched for its last whole line.
const TAIL_KEPT_BYTES: usize = 1 << 20;

/// The log at `path` and its rotated files (`PATH.1`, `PATH.2.gz`, `PATH-20260511.gz`…), oldest first by their first
/// line's number; files without a readable line come last. The one at `path` is among them when it is there.
pub(crate) fn family(path: &Path) -> Result<Vec<PathBuf>> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let entries = std::fs::read_dir(dir).with_context(|| format!("could not list {}", dir.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("could not list {}", dir.display()))?;
        if entry.file_name().to_str().is_some_and(|other| is_rotated(&name, other)) {
            found.push(entry.path());
        }
    }
    Ok(in_order(found))
}

/// These files in the order they were written. A file whose first line cannot be read comes last.
pub(crate) fn in_order(paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let key = |path: PathBuf| (first_seq(&path).ok().flatten().unwrap_or(u64::MAX), path);
    let mut keyed: Vec<_> = paths.into_iter().map(key).collect();
    keyed.sort();
    keyed.into_iter().map(|(_, path)| path).collect()
}

/// A rotated file that could be read in part or not at all.
#[derive(Debug)]
pub(super) struct Damage {
    pub file: String,
    pub because: String,
}

/// The chain's head at the end of the rotated files: a log that begins a new file continues from it.
///
/// A damaged file is no reason to stop recording: the chain continues from the newest line that can be read, and the
/// damage is returned so that it goes on record.
pub(super) fn newest_head(path: &Path) -> Result<(Option<Head>, Vec<Damage>)> {
    let mut damages = Vec::new();
    for path in family(path)?.iter().rev() {
        let mut tail = Vec::new();
        let read = for_each_line(path, |_, line| {
            if tail.len() > TAIL_KEPT_BYTES {
                tail.drain(..TAIL_KEPT_BYTES / 2);
            }
            tail.extend_from_slice(line);
            tail.push(b'\n');
            Ok(())
        });
        if let Err(error) = read {
            let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
            damages.push(Damage { file, because: format!("{error:#}") });
        }
        if let (Some(head), _) = chain::end_of(&tail) {
            return Ok((Some(head), damages));
        }
    }
    Ok((None, damages))
}

/// The longest line that is read. The agent writes none near it, and a packed file of a few kilobytes can hold one of gigabytes.
const MAX_LINE_BYTES: u64 = 4 << 20;

/// Calls `each` with every line of a file, without its newline, and its number from 1. Of a line that is too long the
/// beginning counts, so that it is found to be none of the log's.
pub(crate) fn for_each_line(path: &Path, mut each: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
    let mut reader = reader(path)?;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = read_line(&mut *reader, &mut line)
            .with_context(|| format!("could not read {}", path.display()))?;
        if read == 0 {
            break;
        }
        each(number, line.strip_suffix(b"\n").unwrap_or(&line))?;
    }
    Ok(())
}

fn read_line(mut reader: &mut dyn BufRead, line: &mut Vec<u8>) -> std::io::Result<usize> {
    let read = (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', line)?;
    if read as u64 == MAX_LINE_BYTES && line.last() != Some(&b'\n') {
        reader.skip_until(b'\n')?;
    }
    Ok(read)
}

fn is_rotated(name: &str, other: &str) -> bool {
    let Some(suffix) = other.strip_prefix(name) else { return false };
    let suffix = suffix.strip_suffix(".gz").unwrap_or(suffix);
    let mut rest = suffix.chars();
    match rest.next() {
        None => true,
        Some('.' | '-') => !rest.as_str().is_empty() && rest.all(|c| c.is_ascii_digit() || c == '-'),
        Some(_) => false,
    }
}

fn reader(path: &Path) -> Result<Box<dyn BufRead>> {
    let open = || File::open(path).with_context(|| format!("could not open {}", path.display()));
    let mut magic = [0; 2];
    let is_gzip = open()?.read_exact(&mut magic).is_ok() && magic == GZIP_MAGIC;
    let file = open()?;
    Ok(if is_gzip {
        Box::new(BufReader::new(MultiGzDecoder::new(file)))
    } else {
        Box::new(BufReader::new(file))
    })
}

fn first_seq(path: &Path) -> Result<Option<u64>> {
    #[derive(Deserialize)]
    struct Numbered {
        seq: u64,
    }
    let mut reader = reader(path)?;
    let mut line = Vec::new();
    read_line(&mut *reader, &mut line).with_context(|| format!("could not read {}", path.display()))?;
    Ok(serde_json::from_slice::<Numbered>(&line).ok().map(|line| line.seq))
}
