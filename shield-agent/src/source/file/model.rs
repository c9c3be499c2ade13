//! Random histories of a log and its reader, compared with a model: every line comes exactly once and in order, except
//! those that no reader could have read.
//!
//! The world is nginx with one open log, a logrotate that knows every way there is, an operator, and an agent that can be
//! killed at any moment, before or after it committed the lines it read. Lines are numbered. These may be lost:
//!
//! - unread lines of a file that is truncated without a copy;
//! - a deleted file that the agent does not hold open, because it was dead or had not checked the folder since the file was
//!   there (a copy is a file of its own);
//! - a line of which `copytruncate` or a truncation caught only the first half;
//! - a copy of a file of which nothing was read yet: it has no fingerprint to be recognised by.
//!
//! Nothing else may be lost, and nothing may ever come twice; also when the log has a second name under the same pattern, a link,
//! where lines of two files may change places.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::follow::DRAIN_MS;
use super::*;
use crate::source::unpack::pack;

/// How an old log of each age is packed.
const PACKINGS: [(Packing, &str); KEPT as usize] =
    [(Packing::Gzip, "gz"), (Packing::Bzip2, "bz2"), (Packing::Zstd, "zst"), (Packing::Gzip, "gz")];

/// Old logs that logrotate keeps.
const KEPT: u32 = 4;

/// Histories of a log with one name.
const HISTORIES: u32 = 5_000;

/// Histories of a log with two names.
const TWO_NAMES_HISTORIES: u32 = 1_000;

/// So many histories, unless `PROPTEST_CASES` is set.
fn histories(by_default: u32) -> u32 {
    let chosen = ProptestConfig::default().cases;
    if std::env::var_os("PROPTEST_CASES").is_some() { chosen } else { by_default }
}

#[derive(Debug, Clone, Copy)]
enum Op {
    /// nginx writes this many lines, of the last one only the first half if `half`.
    Write { lines: u32, half: bool },
    /// logrotate: rename, and `create` a new log or leave that to nginx.
    Rename { create: bool },
    /// logrotate: copy and truncate.
    CopyTruncate,
    /// nginx reopens its log.
    Reopen,
    /// logrotate packs an old log that nginx does not write to any more.
    Pack(u32),
    /// The operator empties the log.
    Truncate,
    /// The operator deletes the log.
    Delete,
    /// The operator moves the whole folder away, or back.
    MoveFolder,
    /// The agent reads everything.
    Read,
    /// The agent reads one block.
    ReadOnce,
    /// The agent is killed, having committed everything it delivered.
    Kill,
    /// The agent is killed with one block read but not committed.
    KillBeforeCommit,
    /// nginx reopens its log, and more time passes than replaced logs are kept open.
    Age,
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1_u32..6, prop::bool::weighted(0.2)).prop_map(|(lines, half)| Op::Write { lines, half }),
        2 => any::<bool>().prop_map(|create| Op::Rename { create }),
        1 => Just(Op::CopyTruncate),
        3 => Just(Op::Reopen),
        1 => (1..=KEPT).prop_map(Op::Pack),
        1 => Just(Op::Truncate),
        1 => Just(Op::Delete),
        1 => Just(Op::MoveFolder),
        4 => Just(Op::Read),
        2 => Just(Op::ReadOnce),
        2 => Just(Op::Kill),
        1 => Just(Op::KillBeforeCommit),
        1 => Just(Op::Age),
    ]
}

/// One generation of the log: the lines that one file got, until it was truncated.
#[derive(Debug, Default)]
struct Generation {
    lines: BTreeSet<u32>,
    /// The agent read everything and checked the path while this was the log.
    is_seen: bool,
    /// It has no name any more.
    is_deleted: bool,
    /// No agent holds it open either.
    is_orphan: bool,
}

struct World {
    root: tempfile::TempDir,
    is_away: bool,
    is_linked: bool,
    /// Every generation; `log` is the one that the path names, `writing` the one nginx writes to, `old[n]` is in `a.log.n`.
    generations: Vec<Generation>,
    log: Option<usize>,
    writing: usize,
    old: Vec<Option<usize>>,
    nginx: File,
    next_line: u32,
    /// The second half of the line that nginx is in the middle of.
    owed: String,
    clock: Duration,
    files: Option<Files>,
    /// Reused for every read.
    batch: Batch,
    checkpoint: Option<Checkpoint>,
    delivered: Vec<u32>,
    may_be_lost: BTreeSet<u32>,
    now_ms: u64,
}

