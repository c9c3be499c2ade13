//! A webhook's URL, which is a secret: anybody who has it can post in Shield's name. It is loaded from a file, the
//! environment or systemd's credentials, and never appears in `Debug`, an error or the log.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use reqwest::Url;

use crate::config::UrlFrom;

/// Shown in place of the URL.
const HIDDEN: &str = "[webhook URL]";
const WHAT: &str = "webhook URL";
/// Permission bits of the group and of others.
const NOT_THE_OWNER: u32 = 0o077;

/// A secret URL.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Url);

impl Secret {
    /// Loads it from its configured place. Errors never contain what was read.
    pub(crate) fn load(from: &UrlFrom) -> Result<Secret> {
        let text = load_text(from, WHAT)?;
        Secret::parse(&text).with_context(|| match from {
            UrlFrom::File(path) => {
                format!("could not use the first line of {} as the {WHAT}", path.display())
            }
            UrlFrom::Env(name) => format!("could not use the {WHAT} in the environment variable {name}"),
            UrlFrom::Credential(name) => {
                format!("could not use the first line of the credential {name} as the {WHAT}")
            }
        })
    }

    pub(crate) fn parse(text: &str) -> Result<Secret> {
        let Ok(url) = Url::parse(text.trim()) else { bail!("the value is not a URL (https://…)") };
        ensure!(matches!(url.scheme(), "https" | "http"), "the URL must begin with https://");
        ensure!(url.has_host(), "the URL has no host");
        Ok(Secret(url))
    }

    /// The URL itself; only for sending a request to it.
    pub(super) fn expose(&self) -> &Url {
        &self.0
    }

    /// Removes the URL, and every part that gives it away, from a text written elsewhere.
    pub(crate) fn redact(&self, text: &str) -> String {
        let mut text = text.replace(self.0.as_str(), HIDDEN);
        let telling = [Some(self.0.path()), self.0.query(), self.0.password(), Some(self.0.username())];
        for part in telling.into_iter().flatten().filter(|part| part.len() > 1) {
            text = text.replace(part, HIDDEN);
        }
        text
    }
}

/// Loads the secret text `what` from its configured place: a file's first line. Errors never contain what was read.
pub(crate) fn load_text(from: &UrlFrom, what: &str) -> Result<String> {
    match from {
        UrlFrom::File(path) => first_line(path, what),
        UrlFrom::Env(name) => std::env::var(name)
            .with_context(|| format!("could not read the {what} in the environment variable {name}")),
        UrlFrom::Credential(name) => first_line(&credential(name)?, what),
    }
}

/// Loads a secret of several lines. Errors never contain what was read.
pub(crate) fn load_whole(from: &UrlFrom, what: &str) -> Result<String> {
    match from {
        UrlFrom::File(path) => whole(path, what),
        UrlFrom::Env(_) => load_text(from, what),
        UrlFrom::Credential(name) => whole(&credential(name)?, what),
    }
}

fn credential(name: &str) -> Result<std::path::PathBuf> {
    let dir = std::env::var_os("CREDENTIALS_DIRECTORY").with_context(|| {
        format!("could not find systemd's credentials: add LoadCredential={name}:FILE to the unit")
    })?;
    Ok(Path::new(&dir).join(name))
}

fn first_line(path: &Path, what: &str) -> Result<String> {
    let (shown, text) = (path.display(), whole(path, what)?);
    let first = text.lines().next().unwrap_or_default().trim();
    ensure!(!first.is_empty(), "could not read the {what} in {shown}: its first line is empty");
    ensure!(
        first.bytes().all(|byte| byte.is_ascii_graphic()),
        "could not use the {what} in {shown}: its first line has a blank or a character that is not ASCII"
    );
    Ok(first.to_owned())
}

fn whole(path: &Path, what: &str) -> Result<String> {
    let shown = path.display();
    // Opening a pipe that nobody writes to would wait for ever.
    let is_file = std::fs::metadata(path).map(|meta| meta.is_file());
    let is_file = is_file.with_context(|| format!("could not read the {what} in {shown}"))?;
    ensure!(is_file, "could not read the {what} in {shown}: it is no regular file");
    let text =
        std::fs::read_to_string(path).with_context(|| format!("could not read the {what} in {shown}"))?;
    let mode = std::fs::metadata(path).map(|meta| meta.permissions().mode()).unwrap_or_default();
    if mode & NOT_THE_OWNER != 0 {
        tracing::warn!(file = %shown, "the {what} can be read by other users: chmod 0600 the file");
    }
    Ok(text)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://hooks.example.org/services/T0/B0/verysecret";

    #[test]
    fn it_never_shows() {
        let secret = Secret::parse(URL).unwrap();
        assert_eq!(format!("{secret} {secret:?} {secret:#?}"), [HIDDEN; 3].join(" "));
        let said = secret.redact(&format!("error sending to {URL}: no route for /services/T0/B0/verysecret"));
        assert_eq!(said, "error sending to [webhook URL]: no route for [webhook URL]");
    }

    #[test]
    fn what_is_no_url_is_refused_without_being_repeated() {
        let check = |text: &str| {
            let said = format!("{:#}", Secret::parse(text).unwrap_err());
            assert!(!said.contains("verysecret"), "{said}");
        };
        check("verysecret");
        check("ftp://example.org/verysecret");
        check("data:verysecret");
        check("");
    }

    #[test]
    fn it_comes_from_the_first_line_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("url");
        std::fs::write(&path, format!("  {URL}\r\n# comment\n")).unwrap();
        assert_eq!(Secret::load(&UrlFrom::File(path)).unwrap(), Secret::parse(URL).unwrap());
        let missing = UrlFrom::File(dir.path().join("missing"));
        assert!(format!("{:#}", Secret::load(&missing).unwrap_err()).contains("missing"));
        let unset = UrlFrom::Env("SHIELD_NO_SUCH_VARIABLE".into());
        assert!(format!("{:#}", Secret::load(&unset).unwrap_err()).contains("SHIELD_NO_SUCH_VARIABLE"));
    }
}
