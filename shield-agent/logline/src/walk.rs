//! Walks over the values of a JSON object from the left, nested ones too, by where they stand in the line.
//!
//! Tolerant: a text ends at the first quote that no backslash escapes, whatever it contains. That is what nginx wrote, also
//! where it is no valid JSON. [`Walker::next`] says [`Step::Broken`] at the first byte that does not fit.

use super::text::closing_quote;

/// Objects in objects; `serde_json` has the same limit.
const MAX_DEPTH: usize = 127;

/// The part of a path that stands for the items of an array. It cannot be mapped, because it has no name.
pub(crate) const ITEM: &[u8] = b"[]";

/// One step over a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A text or a bare word; [`Walker::path`] is its name.
    Value(Found),
    /// The object is complete, and nothing follows.
    End,
    /// The rest of the line is no JSON.
    Broken,
}

/// Where a value stands in its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its bounds, without its quotes.
    pub start: usize,
    pub end: usize,
    pub is_quoted: bool,
}

/// A walk over one line.
pub(crate) struct Walker<'a> {
    line: &'a [u8],
    at: usize,
    /// The names down to the present value, joined by dots.
    path: Vec<u8>,
    open: Vec<Open>,
    has_escaped_name: bool,
    /// Nothing of the line was read yet.
    is_new: bool,
}

struct Open {
    is_array: bool,
    /// The length of the path to it.
    path_len: usize,
}

impl<'a> Walker<'a> {
    pub(crate) fn new(line: &'a [u8]) -> Walker<'a> {
        Walker { line, at: 0, path: Vec::new(), open: Vec::new(), has_escaped_name: false, is_new: true }
    }

    /// The path to the value that was returned last.
    pub(crate) fn path(&self) -> &[u8] {
        &self.path
    }

    /// A name so far was written with an escape, so its path is not the one that a strict reader sees.
    pub(crate) fn has_escaped_name(&self) -> bool {
        self.has_escaped_name
    }

    /// Moves on to the next value.
    pub(crate) fn next(&mut self) -> Step {
        self.step().unwrap_or(Step::Broken)
    }

    fn step(&mut self) -> Option<Step> {
        if std::mem::take(&mut self.is_new) {
            self.skip_blanks();
            if self.byte()? != b'{' {
                return None;
            }
            self.enter(false)?;
        } else {
            self.leave_value()?;
        }
        loop {
            let Some(open) = self.open.last() else {
                return (self.at == self.line.len()).then_some(Step::End);
            };
            let (is_array, path_len) = (open.is_array, open.path_len);
            self.path.truncate(path_len);
            let closing = if is_array { b']' } else { b'}' };
            if self.byte()? == closing {
                self.open.pop();
                self.at += 1;
                self.leave_value()?;
                continue;
            }
            self.name(is_array)?;
            match self.byte()? {
                b'{' => self.enter(false)?,
                b'[' => self.enter(true)?,
                _ => return Some(Step::Value(self.value()?)),
            }
        }
    }

    fn byte(&self) -> Option<u8> {
        self.line.get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        while self.byte().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn enter(&mut self, is_array: bool) -> Option<()> {
        if self.open.len() == MAX_DEPTH {
            return None;
        }
        self.open.push(Open { is_array, path_len: self.path.len() });
        self.at += 1;
        self.skip_blanks();
        Some(())
    }

    /// Goes from the end of a value to the next one, or to the bracket that closes what it stands in.
    fn leave_value(&mut self) -> Option<()> {
        self.skip_blanks();
        let Some(open) = self.open.last() else { return Some(()) };
        let closing = if open.is_array { b']' } else { b'}' };
        match self.byte()? {
            b',' => {
                self.at += 1;
                self.skip_blanks();
                // A comma before the bracket is no JSON.
                (self.byte()? != closing).then_some(())
            }
            byte => (byte == closing).then_some(()),
        }
    }

    fn name(&mut self, is_array: bool) -> Option<()> {
        if !self.path.is_empty() {
            self.path.push(b'.');
        }
        if is_array {
            self.path.extend_from_slice(ITEM);
            return Some(());
        }
        if self.byte()? != b'"' {
            return None;
        }
        let end = closing_quote(self.line, self.at + 1)?;
        let name = self.line.get(self.at + 1..end)?;
        self.has_escaped_name |= name.contains(&b'\\');
        self.path.extend_from_slice(name);
        self.at = end + 1;
        self.skip_blanks();
        if self.byte()? != b':' {
            return None;
        }
        self.at += 1;
        self.skip_blanks();
        Some(())
    }

    /// Reads a text or a bare word (which may be missing: nginx writes `"status":,` for an empty variable).
    fn value(&mut self) -> Option<Found> {
        if self.byte()? == b'"' {
            let (start, end) = (self.at + 1, closing_quote(self.line, self.at + 1)?);
            self.at = end + 1;
            return Some(Found { start, end, is_quoted: true });
        }
        let rest = self.line.get(self.at..)?;
        let is_end =
            |byte: &u8| matches!(byte, b',' | b'}' | b']' | b'"' | b'{' | b'[') || byte.is_ascii_whitespace();
        let len = rest.iter().position(is_end)?;
        let start = self.at;
        self.at += len;
        Some(Found { start, end: self.at, is_quoted: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shows a walk as `path=value` with quotes kept, then `end` or `broken`.
    fn walk(line: &str) -> String {
        let mut walker = Walker::new(line.as_bytes());
        let mut shown = String::new();
        loop {
            match walker.next() {
                Step::Value(found) => {
                    let quote = if found.is_quoted { "'" } else { "" };
                    let path = String::from_utf8_lossy(walker.path()).into_owned();
                    shown += &format!("{path}={quote}{}{quote} ", &line[found.start..found.end]);
                }
                Step::End => return shown + "end",
                Step::Broken => return shown + "broken",
            }
        }
    }

    #[test]
    fn values_are_found_at_every_depth() {
        let check = |line: &str, expected: &str| assert_eq!(walk(line), expected, "{line}");
        check(r#"{"a":1,"b":"x"}"#, "a=1 b='x' end");
        check(
            r#" { "a" : { "b" : "x" , "c" : {} } , "d" : [ 1 , "y" , { "e" : null } ] } "#,
            "a.b='x' d.[]=1 d.[]='y' d.[].e=null end",
        );
        check("{}", "end");
        check(r#"{"a":,"b":2}"#, "a= b=2 end");
        check(r#"{"a":"x\"y","b":2}"#, r#"a='x\"y' b=2 end"#);
        check(r#"{"a":1}x"#, "a=1 broken");
        check(r#"{"a":1,}"#, "a=1 broken");
        check(r#"{"a":"x"y"}"#, "a='x' broken");
        check(r#"{"a":1"#, "broken");
        check(r#"{"a":{"b":1}"#, "a.b=1 broken");
        check(r#"{"a":[1}"#, "a.[]=1 broken");
        check("[1]", "broken");
        check("", "broken");
        check(&"{\"a\":".repeat(200), "broken");
    }
}
