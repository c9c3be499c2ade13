//! The mood of errors, checked over the sources: a context says what could not be done.
//!
//! An error is printed as its chain, `could not write the IPv4 chain SHIELD: iptables-restore ended with exit status 4`.
//! A context in the past tense of success ("wrote the chain: …") reads as if the step had worked.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs;
use std::path::{Path, PathBuf};

const BEGINNING: &str = "could not ";

/// The agent, the harness of the privileged tests, and the development commands: a developer reads their errors too.
const FOLDERS: [&str; 3] = ["shield-agent/src", "tests/src", "xtask/src"];

/// Contexts that begin otherwise: the file, the beginning, and the reason.
const EXCEPTIONS: &[(&str, &str, &str)] =
    &[("enforce/iptables/chains.rs", "write", "`could_not` puts the beginning before it")];

/// One context: where it is, and the text it begins with.
#[derive(Debug, PartialEq, Eq)]
struct Context {
    line: usize,
    text: String,
}

#[test]
fn contexts_say_what_could_not_be_done() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut wrong = Vec::new();
    for folder in FOLDERS {
        let root = workspace.join(folder);
        let mut checked = 0;
        for path in sources(&root) {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
            for context in contexts(&fs::read_to_string(&path).unwrap()) {
                checked += 1;
                let is_exception = EXCEPTIONS
                    .iter()
                    .any(|(file, start, _)| *file == name && context.text.starts_with(start));
                if !context.text.starts_with(BEGINNING) && !is_exception {
                    wrong.push(format!("{folder}/{name}:{}: {:?}", context.line, context.text));
                }
            }
        }
        assert!(
            checked > 20,
            "found only {checked} contexts in {folder}: does this test still read the sources?"
        );
    }
    assert!(wrong.is_empty(), "contexts begin with {BEGINNING:?}:\n{}", wrong.join("\n"));
}

#[test]
fn contexts_are_found_in_every_form() {
    let check = |code: &str, expected: &[&str]| {
        let found: Vec<String> = contexts(code).into_iter().map(|context| context.text).collect();
        assert_eq!(found, expected, "{code}");
    };
    check(r#"x().context("read it")?;"#, &["read it"]);
    check("x()\n    .context(\n        \"read it\",\n    )?;", &["read it"]);
    check(r#"x().with_context(|| format!("read {}", path("a")))?;"#, &["read {}"]);
    check("x().with_context(|| {\n    format!(\n        \"read {}\",\n        a\n    )\n})?;", &["read {}"]);
    check(r#"Err(error).context(format!("read {a}"))"#, &["read {a}"]);
    check(
        r#"error.context(what); x.context(NOT_THERE)?; y.context("read (\"it\")")?"#,
        &["read (\\\"it\\\")"],
    );
    check("// x.context(\"a comment\")\n/// y.context(\"another\")\n", &[]);
    check("fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { x.context(\"a test\") }\n}\n", &[]);
    assert_eq!(contexts("\n\nx.context(\"a\")"), [Context { line: 3, text: "a".to_owned() }]);
}

/// Every source file, but for those that hold only tests.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_test = path.file_stem().is_some_and(|stem| stem == "tests");
        if path.is_dir() && !is_test {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The contexts of a source, down to its tests. One without a literal (a constant, a variable) is left out.
fn contexts(source: &str) -> Vec<Context> {
    let code = source.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    // Comments become blank instead of being cut out, so that line numbers stay.
    let code: Vec<&str> =
        code.lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line }).collect();
    let code = code.join("\n");
    let mut found = Vec::new();
    for call in [".context(", ".with_context("] {
        for (at, _) in code.match_indices(call) {
            if let Some(text) = first_literal(&code[at + call.len()..]) {
                found.push(Context { line: code[..at].matches('\n').count() + 1, text: text.to_owned() });
            }
        }
    }
    found.sort_by_key(|context| context.line);
    found
}

/// The first string literal among the arguments of a call, whose opening parenthesis is just before `rest`.
fn first_literal(rest: &str) -> Option<&str> {
    let mut depth = 1;
    for (at, character) in rest.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            '"' => {
                let literal = &rest[at + 1..];
                return literal.get(..end_of_literal(literal)?);
            }
            _ => {}
        }
        if depth == 0 {
            return None;
        }
    }
    None
}

fn end_of_literal(literal: &str) -> Option<usize> {
    let mut is_escaped = false;
    for (at, character) in literal.char_indices() {
        match character {
            '"' if !is_escaped => return Some(at),
            _ => is_escaped = character == '\\' && !is_escaped,
        }
    }
    None
}
