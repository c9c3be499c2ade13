//! One address or network a line. Whatever follows `#` or `;` is a comment and becomes the reason.

use super::{Entry, Parsed};
use crate::api::types::Ban;
use crate::text::printable;
use shield_engine::client::Client;

/// Reads it; every text is such a list, only its lines may be wrong.
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

/// Writes it; a reason stays on its line.
pub(super) fn write(bans: &[Ban]) -> String {
    let line = |ban: &Ban| match &ban.reason {
        Some(reason) => format!("{} # {}\n", ban.client, printable(reason)),
        None => format!("{}\n", ban.client),
    };
    bans.iter().map(line).collect()
}
