//! The store against a model, a torn file, a jumping clock and a reboot.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::reader::{BanQuery, BanSort, Reader};
use super::writer::{Kept, Writer};
use super::*;
use shield_engine::action::{BanRecord, LiftReason, Totals};
use shield_engine::allowlist::{AllowReason, Allowed};
use shield_engine::ban::{Ban, Place};
use shield_engine::client::Client;
use shield_engine::event::PartState;
use shield_engine::request::Checkpoint;
use shield_engine::time::Ends;
use shield_engine::verdict::{Evidence, Rule};

const NOW: Now = Now { wall_ms: 1_800_000_000_000, boot_ms: 5_000_000 };

fn settings(dir: &Path) -> Settings {
    Settings { dir: dir.join("state"), ..Settings::default() }
}

fn boot(name: &str) -> BootId {
    BootId::from_text(name)
}

fn open(settings: &Settings, now: Now) -> (Store, Found) {
    Store::open(settings, &boot("a"), now).unwrap()
}

fn client(n: u32) -> Client {
    Client::from(std::net::Ipv4Addr::from_bits(0xcb00_7100 + n))
}

/// A client's offences; none are forgotten.
fn offences(client: Client, count: u32, last_secs: i64) -> Record {
    match NonZeroU32::new(count) {
        Some(count) => Record::Offences { client, count, last_secs },
        None => Record::OffencesForgotten(client),
    }
}

fn ban(n: u32, serial: u64, ends: Ends) -> BanRecord {
    BanRecord {
        ban: Ban {
            client: client(n),
            serial,
            since_ms: NOW.wall_ms + serial as i64,
            ends,
            offence: NonZeroU32::new(n % 4),
            rule: if n.is_multiple_of(2) { Rule::ZScore } else { Rule::Operator },
            place: Place::Everywhere,
        },
        reason: n.is_multiple_of(3).then(|| format!("reason {n}")),
        evidence: None,
    }
}

fn banned(n: u32, serial: u64, ends: Ends) -> Record {
    Record::Banned(Box::new(ban(n, serial, ends)))
}

fn lifted(n: u32, serial: u64, reason: LiftReason) -> Record {
    Record::Lifted { client: client(n), serial, at_ms: NOW.wall_ms + 9_000, reason }
}

fn evidence() -> Box<Evidence> {
    Box::new(Evidence {
        rule: Rule::ZScore,
        condition: "z-score=5.43 > threshold=2.0".into(),
        rate: 3.72,
        mean: 0.1,
        stddev: 0.1,
        z_score: 5.43,
        threshold: 2.0,
        tightened: false,
        baseline: "floor".into(),
        window_secs: 60,
        requests: 223,
        errors: 1,
        measures: vec![],
        top_paths: vec![],
        account: Vec::new(),
        lines: Vec::new(),
        sites: Vec::new(),
        policy: None,
        observe: None,
        at_secs: 1,
    })
}

fn bans_of(store: &Store, now: Now) -> Vec<BanRecord> {
    let mut bans = Vec::new();
    store.for_each_record(now, |ban| bans.push(ban)).unwrap();
    bans
}

fn remaining(store: &Store, now: Now) -> Vec<Option<u64>> {
    bans_of(store, now).iter().map(|ban| ban.ban.ends.remaining_ms(now)).collect()
}

#[test]
fn everything_comes_back_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let allowed = |net: &str| Allowed { network: net.parse().unwrap(), reason: AllowReason::Operator };
    let allow = |net: &str, note: Option<&str>| Record::Allowed {
        entry: allowed(net),
        note: note.map(str::to_owned),
        until_ms: note.map(|_| 1_900_000_000_000),
    };
    let first = BanRecord { evidence: Some(evidence()), ..ban(1, 7, Ends::after(NOW, 600_000)) };
    let checkpoint = Checkpoint { source: "/var/log/x".into(), position: "{\"at\":5}".into() };
    let totals = Totals { requests: 10, errors: 2, rejected: 1, salvaged: 0, bans: 2, lifts: 0 };
    let (mut store, found) = open(&settings, NOW);
    assert_eq!(found, Found::Nothing);
    store
        .commit(
            &[
                Record::Banned(Box::new(first.clone())),
                banned(2, 8, Ends::Never),
                offences(client(1), 3, 99),
                Record::Baseline(vec![1, 2, 3]),
                Record::Checkpoint(checkpoint.clone()),
                Record::Totals(totals),
                Record::Slowed(b"[]".to_vec()),
                Record::Paused(b"{}".to_vec()),
                Record::Remote { origin: "fleet:a".into(), client: client(5), entry: Some(b"old".to_vec()) },
                Record::Remote { origin: "fleet:a".into(), client: client(5), entry: Some(b"new".to_vec()) },
                Record::Remote { origin: "fleet:b".into(), client: client(5), entry: Some(b"gone".to_vec()) },
                Record::Remote { origin: "fleet:b".into(), client: client(5), entry: None },
                Record::RemoteState(b"{}".to_vec()),
                allow("198.51.100.0/24", None),
                allow("2001:db8::/32", Some("the office")),
                Record::Disallowed(allowed("198.51.100.0/24")),
            ],
            NOW,
        )
        .unwrap();
    drop(store);
    let (store, found) = open(&settings, NOW);
    assert_eq!(found, Found::Sound);
    let expected = Loaded {
        bans: 2,
        baseline: Some(vec![1, 2, 3]),
        checkpoints: BTreeMap::from([(checkpoint.source, checkpoint.position)]),
        totals,
        slowed: Some(b"[]".to_vec()),
        paused: Some(b"{}".to_vec()),
        remote_state: Some(b"{}".to_vec()),
        allowed: vec![allowed("2001:db8::/32")],
        allowed_until_ms: vec![("2001:db8::/32".parse().unwrap(), 1_900_000_000_000)],
        next_serial: 9,
        audit_head: None,
        trouble: None,
    };
    assert_eq!(store.load().unwrap(), expected);
    let without = BanRecord { evidence: None, ..first.clone() };
    assert_eq!(bans_of(&store, NOW), [without, ban(2, 8, Ends::Never)]);
    let mut offences = Vec::new();
    store.for_each_offence(|who, count, last| offences.push((who, count, last))).unwrap();
    assert_eq!(offences, [(client(1), 3, 99)]);
    let mut remote = Vec::new();
    store.for_each_remote(|origin, who, entry| remote.push((origin, who, entry))).unwrap();
    assert_eq!(remote, [("fleet:a".to_owned(), client(5), b"new".to_vec())]);
    let reader = Reader::beside(&store).unwrap();
    assert_eq!(reader.ban(client(1), NOW).unwrap(), Some(first));
    assert_eq!(reader.ban(client(77), NOW).unwrap(), None);
}

