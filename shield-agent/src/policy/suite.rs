//! The rules' own tests: every rule whose name begins with `test_`, and which lines of the others they reach.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::bundle::{Bundle, File};
use super::evaluate::{Evaluator, Failure, Mistake};

/// The time of one test at most.
const LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Tested {
    /// `data.PACKAGE.RULE`.
    pub name: String,
    /// `FILE:LINE`.
    pub place: String,
    /// The reason why it failed; `None` for success.
    pub failed: Option<String>,
    pub micros: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Covered {
    pub file: String,
    pub lines: usize,
    pub reached: usize,
    /// The lines that no test reaches.
    pub missed: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Report {
    pub tests: Vec<Tested>,
    pub coverage: Vec<Covered>,
}

/// Runs all tests.
///
/// # Errors
/// The mistakes of rules that cannot be loaded.
pub(crate) fn run(bundle: &Bundle) -> Result<Report, Vec<Mistake>> {
    let mut evaluator = Evaluator::new(bundle, LIMIT)?;
    evaluator.count_lines();
    let found: Vec<(String, String)> = bundle.files.iter().flat_map(tests_of).collect();
    let tests = found.into_iter().map(|(name, place)| run_one(&mut evaluator, name, place)).collect();
    let coverage = (evaluator.coverage().into_iter())
        .filter(|file| !is_test_file(&file.path))
        .map(|file| Covered {
            file: file.path,
            lines: file.covered.len() + file.not_covered.len(),
            reached: file.covered.len(),
            missed: file.not_covered.into_iter().collect(),
        })
        .collect();
    Ok(Report { tests, coverage })
}

fn run_one(evaluator: &mut Evaluator, name: String, place: String) -> Tested {
    let begin = Instant::now();
    let failed = match evaluator.decide(&name, &serde_json::Value::Null) {
        Ok(Some(serde_json::Value::Bool(true))) => None,
        Ok(None) => Some("a condition in it does not hold".to_owned()),
        Ok(Some(value)) => Some(format!("it is {value} and not true")),
        Err(Failure::TimedOut) => Some(format!("it took more than {} s", LIMIT.as_secs())),
        Err(Failure::Error(error)) => Some(error),
    };
    Tested { name, place, failed, micros: begin.elapsed().as_micros() as u64 }
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("_test.rego")
}

/// The tests of a file with their places. A rule begins its line, as every formatter of Rego writes it.
fn tests_of(file: &File) -> Vec<(String, String)> {
    let package = file.text.lines().find_map(|line| line.trim().strip_prefix("package "));
    let Some(package) = package.map(|rest| rest.split('#').next().unwrap_or(rest).trim()) else {
        return Vec::new();
    };
    let mut tests: Vec<(String, String)> = Vec::new();
    for (at, line) in file.text.lines().enumerate().filter(|(_, line)| line.starts_with("test_")) {
        let end = line.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(line.len());
        let name = format!("data.{package}.{}", &line[..end]);
        // A rule may have several bodies.
        if tests.iter().all(|(known, _)| *known != name) {
            tests.push((name, format!("{}:{}", file.path, at + 1)));
        }
    }
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_rules_pass_their_tests_which_reach_every_line() {
        let report = run(&Bundle::shipped()).unwrap();
        let failed: Vec<_> = report.tests.iter().filter(|test| test.failed.is_some()).collect();
        assert!(failed.is_empty(), "{failed:#?}");
        assert!(report.tests.len() >= 12, "{report:?}");
        let missed: Vec<_> = report.coverage.iter().filter(|file| !file.missed.is_empty()).collect();
        assert!(missed.is_empty(), "{missed:?}");
    }

    #[test]
    fn a_test_that_fails_says_why_and_what_is_not_reached_is_listed() {
        let rules = "package a\nx := 1 if input.a\ny := 2 if {\n  input.b\n  input.c\n}\n";
        let tests = "package a_test\nimport data.a\ntest_x if a.x == 1 with input as {\"a\": true}\ntest_wrong if a.x == 2 with input as {\"a\": true}\ntest_number := 3\n";
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
        let bundle = Bundle { files: vec![file("a.rego", rules), file("a_test.rego", tests)] };
        let report = run(&bundle).unwrap();
        let failed: Vec<_> = report.tests.iter().map(|test| test.failed.as_deref()).collect();
        assert_eq!(failed, [None, Some("a condition in it does not hold"), Some("it is 3 and not true")]);
        assert_eq!(report.tests[1].place, "a_test.rego:4");
        assert_eq!(report.coverage.len(), 1);
        assert!(report.coverage[0].missed.contains(&5), "{report:?}");
    }
}
