//! Reads logs to be replayed in batches of lines: files, plain or compressed with gzip or zstd (recognised by their first
//! bytes), or standard input.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, stdin};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};

use shield_engine::request::{Batch, Rejected};
use shield_logline::{Output, Parser, Settings};

const BLOCK_BYTES: usize = 1 << 20;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// One log to replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    File(PathBuf),
    Stdin,
}

impl Input {
    /// The input that a command line names: `-` is standard input.
    pub fn of(name: &Path) -> Input {
        if name.as_os_str() == "-" { Input::Stdin } else { Input::File(name.to_owned()) }
    }

    /// The file's size in bytes, compressed or not; `None` for a stream.
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
                let file = File::open(path).with_context(|| format!("could not open {}", path.display()))?;
                if file.metadata().is_ok_and(|m| m.is_dir()) {
                    bail!("{} is a directory: name the log files in it, oldest first", path.display());
                }
                Ok(Box::new(file))
            }
        }
    }

    /// Reads the log to its end, one batch at a time. `read_bytes` counts the file's bytes, for a progress bar.
    ///
    /// # Errors
    /// When it cannot be opened, read or decompressed, when `each` fails, or when none of its lines is a log line.
    pub fn batches(
        &self,
        settings: &Settings,
        read_bytes: &Arc<AtomicU64>,
        each: &mut dyn FnMut(&mut Batch) -> Result<()>,
    ) -> Result<()> {
        let counted = Counted { inner: self.open()?, read: Arc::clone(read_bytes) };
        let mut reader = unpacked(counted).with_context(|| format!("could not read {}", self.name()))?;
        let mut tally = Tally::default();
        let mut parser = Parser::new(settings);
        let mut rest = Vec::new();
        loop {
            let mut block = std::mem::take(&mut rest);
            let at_end = fill(&mut *reader, &mut block).with_context(|| {
                format!("could not read {} to its end; it may be truncated or damaged", self.name())
            })?;
            if at_end && !block.is_empty() && block.last() != Some(&b'\n') {
                block.push(b'\n');
            }
            let mut output = Output::default();
            let end = block.len();
            let upto = parser.parse_block(&mut block, 0, end, &mut output);
            if at_end && upto < end {
                // A line in parts, as containers have it, whose last one is missing.
                parser.parse_single(&mut block, upto, end, &mut output);
            } else {
                rest.extend_from_slice(&block[upto..end]);
            }
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

/// Reads until `block` has grown by [`BLOCK_BYTES`]; returns true at the end of the input.
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

/// Counts the bytes read.
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

/// Counts lines, to recognise a file that is not a log.
#[derive(Default)]
struct Tally {
    lines: u64,
    rejected: u64,
    first: Option<String>,
}

impl Tally {
    fn add(&mut self, output: &Output, block: &[u8]) {
        self.lines += output.lines.len() as u64;
        let rejected = output.rejected.iter().sum::<u64>() - output.rejected[Rejected::Empty.index()];
        self.rejected += rejected;
        if self.first.is_none() {
            let line = block.split(|b| *b == b'\n').find(|line| !line.trim_ascii().is_empty());
            self.first = line.map(|line| String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned());
        }
    }

    fn check(&self, name: &str) -> Result<()> {
        if self.lines == 0 && self.rejected > 0 {
            let first = self.first.clone().unwrap_or_default();
            bail!(
                "none of the {} lines of {name} is an access-log line (the first begins {first:?}): expected one JSON \
                 object a line with source_ip, timestamp, method, path and status, or nginx's combined format; other \
                 field names are set in [[source]] of the configuration",
                self.rejected
            );
        }
        Ok(())
    }
}
