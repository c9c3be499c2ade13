//! The notation of a log format in nginx.conf: pasted as the bare string, as its quoted pieces, or as the whole `log_format`.

use super::{Escape, Unusable};

/// A log format without nginx's quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notation {
    pub escape: Escape,
    pub text: String,
}

/// A part of a format's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Literal(String),
    Variable(String),
}

/// Reads what was pasted.
pub(crate) fn read(pasted: &str) -> Result<Notation, Unusable> {
    let pasted = pasted.trim();
    let Some(words) = words(pasted) else { return bare(pasted) };
    let is_bare = |word: &Word| word.quote.is_none();
    match words.as_slice() {
        [first, _name, pieces @ ..] if is_bare(first) && first.text == "log_format" => joined(pieces),
        [first, ..] if is_bare(first) && first.text.starts_with("escape=") => joined(&words),
        [_, ..] if words.iter().all(|word| word.quote.is_some()) && are_pieces(&words) => joined(&words),
        _ => bare(pasted),
    }
}

/// Pieces are joined without anything between. A bare string that begins and ends with quotes, as `"$host" "$status"`, is not
/// meant that way: joined, two of its variables would touch.
fn are_pieces(words: &[Word]) -> bool {
    let ends_in_variable = |text: &str| {
        text.ends_with('}')
            || text.rsplit_once('$').is_some_and(|(_, name)| !name.is_empty() && name.bytes().all(is_of_name))
    };
    words.windows(2).all(|pair| match pair {
        [one, next] => !(ends_in_variable(&one.text) && next.text.starts_with('$')),
        _ => true,
    })
}

fn joined(words: &[Word]) -> Result<Notation, Unusable> {
    let (mut escape, mut text) = (Escape::Default, String::new());
    for (number, word) in words.iter().enumerate() {
        match word.text.strip_prefix("escape=").filter(|_| word.quote.is_none() && number == 0) {
            Some(name) => escape = Escape::named(name).ok_or_else(|| Unusable::Escape(name.to_owned()))?,
            None => text.push_str(&word.text),
        }
    }
    whole(escape, text)
}

fn bare(pasted: &str) -> Result<Notation, Unusable> {
    whole(Escape::Default, unescaped(pasted))
}

fn whole(escape: Escape, text: String) -> Result<Notation, Unusable> {
    if text.contains(['\n', '\r']) {
        return Err(Unusable::LineBreak);
    }
    if text.contains('\\') {
        return Err(Unusable::Backslash);
    }
    Ok(Notation { escape, text })
}

struct Word {
    quote: Option<char>,
    text: String,
}

/// Splits a directive into its words as nginx does. `None` when the text is none: a quote inside it is not closed, or touches
/// the next word.
fn words(text: &str) -> Option<Vec<Word>> {
    let mut words = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if let Some(comment) = rest.strip_prefix('#') {
            rest = comment.split_once('\n').map_or("", |(_, after)| after);
            continue;
        }
        if let Some(after) = rest.strip_prefix(';') {
            return after.trim().is_empty().then_some(words);
        }
        let Some(first) = rest.chars().next() else { return Some(words) };
        let quote = matches!(first, '"' | '\'').then_some(first);
        let inside = if quote.is_some() { rest.get(1..)? } else { rest };
        let len = word_len(inside, quote)?;
        words.push(Word { quote, text: unescaped(inside.get(..len)?) });
        rest = inside.get(len + usize::from(quote.is_some())..)?;
        let is_apart = rest.is_empty() || rest.starts_with(|next: char| next.is_whitespace() || next == ';');
        if !is_apart {
            return None;
        }
    }
}

fn word_len(inside: &str, quote: Option<char>) -> Option<usize> {
    let mut is_escaped = false;
    for (at, char) in inside.char_indices() {
        if is_escaped {
            is_escaped = false;
            continue;
        }
        is_escaped = char == '\\';
        let ends = quote.map_or(char.is_whitespace() || char == ';', |quote| char == quote);
        if ends {
            return Some(at);
        }
    }
    if quote.is_none() { Some(inside.len()) } else { None }
}

