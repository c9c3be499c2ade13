//! Opens what is to be replayed: files, plain or packed with gzip or zstd, told by their first bytes; `-` is standard
//! input. Hands out batches of lines.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, stdin};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};

use shield_engine::request::{Batch, Rejected};
use shield_logline::{Output, Parser, Settings};

/// Bytes read at a time.
const BLOCK_BYTES: usize = 1 << 20;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// One thing to replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

impl Input {
    /// What the command line names: `-` is standard input.
    pub fn of(name: &Path) -> Input {
        if name.as_os_str() == "-" { Input::Stdin } else { Input::File(name.to_owned()) }
    }

    /// Its size in bytes as it lies there, where that is known.
    pub fn len_bytes(&self) -> Option<u64> {
        match self {
            Input::File(path) => path.metadata().ok().filter(|m| m.is_file()).map(|m| m.len()),
            Input::Stdin => None,
        }
    }

    fn name(&self) -> String {
        match self {
            Input::File(path) => path.display().to_string(),
            Input::Stdin => "standard input".to_owned(),
        }
    }

    fn open(&self) -> Result<Box<dyn Read>> {
        match self {
            Input::Stdin => Ok(Box::new(stdin().lock())),
            Input::File(path) => {
                let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
                if file.metadata().is_ok_and(|m| m.is_dir()) {
                    bail!("{} is a directory: name the log files in it, oldest first", path.display());
                }
                Ok(Box::new(file))
            }
        }
    }

    /// Reads it all, a batch at a time. `read_bytes` follows how far it is, in bytes as they lie there.
    ///
    /// # Errors
    /// When it cannot be opened, read or unpacked, when `each` fails, and when not one of its lines is a log line.
    pub fn batches(
        &self,
        settings: &Settings,
        read_bytes: &Arc<AtomicU64>,
        each: &mut dyn FnMut(&mut Batch) -> Result<()>,
    ) -> Result<()> {
        let counted = Counted { inner: self.open()?, read: Arc::clone(read_bytes) };
        let mut reader = unpacked(counted).with_context(|| format!("cannot read {}", self.name()))?;
        let mut tally = Tally::default();
        let mut parser = Parser::new(settings);
        let mut rest = Vec::new();
        loop {
            let mut block = std::mem::take(&mut rest);
            let at_end = fill(&mut *reader, &mut block)
                .with_context(|| format!("cannot read {} (cut off, or damaged?)", self.name()))?;
            if at_end && !block.is_empty() && block.last() != Some(&b'\n') {
                block.push(b'\n');
            }
            let mut output = Output::default();
            let end = block.len();
            let upto = parser.parse_block(&mut block, 0, end, &mut output);
            rest.extend_from_slice(&block[upto..end]);
            tally.add(&output, &block);
            let mut batch =
                Batch { bytes: block, lines: output.lines, rejected: output.rejected, ..Batch::default() };
            each(&mut batch)?;
            if at_end {
                return tally.check(&self.name());
            }
        }
    }
}

/// Reads on until `block` has grown by [`BLOCK_BYTES`]; says whether that was the end.
fn fill(reader: &mut dyn Read, block: &mut Vec<u8>) -> std::io::Result<bool> {
    let read = reader.take(BLOCK_BYTES as u64).read_to_end(block)?;
    Ok(read < BLOCK_BYTES)
}

fn unpacked(counted: Counted) -> std::io::Result<Box<dyn Read>> {
    let mut buffered = BufReader::with_capacity(BLOCK_BYTES, counted);
    let start = buffered.fill_buf()?;
    if start.starts_with(&GZIP_MAGIC) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(buffered)));
    }
    if start.starts_with(&ZSTD_MAGIC) {
        return Ok(Box::new(zstd::Decoder::with_buffer(buffered)?));
    }
    Ok(Box::new(buffered))
}

/// Counts the bytes that were read, for a progress bar.
struct Counted {
    inner: Box<dyn Read>,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(into)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Whether a file is a log at all.
#[derive(Default)]
struct Tally {
    lines: u64,
    refused: u64,
    first: Option<String>,
}

impl Tally {
    fn add(&mut self, output: &Output, block: &[u8]) {
        self.lines += output.lines.len() as u64;
        let refused = output.rejected.iter().sum::<u64>() - output.rejected[Rejected::Empty.index()];
        self.refused += refused;
        if self.first.is_none() {
            let line = block.split(|b| *b == b'\n').find(|line| !line.trim_ascii().is_empty());
            self.first = line.map(|line| String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned());
        }
    }

    fn check(&self, name: &str) -> Result<()> {
        if self.lines == 0 && self.refused > 0 {
            let first = self.first.clone().unwrap_or_default();
            bail!(
                "none of the {} lines of {name} is an access-log line (the first begins {first:?}): expected one JSON \
                 object a line with source_ip, timestamp, method, path and status, or nginx's combined format; other \
                 field names are set in [[source]] of the configuration",
                self.refused
            );
        }
        Ok(())
    }
}
