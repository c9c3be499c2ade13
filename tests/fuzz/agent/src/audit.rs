//! An audit log that somebody changed: `audit verify` finds every change, and report and verification read whatever it holds.

use std::sync::OnceLock;

use shield_agent::test_support::fuzz;

const LINES: u64 = 12;
/// Inputs that begin with it are edits of a log, others are the log.
pub(crate) const EDITS: u8 = 0;
/// A repeated line can double the log.
const MOST_EDITS: usize = 8;

/// # Panics
/// When a log that differs from what was written is called intact.
pub fn check(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let written = written();
    if *first != EDITS {
        fuzz::audit_problems(rest, written);
        fuzz::audit_report(rest);
        return;
    }
    let mut text = written.to_vec();
    for edit in rest.chunks_exact(4).take(MOST_EDITS) {
        let &[kind, high, low, byte] = edit else { unreachable!("chunks of four") };
        let at = usize::from(u16::from_be_bytes([high, low]));
        apply(&mut text, kind, at, byte);
    }
    let (problems, torn) = fuzz::audit_problems(&text, written);
    assert_eq!(torn, 0, "the log records no torn line");
    assert_eq!(problems == 0, is_written(&text, written), "{}", String::from_utf8_lossy(&text));
    fuzz::audit_report(&text);
}

/// Whether these are the last lines that were written. Older files of a log are removed in the end, and the last line break is no
/// part of a line.
fn is_written(text: &[u8], written: &[u8]) -> bool {
    let whole = [text.strip_suffix(b"\n").unwrap_or(text), b"\n"].concat();
    let begins_a_line = || written.len() == whole.len() || written[written.len() - whole.len() - 1] == b'\n';
    whole.len() > 1 && written.ends_with(&whole) && begins_a_line()
}

fn written() -> &'static [u8] {
    static WRITTEN: OnceLock<Vec<u8>> = OnceLock::new();
    WRITTEN.get_or_init(|| fuzz::audit_log(LINES))
}

/// One change: a byte replaced, put in or taken out, a line repeated or taken out, the rest cut off.
fn apply(text: &mut Vec<u8>, kind: u8, at: usize, byte: u8) {
    if text.is_empty() {
        return;
    }
    let at = at % text.len();
    let begin = text[..at].iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
    let end = text[at..].iter().position(|b| *b == b'\n').map_or(text.len(), |len| at + len + 1);
    match kind % 6 {
        0 => text[at] = byte,
        1 => text.insert(at, byte),
        2 => drop(text.remove(at)),
        3 => text.extend_from_within(begin..end),
        4 => drop(text.drain(begin..end)),
        _ => text.truncate(at),
    }
}