#[test]
fn only_the_owner_may_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let (mut store, _) = open(&settings, NOW);
    store.commit(&[banned(1, 1, Ends::Never)], NOW).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&settings.dir), 0o700);
    for entry in std::fs::read_dir(&settings.dir).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[test]
fn a_second_agent_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let _first = open(&settings, NOW);
    let error = Store::open(&settings, &boot("a"), NOW).unwrap_err();
    assert!(format!("{error:#}").contains("another shield-agent is running"), "{error:#}");
}

#[test]
fn a_newer_or_foreign_database_is_refused_and_left_alone() {
    let check = |pragmas: &str, words: &str| {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        drop(open(&settings, NOW));
        Connection::open(settings.file()).unwrap().execute_batch(pragmas).unwrap();
        let error = format!("{:#}", Store::open(&settings, &boot("a"), NOW).unwrap_err());
        assert!(error.contains(words), "{error}");
        assert!(settings.file().exists());
    };
    check("PRAGMA user_version = 99", "written by a newer Shield (tables of version 99");
    check("PRAGMA application_id = 7", "another program's database");
}

/// A start reads while the file is checked: damage in a part that it does not read is found all the same.
#[test]
fn a_file_is_read_while_it_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let (mut store, _) = open(&settings, NOW);
    let many: Vec<Record> = (0..2_000).map(|n| banned(n, u64::from(n) + 1, Ends::Never)).collect();
    store.commit(&many, NOW).unwrap();
    store.checkpoint().unwrap();
    drop(store);

    let (store, found, check) = Store::open_and_check(&settings, &boot("a"), NOW).unwrap();
    assert!(matches!(found, Found::Sound), "{found:?}");
    assert_eq!(bans_of(&store, NOW).len(), 2_000);
    let Checked::Sound(store) = store.await_check(check, &boot("a"), NOW).unwrap() else {
        panic!("a sound file was replaced")
    };
    // By its name in the schema: the first page of an index that no start reads.
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'bans_by_end'";
    let page: i64 = store.connection.query_row(sql, [], |row| row.get(0)).unwrap();
    let page = page as usize;
    drop(store);
    let mut bytes = std::fs::read(settings.file()).unwrap();
    bytes[(page - 1) * 4096..page * 4096].fill(0x5a);
    std::fs::write(settings.file(), &bytes).unwrap();

    let (store, found, check) = Store::open_and_check(&settings, &boot("a"), NOW).unwrap();
    assert!(matches!(found, Found::Sound), "not known yet: {found:?}");
    assert_eq!(bans_of(&store, NOW).len(), 2_000);
    let Checked::Replaced(mut store, found) = store.await_check(check, &boot("a"), NOW).unwrap() else {
        panic!("the damage was not found")
    };
    let Found::Damaged { moved_to, .. } = found else { panic!("{found:?}") };
    assert_eq!(std::fs::read(moved_to).unwrap(), bytes, "kept as it was");
    assert_eq!(bans_of(&store, NOW), []);
    store.commit(&[banned(1, 1, Ends::Never)], NOW).unwrap();
    assert!(Store::open(&settings, &boot("a"), NOW).is_err(), "the directory is still locked");
}

#[test]
fn commits_write_into_a_log_that_is_long_already_and_nothing_of_its_filling_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let (mut store, _) = open(&settings, NOW);
    store.commit(&[banned(1, 1, Ends::Never)], NOW).unwrap();
    let log = files::log_of(&settings.file());
    let length = || std::fs::metadata(&log).unwrap().len();
    assert!(length() < u64::from(LOG_BYTES));
    store.lengthen_log().unwrap();
    let long = length();
    assert!(long >= u64::from(LOG_BYTES), "{long}");
    for n in 2..100 {
        store.commit(&[banned(n, u64::from(n), Ends::Never)], NOW).unwrap();
    }
    store.lengthen_log().unwrap();
    assert_eq!(length(), long, "no commit made it longer, and it is not filled again");
    // As after kill -9.
    let copy = tempfile::tempdir().unwrap();
    for file in [settings.file(), log] {
        std::fs::copy(&file, copy.path().join(file.file_name().unwrap())).unwrap();
    }
    let copied = Settings { dir: copy.path().to_owned(), ..settings };
    let (copied, found) = open(&copied, NOW);
    assert_eq!(found, Found::Sound);
    assert_eq!(bans_of(&copied, NOW), bans_of(&store, NOW));
    assert_eq!(bans_of(&copied, NOW).len(), 99);
    let cache: i64 = store.connection.query_row("PRAGMA cache_size", [], |row| row.get(0)).unwrap();
    assert_eq!(cache, -i64::from(store.settings.cache_kib));
}

