//! Reads logs to be replayed in batches of lines: files, plain or packed (gzip, bzip2, xz, zstd, recognised by their first bytes),
//! or standard input.
//!
//! [`read_beside`] reads on while what was read before is judged. [`arrange`] puts several logs in the order of their lines, and one log that is named twice is read once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, ErrorKind, Read, stdin};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;

use anyhow::{Context, Result, anyhow, bail};

use crate::beat::panic_text;
use crate::source::FileId;
use crate::source::unpack::Packing;
use crate::text::access as text;
use shield_engine::PathReader;
use shield_engine::request::{Batch, Rejected};
use shield_engine::time::EventSecs;
use shield_logline::{Output, Parser, Settings};

const BLOCK_BYTES: usize = 1 << 20;

/// Lines whose times tell when a log begins. The median of some, because a single line can bear any date.
const FIRST_LINES: usize = 101;

/// Bytes of text searched for them.
const FIRST_BYTES: u64 = 256 * 1024;

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

    /// Returns whether it can be read only once, such as `<(zcat …)`.
    pub(crate) fn is_stream(&self) -> bool {
        match self {
            Input::File(path) => path.metadata().is_ok_and(|meta| !meta.is_file() && !meta.is_dir()),
            Input::Stdin => true,
        }
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Input::File(path) => path.display().to_string(),
            Input::Stdin => "standard input".to_owned(),
        }
    }

    fn open(&self) -> Result<Box<dyn Read + Send>> {
        match self {
            Input::Stdin => Ok(Box::new(stdin())),
            Input::File(path) => {
                let file = File::open(path).with_context(|| format!("could not open {}", path.display()))?;
                if file.metadata().is_ok_and(|m| m.is_dir()) {
                    bail!("{} is a directory: name the log files in it", path.display());
                }
                Ok(Box::new(file))
            }
        }
    }

    /// Returns the median time of the log's first lines; `None` of a stream, and of a file that has none or cannot be read,
    /// which is reported when its turn comes.
    fn first_time(&self, settings: &Settings) -> Option<EventSecs> {
        let Input::File(path) = self else { return None };
        let file = File::open(path).ok().filter(|file| file.metadata().is_ok_and(|meta| meta.is_file()))?;
        let mut block = Vec::new();
        // A damaged file has first lines too.
        let _ = unpacked(Box::new(file)).ok()?.take(FIRST_BYTES).read_to_end(&mut block);
        let mut output = Output::default();
        let end = block.len();
        Parser::new(settings).parse_block(&mut block, 0, end, &mut output);
        let mut times: Vec<EventSecs> = output.lines.iter().take(FIRST_LINES).map(|line| line.time).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }

    /// Reads the log to its end, one batch at a time. `read_bytes` counts the file's bytes, for a progress bar.
    ///
    /// Of a damaged file what can be read is read; returns a sentence about the rest.
    ///
    /// # Errors
    /// When it cannot be opened or read at all, when `each` fails, or when none of its lines is a log line.
    pub(crate) fn read(
        &self,
        settings: &Settings,
        read_bytes: &Arc<AtomicU64>,
        each: &mut dyn FnMut(&mut Batch) -> Result<()>,
    ) -> Result<Option<String>> {
        let counted = Counted { inner: self.open()?, read: Arc::clone(read_bytes) };
        let mut reader =
            unpacked(Box::new(counted)).with_context(|| format!("could not read {}", self.name()))?;
        let mut tally = Tally::default();
        let mut parser = Parser::new(settings);
        let (mut rest, mut skipping, mut text_bytes) = (Vec::new(), false, 0_u64);
        loop {
            let mut block = std::mem::take(&mut rest);
            let before = block.len();
            let filled = fill(&mut *reader, &mut block);
            text_bytes += (block.len() - before) as u64;
            let is_last = !matches!(filled, Ok(false));
            if is_last && !block.is_empty() && block.last() != Some(&b'\n') {
                block.push(b'\n');
            }
            let mut output = Output::default();
            let end = block.len();
            let from = if skipping { memchr::memchr(b'\n', &block).map_or(end, |at| at + 1) } else { 0 };
            skipping &= from == end && block.last() != Some(&b'\n');
            let upto = parser.parse_block(&mut block, from, end, &mut output);
            // A line without an end is not kept: a packed file of a few kilobytes can hold one of gigabytes.
            if is_last && upto < end {
                // A line in parts, as containers have it, whose last one is missing.
                parser.parse_single(&mut block, upto, end, &mut output);
            } else if end - upto > settings.max_line_bytes {
                skipping = true;
                output.reject(Rejected::TooLong);
            } else {
                rest.extend_from_slice(&block[upto..end]);
            }
            tally.add(&output, &block);
            let mut batch =
                Batch { bytes: block, lines: output.lines, rejected: output.rejected, ..Batch::default() };
            each(&mut batch)?;
            if !is_last {
                continue;
            }
            let damage = filled
                .err()
                .map(|error| text::damaged(Path::new(&self.name()), &error.to_string(), text_bytes));
            if let Some(damage) = damage.as_ref().filter(|_| tally.lines == 0) {
                bail!("could not read any line: {damage}");
            }
            tally.check(&self.name())?;
            return Ok(damage);
        }
    }
}

