//! A source of files through rotations, truncations, restarts and failures, by single steps and without waiting.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::rc::Rc;

use super::follow::DRAIN_MS;
use super::*;
use crate::source::unpack::pack;
use shield_engine::request::Loss;

/// A folder with a log, and its reader.
struct Site {
    folder: Rc<tempfile::TempDir>,
    source: u16,
    claims: Claims,
    max_open: usize,
    lost: Vec<Loss>,
    place: String,
    start: Start,
    files: Option<Files>,
    checkpoint: Option<Checkpoint>,
    now_ms: u64,
}

fn line(number: u32) -> String {
    format!(r#"{{"source_ip":"192.0.2.7","timestamp":1795530901,"path":"/{number}","status":200}}"#) + "\n"
}

fn lines(numbers: std::ops::Range<u32>) -> String {
    numbers.map(line).collect()
}

impl Site {
    fn new(place: &str, start: Start) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join(place).to_str().unwrap().to_owned();
        Site {
            folder: Rc::new(folder),
            source: 0,
            claims: Claims::default(),
            max_open: 100,
            lost: Vec::new(),
            place,
            start,
            files: None,
            checkpoint: None,
            now_ms: 1_000_000,
        }
    }

    /// Returns another source of the same agent, reading in the same folder.
    fn second(&self, place: &str) -> Site {
        let place = self.folder.path().join(place).to_str().unwrap().to_owned();
        let (folder, claims) = (Rc::clone(&self.folder), self.claims.clone());
        Site { folder, claims, place, source: 1, lost: Vec::new(), files: None, checkpoint: None, ..*self }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn append(&self, name: &str, text: &str) {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path(name))
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn pack(&self, name: &str) {
        self.pack_as(name, &format!("{name}.gz"));
    }

    /// Packs a file as the new name's ending says, and keeps its time, as every packer does.
    fn pack_as(&self, name: &str, packed: &str) {
        let modified = self.path(name).metadata().unwrap().modified().unwrap();
        let (_, packing) = Packing::of_name(packed).unwrap();
        fs::write(self.path(packed), pack(packing, &fs::read(self.path(name)).unwrap())).unwrap();
        File::options().write(true).open(self.path(packed)).unwrap().set_modified(modified).unwrap();
        fs::remove_file(self.path(name)).unwrap();
    }

    /// Copies and truncates, as `copytruncate` does.
    fn copy_and_truncate(&self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).unwrap();
        File::options().write(true).truncate(true).open(self.path(from)).unwrap();
    }

    fn files(&mut self) -> &mut Files {
        let settings = Settings {
            id: SourceId(self.source),
            name: self.place.clone(),
            place: Place::of(&self.place),
            format: shield_logline::Settings::default(),
            start: self.start,
            max_open: self.max_open,
        };
        let (checkpoint, claims) = (self.checkpoint.as_ref(), self.claims.clone());
        self.files.get_or_insert_with(|| Files::new(settings, checkpoint, claims))
    }

    /// Reads all lines there are; returns the numbers in their paths, and whether the last block was live.
    fn read(&mut self) -> (Vec<u32>, bool) {
        let now_ms = self.now_ms;
        self.files().hint_all();
        let (mut numbers, mut live) = (Vec::new(), false);
        loop {
            let mut batch = Batch::default();
            if self.files().step(now_ms, &mut batch).is_none() {
                return (numbers, live);
            }
            let number = |path: &[u8]| std::str::from_utf8(&path[1..]).unwrap().parse::<u32>().unwrap();
            numbers.extend(batch.requests().map(|request| number(request.path)));
            live = batch.live;
            self.lost.append(&mut batch.lost);
            self.checkpoint = batch.checkpoint;
        }
    }

    fn expect(&mut self, numbers: std::ops::Range<u32>) {
        assert_eq!(self.read().0, numbers.collect::<Vec<u32>>());
    }

    fn expect_any_order(&mut self, numbers: std::ops::Range<u32>) {
        let mut read = self.read().0;
        read.sort_unstable();
        assert_eq!(read, numbers.collect::<Vec<u32>>());
    }

    /// Drops everything but the last checkpoint, as `kill -9` does.
    fn kill(&mut self) {
        self.files = None;
        self.claims = Claims::default();
        self.checkpoint.iter().for_each(|checkpoint| note_marks(checkpoint, &self.claims));
    }

    /// Kills an agent of two sources.
    fn kill_both(&mut self, second: &mut Site) {
        self.kill();
        second.files = None;
        second.claims = self.claims.clone();
        second.checkpoint.iter().for_each(|checkpoint| note_marks(checkpoint, &self.claims));
    }

    fn said(&mut self) -> String {
        match self.files().state() {
            PartState::Active { detail } => detail.replace(self.folder.path().to_str().unwrap(), ""),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_first_start_is_at_the_end() {
    let mut site = Site::new("a.log", Start::End);
    site.append("a.log", &lines(0..5));
    site.expect(0..0);
    site.append("a.log", &lines(5..7));
    assert_eq!(site.read(), (vec![5, 6], true));
}

#[test]
fn the_first_start_can_be_at_the_beginning() {
    let mut site = Site::new("a.log", Start::Beginning);
    site.append("a.log", &lines(0..5));
    assert_eq!(site.read(), ((0..5).collect(), false), "a backlog is not live");
    site.append("a.log", &lines(5..6));
    assert_eq!(site.read(), (vec![5], true));
}

#[test]
fn the_first_start_can_be_some_time_ago() {
    for (count, since) in [(1, 0), (10, 4), (20_000, 13_337), (20_000, 0), (20_000, 19_999), (20_000, 50_000)]
    {
        let mut site = Site::new("a.log", Start::Since(1_700_000_000 + i64::from(since)));
        let timed = |n: u32| line(n).replace("1795530901", &(1_700_000_000 + n).to_string());
        site.append("a.log", &(0..count).map(timed).collect::<String>());
        site.expect(since.min(count)..count);
    }
}

/// History: other log readers store no position before the first line, and start at the end again.
#[test]
fn a_restart_before_the_first_line_loses_nothing() {
    let mut site = Site::new("a.log", Start::End);
    site.append("a.log", &lines(0..5));
    site.expect(0..0);
    site.kill();
    site.append("a.log", &lines(5..7));
    site.expect(5..7);
}

#[test]
fn a_missing_log_is_waited_for() {
    let mut site = Site::new("deep/a.log", Start::End);
    site.expect(0..0);
    assert!(
        matches!(site.files().state(), PartState::Waiting { reason } if reason.contains("does not exist"))
    );
    fs::create_dir(site.path("deep")).unwrap();
    site.append("deep/a.log", &lines(0..2));
    site.expect(0..2);
    assert!(matches!(site.files().state(), PartState::Active { .. }));
}

/// History: a reader died for good on one permission error. (Root may read everything; a folder in the log's place
/// cannot be read by anybody.)
#[test]
fn a_log_that_cannot_be_read_is_retried() {
    let mut site = Site::new("a.log", Start::End);
    fs::create_dir(site.path("a.log")).unwrap();
    let mut files = Files::new(
        Settings { place: Place::Path(site.path("a.log")), ..site.files().settings.clone() },
        None,
        Claims::default(),
    );
    assert!(files.step(0, &mut Batch::default()).is_some(), "the first position");
    assert!(matches!(files.state(), PartState::Waiting { reason } if reason.contains("it is a folder")));
    let retry_ms = files.deadline_ms().unwrap();
    fs::remove_dir(site.path("a.log")).unwrap();
    site.append("a.log", &lines(0..1));
    let mut batch = Batch::default();
    assert!(files.step(retry_ms, &mut batch).is_some());
    assert_eq!(batch.lines.len(), 1, "it is new");
}

#[test]
fn a_replaced_log_is_read_while_nginx_writes_on() {
    let mut site = Site::new("a.log", Start::Beginning);
    site.append("a.log", &lines(0..2));
    site.expect(0..2);
    site.rename("a.log", "a.log.1");
    site.append("a.log.1", &lines(2..4));
    site.expect(2..4);
    site.append("a.log", "");
    site.append("a.log.1", &lines(4..5));
    site.expect(4..5);
    site.append("a.log", &lines(6..7));
    site.append("a.log.1", &lines(5..6));
    site.expect(5..7);
    site.append("a.log.1", "no newline");
    site.now_ms += DRAIN_MS;
    site.expect(0..0);
    site.append("a.log.1", &lines(99..100));
    site.append("a.log", &lines(7..8));
    site.expect(7..8);
}

#[test]
fn two_rotations_between_looks_lose_nothing() {
    let mut site = Site::new("a.log", Start::Beginning);
    site.append("a.log", &lines(0..2));
    site.expect(0..2);
    site.append("a.log", &lines(2..3));
    site.rename("a.log", "a.log.1");
    site.append("a.log", &lines(3..5));
    site.rename("a.log.1", "a.log.2");
    site.rename("a.log", "a.log.1");
    site.append("a.log", &lines(5..6));
    site.expect(2..6);
}

#[test]
fn rotations_while_down_are_read_in_order_packed_ones_too() {
    let mut site = Site::new("a.log", Start::Beginning);
    site.append("a.log.4", &lines(90..99));
    site.append("a.log", &lines(0..2));
    site.expect(0..2);
    site.kill();
    site.append("a.log", &lines(2..3));
    site.rename("a.log", "a.log.3");
    site.pack("a.log.3");
    site.append("a.log.2", &lines(3..6));
    site.pack("a.log.2");
    site.append("a.log.1", &lines(6..8));
    site.append("a.log", &lines(8..9));
    site.expect(2..9);
    site.kill();
    site.append("a.log", &lines(9..10));
    site.expect(9..10);
}

#[test]
fn copytruncate_is_read_from_the_copy() {
    let mut site = Site::new("a.log", Start::Beginning);
    site.append("a.log", &lines(0..2));
    site.expect(0..2);
    site.append("a.log", &lines(2..4));
    site.copy_and_truncate("a.log", "a.log.1");
    site.append("a.log", &lines(4..20));
    site.expect(2..20);
    site.kill();
    site.append("a.log", &lines(20..21));
    site.rename("a.log.1", "a.log.2");
    site.copy_and_truncate("a.log", "a.log.1");
    site.append("a.log", &lines(21..60));
    site.expect(20..60);
}

#[test]
fn truncation_starts_at_the_beginning_again() {
    let mut site = Site::new("a.log", Start::Beginning);
    site.append("a.log.1", &lines(90..99));
    site.append("a.log", &lines(0..5));
    site.expect(0..5);
    File::create(site.path("a.log")).unwrap();
    site.expect(0..0);
    site.append("a.log", &lines(5..8));
    site.expect(5..8);
    fs::write(site.path("a.log"), lines(8..40)).unwrap();
    site.expect(8..40);
}

#[test]
fn a_deleted_log_is_read_to_its_end_and_its_successor_from_the_beginning() {
    let mut site = Site::new("a.log", Start::Beginning);
    site.append("a.log", &lines(0..2));
    site.expect(0..2);
    let mut nginx = OpenOptions::new().append(true).open(site.path("a.log")).unwrap();
    fs::remove_file(site.path("a.log")).unwrap();
    nginx.write_all(lines(2..4).as_bytes()).unwrap();
    site.expect(2..4);
    site.append("a.log", &lines(5..6));
    nginx.write_all(lines(4..5).as_bytes()).unwrap();
    site.expect(4..6);
}

#[test]
fn a_link_is_followed_to_wherever_it_points() {
    let mut site = Site::new("a.log", Start::Beginning);
    site.append("first", &lines(0..2));
    symlink(site.path("first"), site.path("a.log")).unwrap();
    site.expect(0..2);
    site.append("second", &lines(3..5));
    site.append("first", &lines(2..3));
    fs::remove_file(site.path("a.log")).unwrap();
    symlink(site.path("second"), site.path("a.log")).unwrap();
    site.expect(2..5);
}

#[test]
fn a_linked_log_is_rotated_where_it_lies() {
    let mut site = Site::new("a.log", Start::Beginning);
    fs::create_dir(site.path("real")).unwrap();
    site.append("real/b.log", &lines(0..2));
    symlink(site.path("real/b.log"), site.path("a.log")).unwrap();
    site.expect(0..2);
    site.kill();
    site.append("real/b.log", &lines(2..3));
    site.rename("real/b.log", "real/b.log.1");
    site.append("real/b.log", &lines(3..4));
    site.expect(2..4);
}

#[test]
fn a_partial_line_waits_for_its_end() {
    let mut site = Site::new("a.log", Start::Beginning);
    let whole = lines(0..2);
    let (first, second) = whole.split_at(whole.len() - 10);
    site.append("a.log", first);
    site.expect(0..1);
    site.kill();
    site.expect(0..0);
    site.append("a.log", second);
    site.expect(1..2);
}

#[test]
fn a_line_too_long_for_any_block_is_skipped_across_a_restart() {
    let mut site = Site::new("a.log", Start::Beginning);
    site.append("a.log", &lines(0..1));
    site.append("a.log", &"x".repeat(700_000));
    site.expect(0..1);
    site.kill();
    site.append("a.log", &"x".repeat(700_000));
    site.expect(0..0);
    site.append("a.log", "\n");
    site.append("a.log", &lines(1..2));
    site.expect(1..2);
}

#[test]
fn a_folder_stands_for_all_its_logs_new_ones_included() {
    let mut site = Site::new("", Start::End);
    site.append("a.log", &lines(0..5));
    site.append("error.log", "not for us\n");
    site.expect(0..0);
    site.append("a.log", &lines(5..6));
    site.append("b.log", &lines(6..8));
    let mut numbers = site.read().0;
    numbers.sort_unstable();
    assert_eq!(numbers, [5, 6, 7]);
    site.kill();
    site.append("c.log", &lines(9..10));
    site.rename("a.log", "a.log.1");
    site.append("a.log", &lines(8..9));
    let mut numbers = site.read().0;
    numbers.sort_unstable();
    assert_eq!(numbers, [8, 9]);
    assert!(matches!(site.files().state(), PartState::Active { detail } if detail == "reading 3 logs"));
}

#[test]
fn a_pattern_does_not_take_rotated_logs_for_new_ones() {
    let mut site = Site::new("*", Start::Beginning);
    site.append("a.log.1", &lines(90..99));
    site.append("a.log", &lines(0..2));
    site.expect(0..2);
    site.rename("a.log.1", "a.log.2");
    site.rename("a.log", "a.log.1");
    site.append("a.log", &lines(2..3));
    site.expect(2..3);
}

#[test]
fn chmod_does_not_matter_to_an_open_log() {
    let mut site = Site::new("a.log", Start::Beginning);
    site.append("a.log", &lines(0..2));
    site.expect(0..2);
    let mut nginx = OpenOptions::new().append(true).open(site.path("a.log")).unwrap();
    fs::set_permissions(site.path("a.log"), Permissions::from_mode(0o000)).unwrap();
    nginx.write_all(lines(2..4).as_bytes()).unwrap();
    site.expect(2..4);
}

/// History: every line of a log was counted once for each name of it, and a visitor's four mistyped passwords were eight.
#[test]
fn a_log_with_several_names_is_read_once_and_that_is_said() {
    let mut site = Site::new("*.log", Start::Beginning);
    site.append("b.log", &lines(0..2));
    symlink(site.path("b.log"), site.path("a.log")).unwrap();
    site.expect(0..2);
    assert_eq!(site.said(), "reading; /a.log is the same file as /b.log; read once as /b.log");
    fs::hard_link(site.path("b.log"), site.path("c.log")).unwrap();
    site.append("c.log", &lines(2..4));
    site.expect(2..4);
    assert!(site.said().ends_with("read once as /b.log, and 1 more name likewise"), "{}", site.said());
    site.kill();
    site.append("b.log", &lines(4..5));
    site.expect(4..5);
    // The name it is read by goes away, and another one stays.
    site.append("b.log", &lines(5..6));
    fs::remove_file(site.path("b.log")).unwrap();
    site.append("c.log", &lines(6..7));
    site.expect(5..7);
    site.append("c.log", &lines(7..8));
    site.now_ms += 60_000;
    site.expect(7..8);
    site.kill();
    site.append("c.log", &lines(8..9));
    site.expect(8..9);
}

#[test]
fn a_link_follows_its_target_through_rotations() {
    let mut site = Site::new("*.log", Start::Beginning);
    site.append("real.log", &lines(0..2));
    symlink("real.log", site.path("access.log")).unwrap();
    site.expect(0..2);
    for turn in 0..3 {
        let at = 2 + 10 * turn;
        site.append("real.log", &lines(at..at + 2));
        site.rename("real.log", "real.log.1");
        site.append("real.log", &lines(at + 2..at + 4));
        site.expect(at..at + 4);
        site.now_ms += 5_000;
        site.append("real.log", &lines(at + 4..at + 10));
        site.expect(at + 4..at + 10);
        assert!(site.said().contains("/access.log is the same file as /real.log"), "{}", site.said());
        if turn == 1 {
            site.kill();
        }
        fs::remove_file(site.path("real.log.1")).unwrap();
    }
}

/// A link that names each day's log, under a pattern that matches both.
#[test]
fn a_link_that_moves_to_the_next_log_reads_nothing_twice() {
    let mut site = Site::new("*.log", Start::Beginning);
    site.append("access-1.log", &lines(0..2));
    symlink("access-1.log", site.path("access.log")).unwrap();
    site.expect(0..2);
    site.append("access-1.log", &lines(2..3));
    fs::remove_file(site.path("access.log")).unwrap();
    symlink("access-next.log", site.path("access.log")).unwrap();
    site.append("access-next.log", &lines(3..5));
    site.expect_any_order(2..5);
    site.now_ms += 5_000;
    site.append("access-next.log", &lines(5..6));
    site.expect(5..6);
    site.now_ms += DRAIN_MS;
    site.expect(0..0);
}

#[test]
fn of_two_sources_the_first_reads_a_log_whoever_came_first() {
    let mut first = Site::new("a.log", Start::Beginning);
    let mut second = first.second("*.log");
    first.append("a.log", &lines(0..3));
    second.expect(0..3);
    assert_eq!(second.said(), "reading");
    first.expect(0..0);
    first.append("a.log", &lines(3..4));
    second.expect(3..4);
    first.append("a.log", &lines(4..6));
    first.expect(4..6);
    second.expect(0..0);
    assert_eq!(second.said(), "an earlier [[source]] names /a.log too; read once, there");
    first.append("a.log", &lines(6..8));
    first.rename("a.log", "a.log.1");
    first.append("a.log", &lines(8..9));
    second.expect(0..0);
    first.expect(6..9);
    second.expect(0..0);
    // Neither a restart nor the first one's leaving changes a thing.
    first.kill_both(&mut second);
    first.append("a.log", &lines(9..10));
    first.expect(9..10);
    second.expect(0..0);
    first.append("a.log", &lines(10..11));
    first.files = None;
    second.expect(10..11);
    second.append("a.log", &lines(11..12));
    second.expect(11..12);
}

/// The operator takes one of two sources out of the configuration: the other continues where that one was.
#[test]
fn a_source_that_is_left_continues_where_the_other_stopped() {
    let mut first = Site::new("a.log", Start::End);
    let mut second = first.second("*.log");
    first.append("a.log", &lines(0..3));
    first.expect(0..0);
    second.expect(0..0);
    first.append("a.log", &lines(3..5));
    first.expect(3..5);
    second.expect(0..0);
    first.kill_both(&mut second);
    second.append("a.log", &lines(5..6));
    second.expect(5..6);
}

/// A file handed from one source to the other, and then the agent is killed before either has read a line more.
#[test]
fn a_kill_after_a_handover_reads_nothing_twice() {
    let mut first = Site::new("a.log", Start::Beginning);
    let mut second = first.second("*.log");
    first.append("a.log", &lines(0..3));
    second.expect(0..3);
    first.expect(0..0);
    second.expect(0..0);
    let kill = |first: &mut Site, second: &mut Site| first.kill_both(second);
    kill(&mut first, &mut second);
    first.expect(0..0);
    second.expect(0..0);
    first.append("a.log", &lines(3..4));
    first.expect(3..4);
    first.now_ms += 40_000;
    second.now_ms += 40_000;
    second.expect(0..0);
    first.rename("a.log", "a.log.1");
    first.append("a.log", &lines(4..5));
    kill(&mut first, &mut second);
    let mut numbers = [second.read().0, first.read().0].concat();
    numbers.sort_unstable();
    assert_eq!(numbers, [4]);
}

/// History: a pattern `*` took a log that was rotated to an odd name for a new one, once the old one was drained.
#[test]
fn a_log_rotated_to_an_odd_name_is_not_read_again() {
    let mut site = Site::new("*", Start::Beginning);
    site.append("a.log", &lines(0..3));
    site.expect(0..3);
    site.rename("a.log", "a.log.old");
    site.append("a.log", &lines(3..4));
    site.expect(3..4);
    site.now_ms += DRAIN_MS;
    site.expect(0..0);
    site.expect(0..0);
    site.kill();
    site.expect(0..0);
    site.append("a.log", &lines(4..5));
    site.rename("a.log", "old-a.log");
    site.append("a.log", &lines(5..6));
    site.kill();
    site.expect_any_order(4..6);
    site.now_ms += DRAIN_MS;
    site.expect(0..0);
}

#[test]
fn rotations_while_down_are_read_however_they_are_packed_and_named() {
    let ways: [[&str; 4]; 7] = [
        ["a.log.4.xz", "a.log.3.bz2", "a.log.2.zst", "a.log.1"],
        ["a.log-20261121.xz", "a.log-20261122.xz", "a.log-20261123.gz", "a.log-20261124"],
        ["a.log.2026-11-21.zst", "a.log.2026-11-22.bz2", "a.log.2026-11-23.xz", "a.log.2026-11-24.gz"],
        ["a-20261121.log.gz", "a-20261122.log.xz", "a-20261123.log.bz2", "a-20261124.log"],
        ["old/a.log.4.gz", "old/a.log.3.xz", "old/a.log.2", "old/a.log.1"],
        ["archive/a.log-20261121.bz2", "archive/a.log-20261122.zst", "a.log-20261123.xz", "a.log-20261124"],
        // From numbers to dates in between: the times of the files decide.
        ["a.log.2.gz", "a.log.1.xz", "a.log-20261123.bz2", "a.log-20261124"],
    ];
    for names in ways {
        let mut site = Site::new("a.log", Start::Beginning);
        for folder in ["old", "archive", "other"] {
            fs::create_dir(site.path(folder)).unwrap();
        }
        // Another site's, with a log of its own in use.
        site.append("other/a.log", &lines(800..801));
        site.append("other/a.log.1", &lines(900..901));
        site.append("a.log", &lines(0..5));
        site.expect(0..5);
        site.kill();
        for (at, name) in names.iter().enumerate() {
            let first = 5 + 10 * at as u32;
            site.append("a.log", &lines(first..first + 10));
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(4_000_000_000 + at as u64);
            File::options().write(true).open(site.path("a.log")).unwrap().set_modified(time).unwrap();
            if Packing::of_name(name).is_some() {
                site.pack_as("a.log", name);
            } else {
                site.rename("a.log", name);
            }
        }
        site.append("a.log", &lines(45..46));
        assert_eq!(site.read().0, (5..46).collect::<Vec<u32>>(), "{names:?}");
        assert_eq!(site.lost, [], "{names:?}");
        site.kill();
        site.append("a.log", &lines(46..47));
        site.expect(46..47);
    }
}

#[test]
fn what_cannot_be_read_after_a_rotation_is_lost_and_that_is_said() {
    let rotated = |way: &dyn Fn(&Site)| {
        let mut site = Site::new("a.log", Start::Beginning);
        site.append("a.log", &lines(0..5));
        site.expect(0..5);
        site.kill();
        site.append("a.log", &lines(5..5000));
        way(&site);
        site.append("a.log", &lines(5000..5001));
        let numbers = site.read().0;
        assert_eq!(numbers.last(), Some(&5000));
        site.now_ms += DRAIN_MS;
        site.read();
        let [lost] = site.lost.as_slice() else { panic!("{:?}", site.lost) };
        (numbers.len(), lost.clone())
    };
    let (read, lost) = rotated(&|site| {
        fs::write(site.path("a.log.1.lz4"), "four").unwrap();
        fs::remove_file(site.path("a.log")).unwrap();
    });
    assert_eq!((read, lost.bytes), (1, Some(4)));
    assert!(lost.reason.contains(".lz4 files cannot be unpacked here"), "{}", lost.reason);
    let (read, lost) = rotated(&|site| fs::remove_file(site.path("a.log")).unwrap());
    assert_eq!((read, lost.bytes), (1, None));
    assert!(lost.reason.contains("is gone"), "{}", lost.reason);
    let (read, lost) = rotated(&|site| {
        site.pack_as("a.log", "a.log.1.gz");
        let packed = fs::read(site.path("a.log.1.gz")).unwrap();
        fs::write(site.path("a.log.1.gz"), &packed[..packed.len() - 30]).unwrap();
    });
    assert!(read > 2000, "what precedes the damage is read: {read}");
    assert!(lost.reason.contains("is damaged after"), "{}", lost.reason);
}

/// As on a server with more sites than descriptors.
#[test]
fn logs_that_nothing_is_written_to_are_closed_and_lose_nothing() {
    let mut site = Site::new("*.log", Start::Beginning);
    site.max_open = 3;
    let name = |at: u32| format!("{at:03}.log");
    for at in 0..40 {
        site.append(&name(at), &lines(at..at + 1));
    }
    let open = |site: &mut Site| site.files().follows.iter().map(Follow::open_count).sum::<usize>();
    site.expect_any_order(0..40);
    site.read();
    assert!(open(&mut site) <= 3, "{}", open(&mut site));
    for at in 0..40 {
        site.append(&name(at), &lines(40 + at..41 + at));
    }
    site.expect_any_order(40..80);
    // Rotated while they are closed: with lines that were not read, to a packed file, by copying, and twice.
    for at in 0..40 {
        site.append(&name(at), &lines(80 + at..81 + at));
        let old = format!("{}.1", name(at));
        match at % 4 {
            0 => site.rename(&name(at), &old),
            1 => {
                site.rename(&name(at), &old);
                site.pack(&old);
            }
            2 => site.copy_and_truncate(&name(at), &old),
            _ => {
                site.rename(&name(at), &format!("{}.2", name(at)));
                site.append(&old, "");
            }
        }
        site.append(&name(at), &lines(120 + at..121 + at));
    }
    site.expect_any_order(80..160);
    site.kill();
    for at in 0..40 {
        site.append(&name(at), &lines(160 + at..161 + at));
    }
    site.expect_any_order(160..200);
    site.now_ms += DRAIN_MS;
    site.expect(0..0);
    assert!(open(&mut site) <= 3, "{}", open(&mut site));
    assert_eq!(site.lost, []);
}
