//! Kill -9 at random points: after each kill the store holds exactly the last transaction that was reported, or the
//! one after it, and never a part of one.
//!
//! The test runs itself again as the child that writes. The child reports each committed transaction on standard output,
//! and the parent kills it during one of the next.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use shield_agent::test_support::store::reader::Reader;
use shield_agent::test_support::store::{BootId, Found, Settings, Store};
use shield_engine::action::{BanRecord, LiftReason, Record, Totals};
use shield_engine::ban::Ban;
use shield_engine::client::Client;
use shield_engine::request::Checkpoint;
use shield_engine::time::{Ends, Now};
use shield_engine::verdict::Rule;

const KILLS: u32 = 500;
const CHILD_DIR: &str = "SHIELD_CRASH_DIR";
const NOW: Now = Now { wall_ms: 1_800_000_000_000, boot_ms: 1_000_000 };
/// Bans in force at any time: transaction n bans one client and ends the ban of transaction n - IN_FORCE.
const IN_FORCE: u64 = 32;

fn open(dir: &Path) -> (Store, Found) {
    let settings = Settings { dir: dir.to_owned(), ..Settings::default() };
    Store::open(&settings, &BootId::from_text("one"), NOW).unwrap()
}

fn client(n: u64) -> Client {
    Client::from(std::net::Ipv4Addr::new(203, 0, 113, (n % 200) as u8))
}

fn ban(n: u64) -> BanRecord {
    BanRecord {
        ban: Ban {
            client: client(n),
            serial: n,
            since_ms: NOW.wall_ms + n as i64,
            ends: Ends::after(NOW, n),
            offence: NonZeroU32::new(n as u32),
            rule: Rule::Flood,
            place: shield_engine::ban::Place::Everywhere,
        },
        reason: Some("x".repeat((n % 700) as usize)),
        evidence: None,
    }
}

fn transaction(n: u64) -> Vec<Record> {
    let mut records = vec![
        Record::Banned(Box::new(ban(n))),
        Record::Offences {
            client: client(n),
            count: NonZeroU32::new(n as u32).expect("serial numbers begin at 1"),
            last_secs: 1_800_000_000,
        },
        Record::Baseline(vec![n as u8; (n % 9_000) as usize]),
        Record::Totals(Totals { requests: n, ..Totals::default() }),
        Record::Checkpoint(Checkpoint { source: "log".into(), position: n.to_string() }),
    ];
    if let Some(ended) = n.checked_sub(IN_FORCE).filter(|n| *n > 0) {
        let reason = LiftReason::Expired;
        records.push(Record::Lifted { client: client(ended), serial: ended, at_ms: NOW.wall_ms, reason });
    }
    records
}

/// Checks that all tables are of the same transaction and returns its number.
fn check_whole(dir: &Path) -> u64 {
    let (store, found) = open(dir);
    assert!(matches!(found, Found::Nothing | Found::Sound), "{found:?}");
    let loaded = store.load().unwrap();
    let n = loaded.totals.requests;
    let mut bans = Vec::new();
    store.for_each_record(NOW, |ban| bans.push(ban)).unwrap();
    let first = n.saturating_sub(IN_FORCE) + 1;
    assert_eq!(bans, (first..=n).map(ban).collect::<Vec<_>>(), "the bans of transaction {n}");
    if n > 0 {
        assert_eq!(loaded.checkpoints["log"], n.to_string());
        assert_eq!(loaded.baseline, Some(vec![n as u8; (n % 9_000) as usize]));
        assert_eq!(loaded.next_serial, n + 1);
    }
    let ended = Reader::beside(&store).unwrap().history(None, 1).unwrap();
    assert_eq!(ended.first().map_or(0, |ban| ban.serial), n.saturating_sub(IN_FORCE));
    let mut offences = 0;
    store.for_each_offence(|_, count, _| offences = offences.max(u64::from(count))).unwrap();
    assert_eq!(offences, n);
    n
}

/// Not a test: the process that is killed. Returns at once in a normal run.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD_DIR).map(PathBuf::from) else { return };
    let (mut store, _) = open(&dir);
    let mut n = store.load().unwrap().totals.requests;
    let mut out = std::io::stdout();
    loop {
        n += 1;
        store.commit(&transaction(n), NOW).unwrap();
        writeln!(out, "\ncommitted {n}").unwrap();
        out.flush().unwrap();
        if n.is_multiple_of(16) {
            store.checkpoint().unwrap();
            store.prune(NOW).unwrap();
        }
    }
}

/// Lets a child write until it has reported some transactions and for `moment` longer, kills it, and returns the last
/// reported transaction.
fn write_and_kill(dir: &Path, reports: u64, moment: Duration) -> Option<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let number = |line: String| line.strip_prefix("committed ").and_then(|n| n.parse().ok());
    let mut last = None;
    for _ in 0..reports {
        last = lines.by_ref().find_map(number).or(last);
    }
    // The wait is what makes the point random: inside a commit, a checkpoint, or between them.
    std::thread::sleep(moment);
    child.kill().unwrap();
    child.wait().unwrap();
    lines.filter_map(number).last().or(last)
}

#[test]
fn kill_9_leaves_the_old_or_the_new_state() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("state");
    let mut before = 0;
    let mut random: u64 = 0x5eed;
    for kill in 0..KILLS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let reports = (random >> 33) % 12;
        let reported = write_and_kill(&dir, reports, Duration::from_micros((random >> 40) % 4_000));
        let now = check_whole(&dir);
        let expected = reported.unwrap_or(before);
        assert!(now == expected || now == expected + 1, "kill {kill}: reported {expected}, found {now}");
        before = now;
    }
    assert!(before > u64::from(KILLS), "the children hardly wrote anything: {before} transactions");
}
