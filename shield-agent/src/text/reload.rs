//! What a reload of the configuration did, in words.

use std::net::SocketAddr;

use serde_json::Value;

use super::{counted, utc};
use shield_engine::action::Reloaded;

/// Characters of a value that are shown: a list of a thousand networks is no message.
const MOST_CHARS: usize = 80;

/// The event in one line.
pub(crate) fn summary(reloaded: &Reloaded) -> String {
    let list = |items: &[String]| items.join("; ");
    let mut parts = Vec::new();
    if !reloaded.changed.is_empty() {
        parts.push(format!("changed {}", list(&reloaded.changed)));
    }
    if reloaded.lifted > 0 {
        parts.push(format!("{} lifted, allowed now", counted(reloaded.lifted, "ban")));
    }
    if !reloaded.restart.is_empty() {
        parts.push(format!("restart needed for {}", list(&reloaded.restart)));
    }
    if !reloaded.failed.is_empty() {
        parts.push(format!("not done: {}", list(&reloaded.failed)));
    }
    if parts.is_empty() {
        return "configuration reloaded: nothing changed".to_owned();
    }
    format!("configuration reloaded: {}", parts.join(". "))
}

/// `[ban] terms: 10 min, 30 min -> 1 h (for new bans)`.
pub(crate) fn change(key: &str, from: &Value, to: &Value, note: Option<&str>) -> String {
    let note = note.map(|note| format!(" ({note})")).unwrap_or_default();
    match (from, to) {
        (Value::Array(from), Value::Array(to)) => {
            let named = |sign: &str, some: &[Value], others: &[Value]| -> Vec<String> {
                let own = some.iter().filter(|item| !others.contains(item));
                own.map(|item| format!("{sign}{}", shown(item))).collect()
            };
            let mut items = named("-", from, to);
            items.extend(named("+", to, from));
            if items.is_empty() {
                items.push(format!("now in the order {}", shown(&Value::Array(to.clone()))));
            }
            format!("{key}: {}{note}", shortened(&items.join(" ")))
        }
        _ => format!("{key}: {} -> {}{note}", shown(from), shown(to)),
    }
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    };
    shortened(&text)
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MOST_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The state of the configuration whose file was refused at `at_ms` (wall clock).
pub(crate) fn refused(why: &str, at_ms: i64) -> String {
    format!(
        "the reload at {} was refused, and the configuration before it stays in force; correct the file, then run \
         `shield-agent reload`: {why}",
        utc(at_ms)
    )
}

/// The state of a configuration in force.
pub(crate) fn in_force(file: Option<&str>, restart: &[String]) -> String {
    let file = file.unwrap_or("the defaults (no file)");
    if restart.is_empty() {
        file.to_owned()
    } else {
        format!("{file}; restart needed for {}", restart.join("; "))
    }
}

/// The state of a receiver whose URL could not be read again.
pub(crate) fn url_stays(why: &str) -> String {
    format!("{why}; the URL read before is still in use; `shield-agent reload` tries again")
}

/// Who has the page's port.
pub(crate) fn page_taken(addr: SocketAddr, holder: &str) -> String {
    format!("could not have {addr} for the page: {holder} listens there")
}

/// Why the page is on another port.
pub(crate) fn page_instead(addr: SocketAddr, holder: Option<&str>) -> String {
    let holder = holder.unwrap_or("another program");
    format!("in place of port {}, where {holder} listens; next_free_port in [page]", addr.port())
}

/// The state of a page that could not be moved.
pub(crate) fn page_stays(wanted: &str, why: &str, stays: Option<&str>) -> String {
    let stays = stays.map_or("there is no page now".to_owned(), |addr| format!("it stays at http://{addr}/"));
    format!("could not move the page to {wanted}: {why}; {stays}; `shield-agent reload` tries again")
}

/// The state of a page that could not be opened at the start.
pub(crate) fn page_missing(why: &str) -> String {
    format!(
        "{why}; there is no page until then, it is tried again every few seconds, and clients are judged and banned"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn changes() {
        let check = |from, to, expected: &str| assert_eq!(change("[a] b", &from, &to, None), expected);
        check(json!("x"), json!("y"), "[a] b: x -> y");
        check(json!(1), json!(2.5), "[a] b: 1 -> 2.5");
        check(Value::Null, json!("url_file /a"), "[a] b: none -> url_file /a");
        check(json!(["1", "2"]), json!(["2", "3"]), "[a] b: -1 +3");
        check(json!(["1", "2"]), json!(["2", "1"]), "[a] b: now in the order 2, 1");
        assert_eq!(
            change("[a] b", &json!(1), &json!(2), Some("for new bans")),
            "[a] b: 1 -> 2 (for new bans)"
        );
        let many: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        assert!(change("[a] b", &json!([]), &json!(many), None).chars().count() < 100);
    }

    #[test]
    fn a_summary_says_all_that_happened_and_nothing_else() {
        let items = |text: &str| vec![text.to_owned()];
        assert_eq!(summary(&Reloaded::default()), "configuration reloaded: nothing changed");
        let reloaded = Reloaded {
            changed: vec!["[ban] max_bans: 1 -> 2".to_owned(), "[agent] log: info -> debug".to_owned()],
            restart: items("[xdp] mode: on -> off"),
            failed: items("[page] listen: taken"),
            lifted: 1,
        };
        assert_eq!(
            summary(&reloaded),
            "configuration reloaded: changed [ban] max_bans: 1 -> 2; [agent] log: info -> debug. 1 ban lifted, allowed \
             now. restart needed for [xdp] mode: on -> off. not done: [page] listen: taken"
        );
    }
}
