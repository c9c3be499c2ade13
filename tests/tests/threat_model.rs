//! That the proofs which `docs/threat-model.md` names are there.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs;
use std::path::{Path, PathBuf};

use shield_tests::attack::ATTACKS;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Number and status of each row.
fn rows(text: &str) -> Vec<(&str, &str)> {
    let cells = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
        let is_row = cells.len() == 4 && cells[0].starts_with(|first: char| first.is_ascii_digit());
        is_row.then(|| (cells[0], cells[3]))
    });
    cells.collect()
}

/// The tests in a file, or in all files of a folder.
fn tests_in(path: &Path) -> usize {
    if path.is_dir() {
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        return entries.map(|entry| tests_in(&entry)).sum();
    }
    let text = fs::read_to_string(path).unwrap_or_default();
    text.matches("#[test]").count() + text.matches("#[tokio::test").count()
}

/// What a status names in backticks that proves nothing, or not there; and how many proofs it names.
fn judge(status: &str) -> (usize, Vec<String>) {
    let (mut proofs, mut wrong) = (0, Vec::new());
    for (at, piece) in status.split('`').enumerate() {
        if at % 2 == 0 {
            continue;
        }
        let before = status.split('`').nth(at - 1).unwrap_or_default();
        let is_proof = if let Some(names) = piece.strip_prefix("cargo xtask attack ") {
            names.split(' ').all(|name| ATTACKS.iter().any(|attack| attack.name == name))
        } else if piece.starts_with("cargo xtask ") {
            ["cargo xtask check", "cargo xtask bench api --worst"].contains(&piece)
        } else if before.ends_with("fuzz target ") {
            let folders = ["tests/fuzz/src/bin", "tests/fuzz/agent/src/bin"];
            folders.iter().any(|folder| root().join(folder).join(format!("{piece}.rs")).is_file())
        } else if piece.ends_with(".rs") || piece.ends_with('/') {
            tests_in(&root().join(piece)) > 0
        } else {
            // A setting, a header, a command of the agent.
            continue;
        };
        if is_proof {
            proofs += 1;
        } else {
            wrong.push(piece.to_owned());
        }
    }
    (proofs, wrong)
}

#[test]
fn each_row_names_its_proofs_and_they_exist() {
    let text = fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
    let rows = rows(&text);
    assert!(rows.len() > 35, "{} rows", rows.len());
    for (number, status) in rows {
        let (proofs, wrong) = judge(status);
        assert!(wrong.is_empty(), "row {number} names what is no test: {wrong:?}");
        // A row that refers to others, and one that is left open, have none of their own.
        let needs_one = status.starts_with("done:") || status.starts_with("partly");
        assert!(proofs > 0 || !needs_one, "row {number} names no test: {status}");
        let words = ["done:", "done where a row says so:", "partly", "accepted"];
        assert!(words.iter().any(|word| status.starts_with(word)), "row {number}: {status}");
    }
}

#[test]
fn what_is_not_there_is_found() {
    for status in [
        "`tests/tests/no_such.rs`",
        "`cargo xtask attack no-such`",
        "fuzz target `no-such`",
        "`docs/`",
        "`cargo xtask run`",
    ] {
        let (proofs, wrong) = judge(status);
        assert_eq!((proofs, wrong.len()), (0, 1), "{status}");
    }
}