fn text(number: u32) -> String {
    format!(r#"{{"source_ip":"192.0.2.7","timestamp":1795530901,"path":"/{number}","status":200}}"#) + "\n"
}

impl World {
    fn new(is_linked: bool) -> World {
        // In memory where there is such a file system: five thousand histories are a million system calls.
        let shm = Path::new("/dev/shm");
        let root = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
        fs::create_dir(root.path().join("logs")).unwrap();
        let nginx = open_log(&root.path().join("logs/a.log"));
        if is_linked {
            std::os::unix::fs::symlink("a.log", root.path().join("logs/link.log")).unwrap();
        }
        let mut world = World {
            root,
            is_away: false,
            is_linked,
            generations: vec![Generation::default()],
            log: Some(0),
            writing: 0,
            old: vec![None; KEPT as usize + 1],
            nginx,
            next_line: 0,
            owed: String::new(),
            clock: Duration::from_secs(1_700_000_000),
            files: None,
            batch: Batch::default(),
            checkpoint: None,
            delivered: Vec::new(),
            may_be_lost: BTreeSet::new(),
            now_ms: 1_000_000,
        };
        world.touch();
        world.read(usize::MAX);
        world
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join(if self.is_away { "away" } else { "logs" })
    }

    fn path(&self, age: u32) -> PathBuf {
        self.folder().join(if age == 0 { "a.log".to_owned() } else { format!("a.log.{age}") })
    }

    /// The file of that age, plain or packed.
    fn existing(&self, age: u32) -> Option<PathBuf> {
        let plain = self.path(age);
        let packed = PACKINGS.map(|(_, ending)| plain.with_extension(format!("{age}.{ending}")));
        std::iter::once(plain).chain(packed).find(|path| path.exists())
    }

    /// The next moment on the clock that files are stamped with.
    fn tick(&mut self) -> SystemTime {
        self.clock += Duration::from_millis(10);
        SystemTime::UNIX_EPOCH + self.clock
    }

    fn touch(&mut self) {
        let now = self.tick();
        self.nginx.set_modified(now).unwrap();
    }

    fn apply(&mut self, op: Op) {
        // logrotate goes by the path as well, so it does nothing either while the folder is away.
        if self.is_away
            && matches!(op, Op::Rename { .. } | Op::CopyTruncate | Op::Pack(_) | Op::Truncate | Op::Delete)
        {
            return;
        }
        match op {
            Op::Write { lines, half } => self.write(lines, half),
            Op::Rename { create } => self.rename(create),
            Op::CopyTruncate => self.copy_truncate(),
            Op::Reopen => self.reopen(),
            Op::Pack(age) => self.pack(age),
            Op::Truncate => self.truncate(),
            Op::Delete => self.delete(),
            Op::MoveFolder => self.move_folder(),
            Op::Read => self.read(usize::MAX),
            Op::ReadOnce => self.read(1),
            Op::Kill => self.kill(),
            Op::KillBeforeCommit => self.kill_before_commit(),
            Op::Age => {
                self.reopen();
                self.read(usize::MAX);
                self.now_ms += DRAIN_MS;
                self.read(usize::MAX);
            }
        }
    }

    fn write(&mut self, lines: u32, half: bool) {
        let mut bytes = std::mem::take(&mut self.owed);
        for _ in 0..lines {
            bytes.push_str(&text(self.next_line));
            let generation = &mut self.generations[self.writing];
            generation.lines.insert(self.next_line);
            if generation.is_orphan {
                self.may_be_lost.insert(self.next_line);
            }
            self.next_line += 1;
        }
        if half {
            self.owed = bytes.split_off(bytes.len() - 20);
        }
        self.nginx.write_all(bytes.as_bytes()).unwrap();
        self.touch();
    }

    /// nginx finishes the line that it is in the middle of.
    fn finish_line(&mut self) {
        let owed = std::mem::take(&mut self.owed);
        if !owed.is_empty() {
            self.nginx.write_all(owed.as_bytes()).unwrap();
            self.touch();
        }
    }

    /// The line that is written only by half will never be whole.
    fn lose_half_line(&mut self) {
        if !self.owed.is_empty() {
            self.may_be_lost.insert(self.next_line - 1);
        }
    }

    /// Moves every old log one number up; the oldest goes.
    fn shift(&mut self) {
        if let Some(path) = self.existing(KEPT) {
            fs::remove_file(path).unwrap();
            self.deleted(self.old[KEPT as usize]);
        }
        for age in (1..KEPT).rev() {
            if let Some(from) = self.existing(age) {
                let to = self.path(age + 1);
                let ending =
                    from.extension().filter(|_| from != self.path(age)).and_then(|text| text.to_str());
                let packed = ending.map(|ending| to.with_extension(format!("{}.{ending}", age + 1)));
                fs::rename(&from, packed.unwrap_or(to)).unwrap();
            }
            self.old[age as usize + 1] = self.old[age as usize].take();
        }
        self.old[1] = None;
    }

    fn deleted(&mut self, generation: Option<usize>) {
        let Some(at) = generation else { return };
        self.generations[at].is_deleted = true;
        if self.files.is_none() || !self.generations[at].is_seen {
            self.orphan(at);
        }
    }

    fn orphan(&mut self, at: usize) {
        self.generations[at].is_orphan = true;
        self.lose(at);
    }

    /// Notes that the undelivered lines of a generation may be lost.
    fn lose(&mut self, at: usize) {
        let delivered: BTreeSet<u32> = self.delivered.iter().copied().collect();
        self.may_be_lost.extend(self.generations[at].lines.difference(&delivered));
    }

    fn rename(&mut self, create: bool) {
        let Some(log) = self.log.take() else { return };
        self.shift();
        fs::rename(self.path(0), self.path(1)).unwrap();
        self.old[1] = Some(log);
        if create {
            let now = self.tick();
            open_log(&self.path(0)).set_modified(now).unwrap();
            self.log = Some(self.new_generation());
        }
    }

    fn new_generation(&mut self) -> usize {
        self.generations.push(Generation::default());
        self.generations.len() - 1
    }

    fn reopen(&mut self) {
        self.finish_line();
        self.nginx = open_log(&self.path(0));
        if self.log.is_none() {
            self.log = Some(self.new_generation());
            self.touch();
        }
        self.writing = self.log.unwrap();
    }

    fn copy_truncate(&mut self) {
        let Some(log) = self.log else { return };
        self.shift();
        let now = self.tick();
        fs::copy(self.path(0), self.path(1)).unwrap();
        File::options().write(true).open(self.path(1)).unwrap().set_modified(now).unwrap();
        if self.generations[log].lines.iter().all(|line| !self.delivered.contains(line)) {
            self.lose(log);
        }
        self.old[1] = Some(log);
        self.empty(log);
    }

    fn truncate(&mut self) {
        let Some(log) = self.log else { return };
        self.lose(log);
        self.empty(log);
    }

    fn empty(&mut self, log: usize) {
        if self.writing == log {
            self.lose_half_line();
        }
        let file = File::options().write(true).truncate(true).open(self.path(0)).unwrap();
        let now = self.tick();
        file.set_modified(now).unwrap();
        let new = self.new_generation();
        // The file that the agent has open is the new generation's from now on; a copy of the old one it has yet to find.
        self.generations[new].is_seen = std::mem::take(&mut self.generations[log].is_seen);
        self.log = Some(new);
        if self.writing == log {
            self.writing = new;
        }
    }

    fn pack(&mut self, age: u32) {
        let path = self.path(age);
        let is_written_to = self.old[age as usize] == Some(self.writing);
        if is_written_to || !path.exists() {
            return;
        }
        let modified = path.metadata().unwrap().modified().unwrap();
        let (packing, ending) = PACKINGS[age as usize - 1];
        let mut packed = File::create(path.with_extension(format!("{age}.{ending}"))).unwrap();
        packed.write_all(&pack(packing, &fs::read(&path).unwrap())).unwrap();
        packed.set_modified(modified).unwrap();
        fs::remove_file(path).unwrap();
    }

    fn delete(&mut self) {
        if let Some(log) = self.log.take() {
            fs::remove_file(self.path(0)).unwrap();
            self.deleted(Some(log));
        }
    }

    /// A running agent looks once more before the folder goes: copies that it has not seen would go with the folder.
    fn move_folder(&mut self) {
        if self.files.is_some() {
            self.read(usize::MAX);
        }
        let from = self.folder();
        self.is_away = !self.is_away;
        fs::rename(from, self.folder()).unwrap();
    }

    fn kill(&mut self) {
        self.files = None;
        for at in 0..self.generations.len() {
            self.generations[at].is_seen = false;
            if self.generations[at].is_deleted {
                self.orphan(at);
            }
        }
    }

    fn kill_before_commit(&mut self) {
        self.files().hint_all();
        self.step();
        self.kill();
    }

    fn files(&mut self) -> &mut Files {
        let folder = self.root.path().join("logs");
        let place = if self.is_linked {
            Place::Pattern(folder.join("*.log").to_str().unwrap().to_owned())
        } else {
            Place::Path(folder.join("a.log"))
        };
        let settings = Settings {
            id: SourceId(0),
            name: "a".to_owned(),
            place,
            format: shield_logline::Settings::default(),
            start: Start::Beginning,
            max_open: 100,
        };
        let checkpoint = self.checkpoint.as_ref();
        self.files.get_or_insert_with(|| {
            let claims = Claims::default();
            checkpoint.iter().for_each(|checkpoint| note_marks(checkpoint, &claims));
            Files::new(settings, checkpoint, claims)
        })
    }

    fn read(&mut self, max_blocks: usize) {
        self.files().hint_all();
        for turn in 0..max_blocks {
            assert!(turn < 1_000, "it reads for ever");
            if !self.step() {
                self.saw_log();
                break;
            }
            let batch = &self.batch;
            let number = |path: &[u8]| std::str::from_utf8(&path[1..]).unwrap().parse::<u32>().unwrap();
            self.delivered.extend(batch.requests().map(|request| number(request.path)));
            self.checkpoint.clone_from(&batch.checkpoint);
        }
    }

    fn step(&mut self) -> bool {
        let mut batch = std::mem::take(&mut self.batch);
        batch.lines.clear();
        let now_ms = self.now_ms;
        let any = self.files().step(now_ms, &mut batch).is_some();
        self.batch = batch;
        any
    }

    fn saw_log(&mut self) {
        if !self.is_away
            && let Some(log) = self.log
        {
            self.generations[log].is_seen = true;
        }
    }

    /// nginx and the operator put everything right, and the agent reads what there is.
    fn end(&mut self) {
        if self.is_away {
            self.move_folder();
        }
        self.apply(Op::Age);
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let mut delivered = self.delivered.clone();
        if self.is_linked {
            delivered.sort_unstable();
        }
        let is_ordered = delivered.windows(2).all(|pair| pair[0] < pair[1]);
        prop_assert!(is_ordered, "a line came twice or out of order: {:?}", self.delivered);
        let delivered: BTreeSet<u32> = self.delivered.iter().copied().collect();
        let missing: Vec<u32> = (0..self.next_line).filter(|line| !delivered.contains(line)).collect();
        let lost: Vec<&u32> = missing.iter().filter(|line| !self.may_be_lost.contains(line)).collect();
        prop_assert!(lost.is_empty(), "lost without need: {:?} of {:?}", lost, missing);
        Ok(())
    }
}

fn open_log(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

fn check(history: impl IntoIterator<Item = Op>) -> Result<(), TestCaseError> {
    check_in(World::new(false), history)
}

fn check_in(mut world: World, history: impl IntoIterator<Item = Op>) -> Result<(), TestCaseError> {
    for op in history {
        world.apply(op);
    }
    world.end();
    world.check()
}

/// nginx has opened the log that the agent finds already rotated and still empty, while the file that the agent was
/// reading is packed and an older one was written to later than all of them.
#[test]
fn an_empty_log_rotated_before_it_was_seen_is_read_when_it_fills() {
    let (create, write) = (true, Op::Write { lines: 1, half: false });
    check([
        Op::Rename { create },
        Op::Read,
        Op::Rename { create },
        Op::CopyTruncate,
        write,
        Op::Reopen,
        Op::Rename { create },
        Op::Pack(3),
        Op::MoveFolder,
        write,
    ])
    .unwrap();
}

/// The log was truncated and written anew, and then rotated twice before the agent checked: its successor is not the
/// copy of it.
#[test]
fn a_truncated_log_is_read_before_those_rotated_after_it() {
    let (create, write) = (false, Op::Write { lines: 1, half: false });
    check([
        write,
        Op::Read,
        Op::Truncate,
        write,
        Op::Rename { create },
        Op::Reopen,
        Op::Rename { create },
        write,
    ])
    .unwrap();
}

/// A packed log was read and closed while the older one before it is still open, and then a new log appears.
#[test]
fn a_packed_log_newer_than_an_open_one_is_read_once() {
    check([
        Op::Write { lines: 1, half: false },
        Op::Read,
        Op::CopyTruncate,
        Op::MoveFolder,
        Op::Kill,
        Op::Write { lines: 2, half: false },
        Op::MoveFolder,
        Op::CopyTruncate,
        Op::Delete,
        Op::Pack(1),
        Op::Read,
    ])
    .unwrap();
}

/// Five rotations between two looks: the copy that holds the first lines is deleted before the agent could know of it, and
/// the model must not expect them.
#[test]
fn a_copy_deleted_before_the_agent_looked_is_lost() {
    let (create, write) = (true, Op::Write { lines: 1, half: false });
    let mut world = World::new(false);
    for op in [
        write,
        Op::Read,
        write,
        Op::CopyTruncate,
        Op::Rename { create },
        Op::CopyTruncate,
        Op::Rename { create },
        Op::Rename { create: false },
    ] {
        world.apply(op);
    }
    world.end();
    world.check().unwrap();
    assert_eq!(world.delivered, [0], "what is deleted cannot be read");
}

/// The agent had opened a rotated log, but was killed before it read of it; then the log was packed.
#[test]
fn a_log_packed_before_its_first_block_was_read_is_found() {
    let (create, write) = (false, Op::Write { lines: 1, half: false });
    check([
        Op::Rename { create },
        Op::Kill,
        write,
        Op::Reopen,
        write,
        Op::Rename { create },
        Op::ReadOnce,
        Op::Reopen,
        Op::Pack(1),
        Op::Kill,
    ])
    .unwrap();
}

/// A log that was empty when the agent was last alive was written to and packed, between two that are known.
#[test]
fn a_log_written_and_packed_while_the_agent_was_dead_is_found_between_its_neighbours() {
    let write = Op::Write { lines: 1, half: false };
    check([
        Op::Rename { create: false },
        write,
        Op::Reopen,
        Op::Rename { create: true },
        Op::Kill,
        Op::Read,
        write,
        Op::Reopen,
        Op::Kill,
        Op::Rename { create: false },
        Op::Pack(2),
    ])
    .unwrap();
}

/// A log was truncated and filled again to the very length that was read, rotated, and packed after the agent had begun to
/// look at what came before it.
#[test]
fn a_log_filled_to_the_length_that_was_read_is_found_packed() {
    let (create, write) = (false, Op::Write { lines: 1, half: false });
    check([
        write,
        Op::Read,
        write,
        Op::CopyTruncate,
        Op::Rename { create },
        write,
        Op::Reopen,
        Op::ReadOnce,
        Op::Pack(1),
        Op::Kill,
    ])
    .unwrap();
}

/// The link was looked at first when a new log had come, and read it; then the log came and went once more.
///
/// History: beside a link in the same folder, no rotated file was known by its name.
#[test]
fn a_log_that_came_and_went_while_its_link_was_read_is_found() {
    let (create, write) = (false, Op::Write { lines: 1, half: false });
    let mut world = World::new(true);
    for op in [
        Op::Kill,
        write,
        Op::ReadOnce,
        Op::Rename { create: true },
        Op::Read,
        Op::Rename { create },
        Op::Reopen,
        Op::Rename { create },
        write,
    ] {
        world.apply(op);
    }
    world.end();
    world.check().unwrap();
}

/// A log came while nobody looked at its own name, was read by its link, and was copied away before its name found it.
///
/// History: the copy was read a second time.
#[test]
fn a_copy_of_what_the_link_has_read_is_not_read_again() {
    let (create, write) = (false, Op::Write { lines: 1, half: false });
    for killed in [true, false] {
        let mut world = World::new(true);
        for op in
            [Op::Kill, write, Op::ReadOnce, Op::Rename { create }, write, Op::Reopen, write, Op::ReadOnce]
        {
            world.apply(op);
        }
        if killed {
            world.apply(Op::Kill);
        }
        world.apply(Op::CopyTruncate);
        world.end();
        world.check().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: histories(HISTORIES), ..ProptestConfig::default() })]

    #[test]
    fn every_line_once_through_any_history(history in proptest::collection::vec(ops(), 1..40)) {
        check(history)?;
    }
}

proptest! {
    // Two names are rarely met, so a run of the tests tries few histories. `PROPTEST_RNG_SEED` and `PROPTEST_CASES` try more.
    #![proptest_config(ProptestConfig { cases: histories(TWO_NAMES_HISTORIES), ..ProptestConfig::default() })]

    #[test]
    fn every_line_once_of_a_log_with_two_names(history in proptest::collection::vec(ops(), 1..40)) {
        check_in(World::new(true), history)?;
    }
}
