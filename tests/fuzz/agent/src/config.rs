//! A file of settings: it is taken, or each mistake is said with its line.

use shield_agent::test_support::config::Config;

/// # Panics
/// When a refusal names no line or would steer a terminal.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Err(error) = Config::parse(text) else { return };
    let words = format!("{error:#}");
    assert!(crate::is_printable(&words), "{words:?}");
    assert!(words.contains("line "), "no line is named: {words}");
}