#[test]
fn a_damaged_file_is_moved_aside_loudly() {
    let check = |name: &str, damage: &dyn Fn(&mut Vec<u8>)| {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let (mut store, _) = open(&settings, NOW);
        let many: Vec<Record> = (0..2_000).map(|n| banned(n, u64::from(n) + 1, Ends::Never)).collect();
        store.commit(&many, NOW).unwrap();
        store.checkpoint().unwrap();
        drop(store);
        let mut bytes = std::fs::read(settings.file()).unwrap();
        damage(&mut bytes);
        std::fs::write(settings.file(), &bytes).unwrap();
        let (mut store, found) = open(&settings, NOW);
        let Found::Damaged { moved_to, damage } = found else { panic!("{name}: {found:?}") };
        assert!(!damage.is_empty());
        assert_eq!(std::fs::read(&moved_to).unwrap(), bytes, "{name}: kept as it was");
        assert!(moved_to.to_str().unwrap().ends_with("shield.db.damaged-20270115T080000Z"), "{moved_to:?}");
        assert_eq!(bans_of(&store, NOW), [], "{name}");
        store.commit(&[banned(1, 1, Ends::Never)], NOW).unwrap();
    };
    check("no length", &|bytes| bytes.clear());
    check("header", &|bytes| bytes[..100].fill(0));
    check("half", &|bytes| bytes.truncate(bytes.len() / 2));
    check("not whole pages", &|bytes| bytes.truncate(bytes.len() / 2 + 77));
    check("one byte", &|bytes| bytes.truncate(1));
    check("a version that none has", &|bytes| bytes[60] = 0x3d);
    check("a column's name", &|bytes| {
        let at = bytes.windows(8).position(|text| text == b"since_ms").unwrap();
        bytes[at] = b'x';
    });
    check("a column's name that is no text", &|bytes| {
        let at = bytes.windows(8).position(|text| text == b"since_ms").unwrap();
        bytes[at] = 0xff;
    });
    check("a version below none", &|bytes| bytes[60] = 0xff);
    check("a format that SQLite does not know", &|bytes| bytes[47] = 0x2e);
    for version in 1..schema::newest() as u8 {
        check(&format!("version {version}, whose tables these are not"), &|bytes| bytes[63] = version);
    }
    for page in [1, 3, 7, 11, 20, 40] {
        check(&format!("page {page} overwritten"), &|bytes| {
            let at = page * 4096;
            for (n, byte) in bytes[at..at + 4096].iter_mut().enumerate() {
                *byte = (n * 31 + 7) as u8;
            }
        });
    }
}

#[test]
fn a_damaged_file_never_overwrites_one_moved_aside_before() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..3 {
        drop(open(&settings, NOW));
        std::fs::write(settings.file(), b"torn").unwrap();
        let Found::Damaged { moved_to, .. } = open(&settings, NOW).1 else { panic!("not found damaged") };
        names.insert(moved_to);
    }
    assert_eq!(names.len(), 3);
}

#[test]
fn an_old_lift_does_not_touch_a_newer_ban() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&settings(dir.path()), NOW);
    store.commit(&[banned(1, 1, Ends::Never), banned(1, 2, Ends::Never)], NOW).unwrap();
    store.commit(&[lifted(1, 1, LiftReason::Expired)], NOW).unwrap();
    assert_eq!(bans_of(&store, NOW), [ban(1, 2, Ends::Never)]);
    assert_eq!(Reader::beside(&store).unwrap().history(None, 10).unwrap(), []);
}

/// The engine keeps no evidence and no words in memory, so a ban that is only extended comes without them.
#[test]
fn an_extended_ban_keeps_its_evidence_and_a_new_one_does_not_inherit_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&settings(dir.path()), NOW);
    let first = BanRecord {
        evidence: Some(evidence()),
        reason: Some("flood".into()),
        ..ban(1, 1, Ends::after(NOW, 1000))
    };
    let moved = Ban { serial: 2, ends: Ends::Never, ..first.ban };
    let extended = BanRecord { ban: moved, evidence: None, reason: None };
    store.commit(&[Record::Banned(Box::new(first.clone()))], NOW).unwrap();
    store.commit(&[Record::Extended(Box::new(extended.clone()))], NOW).unwrap();
    let reader = Reader::beside(&store).unwrap();
    let expected = BanRecord { evidence: first.evidence, reason: first.reason, ..extended };
    assert_eq!(reader.ban(client(1), NOW).unwrap(), Some(expected));
    store.commit(&[banned(1, 3, Ends::Never)], NOW).unwrap();
    assert_eq!(reader.ban(client(1), NOW).unwrap(), Some(ban(1, 3, Ends::Never)));
    store.commit(&[lifted(1, 3, LiftReason::Operator)], NOW).unwrap();
    let left: i64 =
        store.connection.query_row("SELECT count(*) FROM evidence", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0, "no evidence without its ban");
}

#[test]
fn within_a_boot_the_boot_clock_decides_however_the_wall_clock_jumps() {
    let check = |jump_ms: i64| {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let (mut store, _) = open(&settings, NOW);
        store.commit(&[banned(1, 1, Ends::after(NOW, 600_000))], NOW).unwrap();
        drop(store);
        let later = NOW.plus_ms(60_000);
        let later = Now { wall_ms: later.wall_ms + jump_ms, ..later };
        let (store, _) = open(&settings, later);
        assert_eq!(remaining(&store, later), [Some(540_000)], "jump {jump_ms}");
        let Ends::At { wall_ms, .. } = bans_of(&store, later)[0].ban.ends else { panic!("no end") };
        assert_eq!(wall_ms, later.wall_ms + 540_000, "people are told the end on the clock as it is");
    };
    check(0);
    check(86_400_000);
    check(-86_400_000);
    check(-3 * 365 * 86_400_000);
}

#[test]
fn across_a_reboot_the_time_since_the_last_transaction_counts() {
    let check = |name: &str, passed_ms: i64, expected: u64| {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let (mut store, _) = open(&settings, NOW);
        store.commit(&[banned(1, 1, Ends::after(NOW, 600_000)), banned(2, 2, Ends::Never)], NOW).unwrap();
        // The wall clock is stepped by an hour while running; the next transaction notes the new time.
        let stepped = NOW.plus_ms(100_000);
        let stepped = Now { wall_ms: stepped.wall_ms + 3_600_000, ..stepped };
        store.commit(&[], stepped).unwrap();
        drop(store);
        let start = Now { wall_ms: stepped.wall_ms + passed_ms, boot_ms: 20_000 };
        for (restart, after_ms) in [(1, 0), (2, 7_000), (3, 7_500)] {
            let now = start.plus_ms(after_ms);
            let (mut store, _) = Store::open(&settings, &boot("b"), now).unwrap();
            let left = expected.saturating_sub(after_ms);
            assert_eq!(remaining(&store, now), [Some(left), None], "{name}, start {restart}");
            store.commit(&[], now).unwrap();
        }
    };
    check("a minute down", 60_000, 440_000);
    check("no time", 0, 500_000);
    check("longer than the ban", 10_000_000, 0);
    check("the clock went back", -86_400_000, 500_000);
}

