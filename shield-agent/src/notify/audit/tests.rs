//! The audit log written, rotated, torn, tampered with, and without room.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;

use super::super::samples;
use super::chain::{Problem, Verifier};
use super::*;

const NOW: Now = Now { wall_ms: samples::AT_MS, boot_ms: 5_000 };

struct Place {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log/audit.jsonl");
    Place { _dir: dir, path }
}

fn append(log: &mut AuditLog, events: usize) {
    for _ in 0..events {
        log.append(&samples::banned(), NOW).unwrap();
    }
}

fn verify(path: &Path) -> Verifier {
    let mut verifier = Verifier::default();
    for file in files::family(path).unwrap() {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        files::for_each_line(&file, |number, line| {
            verifier.line(&name, number, line);
            Ok(())
        })
        .unwrap();
    }
    verifier.finish();
    verifier
}

fn sound(path: &Path, lines: u64) {
    let verifier = verify(path);
    assert_eq!((verifier.problems, verifier.lines), (vec![], lines));
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_line_holds_the_event_with_all_its_evidence() {
    let place = place();
    append(&mut AuditLog::new(&place.path), 2);
    let text = text(&place.path);
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["seq"], 1);
    assert_eq!(lines[0]["at"], "2026-05-11T22:07:33.000Z");
    assert_eq!(lines[0]["prev"], "0".repeat(64));
    assert_eq!(lines[1]["prev"], lines[0]["hash"]);
    let mut event = lines[0].clone();
    for field in ["seq", "at", "prev", "hash"] {
        event.as_object_mut().unwrap().remove(field).expect("the chain's field is there");
    }
    assert_eq!(event, serde_json::to_value(samples::banned()).unwrap());
    let mode = std::fs::metadata(&place.path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode & !0o640, 0, "{mode:o}");
    sound(&place.path, 2);
}

#[test]
fn the_chain_goes_on_over_restarts_and_rotations() {
    let place = place();
    let rotated = |suffix: &str| PathBuf::from(format!("{}{suffix}", place.path.display()));
    let mut log = AuditLog::new(&place.path);
    append(&mut log, 3);
    std::fs::rename(&place.path, rotated(".1")).unwrap();
    append(&mut log, 2);
    drop(log);
    append(&mut AuditLog::new(&place.path), 1);
    compress(&rotated(".1"), &rotated(".2.gz"));
    std::fs::rename(&place.path, rotated(".1")).unwrap();
    // The agent was down while the log was rotated: the new file goes on from the rotated one.
    append(&mut AuditLog::new(&place.path), 4);
    let names: Vec<String> = files::family(&place.path)
        .unwrap()
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["audit.jsonl.2.gz", "audit.jsonl.1", "audit.jsonl"]);
    sound(&place.path, 10);
}

fn compress(from: &Path, to: &Path) {
    let mut encoder =
        flate2::write::GzEncoder::new(File::create(to).unwrap(), flate2::Compression::default());
    encoder.write_all(&std::fs::read(from).unwrap()).unwrap();
    encoder.finish().unwrap();
    std::fs::remove_file(from).unwrap();
}

/// A rotated file that a full disk cut short stopped the log for good.
#[test]
fn a_damaged_rotated_file_goes_on_record_and_stops_nothing() {
    let check = |keep: usize, sound_lines: u64| {
        let place = place();
        let rotated = PathBuf::from(format!("{}.1", place.path.display()));
        let packed = PathBuf::from(format!("{}.2.gz", place.path.display()));
        append(&mut AuditLog::new(&place.path), 400);
        std::fs::rename(&place.path, &rotated).unwrap();
        compress(&rotated, &packed);
        let mut bytes = std::fs::read(&packed).unwrap();
        bytes.truncate(if keep == 0 { 0 } else { bytes.len() * keep / 100 });
        std::fs::write(&packed, &bytes).unwrap();
        append(&mut AuditLog::new(&place.path), 2);
        let first = text(&place.path).lines().next().unwrap().to_owned();
        let is_recorded = first.contains("\"event\":\"damaged_file\",\"file\":\"audit.jsonl.2.gz\"");
        assert_eq!(is_recorded, keep > 0, "an empty file holds nothing that could be damaged: {first}");
        let mut verifier = Verifier::default();
        for file in files::family(&place.path).unwrap() {
            let read = files::for_each_line(&file, |number, line| {
                verifier.line("log", number, line);
                Ok(())
            });
            if let Err(error) = read {
                verifier.cut_short("log", 0, &error);
            }
        }
        verifier.finish();
        assert_eq!(verifier.problems, [], "{keep} % kept");
        assert!(verifier.lines >= sound_lines, "{keep} % kept: {} lines", verifier.lines);
        assert_eq!(verifier.unreadable_files.len(), usize::from(keep > 0));
    };
    check(0, 2);
    check(1, 3);
    check(60, 50);
    check(99, 200);
}

