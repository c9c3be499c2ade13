//! A full disk: the store reports it, keeps the unwritten records, can still be opened, and writes everything once there is
//! room.

use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use shield_agent::test_support::store::writer::{Kept, Writer};
use shield_agent::test_support::store::{BootId, Found, Settings, Store};
use shield_engine::action::{BanRecord, Record};
use shield_engine::ban::Ban;
use shield_engine::client::Client;
use shield_engine::event::PartState;
use shield_engine::time::{Ends, Now};
use shield_engine::verdict::Rule;

const NOW: Now = Now { wall_ms: 1_800_000_000_000, boot_ms: 1_000_000 };
const DISK: &str = "size=3m,mode=0755";
const BALLAST_BYTES: usize = 1 << 20;

fn ban(n: u32) -> Record {
    Record::Banned(Box::new(BanRecord {
        ban: Ban {
            client: Client::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n)),
            serial: u64::from(n) + 1,
            since_ms: NOW.wall_ms,
            ends: Ends::after(NOW, 600_000),
            offence: std::num::NonZeroU32::new(1),
            rule: Rule::Flood,
            place: shield_engine::ban::Place::Everywhere,
        },
        reason: Some("x".repeat(100)),
        evidence: None,
    }))
}

fn open(dir: &Path) -> Store {
    let settings = Settings { dir: dir.join("state"), ..Settings::default() };
    let (store, found) = Store::open(&settings, &BootId::from_text("one"), NOW).expect("the store opens");
    assert!(matches!(found, Found::Nothing | Found::Sound), "{found:?}");
    store
}

fn bans_in(store: &Store) -> u64 {
    let mut bans = 0;
    store.for_each_record(NOW, |_| bans += 1).expect("the bans can be read");
    assert_eq!(store.load().expect("the rest can be read").bans, bans);
    bans
}

/// Writes bans, a hundred per transaction, until the disk is full; returns the number of committed bans.
fn fill(writer: &mut Writer) -> u32 {
    for from in (0..).step_by(100) {
        let outcome = writer.commit((from..from + 100).map(ban).collect(), NOW);
        if outcome.kept == Kept::Committed {
            assert_eq!(outcome.report, None);
            continue;
        }
        let Some(PartState::Degraded { reason }) = outcome.report.map(|report| report.state) else {
            panic!("the full disk was not reported")
        };
        assert!(reason.contains("free some space"), "{reason}");
        return from;
    }
    unreachable!("the disk has an end")
}

fn check_on_a_small_disk(dir: PathBuf) {
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace of our own (needs root)");
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .expect("nothing leaves the namespace");
    mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), Some(DISK)).expect("a small disk");
    let ballast = dir.join("ballast");
    std::fs::write(&ballast, vec![1; BALLAST_BYTES]).expect("the disk has room at first");

    let mut writer = Writer::new(open(&dir), NOW);
    let committed = fill(&mut writer);
    assert!(committed > 1_000, "the disk was full after {committed} bans");
    let outcome = writer.commit(vec![ban(5_000_000)], NOW.plus_ms(1));
    assert_eq!((outcome.kept, outcome.report), (Kept::Held, None), "reported once");
    assert_eq!(writer.backlog(), 101);

    // After a kill and a restart with the disk still full, the agent has all committed bans.
    drop(writer);
    let mut writer = Writer::new(open(&dir), NOW);
    assert_eq!(bans_in(writer.store()), u64::from(committed));
    let missing: Vec<Record> = (committed..committed + 1_000).map(ban).collect();
    assert_eq!(writer.commit(missing, NOW).kept, Kept::Held);

    std::fs::remove_file(&ballast).expect("room is made");
    let reports: Vec<PartState> =
        (1..100).filter_map(|n| writer.work(NOW.plus_ms(n * 60_000))).map(|report| report.state).collect();
    assert_eq!(writer.backlog(), 0);
    assert!(matches!(reports[..], [PartState::Active { .. }]), "{reports:?}");
    assert_eq!(bans_in(writer.store()), u64::from(committed) + 1_000);
}

#[test]
fn a_full_disk_loses_nothing_and_stops_nobody() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().to_owned();
    // A thread of its own, so that no other thread enters the mount namespace, which ends with this one.
    let checked = std::thread::spawn(move || check_on_a_small_disk(path)).join();
    assert!(std::fs::read_dir(dir.path()).expect("it is there").next().is_none(), "nothing was left outside");
    if let Err(panic) = checked {
        std::panic::resume_unwind(panic);
    }
}