#[test]
fn each_reboot_moves_the_deadlines_of_all_earlier_ones() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let mut now = NOW;
    for (n, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let (mut store, _) = Store::open(&settings, &boot(name), now).unwrap();
        store.commit(&[banned(n as u32, n as u64 + 1, Ends::after(now, 1_000_000))], now).unwrap();
        now = Now { wall_ms: now.wall_ms + 100_000, boot_ms: 3_000 };
    }
    let (store, _) = Store::open(&settings, &boot("e"), now).unwrap();
    assert_eq!(remaining(&store, now), [Some(600_000), Some(700_000), Some(800_000), Some(900_000)]);
}

#[test]
fn the_history_is_bounded_by_number_and_by_age() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { history_rows: 50, ..settings(dir.path()) };
    let (mut store, _) = open(&settings, NOW);
    for n in 0..120 {
        store.commit(&[banned(n, u64::from(n) + 1, Ends::Never)], NOW).unwrap();
        store.commit(&[lifted(n, u64::from(n) + 1, LiftReason::Expired)], NOW).unwrap();
    }
    store.prune(NOW).unwrap();
    let kept = Reader::beside(&store).unwrap().history(None, 1000).unwrap();
    assert_eq!(kept.len(), 50);
    assert_eq!(kept[0].client, client(119), "the newest are kept, newest first");
    let later = NOW.plus_ms(settings.history_kept.as_millis() as u64 + 10_000);
    store.prune(later).unwrap();
    assert_eq!(Reader::beside(&store).unwrap().history(None, 1000).unwrap(), []);
}

#[test]
fn offences_idle_for_long_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&settings(dir.path()), NOW);
    let day: i64 = 86_400;
    let offence = |n, days_ago| offences(client(n), 1, NOW.wall_secs() - days_ago * day);
    store.commit(&[offence(1, 31), offence(2, 29), offence(3, 31)], NOW).unwrap();
    store.commit(&[Record::OffencesForgotten(client(3))], NOW).unwrap();
    store.prune(NOW).unwrap();
    let reader = Reader::beside(&store).unwrap();
    let kept: Vec<bool> = (1..=3).map(|n| reader.offences(client(n)).unwrap().is_some()).collect();
    assert_eq!(kept, [false, true, false]);
}

/// The end of a ban may be written after the client's next ban, which overtook it: the count must not go back.
#[test]
fn an_overtaken_count_of_offences_changes_nothing() {
    let check = |first: (u32, i64), then: (u32, i64), expected: Option<u32>| {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = open(&settings(dir.path()), NOW);
        for (count, last_secs) in [first, then] {
            store.commit(&[offences(client(1), count, last_secs)], NOW).unwrap();
        }
        let kept = Reader::beside(&store).unwrap().offences(client(1)).unwrap();
        assert_eq!(kept.map(|offences| offences.count), expected, "{first:?} then {then:?}");
    };
    check((2, 200), (1, 100), Some(2));
    check((2, 200), (3, 300), Some(3));
    check((2, 200), (3, 100), Some(3)); // the wall clock went back
    check((4, 200), (1, 900), Some(1)); // forgotten, and offended again
    check((2, 200), (0, 0), None);
}

#[test]
fn bans_of_lists_can_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&settings(dir.path()), NOW);
    let imported = |n: u32| {
        let mut ban = ban(n, u64::from(n) + 1, Ends::Never);
        let lists = [Rule::Imported, Rule::Blocklist, Rule::Crowdsec];
        ban.ban.rule = if n.is_multiple_of(3) { lists[n as usize / 3] } else { ban.ban.rule };
        Record::Banned(Box::new(ban))
    };
    store.commit(&(0..9).map(imported).collect::<Vec<_>>(), NOW).unwrap();
    let reader = Reader::beside(&store).unwrap();
    let total = |no_imported, search: Option<&str>| {
        let query =
            BanQuery { no_imported, search: search.map(str::to_owned), limit: 9, ..BanQuery::default() };
        let page = reader.bans(&query, NOW).unwrap();
        assert_eq!(page.bans.len() as u64, page.total);
        assert!(!no_imported || page.bans.iter().all(|ban| !ban.ban.rule.is_of_a_list()));
        page.total
    };
    assert_eq!((total(false, None), total(true, None)), (9, 6));
    assert_eq!((total(false, Some("203.0.113.3")), total(true, Some("203.0.113.3"))), (1, 0));
}

#[test]
fn bans_are_found_and_counted_by_site_until_they_end() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&settings(dir.path()), NOW);
    let of_sites = |n: u32, serial, sites: &[&str]| {
        let mut ban = ban(n, serial, Ends::Never);
        let sites = sites.iter().map(ToString::to_string).collect();
        ban.evidence = Some(Box::new(Evidence { sites, ..*evidence() }));
        Record::Banned(Box::new(ban))
    };
    let records = [
        of_sites(1, 1, &["shop", "blog"]),
        of_sites(2, 2, &["shop"]),
        of_sites(3, 3, &[]),
        of_sites(4, 4, &["' OR 1=1"]),
    ];
    store.commit(&records, NOW).unwrap();
    let reader = Reader::beside(&store).unwrap();
    let found = |site: &str| {
        let query = BanQuery { site: Some(site.to_owned()), limit: 9, ..BanQuery::default() };
        let page = reader.bans(&query, NOW).unwrap();
        assert_eq!(page.total, reader.clients_of_site(site).unwrap().len() as u64);
        let clients: Vec<String> = page.bans.iter().map(|ban| ban.ban.client.to_string()).collect();
        clients.join(" ")
    };
    assert_eq!(found("shop"), "203.0.113.2 203.0.113.1");
    assert_eq!(
        (found("blog").as_str(), found("nobody").as_str(), found("' OR 1=1").as_str()),
        ("203.0.113.1", "", "203.0.113.4")
    );
    let extended = BanRecord { evidence: None, ..ban(1, 9, Ends::Never) };
    store.commit(&[Record::Extended(Box::new(extended)), lifted(2, 2, LiftReason::Expired)], NOW).unwrap();
    assert_eq!((found("shop").as_str(), found("blog").as_str()), ("203.0.113.1", "203.0.113.1"));
    let counts = reader.bans_by_site(2).unwrap();
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [("' OR 1=1".to_owned(), 1), ("blog".to_owned(), 1)]);
    store.commit(&[of_sites(1, 10, &["blog"])], NOW).unwrap();
    assert_eq!((found("shop").as_str(), found("blog").as_str()), ("", "203.0.113.1"));
}

