//! Detection on labelled real logs: every attacker of a rotating IPv6 campaign is banned by its /64, and a flood within 3 s
//! of log time; in the logs with changes nobody is banned wrongly.
//!
//! The logs are in `../shared/data` next to the checkout. Without that folder the tests print a notice and pass; with
//! `SHIELD_REQUIRE_DATA=1` they fail.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use shield_agent::test_support::replay::input::Input;
use shield_agent::test_support::replay::labels::Labels;
use shield_agent::test_support::replay::{Outcome, Replay};
use shield_engine::allowlist::Allowlist;
use shield_engine::policy::Policy;
use shield_engine::settings::Settings;
use shield_tests::variants::{self, Variant};

const IPV6_PREFIX: u8 = 64;

/// The folder with the logs, if it exists.
#[expect(clippy::print_stdout, reason = "a test without data must not pass silently")]
fn data() -> Option<PathBuf> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    if data.join("logs").is_dir() {
        return Some(data);
    }
    assert!(std::env::var_os("SHIELD_REQUIRE_DATA").is_none(), "no logs in {}", data.display());
    println!("not run: there are no logs in ../shared/data beside the checkout");
    None
}

fn replay(data: &Path, log: &str) -> Outcome {
    let mut replay = Replay::new(Settings::default(), Policy::default(), Allowlist::default());
    let read = Arc::new(AtomicU64::new(0));
    let path = data.join(format!("logs/{log}.jsonl.gz"));
    let batches = Input::of(&path).batches(&shield_logline::Settings::default(), &read, &mut |batch| {
        replay.feed(batch);
        Ok(())
    });
    batches.unwrap();
    replay.finish()
}

#[test]
fn every_attacker_of_a_rotating_campaign_is_banned_by_its_64() {
    let Some(data) = data() else { return };
    let text = std::fs::read_to_string(data.join("labels/meatlabel_2025.csv")).unwrap();
    let map = std::fs::read_to_string(data.join("labels/meatlabel_2025.v6map.csv")).unwrap();
    let prefixes: HashMap<&str, &str> = map.lines().filter_map(|line| line.split_once(',')).collect();
    let renamed = text.lines().map(|line| {
        let (ip, rest) = line.split_once(',').unwrap();
        format!("{},{rest}", prefixes.get(ip).copied().unwrap_or(ip))
    });
    let labels = Labels::parse(&renamed.collect::<Vec<_>>().join("\n"), IPV6_PREFIX).unwrap();
    let score = labels.score(&replay(&data, "meatlabel_2025.v6rot"));
    assert!(score.to_ban > 30, "labels of {} attackers", score.to_ban);
    assert_eq!((score.caught, score.wrong), (score.to_ban, 0));
}

#[test]
fn a_real_flood_is_banned_within_three_seconds_of_log_time() {
    let Some(data) = data() else { return };
    let labels = Labels::read(&data.join("labels/ddoser_2023.csv"), IPV6_PREFIX).unwrap();
    let outcome = replay(&data, "ddoser_2023");
    let score = labels.score(&outcome);
    assert_eq!((score.caught, score.to_ban), (3, 3));
    let start = outcome.span.unwrap().0;
    assert!(outcome.bans.iter().all(|ban| ban.at_secs - start <= 3), "later than 3 s");
}

/// The two logs with the most clients that must stay and that are attacked.
#[test]
fn nobody_is_banned_wrongly_in_a_changed_log() {
    let Some(data) = data() else { return };
    for log in ["meatlabel_2025", "farmfresh_2024"] {
        for variant in Variant::ALL {
            let path = data.join(format!("logs/{log}.jsonl.gz"));
            let labels = data.join(format!("labels/{log}.csv"));
            let answer = variants::replay(&path, &labels, variant).unwrap();
            assert_eq!(answer.wrong, [], "{log} {variant:?}");
            assert!(10 * answer.caught >= 9 * answer.to_ban, "{log} {variant:?}: {answer:?}");
        }
    }
}
