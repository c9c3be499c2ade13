//! Values of the configuration in the syntax of another program: escaped where it has a way to, refused with the reason where not.
//!
//! Control characters are refused everywhere: none of these formats has a line that goes on, and no path of a server has one.

use std::path::Path;

use anyhow::{Result, bail};

/// An absolute path that is text without control characters.
pub(super) fn path<'p>(path: &'p Path, key: &str) -> Result<&'p str> {
    let Some(text) = path.to_str() else { bail!("{key} = {path:?} is no UTF-8 text: choose another path") };
    if !path.is_absolute() {
        bail!("{key} = {text:?} must be an absolute path: what reads the file runs in another folder");
    }
    refuse(text, key, &[], "")?;
    Ok(text)
}

/// Refuses characters for which the target has no escape.
fn refuse(text: &str, key: &str, forbidden: &[char], target: &str) -> Result<()> {
    match text.chars().find(|char| char.is_control() || forbidden.contains(char)) {
        None => Ok(()),
        Some(char) if char.is_control() => {
            bail!("{key} = {text:?} holds a control character: choose another path")
        }
        Some(char) => bail!("{key} = {text:?} holds {char:?}, which {target}: choose another path"),
    }
}

/// A string of nginx's. A dollar has no escape there, and what a backslash does depends on the directive.
pub(super) fn nginx(text: &str, key: &str) -> Result<String> {
    refuse(text, key, &['$', '"', '\\'], "cannot be written in a path of nginx's configuration")?;
    Ok(format!("\"{text}\""))
}

/// A word of a systemd unit. Not for `Exec…=`, where a dollar is a variable.
pub(super) fn systemd(text: &str, key: &str) -> Result<String> {
    refuse(text, key, &[], "")?;
    let escaped = text.replace('\\', r"\\").replace('"', "\\\"").replace('%', "%%");
    Ok(format!("\"{escaped}\""))
}

/// The same where a colon parts source and destination.
pub(super) fn systemd_bind(text: &str, key: &str) -> Result<String> {
    refuse(text, key, &[':'], "parts two paths in a unit")?;
    systemd(text, key)
}

/// logrotate takes names as patterns, and has no escape inside quotation marks.
pub(super) fn logrotate(text: &str, key: &str) -> Result<String> {
    let special = ['"', '\\', '*', '?', '[', ']', '{', '}'];
    refuse(text, key, &special, "logrotate would read as a pattern or an end")?;
    Ok(format!("\"{text}\""))
}

/// A string of YAML's, in its form that JSON has too.
pub(super) fn yaml(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The same in a compose file, where a dollar is a variable.
pub(super) fn compose(text: &str) -> String {
    yaml(text).replace('$', "$$")
}
