//! The threads: real files, real hints, real waits (each with a deadline).

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use super::*;
use shield_engine::event::PartState;

/// A hint takes milliseconds; this is for a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);

const LINE: &str = r#"{"source_ip":"192.0.2.7","timestamp":1795530901,"path":"/","status":200}"#;

fn deliver_to(sender: SyncSender<Batch>) -> impl Deliver + Clone {
    move |batch| if sender.send(batch).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

fn launch(settings: Settings, batches: usize) -> (Sources, Receiver<Batch>, Receiver<PartReport>) {
    let (sender, receiver) = sync_channel(batches);
    let (reporter, reports) = sync_channel(100);
    let report = move |report| drop(reporter.send(report));
    let sources = start(vec![settings], &[], &Pool::default(), &deliver_to(sender), &report).unwrap();
    (sources, receiver, reports)
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
fn lines_come_as_they_are_written_and_the_state_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    let (sources, batches, reports) = launch(Settings::of_files(path.to_str().unwrap()), 4);
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
    let stats = sources.stats()[0].snapshot();
    assert_eq!(
        (stats.lines, stats.rejected.iter().sum::<u64>(), stats.bytes),
        (2, 1, 2 * (LINE.len() as u64 + 1) + 8)
    );
    assert_eq!(stats.last_line_secs, Some(1_795_530_901));
    sources.stop();
}

#[test]
fn a_source_whose_batches_nobody_takes_still_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    std::fs::write(&path, format!("{LINE}\n").repeat(20_000)).unwrap();
    let settings =
        Settings { first_start: FirstStart::Beginning, ..Settings::of_files(path.to_str().unwrap()) };
    let (sources, batches, _reports) = launch(settings, 1);
    assert!(next_lines(&batches) > 0);
    drop(batches);
    sources.stop();
}

#[test]
fn nginx_can_send_its_lines_over_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nginx.sock");
    let settings = Settings { input: Input::Syslog(path.clone()), ..Settings::of_files("syslog") };
    let (sources, batches, reports) = launch(settings, 4);
    assert!(matches!(reports.recv_timeout(PATIENCE).unwrap().state, PartState::Active { .. }));
    let sender = UnixDatagram::unbound().unwrap();
    sender.send_to(format!("<190>Nov 24 14:35:01 web nginx: {LINE}").as_bytes(), &path).unwrap();
    let batch = batches.recv_timeout(PATIENCE).unwrap();
    assert_eq!((batch.lines.len(), batch.live, batch.checkpoint), (1, true, None));
    sources.stop();
    assert!(!path.exists());
}
