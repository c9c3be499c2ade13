//! The bearer token that changes over TCP need: made at the first start, kept in a file of mode 0600, never shown.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use subtle::ConstantTimeEq;

use crate::random;

const TOKEN_BYTES: usize = 32;

/// The shortest token accepted from a file that an operator wrote: 128 bits in hexadecimal.
const MIN_CHARS: usize = 32;

/// The bearer token of the TCP listener.
#[derive(Clone)]
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// Reads the token in `path`, or creates the file with a new one.
    ///
    /// # Errors
    /// Also for a file that other users may read, whose token is no secret any more, and for a short one, which this agent
    /// did not write. An empty file is what a full disk leaves of a token, and is replaced.
    pub fn load_or_create(path: &Path) -> Result<Token> {
        match fs::read_to_string(path) {
            Ok(text) if text.trim().is_empty() => Token::create(path),
            Ok(text) => Token::checked(path, &text),
            Err(error) if error.kind() == ErrorKind::NotFound => Token::create(path),
            Err(error) => {
                Err(error).with_context(|| format!("could not read the API token in {}", path.display()))
            }
        }
    }

    /// A token of these characters.
    #[cfg(any(test, feature = "test-support"))]
    pub fn of(text: &str) -> Token {
        Token(text.to_owned())
    }

    /// Compares in constant time, so that the time of a refusal does not show how much of a guess is right.
    pub fn is(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }

    fn checked(path: &Path, text: &str) -> Result<Token> {
        let mode = fs::metadata(path)
            .with_context(|| format!("could not read the mode of {}", path.display()))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            bail!(
                "{} holds the API token, and other users may read it (mode {:o}); run `chmod 600` on it, or remove it \
                 for a new token",
                path.display(),
                mode & 0o777
            );
        }
        let token = text.trim();
        ensure!(
            token.len() >= MIN_CHARS && token.bytes().all(|byte| byte.is_ascii_graphic()),
            "{} does not hold an API token of at least {MIN_CHARS} printable characters; remove it for a new one",
            path.display()
        );
        Ok(Token(token.to_owned()))
    }

    /// Writes a new token beside `path` and moves it there whole, so that a full disk leaves no empty file that would be
    /// in the way of every later start.
    fn create(path: &Path) -> Result<Token> {
        let text = random_hex()?;
        let fresh = path.with_extension("new");
        let written = write_private(&fresh, &format!("{text}\n")).and_then(|()| fs::rename(&fresh, path));
        if written.is_err() {
            let _ = fs::remove_file(&fresh);
        }
        written.with_context(|| format!("could not write the API token to {}", path.display()))?;
        Ok(Token(text))
    }
}

/// Writes a new file that only its owner may read.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn random_hex() -> Result<String> {
    let bytes = random::bytes::<TOKEN_BYTES>()?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_private_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-token");
        let made = Token::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let kept = Token::load_or_create(&path).unwrap();
        assert!(kept.is(&made.0));
        assert_eq!(made.0.len(), 2 * TOKEN_BYTES);
        assert!(!kept.is(&made.0[1..]) && !kept.is("") && !kept.is(&made.0.to_uppercase().replace('0', "1")));
        assert_eq!(format!("{made:?}"), "Token(…)");
    }

    /// Left by a full disk, an empty file kept every later start from its page.
    #[test]
    fn an_empty_file_is_replaced_by_a_private_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-token");
        for left in ["", "\n"] {
            fs::write(&path, left).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            fs::write(path.with_extension("new"), "left by a crash").unwrap();
            let made = Token::load_or_create(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert!(Token::load_or_create(&path).unwrap().is(&made.0));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_file_that_others_read_or_that_holds_no_token_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-token");
        let check = |content: &str, mode, expected: &str| {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = format!("{:#}", Token::load_or_create(&path).unwrap_err());
            assert!(error.contains(expected), "{error}");
        };
        check("0123456789abcdef0123456789abcdef", 0o640, "chmod 600");
        check("short", 0o600, "does not hold an API token");
        check("0123456789abcdef 123456789abcdef", 0o600, "does not hold an API token");
    }
}
