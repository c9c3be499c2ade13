//! The threads, with real files, real hints and real waits, each with a deadline.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::stats::Backlog;
use super::*;
use shield_engine::event::PartState;

/// A hint takes milliseconds; this is for a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);

const LINE: &str = r#"{"source_ip":"192.0.2.7","timestamp":1795530901,"path":"/","status":200}"#;

fn deliver_to(sender: SyncSender<Batch>) -> impl Deliver + Clone {
    move |batch| if sender.send(batch).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

struct Running {
    sources: Sources,
    stats: Arc<Stats>,
    batches: Receiver<Batch>,
    reports: Receiver<PartReport>,
}

/// Starts one source whose consumer has room for `room` batches.
fn launch(settings: Settings, room: usize) -> Running {
    let (sender, batches) = sync_channel(room);
    let (reporter, reports) = sync_channel(100);
    let report = move |report| drop(reporter.send(report));
    let prepared = Prepared::new(vec![settings]);
    let stats = prepared.stats().remove(0);
    let sources = prepared.start(&[], &Pool::default(), &deliver_to(sender), &report).unwrap();
    Running { sources, stats, batches, reports }
}

fn next_lines(receiver: &Receiver<Batch>) -> usize {
    loop {
        let count = receiver.recv_timeout(PATIENCE).unwrap().lines.len();
        if count > 0 {
            return count;
        }
    }
}

#[test]
fn lines_are_read_as_they_are_written_and_the_state_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    let Running { sources, stats, batches, reports } = launch(Settings::of_files(path.to_str().unwrap()), 4);
    let report = reports.recv_timeout(PATIENCE).unwrap();
    assert_eq!(report.part, format!("source:{}", path.display()));
    assert!(matches!(report.state, PartState::Waiting { .. }));
    let mut log = std::fs::File::create(&path).unwrap();
    writeln!(log, "{LINE}").unwrap();
    assert_eq!(next_lines(&batches), 1);
    let state = reports.recv_timeout(PATIENCE).unwrap().state;
    assert_eq!(state, PartState::Active { detail: "reading".to_owned() });
    writeln!(log, "{LINE}\nrubbish").unwrap();
    assert_eq!(next_lines(&batches), 1);
    let stats = stats.snapshot();
    assert_eq!(
        (stats.lines, stats.rejected.iter().sum::<u64>(), stats.bytes),
        (2, 1, 2 * (LINE.len() as u64 + 1) + 8)
    );
    assert_eq!(stats.last_line_secs, Some(1_795_530_901));
    sources.stop();
}

#[test]
fn a_source_without_a_consumer_still_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    std::fs::write(&path, format!("{LINE}\n").repeat(20_000)).unwrap();
    let settings =
        Settings { first_start: FirstStart::Beginning, ..Settings::of_files(path.to_str().unwrap()) };
    let Running { sources, batches, .. } = launch(settings, 1);
    assert!(next_lines(&batches) > 0);
    drop(batches);
    sources.stop();
}

/// History: the lag was counted only once everything was read, so an agent hours behind showed none.
#[test]
fn a_source_that_is_held_back_shows_how_far_it_is_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    let text = format!("{LINE}\n").repeat(20_000);
    std::fs::write(&path, &text).unwrap();
    let settings =
        Settings { first_start: FirstStart::Beginning, ..Settings::of_files(path.to_str().unwrap()) };
    let Running { sources, stats, batches, .. } = launch(settings, 0);
    let first = next_lines(&batches);
    let behind = stats.snapshot();
    let unread = |lines: usize| (text.len() - lines * (LINE.len() + 1)) as u64;
    assert_eq!(
        behind.backlog,
        Some(Backlog { bytes: unread(first), logs: 1 }),
        "the first batch alone is read"
    );
    assert!(unread(first) > file::BLOCK_BYTES as u64, "{first} lines were the first block");
    let mut lines = first;
    while lines < 20_000 {
        lines += next_lines(&batches);
    }
    let deadline = Instant::now() + PATIENCE;
    while stats.snapshot().backlog != Some(Backlog { bytes: 0, logs: 1 }) {
        assert!(Instant::now() < deadline, "{:?}", stats.snapshot());
        std::thread::yield_now();
    }
    sources.stop();
}

#[test]
fn nginx_can_send_its_lines_over_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nginx.sock");
    let settings = Settings { input: Input::Syslog(path.as_path().into()), ..Settings::of_files("syslog") };
    let Running { sources, batches, reports, .. } = launch(settings, 4);
    assert!(matches!(reports.recv_timeout(PATIENCE).unwrap().state, PartState::Active { .. }));
    let sender = UnixDatagram::unbound().unwrap();
    sender.send_to(format!("<190>Nov 24 14:35:01 web nginx: {LINE}").as_bytes(), &path).unwrap();
    let batch = batches.recv_timeout(PATIENCE).unwrap();
    assert_eq!((batch.lines.len(), batch.live, batch.checkpoint), (1, true, None));
    sources.stop();
    assert!(!path.exists());
}

/// A pipe that appears, whose writer leaves and comes back, and that a file takes the place of.
#[test]
fn a_named_pipe_is_read_for_as_long_as_it_lies_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let Running { sources, batches, reports, .. } = launch(Settings::of_files(path.to_str().unwrap()), 4);
    let next_state = || reports.recv_timeout(PATIENCE).unwrap().state;
    assert!(matches!(next_state(), PartState::Waiting { reason } if reason.contains("open for writing")));
    for _ in 0..2 {
        let mut nginx = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        writeln!(nginx, "{LINE}").unwrap();
        assert_eq!(next_lines(&batches), 1);
        drop(nginx);
    }
    std::fs::rename(&path, folder.path().join("old")).unwrap();
    let mut log = std::fs::File::create(&path).unwrap();
    writeln!(log, "{LINE}").unwrap();
    assert_eq!(next_lines(&batches), 1);
    sources.stop();
}