#[test]
fn bans_are_found_sorted_and_paged() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&settings(dir.path()), NOW);
    let mut records: Vec<Record> =
        (0..200).map(|n| banned(n, u64::from(n) + 1, Ends::after(NOW, u64::from(300 - n) * 1000))).collect();
    let mut network = ban(0, 500, Ends::Never);
    network.ban.client = "203.0.113.0/24".parse().unwrap();
    let mut ipv6 = ban(0, 501, Ends::Never);
    ipv6.ban.client = "2001:db8:a::/64".parse().unwrap();
    records.extend([Record::Banned(Box::new(network)), Record::Banned(Box::new(ipv6))]);
    store.commit(&records, NOW).unwrap();
    let reader = Reader::beside(&store).unwrap();
    let list = |query: BanQuery| {
        let page = reader.bans(&BanQuery { limit: 3, ..query }, NOW).unwrap();
        let clients: Vec<String> = page.bans.iter().map(|ban| ban.ban.client.to_string()).collect();
        (page.total, clients.join(" "))
    };
    let search = |text: &str| BanQuery { search: Some(text.into()), ..BanQuery::default() };
    let check = |query, total, clients: &str| assert_eq!(list(query), (total, clients.to_owned()));
    check(BanQuery::default(), 202, "2001:db8:a::/64 203.0.113.0/24 203.0.113.199");
    check(BanQuery { offset: 2, ..BanQuery::default() }, 202, "203.0.113.199 203.0.113.198 203.0.113.197");
    check(BanQuery { offset: 201, ..BanQuery::default() }, 202, "203.0.113.0");
    check(
        BanQuery { sort: BanSort::EndsFirst, ..BanQuery::default() },
        202,
        "203.0.113.199 203.0.113.198 203.0.113.197",
    );
    check(
        BanQuery { sort: BanSort::Client, ..BanQuery::default() },
        202,
        "2001:db8:a::/64 203.0.113.0 203.0.113.0/24",
    );
    check(search("203.0.113.19"), 12, "203.0.113.0/24 203.0.113.199 203.0.113.198");
    check(search(" 203.0.113.77"), 2, "203.0.113.0/24 203.0.113.77");
    check(search("2001:DB8:a:0:0:0:0:5"), 1, "2001:db8:a::/64");
    check(search("%"), 0, "");
    check(search("' OR 1=1 --"), 0, "");
    check(
        BanQuery { rule: Some(Rule::Operator), ..search("203.0.113.19") },
        6,
        "203.0.113.199 203.0.113.197 203.0.113.195",
    );
}

#[test]
fn one_clients_history_is_told_newest_first() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&settings(dir.path()), NOW);
    for serial in 1..=3 {
        let new = BanRecord { evidence: Some(evidence()), ..ban(1, serial, Ends::Never) };
        store.commit(&[Record::Banned(Box::new(new))], NOW).unwrap();
        store
            .commit(&[lifted(1, serial, LiftReason::Operator), banned(2, serial + 10, Ends::Never)], NOW)
            .unwrap();
    }
    let history = Reader::beside(&store).unwrap().history_of(client(1), 2).unwrap();
    let serials: Vec<u64> = history.iter().map(|ended| ended.serial).collect();
    assert_eq!(serials, [3, 2]);
    assert_eq!(history[0].lift_reason, LiftReason::Operator);
    assert_eq!(history[0].lifted_ms, NOW.wall_ms + 9_000);
    assert_eq!(history[0].evidence.as_ref(), Some(evidence().as_ref()));
}

#[test]
fn a_hundred_thousand_ends_are_written_a_few_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&settings(dir.path()), NOW);
    let mut writer = Writer::new(store, NOW);
    let count = 3_000;
    let bans = (0..count).map(|n| banned(n, u64::from(n) + 1, Ends::after(NOW, 1000))).collect();
    assert_eq!(writer.commit(bans, NOW).kept, Kept::Committed);
    assert_eq!(writer.backlog(), 0, "bans are never put off");
    let ends = (0..count).map(|n| lifted(n, u64::from(n) + 1, LiftReason::Expired)).collect();
    assert_eq!(writer.commit(ends, NOW).kept, Kept::Committed);
    assert_eq!(writer.backlog(), count as usize, "ends of terms are");
    // A new ban of a client whose end is not written yet: the end must come first, or it would be lost.
    writer.commit(vec![banned(5, 9_999, Ends::Never)], NOW);
    let ended =
        |writer: &Writer| Reader::beside(writer.store()).unwrap().history_of(client(5), 9).unwrap().len();
    assert_eq!((writer.backlog(), ended(&writer)), (count as usize - 1, 1));
    while writer.backlog() > 0 {
        assert_eq!(writer.next_work_ms(), 0);
        assert_eq!(writer.work(NOW), None);
    }
    assert_eq!(bans_of(writer.store(), NOW), [ban(5, 9_999, Ends::Never)]);
}

/// SQLite's own limit on pages makes a full disk without one.
fn fill(writer: &Writer) {
    let pages: i64 = writer.store().connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    set_limit(writer, pages);
}

fn set_limit(writer: &Writer, pages: i64) {
    let set =
        writer.store().connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()));
    set.unwrap();
}

