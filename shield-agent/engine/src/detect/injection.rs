//! SQL in the values of a query, where a database is asked by what a visitor chose.
//!
//! A value that begins with a statement is no injection: it is what an interface for SQL is sent. What is injected continues the
//! statement that the site wrote.

use crate::detect::shape;

/// Texts that no value of a form holds, each with its rarest byte; a space stands only in what was decoded.
const TEXTS: [(u8, &[u8]); 11] = [
    (b' ', b"waitfor delay"),
    (b'(', b"benchmark("),
    (b'_', b"information_schema"),
    (b'(', b"extractvalue("),
    (b'(', b"updatexml("),
    (b'(', b"load_file("),
    (b' ', b"into outfile"),
    (b'_', b"xp_cmdshell"),
    (b'_', b"utl_inaddr"),
    (b'_', b"dbms_pipe"),
    (b'@', b"@@version"),
];

const STATEMENTS: [&[u8]; 6] = [b"select", b"with", b"show", b"insert", b"explain", b"describe"];

/// Whether a query (lower case) holds injected SQL; `seen` are the bytes that occur in it.
pub(super) fn holds_sql(lower: &[u8], seen: &[bool; 256]) -> bool {
    let has = |letters: &[u8]| letters.iter().all(|letter| seen[usize::from(*letter)]);
    let may_be_text = TEXTS.iter().any(|(rare, _)| seen[usize::from(*rare)]);
    let may_be_union = has(b"unioselct");
    let may_be_condition = seen[usize::from(b'=')] && (has(b"or") || has(b"and"));
    if !may_be_text && !may_be_union && !may_be_condition {
        return false;
    }
    values(lower).any(|value| {
        (may_be_text && shape::holds(value, seen, &TEXTS))
            || (may_be_union && is_union_select(value))
            || (may_be_condition && (is_always_so(value) || counts_columns(value)))
    })
}

fn values(lower: &[u8]) -> impl Iterator<Item = &[u8]> {
    lower.split(|byte| *byte == b'&').filter_map(|parameter| {
        let value = memchr::memchr(b'=', parameter).map_or(parameter, |at| &parameter[at + 1..]);
        let text = value.trim_ascii_start();
        let is_statement = STATEMENTS.iter().any(|word| {
            text.strip_prefix(*word).is_some_and(|rest| !rest.first().is_some_and(u8::is_ascii_alphanumeric))
        });
        (!is_statement).then_some(value)
    })
}

/// `union select`, with anything but letters and digits between the words, which may be `all` and `distinct` too. The word alone
/// is a word: `?q=credit+union`.
fn is_union_select(value: &[u8]) -> bool {
    memchr::memmem::find_iter(value, b"union").any(|at| {
        let mut words = value[at + 5..]
            .split(|byte| !byte.is_ascii_lowercase())
            .filter(|word| word.len() > 1)
            .skip_while(|word| matches!(*word, b"all" | b"distinct"));
        value.get(at + 5).is_some_and(|next| !next.is_ascii_alphanumeric()) && words.next() == Some(b"select")
    })
}

/// `or 1=1`, `and 'a'='a`, `and 1=2`: a comparison whose outcome is known, which nobody but a tester adds.
fn is_always_so(value: &[u8]) -> bool {
    [&b"or"[..], b"and"].iter().any(|word| {
        memchr::memmem::find_iter(value, word).any(|at| {
            let begins_word = at > 0 && !value[at - 1].is_ascii_alphanumeric();
            begins_word && compares_the_same(&value[at + word.len()..])
        })
    })
}

fn compares_the_same(rest: &[u8]) -> bool {
    if rest.first().is_none_or(u8::is_ascii_alphanumeric) {
        return false;
    }
    let (left, rest) = operand(rest);
    let Some(rest) = rest.strip_prefix(b"=") else { return false };
    let (right, _) = operand(rest);
    let is_number = |text: &[u8]| text.iter().all(u8::is_ascii_digit);
    !left.is_empty() && !right.is_empty() && (left == right || (is_number(left) && is_number(right)))
}

/// The next operand, without what may stand around it, and what follows.
fn operand(text: &[u8]) -> (&[u8], &[u8]) {
    let is_around = |byte: &u8| matches!(byte, b' ' | b'\'' | b'"' | b'(' | b')');
    let skipped = |text: &[u8]| text.iter().take_while(|byte| is_around(byte)).count();
    let text = &text[skipped(text)..];
    let (word, rest) = text.split_at(text.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count());
    (word, &rest[skipped(rest)..])
}

/// `order by 10--`: asks how many columns the site's own statement has.
fn counts_columns(value: &[u8]) -> bool {
    memchr::memmem::find_iter(value, b"order by ").any(|at| {
        let rest = &value[at + 9..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let end = rest[digits..].trim_ascii_start();
        digits > 0 && [&b"--"[..], b"#", b"/*"].iter().any(|comment| end.starts_with(comment))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_sql(query: &str) -> bool {
        let mut seen = [false; 256];
        query.bytes().for_each(|byte| seen[usize::from(byte)] = true);
        holds_sql(query.as_bytes(), &seen)
    }

    #[test]
    fn injected_sql() {
        for query in [
            "?id=1' or '1'='1",
            "?id=1 or 1=1",
            "?id=1) and (1=2",
            "?id=1' and 'x'='x' -- ",
            "?id=-1' union all select 1,2",
            "?id=1;waitfor delay '0:0:5'",
            "?id=1' order by 10-- ",
            "?id=1 and extractvalue(1,2)",
            "?a=b&id=0 union select table_name from information_schema.tables",
        ] {
            assert!(is_sql(query), "{query}");
        }
    }

    #[test]
    fn words_and_statements_are_none() {
        for query in [
            "?q=credit union or bank",
            "?q=for=for",
            "?sort=order by 10",
            "?filter=name eq 'x' and '1' eq '1'",
            "?filter=a=1 and b=2",
            "?query=select * from t union all select * from information_schema.tables",
            "?q=salt and pepper",
            "?order=1&and=1=1",
        ] {
            assert!(!is_sql(query), "{query}");
        }
    }
}