#[test]
fn other_files_beside_the_log_are_left_out() {
    let place = place();
    append(&mut AuditLog::new(&place.path), 1);
    for name in ["audit.jsonl.bak", "audit.jsonl.", "audit.jsonlx", "other.jsonl.1", "audit.jsonl.1.tmp"] {
        std::fs::write(place.path.with_file_name(name), "x").unwrap();
    }
    assert_eq!(files::family(&place.path).unwrap(), std::slice::from_ref(&place.path));
}

#[test]
fn whatever_is_done_to_a_line_is_found() {
    let check = |name: &str, tamper: &dyn Fn(&mut Vec<String>), line: u64, words: &str| {
        let place = place();
        append(&mut AuditLog::new(&place.path), 6);
        let mut lines: Vec<String> = text(&place.path).lines().map(str::to_owned).collect();
        tamper(&mut lines);
        std::fs::write(&place.path, lines.join("\n") + "\n").unwrap();
        let problems = verify(&place.path).problems;
        let Some(Problem { line: at, what, .. }) = problems.first() else { panic!("{name}: not found") };
        assert_eq!(*at, line, "{name}: {problems:?}");
        assert!(what.contains(words), "{name}: {what}");
    };
    let one_byte = |lines: &mut Vec<String>| lines[2] = lines[2].replace("192.0.2.156", "192.0.2.157");
    check("one byte", &one_byte, 3, "was changed");
    check("one removed", &|lines| drop(lines.remove(2)), 3, "1 line is missing before it: 3");
    check("two removed", &|lines| drop(lines.drain(1..3)), 2, "2 lines are missing before it: 2 to 3");
    check("swapped", &|lines| lines.swap(2, 3), 3, "1 line is missing");
    check("repeated", &|lines| lines.insert(3, lines[2].clone()), 4, "number 3 where 4 was expected");
    check("garbage added", &|lines| lines.insert(3, "garbage".into()), 4, "not one of the audit log");
    check("hash cut off", &|lines| drop(lines[4].split_off(200)), 5, "not one of the audit log");
    let rehashed = |lines: &mut Vec<String>| {
        let at = lines[2].rfind(",\"hash\"").unwrap();
        let changed = lines[2][..at].replace("192.0.2.156", "192.0.2.157");
        let hash = chain::hex_sha256(format!("{changed}}}").as_bytes());
        lines[2] = format!("{changed},\"hash\":\"{hash}\"}}");
    };
    check("changed with its hash", &rehashed, 4, "the line before it was replaced");
}

#[test]
fn a_line_torn_by_a_crash_is_kept_marked_and_the_chain_goes_on() {
    let check = |left: usize, expected: (u64, u64)| {
        let place = place();
        append(&mut AuditLog::new(&place.path), 3);
        let mut bytes = std::fs::read(&place.path).unwrap();
        let third =
            bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1).nth(1).unwrap();
        bytes.truncate(third + left);
        std::fs::write(&place.path, &bytes).unwrap();
        append(&mut AuditLog::new(&place.path), 2);
        let verifier = verify(&place.path);
        assert_eq!(verifier.problems, [], "{left} bytes left");
        assert_eq!((verifier.torn, verifier.lines), expected, "{left} bytes left");
        assert!(std::fs::read(&place.path).unwrap().starts_with(&bytes), "nothing is rewritten");
    };
    check(0, (0, 4));
    check(1, (1, 5));
    check(200, (1, 5));
    let whole_line_without_its_newline = text_len_of_one_line() - 1;
    check(whole_line_without_its_newline, (0, 5));
    check(whole_line_without_its_newline - 1, (1, 5));
}

fn text_len_of_one_line() -> usize {
    let place = place();
    append(&mut AuditLog::new(&place.path), 1);
    std::fs::metadata(&place.path).unwrap().len() as usize
}

#[test]
fn a_torn_mark_does_not_excuse_other_bytes() {
    let place = place();
    append(&mut AuditLog::new(&place.path), 1);
    OpenOptions::new().append(true).open(&place.path).unwrap().write_all(b"{\"seq\":2,").unwrap();
    append(&mut AuditLog::new(&place.path), 1);
    let changed = text(&place.path).replace("{\"seq\":2,\n", "{\"seq\":9,\n");
    std::fs::write(&place.path, changed).unwrap();
    assert_eq!(verify(&place.path).problem_count, 1);
}