#[test]
fn a_full_disk_is_said_once_and_everything_is_written_when_it_has_room_again() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let mut writer = Writer::new(open(&settings, NOW).0, NOW);
    fill(&writer);
    let bans: Vec<Record> = (0..1000).map(|n| banned(n, u64::from(n) + 1, Ends::Never)).collect();
    let outcome = writer.commit(bans.clone(), NOW);
    assert_eq!(outcome.kept, Kept::Held);
    let PartState::Degraded { reason } = outcome.report.unwrap().state else { panic!("not degraded") };
    assert!(reason.contains("full") && reason.contains("free some space"), "{reason}");
    let outcome = writer.commit(vec![lifted(3, 4, LiftReason::Operator)], NOW.plus_ms(100));
    assert_eq!((outcome.kept, outcome.report), (Kept::Held, None), "not tried again at once, nor said again");
    assert_eq!(writer.work(NOW.plus_ms(600)), None, "tried again, the same error is not news");
    assert!(writer.next_work_ms() > NOW.boot_ms + 1000, "tried ever less often");
    set_limit(&writer, 1_000_000);
    let later = NOW.plus_ms(60_000);
    let mut reports = Vec::new();
    while writer.backlog() > 0 {
        reports.extend(writer.work(later));
    }
    let detail = "written again; nothing was lost".to_owned();
    assert_eq!(reports.into_iter().map(|r| r.state).collect::<Vec<_>>(), [PartState::Active { detail }]);
    let mut expected: Vec<BanRecord> = (0..1000).map(|n| ban(n, u64::from(n) + 1, Ends::Never)).collect();
    expected.remove(3);
    assert_eq!(bans_of(writer.store(), NOW), expected);
    assert_eq!(Reader::beside(writer.store()).unwrap().history_of(client(3), 9).unwrap().len(), 1);
}

#[test]
fn what_is_held_is_bounded_and_what_is_lost_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { held_records: 100, ..settings(dir.path()) };
    let mut writer = Writer::new(open(&settings, NOW).0, NOW);
    fill(&writer);
    let bans = |from: u32| (from..from + 90).map(|n| banned(n, u64::from(n) + 1, Ends::Never)).collect();
    writer.commit(bans(0), NOW);
    let said = writer.commit(bans(90), NOW.plus_ms(1)).report.expect("the loss is said");
    let PartState::Degraded { reason } = said.state else { panic!("not degraded") };
    assert!(reason.ends_with("100 records are held, further ones are lost"), "{reason}");
    assert_eq!(writer.backlog(), 100);
    set_limit(&writer, 1_000_000);
    let said = writer.work(NOW.plus_ms(60_000)).expect("recovery is said");
    let detail = "written again; 80 records were too many to hold and are missing".to_owned();
    assert_eq!(said.state, PartState::Active { detail });
}

#[test]
fn an_orderly_stop_writes_what_was_put_off() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let mut writer = Writer::new(open(&settings, NOW).0, NOW);
    writer.commit((0..2000).map(|n| banned(n, u64::from(n) + 1, Ends::Never)).collect(), NOW);
    writer.commit((0..2000).map(|n| lifted(n, u64::from(n) + 1, LiftReason::Expired)).collect(), NOW);
    assert!(writer.backlog() > 0);
    writer.finish(NOW).unwrap();
    drop(writer);
    assert_eq!(bans_of(&open(&settings, NOW).0, NOW), []);
}

#[derive(Debug, Clone)]
enum Step {
    Ban(u32),
    Lift(u32),
    Offences(u32, u32),
    Checkpoint(u8),
    Restart,
    Work,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u32..8).prop_map(Step::Ban),
        4 => (0u32..8).prop_map(Step::Lift),
        2 => (0u32..8, 0u32..5).prop_map(|(n, count)| Step::Offences(n, count)),
        1 => (0u8..3).prop_map(Step::Checkpoint),
        1 => Just(Step::Restart),
        1 => Just(Step::Work),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_history_of_commits_and_restarts_equals_the_model(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let mut writer = Writer::new(open(&settings, NOW).0, NOW);
        let mut bans: BTreeMap<u64, BanRecord> = BTreeMap::new();
        let mut offences: BTreeMap<String, (u32, i64)> = BTreeMap::new();
        let mut checkpoints: BTreeMap<String, String> = BTreeMap::new();
        let (mut serial, mut ended) = (0, 0);
        for step in steps {
            match step {
                Step::Ban(n) => {
                    serial += 1;
                    let new = ban(n, serial, Ends::after(NOW, serial * 1000));
                    bans.retain(|_, old| old.ban.client != new.ban.client);
                    bans.insert(serial, new.clone());
                    writer.commit(vec![Record::Banned(Box::new(new))], NOW);
                }
                Step::Lift(n) => {
                    let Some(old) = bans.values().find(|ban| ban.ban.client == client(n)) else { continue };
                    let old = old.ban.serial;
                    let reason = if n % 2 == 0 { LiftReason::Expired } else { LiftReason::Operator };
                    bans.remove(&old);
                    ended += 1;
                    writer.commit(vec![lifted(n, old, reason)], NOW);
                }
                Step::Offences(n, count) => {
                    offences.insert(client(n).to_string(), (count, 7));
                    writer.commit(vec![self::offences(client(n), count, 7)], NOW);
                }
                Step::Checkpoint(n) => {
                    let at = Checkpoint { source: format!("log {n}"), position: serial.to_string() };
                    checkpoints.insert(at.source.clone(), at.position.clone());
                    writer.commit(vec![Record::Checkpoint(at)], NOW);
                }
                Step::Work => drop(writer.work(NOW)),
                Step::Restart => {
                    writer.finish(NOW).unwrap();
                    drop(writer);
                    writer = Writer::new(open(&settings, NOW).0, NOW);
                }
            }
        }
        writer.finish(NOW).unwrap();
        let loaded = writer.store().load().unwrap();
        prop_assert_eq!(bans_of(writer.store(), NOW), bans.into_values().collect::<Vec<_>>());
        prop_assert_eq!(loaded.next_serial, serial + 1);
        prop_assert_eq!(loaded.checkpoints, checkpoints);
        let mut stored = BTreeMap::new();
        writer.store().for_each_offence(|who, count, last| { stored.insert(who.to_string(), (count, last)); }).unwrap();
        offences.retain(|_, (count, _)| *count > 0);
        prop_assert_eq!(stored, offences);
        prop_assert_eq!(Reader::beside(writer.store()).unwrap().history(None, 1000).unwrap().len(), ended);
    }
}

