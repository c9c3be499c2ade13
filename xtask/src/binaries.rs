//! The test binaries that cargo built, by what it says of them in JSON, and how they have to run.
//!
//! A test says the latter itself, in the lines at the head of its file. [`crate::lanes`] runs those without `//! Alone: REASON`
//! beside each other, and more tests at once of those with `//! Waits: REASON`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::sh;

/// What a reason stands behind, in a test's file.
const ALONE: &str = "//! Alone: ";
const WAITS: &str = "//! Waits: ";

/// A test binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Binary {
    /// The source's path in the workspace. It is unique, unlike cargo's own names: two packages have a `tests/cloudflare.rs`.
    pub(crate) name: String,
    pub(crate) executable: PathBuf,
    /// The package's folder, in which it runs.
    pub(crate) folder: PathBuf,
    /// Why it must not run beside others, if so.
    pub(crate) alone: Option<String>,
    /// Whether its tests hardly use the processor.
    pub(crate) waits: bool,
}

impl Binary {
    /// The test binary that this message is about; `None` for messages about anything else.
    pub(crate) fn from_message(line: &str) -> Option<Binary> {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_test = message["reason"] == "compiler-artifact" && message["profile"]["test"] == true;
        let executable = message["executable"].as_str().filter(|_| is_test)?;
        let source = Path::new(message["target"]["src_path"].as_str()?);
        let manifest = Path::new(message["manifest_path"].as_str()?);
        let name = source.strip_prefix(sh::root_folder()).unwrap_or(source);
        // Cargo has just read it. Where it cannot be read all the same, its head has no such lines.
        let text = fs::read_to_string(source).unwrap_or_default();
        Some(Binary {
            name: name.display().to_string(),
            executable: PathBuf::from(executable),
            folder: manifest.parent()?.to_owned(),
            alone: reason(&text, ALONE),
            waits: reason(&text, WAITS).is_some(),
        })
    }

    /// As cargo says that it runs a binary.
    pub(crate) fn heading(&self) -> String {
        let executable = self.executable.strip_prefix(sh::root_folder()).unwrap_or(&self.executable);
        let alone = self.alone.as_ref().map_or_else(String::new, |reason| format!(", alone: {reason}"));
        format!("     Running {} ({}){alone}", self.name, executable.display())
    }
}

/// The reason in a file's head behind `word`.
fn reason(source: &str, word: &str) -> Option<String> {
    let mut head = source.lines().take_while(|line| line.starts_with("//!"));
    Some(head.find_map(|line| line.strip_prefix(word))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(source: &str, is_test: bool, executable: &str) -> String {
        let root = sh::root_folder().display();
        format!(
            r#"{{"reason":"compiler-artifact","package_id":"path+file://{root}/tests#shield-tests@0.1.0",
            "manifest_path":"{root}/tests/Cargo.toml","target":{{"kind":["test"],"crate_types":["bin"],"name":"netns",
            "src_path":"{root}/{source}","edition":"2024","doc":false,"doctest":false,"test":true}},
            "profile":{{"opt_level":"0","test":{is_test}}},"features":[],"filenames":[],"executable":{executable},"fresh":true}}"#
        )
    }

    #[test]
    fn a_test_binary_is_read_from_cargos_message() {
        let root = sh::root_folder();
        let built = format!("\"{}/target/debug/deps/netns-01ab\"", root.display());
        let binary = Binary::from_message(&message("tests/tests/netns.rs", true, &built)).unwrap();
        let expected = Binary {
            name: "tests/tests/netns.rs".to_owned(),
            executable: root.join("target/debug/deps/netns-01ab"),
            folder: root.join("tests"),
            alone: None,
            waits: false,
        };
        assert_eq!(binary, expected);
        assert_eq!(binary.heading(), "     Running tests/tests/netns.rs (target/debug/deps/netns-01ab)");
    }

    #[test]
    fn programs_libraries_and_other_lines_are_none() {
        let program = message("tests/src/bin/lab.rs", false, "\"/target/debug/lab\"");
        let library = message("tests/src/lib.rs", true, "null");
        let finished = r#"{"reason":"build-finished","success":true}"#;
        for line in [program.as_str(), &library, finished, "a build script said this", ""] {
            assert_eq!(Binary::from_message(line), None, "{line}");
        }
    }

    #[test]
    fn only_the_head_of_a_file_says_how_a_test_runs() {
        let head = "//! Counts the machine's mounts.\n//!\n//! Alone: others mount, too.\n//! Waits: for mounts.\n\nuse std::fs;\n";
        assert_eq!(reason(head, ALONE).as_deref(), Some("others mount, too."));
        assert_eq!(reason(head, WAITS).as_deref(), Some("for mounts."));
        assert_eq!(reason("//! Counts.\n\n//! Alone: too late\n", ALONE), None);
        assert_eq!(reason("//! Alone in the street.\n", ALONE), None);
    }

    /// A misspelt word would let a test run beside others without anybody's notice.
    #[test]
    fn every_reason_in_a_tests_file_is_found() {
        for folder in ["tests/tests", "shield-agent/tests"] {
            for entry in fs::read_dir(sh::root_folder().join(folder)).unwrap() {
                let path = entry.unwrap().path();
                let Ok(source) = fs::read_to_string(&path) else { continue };
                for word in [ALONE, WAITS] {
                    let begin = word.trim().to_lowercase();
                    let says_so = source.lines().any(|line| line.to_lowercase().starts_with(&begin));
                    let found = reason(&source, word).is_some_and(|reason| !reason.is_empty());
                    assert_eq!(found, says_so, "{path:?}: {word}");
                }
            }
        }
    }
}
