//! The login of a machine at CrowdSec's local API, in the form that `cscli machines add` writes. The password never shows.

use std::fmt;

use anyhow::{Result, bail};

use crate::config::UrlFrom;
use crate::notify::secret;
use crate::text;

/// A machine's name there and its password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) login: String,
    password: String,
}

impl Machine {
    /// Loads it from its configured place. Errors never contain what was read.
    pub(crate) fn load(from: &UrlFrom) -> Result<Machine> {
        Machine::parse(&secret::load_whole(from, "machine's login")?)
    }

    fn parse(text: &str) -> Result<Machine> {
        let value = |key: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            let value = found.unwrap_or_default().trim().trim_matches(['"', '\'']);
            (!value.is_empty()).then(|| value.to_owned())
        };
        match (value("login"), value("password")) {
            (Some(login), Some(password)) => Ok(Machine { login, password }),
            (login, _) => bail!(text::crowdsec::no_login(if login.is_none() { "login" } else { "password" })),
        }
    }

    /// Only for logging in, and for leaving it out elsewhere.
    pub(crate) fn expose(&self) -> &str {
        &self.password
    }

    /// What its decisions are marked with, so that they are known for its own.
    pub(super) fn origin(&self) -> String {
        format!("shield:{}", self.login)
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with [password]", self.login)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_cscli_writes_it_and_never_shown() {
        // cscli 1.4.6.
        let machine =
            Machine::parse("url: http://127.0.0.1:8080\nlogin: web-1\npassword: verysecret\n").unwrap();
        assert_eq!((machine.login.as_str(), machine.expose()), ("web-1", "verysecret"));
        assert_eq!(format!("{machine:?} {}", machine.origin()), "web-1 with [password] shield:web-1");
        let quoted = Machine::parse("password: 'very:secret'\nlogin: \"web-1\"").unwrap();
        assert_eq!((quoted.login.as_str(), quoted.expose()), ("web-1", "very:secret"));
        for (bad, missing) in [
            ("", "login"),
            ("verysecret", "login"),
            ("login: a\npasswort: verysecret", "password"),
            ("login:\npassword: verysecret", "login"),
        ] {
            let said = format!("{:#}", Machine::parse(bad).unwrap_err());
            assert!(said.contains(missing) && !said.contains("verysecret"), "{said}");
        }
    }
}