#[test]
fn decisions_are_synced_within_5_s_and_progress_alone_within_30_s() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(open(&settings(dir.path()), NOW).0, NOW);
    let progress = || Record::Checkpoint(Checkpoint { source: "/var/log/x".into(), position: "{}".into() });
    writer.commit(vec![progress()], NOW);
    assert_eq!(writer.next_work_ms(), NOW.boot_ms + 30_000);
    writer.commit(vec![banned(1, 1, Ends::Never), progress()], NOW.plus_ms(1_000));
    assert_eq!(writer.next_work_ms(), NOW.boot_ms + 5_000);
    writer.commit(vec![progress()], NOW.plus_ms(2_000));
    assert_eq!(writer.next_work_ms(), NOW.boot_ms + 5_000, "the ban still waits");
    assert_eq!(writer.work(NOW.plus_ms(5_000)), None);
    writer.commit(vec![progress()], NOW.plus_ms(6_000));
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while writer.next_work_ms() == NOW.boot_ms + 60_000 && std::time::Instant::now() < until {
        // The sync thread waits for a real disk; its result is read at the next work.
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert_eq!(writer.work(NOW.plus_ms(6_000)), None);
    }
    assert_eq!(writer.next_work_ms(), NOW.boot_ms + 35_000);
    writer.commit(vec![banned(2, 2, Ends::Never)], NOW.plus_ms(20_000));
    assert_eq!(writer.next_work_ms(), NOW.boot_ms + 10_000, "at once: it is long since the last time");
}

/// Once a commit waited for the disk whenever the log was synced or moved: up to 40 ms, for which a ban waited as well.
#[test]
fn the_log_is_moved_into_the_database_beside_the_commits() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let mut writer = Writer::new(open(&settings, NOW).0, NOW);
    // What is in the database file by itself, as the start after the log was lost would find it.
    let in_file = || {
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(settings.file(), copy.path().join("shield.db")).unwrap();
        bans_of(&open(&Settings { dir: copy.path().to_owned(), ..settings.clone() }, NOW).0, NOW).len()
    };
    let (mut now, mut serial) = (NOW, 0);
    let mut commit = |writer: &mut Writer, now: Now| {
        serial += 1;
        writer.commit(vec![banned(serial as u32, serial, Ends::Never)], now);
    };
    commit(&mut writer, now);
    assert_eq!(writer.next_work_ms(), NOW.boot_ms + 5_000, "then it is synced");
    now = now.plus_ms(5_000);
    assert_eq!(writer.work(now), None);
    commit(&mut writer, now);
    assert_eq!(in_file(), 0, "synced is not moved");
    now = NOW.plus_ms(60_000);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while in_file() < 2 && std::time::Instant::now() < until {
        commit(&mut writer, now);
        assert_eq!(writer.work(now), None);
        now = now.plus_ms(5_000);
        // The sync thread waits for a real disk.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(in_file() >= 2);
    writer.finish(now).unwrap();
    assert_eq!(in_file(), serial as usize);
}

fn sql(settings: &Settings, text: &str) {
    Connection::open(settings.file()).unwrap().execute_batch(text).unwrap();
}

fn kept_aside(settings: &Settings) -> Vec<String> {
    let connection = Connection::open(settings.file()).unwrap();
    let mut statement = connection.prepare("SELECT statement FROM unreadable ORDER BY id").unwrap();
    let text =
        |row: &rusqlite::Row<'_>| Ok(String::from_utf8_lossy(row.get_ref(0)?.as_bytes()?).into_owned());
    let found = statement.query_map([], text).unwrap();
    found.map(Result::unwrap).collect()
}

/// One such row ended every start.
#[test]
fn rows_that_cannot_be_read_are_left_out_named_and_kept_aside() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let allowed = |net: &str| Allowed { network: net.parse().unwrap(), reason: AllowReason::Operator };
    let allow = |net: &str, note: Option<&str>| Record::Allowed {
        entry: allowed(net),
        note: note.map(str::to_owned),
        until_ms: note.map(|_| 1_900_000_000_000),
    };
    let (mut store, _) = open(&settings, NOW);
    let records: Vec<Record> = (1..=9)
        .map(|n| banned(n, u64::from(n), Ends::Never))
        .chain((1..=4).map(|n| offences(client(n), 2, 99)))
        .chain([
            allow("198.51.100.0/24", None),
            allow("203.0.113.0/24", Some("the office")),
            Record::Checkpoint(Checkpoint { source: "a".into(), position: "{}".into() }),
            Record::Totals(Totals::default()),
        ])
        .collect();
    store.commit(&records, NOW).unwrap();
    drop(store);
    sql(
        &settings,
        "UPDATE bans SET client = 'not an address' WHERE serial = 2;
         UPDATE bans SET rule = x'ff' WHERE serial = 3;
         UPDATE bans SET offence = -1 WHERE serial = 4;
         UPDATE bans SET client = CAST(x'80' AS TEXT) WHERE serial = 5;
         UPDATE offences SET client = CAST(x'ff' AS TEXT) WHERE client = (SELECT client FROM offences LIMIT 1);
         UPDATE allowed SET network = 'here' WHERE network = '203.0.113.0/24';
         UPDATE checkpoints SET position = x'80';
         UPDATE singles SET value = '{' WHERE name = 'totals';
         UPDATE singles SET value = 'many' WHERE name = 'next_serial';",
    );
    let (mut store, found) = open(&settings, NOW);
    assert_eq!(found, Found::Sound);
    let read = |store: &Store| {
        let loaded = store.load().unwrap();
        let serials: Vec<u64> = bans_of(store, NOW).iter().map(|ban| ban.ban.serial).collect();
        let mut offences = 0;
        store.for_each_offence(|_, _, _| offences += 1).unwrap();
        (serials, offences, loaded.allowed, loaded.next_serial)
    };
    let expected = (vec![1, 6, 7, 8, 9], 3, vec![allowed("198.51.100.0/24")], 10);
    assert_eq!(read(&store), expected);
    let sentence = store.keep_unreadable_aside(NOW).unwrap();
    assert!(
        sentence.starts_with("9 rows of the database could not be read, kept in its table"),
        "{sentence}"
    );
    assert!(sentence.ends_with("; and 6 more; the rest is restored"), "{sentence}");
    drop(store);

    let (mut store, _) = open(&settings, NOW);
    assert_eq!(read(&store), expected);
    assert_eq!(store.keep_unreadable_aside(NOW), None, "they are out of the way");
    store.commit(&[banned(2, 11, Ends::Never)], NOW).unwrap();
    drop(store);
    // Whoever repairs a row by hand has all of it.
    let aside = kept_aside(&settings);
    assert_eq!(aside.len(), 9);
    let ban = aside.iter().find(|statement| statement.contains("'not an address'")).unwrap();
    sql(&settings, &ban.replace("'not an address'", "'203.0.113.99'"));
    let (store, _) = open(&settings, NOW);
    assert!(bans_of(&store, NOW).iter().any(|ban| ban.ban.client == "203.0.113.99".parse().unwrap()));
}

