//! One address or network per line. Text after `#` or `;` is a comment and becomes the reason.

use super::{Entry, Parsed};
use crate::api::types::Ban;
use crate::text::printable;
use shield_engine::client::Client;

/// Never fails as a whole: any text is a list in this format, only its lines may be invalid.
pub(super) fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    for (at, line) in text.lines().enumerate() {
        let (content, comment) = match line.split_once(['#', ';']) {
            Some((content, comment)) => (content, comment.trim()),
            None => (line, ""),
        };
        let Some(first) = content.split([' ', '\t', ',']).find(|word| !word.is_empty()) else { continue };
        match first.parse::<Client>() {
            Ok(client) => {
                let reason = (!comment.is_empty()).then(|| comment.to_owned());
                parsed.entries.push(Entry { client, term: None, reason });
            }
            Err(error) => parsed.wrong(format!("line {}", at + 1), error.to_string()),
        }
    }
    parsed
}

/// Reasons are made printable, so that a line break in one does not begin an entry.
pub(super) fn write(bans: &[Ban]) -> String {
    let line = |ban: &Ban| match &ban.reason {
        Some(reason) => format!("{} # {}\n", ban.client, printable(reason)),
        None => format!("{}\n", ban.client),
    };
    bans.iter().map(line).collect()
}
