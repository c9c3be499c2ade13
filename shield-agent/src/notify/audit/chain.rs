//! The hash chain: makes lines and finds changed, missing and added ones.
//!
//! A line's hash is the SHA-256 of the line without its `hash` field (the bytes up to it and a closing brace), in
//! lower-case hex. As `prev` is one of those bytes, each hash covers every line before it.
//!
//! It detects changes between two lines that are still there. That the last lines are missing nothing in the log can show;
//! the database remembers the last line for that ([`Verifier::expect`]). Somebody who can write both, which root can, can
//! rewrite both from some line on: for that, ship the lines to another machine as they are written.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const HASH_FIELD: &str = ",\"hash\":\"";
const HEX_LEN: usize = 64;
/// The greatest number that a line can have: no log comes near it, and one line with the greatest number of 64 bits would leave
/// none for the next.
const MAX_SEQ: u64 = 1 << 53;
/// Problems that are kept; further ones are only counted.
const MAX_PROBLEMS: usize = 100;

/// The chain's head: number and hash of the last line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// The line's number, from 1; 0 before the first.
    pub seq: u64,
    pub hash: String,
}

impl Default for Head {
    /// Before the first line.
    fn default() -> Head {
        Head { seq: 0, hash: "0".repeat(HEX_LEN) }
    }
}

/// The fields that every line begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Start {
    seq: u64,
    at: String,
    prev: String,
}

/// Appends a line with this event to `text`; returns the new head.
pub(crate) fn append(text: &mut Vec<u8>, head: &Head, at: &str, event: &impl Serialize) -> Result<Head> {
    #[derive(Serialize)]
    struct Line<'a, E> {
        #[serde(flatten)]
        start: Start,
        #[serde(flatten)]
        event: &'a E,
    }
    let start = Start { seq: head.seq + 1, at: at.to_owned(), prev: head.hash.clone() };
    let mut line = serde_json::to_vec(&Line { start, event })?;
    let hash = hex_sha256(&line);
    line.pop();
    text.extend_from_slice(&line);
    text.extend_from_slice(format!("{HASH_FIELD}{hash}\"}}\n").as_bytes());
    Ok(Head { seq: head.seq + 1, hash })
}

/// SHA-256 in lower-case hex.
pub(crate) fn hex_sha256(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    Sha256::digest(bytes).iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The end of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End<'a> {
    /// With a newline, or it is empty.
    Clean,
    /// With a whole line that only lacks its newline.
    NoNewline,
    /// With these bytes of a line that was not finished.
    Torn(&'a [u8]),
}

/// Returns the chain's head at the end of a file, and how the file ends. Foreign lines are skipped here; verifying
/// reports them.
pub(crate) fn end_of(tail: &[u8]) -> (Option<Head>, End<'_>) {
    let mut head = None;
    let mut lines = tail.rsplit(|byte| *byte == b'\n');
    let rest = lines.next().unwrap_or_default();
    let mut end = if rest.is_empty() { End::Clean } else { End::Torn(rest) };
    if let Some(link) = Link::read(rest).filter(|link| link.stated == link.computed) {
        head = Some(link.head());
        end = End::NoNewline;
    }
    (head.or_else(|| lines.find_map(Link::read).map(|link| link.head())), end)
}

/// A line as a link of the chain.
struct Link {
    start: Start,
    /// The hash in the line.
    stated: String,
    /// The hash of the line's text.
    computed: String,
}

impl Link {
    fn read(line: &[u8]) -> Option<Link> {
        let start: Start = serde_json::from_slice(line).ok().filter(|start: &Start| start.seq <= MAX_SEQ)?;
        let at = line.len().checked_sub(HASH_FIELD.len() + HEX_LEN + 2)?;
        let field = line[at..].strip_prefix(HASH_FIELD.as_bytes())?;
        let stated = String::from_utf8(field[..HEX_LEN].to_vec()).ok()?;
        let computed = hex_sha256(&[&line[..at], b"}"].concat());
        Some(Link { start, stated, computed })
    }

    fn head(&self) -> Head {
        Head { seq: self.start.seq, hash: self.stated.clone() }
    }
}

/// One fault of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub file: String,
    /// The line's number in it, from 1.
    pub line: u64,
    pub what: String,
}

/// The fault that the log itself records: lines before this one were gone when it was written. Where lines are left before it,
/// the chain shows the gap as well; where none is, it could be taken for a rotation.
fn lost_before(line: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Lost {
        event: String,
        found: u64,
        written: u64,
    }
    memchr::memmem::find(line, b"\"event\":\"lines_lost\"")?;
    let lost = serde_json::from_slice::<Lost>(line).ok().filter(|lost| lost.event == "lines_lost")?;
    Some(format!("lines {} to {} were gone when it was written", lost.found.saturating_add(1), lost.written))
}