/// Replaces nginx's escapes; a backslash before anything else is literal.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        let escaped = match chars.peek() {
            Some(next @ ('"' | '\'' | '\\')) if char == '\\' => Some(*next),
            Some('t') if char == '\\' => Some('\t'),
            Some('r') if char == '\\' => Some('\r'),
            Some('n') if char == '\\' => Some('\n'),
            _ => None,
        };
        plain.push(escaped.unwrap_or(char));
        if escaped.is_some() {
            chars.next();
        }
    }
    plain
}

/// Splits a format's text into literals and variables (`$name`, `${name}`).
pub(crate) fn parts(text: &str) -> Result<Vec<Part>, Unusable> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (literal, after) = rest.split_at(at);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.to_owned()));
        }
        let after = after.get(1..).unwrap_or_default();
        let (braced, after) = after.strip_prefix('{').map_or((false, after), |after| (true, after));
        let len = after.bytes().position(|byte| !is_of_name(byte)).unwrap_or(after.len());
        let (name, after) = after.split_at(len);
        let after = if braced { after.strip_prefix('}') } else { Some(after) };
        rest = after.filter(|_| !name.is_empty()).ok_or(Unusable::Variable)?;
        parts.push(Part::Variable(name.to_owned()));
    }
    if !rest.is_empty() {
        parts.push(Part::Literal(rest.to_owned()));
    }
    Ok(parts)
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_read_in_every_way_in_which_it_is_pasted() {
        let check = |pasted: &str, escape, text: &str| {
            let text = text.to_owned();
            assert_eq!(read(pasted), Ok(Notation { escape, text }), "{pasted}");
        };
        let plain = r#"$remote_addr [$time_local] "$request" $status"#;
        check(plain, Escape::Default, plain);
        check(&format!("\n  {plain}\n"), Escape::Default, plain);
        check(&format!("'{plain}'"), Escape::Default, plain);
        check(&format!("'{plain}';"), Escape::Default, plain);
        check("'$remote_addr [$time_local] '\n    '\"$request\" $status'", Escape::Default, plain);
        check(r#""$remote_addr [$time_local] \"$request\" " "$status""#, Escape::Default, plain);
        check(&format!("escape=json '{plain}'"), Escape::Json, plain);
        let statement = "log_format main escape=none # how it began\n  '$remote_addr [$time_local] '\n  '\"$request\" $status';\n";
        check(statement, Escape::None, plain);
        check(&format!("log_format main '{plain}';"), Escape::Default, plain);
        check(r#""$host" $remote_addr"#, Escape::Default, r#""$host" $remote_addr"#);
        check(r#""$host" "$remote_addr""#, Escape::Default, r#""$host" "$remote_addr""#);
        check(r"'$remote_addr\t$status'", Escape::Default, "$remote_addr\t$status");
        check(r"$remote_addr\t$status", Escape::Default, "$remote_addr\t$status");
        check(r#"$remote_addr \"$request\""#, Escape::Default, r#"$remote_addr "$request""#);
    }

    #[test]
    fn what_nginx_would_refuse_is_refused() {
        assert_eq!(read("$remote_addr\n$status"), Err(Unusable::LineBreak));
        assert_eq!(read(r"'$remote_addr\n$status'"), Err(Unusable::LineBreak));
        assert_eq!(read(r"$remote_addr \d $status"), Err(Unusable::Backslash));
        assert_eq!(read("escape=html '$status'"), Err(Unusable::Escape("html".to_owned())));
        for text in ["$", "a $ b", "${a", "${}", "$-"] {
            assert_eq!(parts(text), Err(Unusable::Variable), "{text}");
        }
    }

    #[test]
    fn variables_are_told_from_literals() {
        let literal = |text: &str| Part::Literal(text.to_owned());
        let variable = |name: &str| Part::Variable(name.to_owned());
        let expected = [variable("a_1"), literal("b-"), variable("c"), variable("d"), literal(" e")];
        assert_eq!(parts("${a_1}b-$c$d e"), Ok(expected.to_vec()));
    }
}
