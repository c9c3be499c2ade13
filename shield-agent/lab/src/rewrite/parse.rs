//! nginx's configuration as directives that know where they stand, so that a word can be replaced and everything else, with its
//! line, stays.

use std::ops::Range;

/// A directive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directive {
    /// Its name and its arguments, without quotes, and where each stands.
    pub words: Vec<(String, Range<usize>)>,
    /// From its name to its `;`, or to the `{` of its block.
    pub range: Range<usize>,
    /// The name of the block that it stands in, and the number of that block's directive.
    pub parent: Option<usize>,
    /// Where its block ends, with the `}`.
    pub block_end: Option<usize>,
}

impl Directive {
    pub(super) fn name(&self) -> &str {
        &self.words[0].0
    }

    pub(super) fn argument(&self, n: usize) -> Option<&str> {
        self.words.get(n + 1).map(|(word, _)| word.as_str())
    }

    /// Its arguments.
    pub(super) fn arguments(&self) -> impl Iterator<Item = &str> {
        self.words[1..].iter().map(|(word, _)| word.as_str())
    }

    /// Where its arguments stand.
    pub(super) fn tail(&self) -> Range<usize> {
        let start = self.words.get(1).map_or(self.range.end, |(_, range)| range.start);
        start..self.words.last().map_or(start, |(_, range)| range.end)
    }
}

/// Reads a file. What is no configuration gives fewer directives: nginx itself says what is wrong with it.
pub(super) fn directives(text: &str) -> Vec<Directive> {
    let bytes = text.as_bytes();
    let mut found: Vec<Directive> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    let mut words: Vec<(String, Range<usize>)> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'#' => at += text[at..].find('\n').unwrap_or(text.len() - at),
            b';' | b'{' => {
                if let Some((_, first)) = words.first() {
                    let range = first.start..at;
                    let words = std::mem::take(&mut words);
                    let is_code = words[0].0.ends_with("_by_lua_block");
                    found.push(Directive { words, range, parent: open.last().copied(), block_end: None });
                    if byte == b'{' && is_code {
                        at = end_of_code(bytes, at);
                        continue;
                    }
                    if byte == b'{' {
                        open.push(found.len() - 1);
                    }
                }
                at += 1;
            }
            b'}' => {
                words.clear();
                at += 1;
                if let Some(directive) = open.pop() {
                    found[directive].block_end = Some(at);
                }
            }
            _ if byte.is_ascii_whitespace() => at += 1,
            _ => {
                let (word, end) = word(text, at);
                words.push((word, at..end));
                at = end;
            }
        }
    }
    found
}

/// Behind the brace that closes the one at `at`.
fn end_of_code(bytes: &[u8], at: usize) -> usize {
    let mut depth = 0_usize;
    for (n, byte) in bytes.iter().enumerate().skip(at) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return n + 1;
        }
    }
    bytes.len()
}

/// The word that begins at `at`, and where it ends.
fn word(text: &str, at: usize) -> (String, usize) {
    let mut chars = text[at..].char_indices().peekable();
    let quote = chars.next_if(|(_, char)| matches!(char, '"' | '\'')).map(|(_, quote)| quote);
    let mut word = String::new();
    while let Some((n, char)) = chars.next() {
        match (char, quote) {
            ('\\', _) => {
                word.push(char);
                word.extend(chars.next().map(|(_, next)| next));
            }
            (char, Some(quote)) if char == quote => return (word, at + n + 1),
            // The name of a variable.
            ('{', None) if word.ends_with('$') => {
                word.push(char);
                for (_, next) in chars.by_ref() {
                    word.push(next);
                    if next == '}' {
                        break;
                    }
                }
            }
            (';' | '{', None) => return (word, at + n),
            (char, None) if char.is_whitespace() => return (word, at + n),
            (char, _) => word.push(char),
        }
    }
    (word, text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_know_their_words_their_place_and_their_block() {
        let text = "http { # a { comment;\n  log_format a 'x; {' \"y\";\n  server { listen 80; location ~ \\.php$ {} }\n}\nset ${a}b 1;";
        let found = directives(text);
        let shown: Vec<String> = found
            .iter()
            .map(|it| {
                let words: Vec<&str> = it.words.iter().map(|(word, _)| word.as_str()).collect();
                format!("{}<{}", words.join(" "), it.parent.map_or("", |parent| found[parent].name()))
            })
            .collect();
        let expected = [
            "http<",
            "log_format a x; { y<http",
            "server<http",
            "listen 80<server",
            "location ~ \\.php$<server",
            "set ${a}b 1<",
        ];
        assert_eq!(shown, expected);
        assert_eq!(&text[found[3].tail()], "80");
        assert_eq!(&text[found[1].tail()], "a 'x; {' \"y\"");
        assert!(text[..found[0].block_end.unwrap()].ends_with("\n}"));
    }

    #[test]
    fn nonsense_ends_and_code_is_passed_over() {
        for text in ["{", "}}}", "a \"", "a ${", "\\", "a 'b\\"] {
            directives(text);
        }
        let found = directives("content_by_lua_block { if x then y = {} end; } listen 80;");
        assert_eq!(found.len(), 2);
    }
}