#[test]
fn an_unreadable_row_hides_no_other_from_a_reader() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let (mut store, _) = open(&settings, NOW);
    let records = [
        banned(1, 1, Ends::Never),
        lifted(1, 1, LiftReason::Operator),
        banned(1, 2, Ends::Never),
        lifted(1, 2, LiftReason::Operator),
        banned(1, 3, Ends::Never),
        banned(2, 4, Ends::Never),
    ];
    for record in records {
        store.commit(&[record], NOW).unwrap();
    }
    sql(
        &settings,
        "UPDATE history SET lift_reason = 'whim' WHERE serial = 1; UPDATE bans SET rule = 'whim' WHERE serial = 4;",
    );
    let reader = Reader::beside(&store).unwrap();
    let page = reader.bans(&BanQuery { limit: 10, ..BanQuery::default() }, NOW).unwrap();
    assert_eq!((page.bans.len(), page.total), (1, 2));
    assert_eq!(reader.history_of(client(1), 10).unwrap().len(), 1);
}

#[test]
fn tables_that_are_gone_are_damage() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    drop(open(&settings, NOW));
    sql(&settings, "DROP TABLE offences");
    let (_, found) = open(&settings, NOW);
    let Found::Damaged { damage, .. } = found else { panic!("{found:?}") };
    assert!(damage.contains("its table offences is missing"), "{damage}");
}

#[test]
fn a_database_of_the_first_version_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let (mut store, _) = open(&settings, NOW);
    let entry = Allowed { network: "198.51.100.0/24".parse().unwrap(), reason: AllowReason::Operator };
    store
        .commit(&[banned(1, 1, Ends::Never), Record::Allowed { entry, note: None, until_ms: None }], NOW)
        .unwrap();
    drop(store);
    sql(
        &settings,
        "DROP TABLE unreadable; DROP TABLE remote; DROP TABLE ban_sites; ALTER TABLE allowed DROP COLUMN note; ALTER TABLE allowed DROP COLUMN until_ms; ALTER TABLE bans DROP COLUMN place; PRAGMA user_version = 1;",
    );
    let (store, found) = open(&settings, NOW);
    assert_eq!((found, bans_of(&store, NOW).len()), (Found::Sound, 1));
    assert_eq!(store.load().unwrap().allowed, [entry]);
}

/// A restart that forgot where a ban is in force would take a proxied client out of nginx.
#[test]
fn a_bans_place_is_kept_and_an_unknown_one_is_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let (mut store, _) = open(&settings, NOW);
    let placed = |n: u32, place: Place| {
        let record = ban(n, u64::from(n), Ends::Never);
        BanRecord { ban: Ban { place, ..record.ban }, reason: Some("proxied".to_owned()), ..record }
    };
    let records = [placed(1, Place::Kernel), placed(2, Place::Nginx), placed(3, Place::Everywhere)];
    let made = records.clone().map(|record| Record::Banned(Box::new(record)));
    store.commit(&made, NOW).unwrap();
    assert_eq!(bans_of(&store, NOW), records);
    // Widened: under the same serial number, and without the words, which the engine does not keep.
    let widened = Ban { place: Place::Everywhere, ..records[1].ban };
    let record = BanRecord { ban: widened, reason: None, evidence: None };
    store.commit(&[Record::Extended(Box::new(record))], NOW).unwrap();
    let [first, _, last] = &records;
    let second = BanRecord { ban: widened, ..records[1].clone() };
    assert_eq!(bans_of(&store, NOW), [first.clone(), second, last.clone()]);
    drop(store);
    sql(&settings, "UPDATE bans SET place = 'at the edge' WHERE serial = 1");
    let (store, _) = open(&settings, NOW);
    assert_eq!(bans_of(&store, NOW)[0].ban.place, Place::Everywhere, "no ban is lost by it");
}

/// With a full disk the lists said that nobody was banned, because the database did.
#[test]
fn while_nothing_can_be_written_the_held_bans_can_be_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&settings(dir.path()), NOW);
    let mut writer = Writer::new(store, NOW);
    let unsaved = writer.unsaved();
    fill(&writer);
    assert!(!unsaved.is_behind());
    let record = BanRecord { evidence: Some(evidence()), ..ban(3, 7, Ends::Never) };
    let others = (1_000..2_000).map(|n| banned(n, u64::from(n), Ends::Never));
    writer.commit(others.chain([Record::Banned(Box::new(record.clone()))]).collect(), NOW);
    assert!(unsaved.is_behind());
    assert_eq!(unsaved.ban(client(3)), Some(record));
    writer.commit(vec![lifted(3, 7, LiftReason::Operator)], NOW);
    assert_eq!(unsaved.ban(client(3)), None, "it has ended");
    set_limit(&writer, 1_000_000);
    for n in 1..10 {
        writer.work(NOW.plus_ms(n * 60_000));
    }
    assert!(!unsaved.is_behind(), "{} records", writer.backlog());
}