/// `/dev/full` answers every write as a full disk does.
#[test]
fn what_a_full_disk_refuses_is_counted_and_the_gap_is_on_record() {
    let place = place();
    let mut log = AuditLog::new(&place.path);
    append(&mut log, 2);
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let real = std::mem::replace(&mut log.open.as_mut().unwrap().file, full);
    let error = log.append(&samples::banned(), NOW).unwrap_err();
    assert!(format!("{error:#}").contains("No space left on device"), "{error:#}");
    // Opened again by its path, it has room again at once; the events in between are missing.
    log.gap.as_mut().unwrap().missing += 4;
    drop(real);
    append(&mut log, 1);
    sound(&place.path, 4);
    let text = text(&place.path);
    let gap: serde_json::Value = serde_json::from_str(text.lines().nth(2).unwrap()).unwrap();
    assert_eq!((&gap["event"], &gap["missing"]), (&"audit_gap".into(), &5.into()));
    assert_eq!(gap["since"], "2026-05-11T22:07:33.000Z");
    append(&mut log, 1);
    sound(&place.path, 5);
}

#[test]
fn a_log_that_cannot_be_opened_is_tried_again_with_every_event() {
    let place = place();
    std::fs::create_dir_all(&place.path).unwrap();
    let mut log = AuditLog::new(&place.path);
    assert!(log.append(&samples::banned(), NOW).is_err());
    assert!(log.append(&samples::banned(), NOW).is_err());
    std::fs::remove_dir(&place.path).unwrap();
    append(&mut log, 1);
    sound(&place.path, 2);
    assert!(text(&place.path).starts_with("{\"seq\":1,"));
    assert!(text(&place.path).contains("\"event\":\"audit_gap\",\"missing\":2"));
}

#[test]
fn a_chain_whose_beginning_was_rotated_away_for_good_is_sound_from_where_it_begins() {
    let place = place();
    let mut log = AuditLog::new(&place.path);
    append(&mut log, 3);
    std::fs::remove_file(&place.path).unwrap();
    append(&mut log, 2);
    let verifier = verify(&place.path);
    assert_eq!((verifier.problems, verifier.first_seq, verifier.lines), (vec![], 4, 2));
}

/// The log as an agent writes it that remembers its end in the database.
fn remembering(place: &Place, expected: Option<AuditHead>) -> (AuditLog, AuditHeads) {
    let record = AuditRecord { expected, ..AuditRecord::default() };
    let heads = record.heads.clone();
    (AuditLog::resume(&place.path, record), heads)
}

fn problems_with(path: &Path, expected: &AuditHead) -> Vec<String> {
    let mut verifier = Verifier::expect(Head { seq: expected.seq, hash: expected.hash.clone() });
    for file in files::family(path).unwrap() {
        files::for_each_line(&file, |number, line| {
            verifier.line("log", number, line);
            Ok(())
        })
        .unwrap();
    }
    verifier.finish();
    verifier.problems.into_iter().map(|problem| problem.what).collect()
}

/// An emptied file, and one whose end was cut off, were called whole.
#[test]
fn an_end_that_was_cut_off_is_found_by_what_the_database_remembers() {
    let check = |kept: usize, words: &str| {
        let place = place();
        let (mut log, heads) = remembering(&place, None);
        append(&mut log, 6);
        let head = heads.newest().unwrap();
        assert_eq!(problems_with(&place.path, &head), Vec::<String>::new());
        let cut: String = text(&place.path).split_inclusive('\n').take(kept).collect();
        std::fs::write(&place.path, cut).unwrap();
        let found = problems_with(&place.path, &head);
        assert!(found.len() == 1 && found[0].starts_with(words), "{found:?}");
        // A restarted agent goes on behind the gap and records it: it can be seen without the database from then on.
        drop(log);
        let (mut log, heads) = remembering(&place, Some(head));
        append(&mut log, 2);
        let record = format!("\"event\":\"lines_lost\",\"found\":{kept},\"written\":6");
        assert!(text(&place.path).contains(&record), "{}", text(&place.path));
        assert_eq!(heads.newest().unwrap().seq, 9);
        assert_eq!(verify(&place.path).problem_count, 1, "{:?}", verify(&place.path).problems);
    };
    check(0, "lines 1 to 6 are missing at the end");
    check(4, "lines 5 to 6 are missing at the end");
    check(5, "line 6 is missing at the end");
}

