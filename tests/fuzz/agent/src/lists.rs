//! A list for `import`: every entry of a plain one is taken, passed over, or refused with its place.

use shield_agent::test_support::fuzz;

/// What `--format` takes, by an input's first byte.
pub(crate) const FORMATS: [&str; 5] = ["auto", "shield", "plain", "crowdsec", "fail2ban"];

/// # Panics
/// When an entry is lost, a refusal has no place, or what was read is read otherwise when it is written again.
pub fn check(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let format = FORMATS[usize::from(*first) % FORMATS.len()];
    let list = match fuzz::list(text, format) {
        Ok(list) => list,
        Err(words) => {
            assert!(!words.is_empty() && crate::is_printable(&words), "{words:?}");
            return;
        }
    };
    for (place, why) in &list.wrong {
        assert!(!place.is_empty() && !why.is_empty(), "{place:?}: {why:?}");
        assert!(crate::is_printable(place) && crate::is_printable(why), "{place:?}: {why:?}");
    }
    if format == "plain" {
        let is_entry = |line: &&str| {
            let before_comment = line.split(['#', ';']).next().unwrap_or_default();
            !before_comment.trim_matches([' ', '\t', ',']).is_empty()
        };
        let entries = text.trim_start_matches('\u{feff}').lines().filter(is_entry).count();
        assert_eq!(list.clients.len() + list.wrong.len() + list.passed_over, entries, "an entry is lost");
    }
    let again: String = list.clients.iter().map(|client| format!("{client}\n")).collect();
    let again = fuzz::list(&again, "plain").expect("a plain list is always one");
    assert!(again.wrong.is_empty(), "{:?}", again.wrong);
    assert_eq!(again.clients, list.clients);
}
