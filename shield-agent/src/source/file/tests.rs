//! A source of files through rotations, truncations, restarts and failures, by single steps and without waiting.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::follow::DRAIN_MS;
use super::*;

/// A folder with a log, and its reader.
struct Site {
    folder: tempfile::TempDir,
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
        Site { folder, place, start, files: None, checkpoint: None, now_ms: 1_000_000 }
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
        let text = fs::read(self.path(name)).unwrap();
        let mut packed =
            GzEncoder::new(File::create(self.path(&format!("{name}.gz"))).unwrap(), Compression::fast());
        packed.write_all(&text).unwrap();
        packed.finish().unwrap();
        fs::remove_file(self.path(name)).unwrap();
    }

    /// Copies and truncates, as `copytruncate` does.
    fn copy_and_truncate(&self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).unwrap();
        File::options().write(true).truncate(true).open(self.path(from)).unwrap();
    }

    fn files(&mut self) -> &mut Files {
        let settings = Settings {
            id: SourceId(0),
            name: self.place.clone(),
            place: Place::of(&self.place),
            format: shield_logline::Settings::default(),
            start: self.start,
        };
        let checkpoint = self.checkpoint.as_ref();
        self.files.get_or_insert_with(|| Files::new(settings, checkpoint))
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
            self.checkpoint = batch.checkpoint;
        }
    }

    fn expect(&mut self, numbers: std::ops::Range<u32>) {
        assert_eq!(self.read().0, numbers.collect::<Vec<u32>>());
    }

    /// Drops everything but the last checkpoint, as `kill -9` does.
    fn kill(&mut self) {
        self.files = None;
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
    );
    assert!(files.step(0, &mut Batch::default()).is_some(), "the first position");
    assert!(matches!(files.state(), PartState::Waiting { reason } if reason.contains("not a regular file")));
    let retry_ms = files.deadline_ms().unwrap();
    fs::remove_dir(site.path("a.log")).unwrap();
    site.append("a.log", &lines(0..1));
    let mut batch = Batch::default();
    assert!(files.step(retry_ms, &mut batch).is_none());
    site.append("a.log", &lines(1..2));
    files.hint_all();
    assert!(files.step(retry_ms, &mut batch).is_some());
    assert_eq!(batch.lines.len(), 1);
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
    std::os::unix::fs::symlink(site.path("first"), site.path("a.log")).unwrap();
    site.expect(0..2);
    site.append("second", &lines(3..5));
    site.append("first", &lines(2..3));
    fs::remove_file(site.path("a.log")).unwrap();
    std::os::unix::fs::symlink(site.path("second"), site.path("a.log")).unwrap();
    site.expect(2..5);
}

#[test]
fn a_linked_log_is_rotated_where_it_lies() {
    let mut site = Site::new("a.log", Start::Beginning);
    fs::create_dir(site.path("real")).unwrap();
    site.append("real/b.log", &lines(0..2));
    std::os::unix::fs::symlink(site.path("real/b.log"), site.path("a.log")).unwrap();
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