/// Follows the chain line by line.
#[derive(Debug, Default)]
pub(crate) struct Verifier {
    head: Option<Head>,
    /// The lines after an unreadable end need not follow those before it.
    is_interrupted: bool,
    /// The line that the database remembers as the last one, until it comes by.
    expected: Option<Head>,
    /// A line that is not a link, until the next one shows whether it was torn.
    unreadable: Option<(Problem, String)>,
    /// Number of the first line.
    pub first_seq: u64,
    /// Lines that are links of the chain.
    pub lines: u64,
    /// Lines torn by a crash, by the log's own record.
    pub torn: u64,
    /// Files that could be read in part or not at all, each with the last line that could be read.
    pub unreadable_files: Vec<Problem>,
    /// The first problems.
    pub problems: Vec<Problem>,
    /// Number of all problems.
    pub problem_count: u64,
}

impl Verifier {
    /// A verifier of a log that was written up to this line at least.
    pub(crate) fn expect(expected: Head) -> Verifier {
        Verifier { expected: Some(expected), ..Verifier::default() }
    }

    /// Takes the next line, without its newline.
    pub(crate) fn line(&mut self, file: &str, number: u64, line: &[u8]) {
        let problem = |what: String| Problem { file: file.to_owned(), line: number, what };
        let Some(link) = Link::read(line) else {
            self.settle_unreadable(None);
            self.unreadable =
                Some((problem("the line is not one of the audit log".into()), hex_sha256(line)));
            return;
        };
        self.settle_unreadable(Some(line));
        let fault = self.fault_of(&link).or_else(|| lost_before(line));
        if let Some(what) = fault {
            self.report(problem(what));
        }
        if let Some(expected) = self.expected.take_if(|expected| expected.seq <= link.start.seq)
            && expected.seq == link.start.seq
            && expected.hash != link.stated
        {
            self.report(problem(
                "the database remembers another line of this number: the log was rewritten".into(),
            ));
        }
        self.is_interrupted = false;
        if self.lines == 0 {
            self.first_seq = link.start.seq;
        }
        self.lines += 1;
        self.head = Some(link.head());
    }

    /// Records that a file could not be read beyond `last_line`.
    pub(crate) fn cut_short(&mut self, file: &str, last_line: u64, error: &anyhow::Error) {
        self.settle_unreadable(None);
        self.unreadable_files.push(Problem {
            file: file.to_owned(),
            line: last_line,
            what: format!("nothing can be read after this line: {error:#}"),
        });
        self.is_interrupted = true;
    }

    /// Finishes after the last line; returns the head.
    pub(crate) fn finish(&mut self) -> Option<&Head> {
        self.settle_unreadable(None);
        if let Some(expected) = self.expected.take() {
            let last = self.head.as_ref().map_or(0, |head| head.seq);
            let missing = match expected.seq - last {
                1 => format!("line {} is missing", expected.seq),
                _ => format!("lines {} to {} are missing", last + 1, expected.seq),
            };
            let what = format!(
                "{missing} at the end, which the database remembers: they were cut off, or lost with the machine's power"
            );
            self.report(Problem { file: "end of the log".into(), line: last, what });
        }
        self.head.as_ref()
    }

    fn fault_of(&self, link: &Link) -> Option<String> {
        if link.stated != link.computed {
            return Some("the line was changed: its hash is not that of its text".into());
        }
        let head = self.head.as_ref()?;
        let expected = head.seq.saturating_add(1);
        let seq = link.start.seq;
        let is_next = link.start.prev == head.hash && seq == expected;
        let is_after_unreadable = self.is_interrupted && seq >= expected;
        if is_next || is_after_unreadable {
            return None;
        }
        Some(match seq.checked_sub(expected) {
            Some(0) => "the line before it was replaced: this one belongs to another".to_owned(),
            Some(1) => format!("1 line is missing before it: {expected}"),
            Some(missing) => format!("{missing} lines are missing before it: {expected} to {}", seq - 1),
            None => format!(
                "it is number {seq} where {expected} was expected: a line was repeated, moved or added"
            ),
        })
    }

    /// Excuses an unreadable line when the next one records it as torn, with the hash of its bytes.
    fn settle_unreadable(&mut self, next: Option<&[u8]>) {
        #[derive(Deserialize)]
        struct Torn {
            event: String,
            sha256: Option<String>,
        }
        let Some((problem, sha256)) = self.unreadable.take() else { return };
        let stated = next.and_then(|line| serde_json::from_slice::<Torn>(line).ok());
        if stated.is_some_and(|torn| torn.event == "torn_line" && torn.sha256.as_ref() == Some(&sha256)) {
            self.torn += 1;
        } else {
            self.report(problem);
        }
    }

    fn report(&mut self, problem: Problem) {
        self.problem_count += 1;
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }
}