/// The same while the agent runs, with the file open.
#[test]
fn a_file_that_is_cut_under_the_agent_goes_on_record() {
    let check = |kept: usize| {
        let place = place();
        let (mut log, _) = remembering(&place, None);
        append(&mut log, 6);
        let cut: String = text(&place.path).split_inclusive('\n').take(kept).collect();
        OpenOptions::new().write(true).open(&place.path).unwrap().set_len(cut.len() as u64).unwrap();
        append(&mut log, 2);
        assert!(text(&place.path).contains("\"event\":\"lines_lost\""), "{}", text(&place.path));
        assert_eq!(verify(&place.path).problem_count, 1);
    };
    check(0);
    check(3);
}

#[test]
fn a_rotation_by_copy_and_truncation_loses_nothing() {
    let place = place();
    let (mut log, _) = remembering(&place, None);
    append(&mut log, 3);
    std::fs::copy(&place.path, format!("{}.1", place.path.display())).unwrap();
    std::fs::write(&place.path, "").unwrap();
    append(&mut log, 2);
    sound(&place.path, 5);
}

#[test]
fn a_log_rewritten_with_all_its_hashes_is_found_by_what_the_database_remembers() {
    let place = place();
    let (mut log, heads) = remembering(&place, None);
    append(&mut log, 3);
    let head = heads.newest().unwrap();
    std::fs::remove_file(&place.path).unwrap();
    let mut forged = AuditLog::new(&place.path);
    for bans in 0..5 {
        forged.append(&Notice::Stopping { bans }, NOW).unwrap();
    }
    sound(&place.path, 5);
    let found = problems_with(&place.path, &head);
    assert_eq!(found, ["the database remembers another line of this number: the log was rewritten"]);
}

#[test]
fn what_the_database_remembers_of_another_log_is_no_fault_of_this_one() {
    let place = place();
    let other = AuditHead { path: "/elsewhere/audit.jsonl".into(), seq: 9, hash: "x".into() };
    let (mut log, _) = remembering(&place, Some(other));
    append(&mut log, 1);
    assert!(text(&place.path).starts_with("{\"seq\":1,"));
    sound(&place.path, 1);
}

/// One line with the greatest number of 64 bits left none for the next.
#[test]
fn a_line_with_an_impossible_number_is_none_of_the_log() {
    let place = place();
    append(&mut AuditLog::new(&place.path), 1);
    let mut line = Vec::new();
    let before = Head { seq: u64::MAX - 1, hash: "0".repeat(64) };
    chain::append(&mut line, &before, "2026-05-11T22:07:33.000Z", &Notice::Stopping { bans: 1 }).unwrap();
    OpenOptions::new().append(true).open(&place.path).unwrap().write_all(&line).unwrap();
    append(&mut AuditLog::new(&place.path), 1);
    let verifier = verify(&place.path);
    assert_eq!((verifier.lines, verifier.problem_count), (2, 1), "{:?}", verifier.problems);
}

/// A packed file of some kilobytes can hold a line of gigabytes.
#[test]
fn of_a_line_without_an_end_only_the_beginning_is_kept() {
    let place = place();
    append(&mut AuditLog::new(&place.path), 2);
    let plain = place.path.with_extension("plain");
    std::fs::write(&plain, format!("{}\n{{}}\n", "x".repeat(20 << 20))).unwrap();
    let packed = PathBuf::from(format!("{}.1.gz", place.path.display()));
    compress(&plain, &packed);
    let mut lengths = Vec::new();
    files::for_each_line(&packed, |_, line| {
        lengths.push(line.len());
        Ok(())
    })
    .unwrap();
    assert_eq!(lengths, [4 << 20, 2]);
}

/// What the page shows after a restart is what was recorded before it: across a rotation, and without the lines about the log.
#[test]
fn the_last_events_are_read_back_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    assert_eq!(recent::recent(&path, 9).unwrap(), []);
    let notices = [
        samples::banned(),
        samples::lifted(),
        samples::anomaly(),
        samples::degraded("xdp"),
        samples::banned_by_hand("scraping"),
    ];
    let mut log = AuditLog::new(&path);
    let (before, after) = notices.split_at(notices.len() / 2);
    before.iter().for_each(|notice| log.append(notice, NOW).unwrap());
    std::fs::rename(&path, dir.path().join("audit.jsonl.1")).unwrap();
    after.iter().for_each(|notice| log.append(notice, NOW).unwrap());
    let read = recent::recent(&path, 1_000).unwrap();
    let expected: Vec<(i64, Notice)> = notices.iter().map(|notice| (NOW.wall_ms, notice.clone())).collect();
    assert_eq!(read, expected);
    assert_eq!(recent::recent(&path, 2).unwrap(), expected[expected.len() - 2..]);
}

mod late_lines {
    use super::*;
    use crate::store::reader::Reader;
    use crate::store::{BootId, Settings, Store};
    use shield_engine::action::{LiftReason, Record};
    use shield_engine::client::Client;
    use shield_engine::verdict::Rule;

