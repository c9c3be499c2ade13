//! Suggestions for mistyped keys.

/// Returns the nearest of `candidates` to `word`, if it is near enough for a typing error.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 2.max(candidate.len() / 3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Adds "did you mean" to a message of serde's form ``unknown field `x`, expected one of `a`, `b` ``. serde reports the
/// names only in that text; a message of another form is returned as it is.
pub(super) fn with_suggestion(message: &str) -> String {
    let Some(rest) = message.split("unknown field `").nth(1) else { return message.to_owned() };
    let mut quoted = rest.split('`');
    let Some(word) = quoted.next() else { return message.to_owned() };
    let candidates: Vec<&str> = quoted.skip(1).step_by(2).collect();
    let short = format!("unknown key `{word}`");
    let expected = message.find("unknown field `").map_or("", |at| &message[..at]);
    match nearest(word, candidates.iter().copied()) {
        Some(best) => format!("{expected}{short}; did you mean `{best}`?"),
        None => format!("{expected}{short}; the keys here are {}", candidates.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_answered_with_the_nearest_key() {
        let message = "unknown field `max_shere`, expected one of `terms`, `max_share`, `max_bans`";
        assert_eq!(with_suggestion(message), "unknown key `max_shere`; did you mean `max_share`?");
    }

    #[test]
    fn a_strange_key_is_answered_with_all_of_them() {
        let message = "unknown field `banana`, expected `terms` or `max_share`";
        assert_eq!(with_suggestion(message), "unknown key `banana`; the keys here are terms, max_share");
    }
}