/// Reads logs, each in its format, one after the other on a thread of its own, beside what is done with their batches: `each`
/// takes them in order. `damaged` is told of what could not be read of a log, in its place between the batches.
///
/// # Errors
/// As [`Input::read`]; what was read before has been taken. The first error of `each` ends the reading.
pub fn read_beside(
    inputs: Vec<(Input, Settings)>,
    read_bytes: &Arc<AtomicU64>,
    mut paths: PathReader,
    mut each: impl FnMut(&mut Batch) -> Result<()>,
    mut damaged: impl FnMut(String),
) -> Result<()> {
    let (sender, pieces) = sync_channel(BATCHES_AHEAD);
    let read_bytes = Arc::clone(read_bytes);
    let read_all = move || {
        for (input, format) in inputs {
            let read = input.read(&format, &read_bytes, &mut |batch| {
                paths.read(batch);
                sender
                    .send(Piece::Batch(Box::new(std::mem::take(batch))))
                    .map_err(|_| anyhow!("could not hand on what was read: nobody takes it"))
            });
            let is_over = read.is_err();
            if sender.send(Piece::End(read)).is_err() || is_over {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("read-logs".to_owned());
    let reading = thread.spawn(read_all).context("could not start the thread that reads the logs")?;
    // An error drops the receiver, which ends the reading. That is not waited for: it may wait for a pipe.
    for piece in pieces {
        match piece {
            Piece::Batch(mut batch) => each(&mut batch)?,
            Piece::End(read) => read?.into_iter().for_each(&mut damaged),
        }
    }
    reading.join().map_err(|panic| anyhow!("could not read on: {}", panic_text(&*panic)))
}

/// What the thread of [`read_beside`] hands over.
enum Piece {
    Batch(Box<Batch>),
    /// The end of a log.
    End(Result<Option<String>>),
}

/// Batches that are read before they are wanted, of some megabytes each.
const BATCHES_AHEAD: usize = 2;

#[cfg(any(test, feature = "test-support"))]
impl Input {
    /// As `read`, with damage as an error.
    ///
    /// # Errors
    /// As `read`, and when the file is damaged.
    pub fn batches(
        &self,
        settings: &Settings,
        read_bytes: &Arc<AtomicU64>,
        each: &mut dyn FnMut(&mut Batch) -> Result<()>,
    ) -> Result<()> {
        match self.read(settings, read_bytes, each)? {
            Some(damage) => bail!(damage),
            None => Ok(()),
        }
    }
}

/// Logs in the order to read them in.
#[derive(Debug)]
pub(crate) struct Arranged {
    pub inputs: Vec<Input>,
    /// What was done, in sentences for people.
    pub notes: Vec<String>,
}

/// Takes out files that are named twice, by whatever names, and sorts the rest by the times of their first lines: a shell lists
/// `access.log access.log.1 access.log.2.gz`, the newest first.
///
/// # Errors
/// When standard input is named twice.
pub(crate) fn arrange(inputs: Vec<Input>, settings: &Settings) -> Result<Arranged> {
    let mut seen: BTreeMap<FileId, String> = BTreeMap::new();
    let (mut once, mut notes) = (Vec::new(), Vec::new());
    for input in inputs {
        if input == Input::Stdin && once.contains(&Input::Stdin) {
            bail!("standard input is named twice, and can be read only once");
        }
        let id = match &input {
            Input::File(path) => path.metadata().ok().map(|meta| FileId::of(&meta)),
            Input::Stdin => None,
        };
        match id.and_then(|id| seen.get(&id)) {
            Some(first) => notes.push(text::twin(Path::new(&input.name()), Path::new(first))),
            None => {
                id.and_then(|id| seen.insert(id, input.name()));
                once.push(input);
            }
        }
    }
    let times: Vec<Option<EventSecs>> = once.iter().map(|input| input.first_time(settings)).collect();
    // A log without any time comes last, where its lines can move no clock before the others are read.
    let key = |time: &Option<EventSecs>| (time.is_none(), *time);
    // A stream has its place by where it was named, and so has whatever is named beside it.
    if once.iter().any(Input::is_stream) || times.is_sorted_by_key(key) {
        return Ok(Arranged { inputs: once, notes });
    }
    let mut timed: Vec<(Option<EventSecs>, Input)> = times.into_iter().zip(once).collect();
    timed.sort_by_key(|(time, _)| key(time));
    let names = |timed: &[(Option<EventSecs>, Input)]| -> String {
        timed.iter().map(|(_, input)| input.name()).collect::<Vec<_>>().join(", ")
    };
    let (with, without) = timed.split_at(timed.partition_point(|(time, _)| time.is_some()));
    notes.push(format!("read in the order of their first lines: {}", names(with)));
    if !without.is_empty() {
        notes.push(format!("read last, because no time is found in their first lines: {}", names(without)));
    }
    Ok(Arranged { inputs: timed.into_iter().map(|(_, input)| input).collect(), notes })
}

/// Reads until `block` has grown by [`BLOCK_BYTES`]; returns true at the end of the input. After an error the block holds what
/// preceded it.
fn fill(reader: &mut dyn Read, block: &mut Vec<u8>) -> std::io::Result<bool> {
    block.reserve(BLOCK_BYTES);
    let read = reader.take(BLOCK_BYTES as u64).read_to_end(block)?;
    Ok(read < BLOCK_BYTES)
}

fn unpacked(packed: Box<dyn Read + Send>) -> std::io::Result<Box<dyn Read + Send>> {
    let mut buffered = BufReader::with_capacity(BLOCK_BYTES, packed);
    let start = loop {
        match buffered.fill_buf() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            start => break start?,
        }
    };
    match Packing::of_start(start) {
        Some(packing) => packing.unpack(buffered),
        // Into the blocks, without a buffer between.
        None => Ok(Box::new(Cursor::new(buffered.buffer().to_vec()).chain(buffered.into_inner()))),
    }
}

/// Counts the bytes read.
struct Counted {
    inner: Box<dyn Read + Send>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::unpack::pack;

    fn line(second: u32) -> String {
        format!(
            "192.0.2.7 - - [05/Jan/2026:08:{:02}:{:02} +0000] \"GET / HTTP/1.1\" 200 1 \"-\" \"-\"\n",
            second / 60,
            second % 60
        )
    }

    fn lines(seconds: std::ops::Range<u32>) -> String {
        seconds.map(line).collect()
    }

    fn read(path: &Path) -> (usize, u64, Option<String>) {
        let (mut count, mut refused) = (0, 0);
        let read_bytes = Arc::new(AtomicU64::new(0));
        let damage = Input::of(path).read(&Settings::default(), &read_bytes, &mut |batch| {
            count += batch.lines.len();
            refused += batch.rejected.iter().sum::<u64>();
            Ok(())
        });
        (count, refused, damage.unwrap())
    }

    /// History: `replay access.log*` read the newest file first, and every ban of the older ones was missed; a link beside its
    /// target doubled every request.
    #[test]
    fn logs_are_read_once_and_in_the_order_of_their_lines() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let odd = line(59).replace("2026", "2031");
        let newest = write("access.log", format!("{odd}{}", lines(40..50)).as_bytes());
        let middle = write("access.log.1", lines(20..40).as_bytes());
        let oldest = write("access.log.2.xz", &pack(Packing::Xz, lines(0..20).as_bytes()));
        let empty = write("access.log.3", b"");
        let undated = write("error.log", b"no time here\n");
        let (link, hard) = (folder.path().join("link.log"), folder.path().join("hard.log"));
        std::os::unix::fs::symlink(&newest, &link).unwrap();
        std::fs::hard_link(&middle, &hard).unwrap();
        let named =
            [&undated, &newest, &middle, &oldest, &empty, &link, &hard, &newest].map(|path| Input::of(path));
        let arranged = arrange(named.to_vec(), &Settings::default()).unwrap();
        assert_eq!(
            arranged.inputs,
            [&oldest, &middle, &newest, &undated, &empty].map(|path| Input::of(path))
        );
        assert_eq!(arranged.notes.len(), 5, "three names of one file, and the order: {:?}", arranged.notes);
        let last = format!("in their first lines: {}, {}", undated.display(), empty.display());
        assert!(arranged.notes[4].ends_with(&last), "{:?}", arranged.notes);
        let piped = vec![Input::of(&newest), Input::Stdin, Input::of(&oldest)];
        assert_eq!(
            arrange(piped.clone(), &Settings::default()).unwrap().inputs,
            piped,
            "a stream keeps its place"
        );
        assert!(arrange(vec![Input::Stdin, Input::Stdin], &Settings::default()).is_err());
    }

    /// History: a packed file of 2 MB that unpacks to one line of 2 GB was read in quadratic time, all of it in memory.
    #[test]
    fn a_line_without_an_end_is_refused_once_and_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bomb.log.gz");
        let text = format!("{}{}\n{}", lines(0..3), "x".repeat(40 << 20), lines(3..5));
        std::fs::write(&path, pack(Packing::Gzip, text.as_bytes())).unwrap();
        let mut longest = 0;
        let (mut count, mut refused) = (0, 0);
        let read_bytes = Arc::new(AtomicU64::new(0));
        let each = &mut |batch: &mut Batch| {
            longest = longest.max(batch.bytes.len());
            count += batch.lines.len();
            refused += batch.rejected[Rejected::TooLong.index()];
            Ok(())
        };
        Input::of(&path).read(&Settings::default(), &read_bytes, each).unwrap();
        assert_eq!((count, refused), (5, 1));
        assert!(longest < 3 * BLOCK_BYTES, "{longest} bytes at once");
    }

    /// As `replay` reads: what comes, in its order.
    fn beside(paths: &[&Path], refuse_from: usize) -> (Vec<String>, Option<String>) {
        let engine = shield_engine::Engine::new(
            shield_engine::settings::Settings::default(),
            shield_engine::policy::Policy::default(),
            shield_engine::allowlist::Allowlist::default(),
            1,
            7,
        );
        let seen = std::cell::RefCell::new(Vec::new());
        let inputs = paths.iter().map(|path| (Input::of(path), Settings::default())).collect();
        let each = |batch: &mut Batch| {
            let first = batch.lines.first().map_or(0, |line| line.time % 1_000);
            seen.borrow_mut().push(format!("{} lines from {first}", batch.lines.len()));
            if seen.borrow().len() > refuse_from { bail!("enough") } else { Ok(()) }
        };
        let damaged =
            |damage: String| seen.borrow_mut().push(format!("damage: {}", damage.contains("is damaged")));
        let read_bytes = Arc::new(AtomicU64::new(0));
        let read = read_beside(inputs, &read_bytes, engine.path_reader(), each, damaged);
        (seen.into_inner(), read.err().map(|error| error.to_string()))
    }

    #[test]
    fn logs_read_beside_come_in_order_with_their_damage_between_and_end_at_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let first = write("first.log", lines(0..20).as_bytes());
        let packed = pack(Packing::Gzip, lines(100..3_000).as_bytes());
        let damaged = write("damaged.log.gz", &packed[..packed.len() - 10]);
        let last = write("last.log", lines(3_100..3_103).as_bytes());
        let (seen, error) = beside(&[&first, &damaged, &last], 99);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(
            (seen[0].as_str(), seen.last().map(String::as_str)),
            ("20 lines from 0", Some("3 lines from 100"))
        );
        assert_eq!(seen.iter().position(|seen| seen == "damage: true"), Some(seen.len() - 2), "{seen:?}");
        let absent = folder.path().join("absent.log");
        let (seen, error) = beside(&[&first, &absent, &last], 99);
        assert_eq!(seen, ["20 lines from 0"], "what came before the error was taken, and nothing behind it");
        assert!(error.unwrap().contains("could not open"));
        let (seen, error) = beside(&[&first, &last], 0);
        assert_eq!((seen.len(), error.as_deref()), (1, Some("enough")));
    }

    #[test]
    fn of_a_damaged_file_the_whole_lines_are_read_and_the_rest_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log.gz");
        let whole = pack(Packing::Gzip, lines(0..3000).as_bytes());
        std::fs::write(&path, &whole[..whole.len() - 10]).unwrap();
        let (count, _, damage) = read(&path);
        assert!(count > 1000, "{count}");
        assert!(damage.unwrap().contains("is damaged after"));
        std::fs::write(&path, &whole[..12]).unwrap();
        let read_bytes = Arc::new(AtomicU64::new(0));
        let error = Input::of(&path).read(&Settings::default(), &read_bytes, &mut |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("could not read any line"), "{error}");
    }
}