    fn ban(n: u8, reason: Option<&str>) -> BanRecord {
        let client = Client::from(std::net::Ipv4Addr::new(192, 0, 2, n));
        let Notice::Banned(mut ban) = samples::banned_client(client) else { unreachable!() };
        ban.ban.serial = u64::from(n);
        ban.ban.since_ms = samples::AT_MS + i64::from(n);
        ban.reason = reason.map(str::to_owned);
        *ban
    }

    fn ledger(dir: &Path, bans: &[BanRecord]) -> (Store, Reader) {
        let settings = Settings { dir: dir.join("state"), ..Settings::default() };
        let (mut store, _) = Store::open(&settings, &BootId::from_text("one"), NOW).unwrap();
        let records: Vec<Record> = bans.iter().cloned().map(Box::new).map(Record::Banned).collect();
        store.commit(&records, NOW).unwrap();
        let reader = Reader::beside(&store).unwrap();
        (store, reader)
    }

    fn clients(bans: &[BanRecord]) -> Vec<String> {
        bans.iter().map(|ban| ban.ban.client.to_string()).collect()
    }

    /// After kill -9 the log lacked some bans for good.
    #[test]
    fn bans_that_a_kill_left_out_are_written_once_at_the_next_start() {
        let place = place();
        let all: Vec<BanRecord> = (1..=7).map(|n| ban(n, (n == 6).then_some("taken over"))).collect();
        let (mut store, reader) = ledger(place._dir.path(), &all);
        let mut log = AuditLog::new(&place.path);
        // Four of seven were recorded before the kill: one lacks in the middle, one was lifted, one is not to be recorded.
        for ban in [&all[0], &all[1], &all[3], &all[4]] {
            log.append(&Notice::Banned(Box::new(ban.clone())), NOW).unwrap();
        }
        drop(log);
        let lift = Record::Lifted {
            client: all[6].ban.client,
            serial: 7,
            at_ms: samples::AT_MS + 99,
            reason: LiftReason::Operator,
        };
        // An extension gives a recorded ban another serial number.
        let mut extended = all[4].clone();
        extended.ban.serial = 9;
        store.commit(&[lift, Record::Extended(Box::new(extended))], NOW).unwrap();

        let missing = || late::missing(&place.path, &reader, "taken over", NOW).unwrap();
        let late = missing();
        assert_eq!(clients(&late), ["192.0.2.3", "192.0.2.7"]);
        assert!(late.iter().all(|ban| ban.evidence.is_some() && ban.ban.rule == Rule::ZScore));
        let mut log = AuditLog::resume(&place.path, AuditRecord { late, ..AuditRecord::default() });
        append(&mut log, 1);
        sound(&place.path, 7);
        let text = text(&place.path);
        let fifth = text.lines().nth(4).unwrap();
        assert!(fifth.contains("\"client\":\"192.0.2.3\"") && fifth.contains("\"late\":true"), "{fifth}");
        assert_eq!(clients(&missing()), Vec::<String>::new(), "once each");
    }

    #[test]
    fn what_was_before_the_log_is_not_written_again() {
        let place = place();
        let (_store, reader) = ledger(place._dir.path(), &[ban(1, None), ban(2, None)]);
        let missing = || late::missing(&place.path, &reader, "", NOW).unwrap();
        assert_eq!(clients(&missing()), Vec::<String>::new(), "there is no log at all");
        // A log whose beginning was rotated away for good begins after these bans.
        let mut log = AuditLog::new(&place.path);
        log.append(&Notice::Stopping { bans: 1 }, NOW.plus_ms(60_000)).unwrap();
        std::fs::remove_file(&place.path).unwrap();
        log.append(&Notice::Stopping { bans: 2 }, NOW.plus_ms(60_000)).unwrap();
        assert_eq!(clients(&missing()), Vec::<String>::new());
    }

    #[test]
    fn a_log_that_was_rotated_just_now_is_compared_with_what_was_rotated() {
        let place = place();
        let (_store, reader) = ledger(place._dir.path(), &[ban(1, None), ban(2, None)]);
        let mut log = AuditLog::new(&place.path);
        log.append(&Notice::Banned(Box::new(ban(1, None))), NOW).unwrap();
        std::fs::rename(&place.path, format!("{}.1", place.path.display())).unwrap();
        log.append(&Notice::Stopping { bans: 1 }, NOW).unwrap();
        let missing = late::missing(&place.path, &reader, "", NOW).unwrap();
        assert_eq!(clients(&missing), ["192.0.2.2"]);
    }
}
