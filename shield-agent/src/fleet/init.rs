//! The servers' accounts of a fleet's hosts, each with a key of its own and the rights to speak in its own name alone.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use nkeys::KeyPair;

use super::session::STREAM;
use shield_engine::origin::{Origin, OriginKind};

/// Hosts with their keys.
pub(crate) struct Hosts(Vec<(String, KeyPair)>);

impl Hosts {
    /// Makes a key for each.
    ///
    /// # Errors
    /// When a name is none, or there twice.
    pub(crate) fn new(names: &[String]) -> Result<Hosts> {
        let mut hosts: Vec<(String, KeyPair)> = Vec::new();
        for name in names {
            if Origin::new(OriginKind::Fleet, name).is_none() {
                bail!("could not name a host {name:?}: write 1 to 64 letters, digits, - and _");
            }
            if hosts.iter().any(|(known, _)| known == name) {
                bail!("could not name two hosts {name:?}: each needs a name of its own");
            }
            hosts.push((name.clone(), KeyPair::new_user()));
        }
        Ok(Hosts(hosts))
    }

    /// The secret key of a host.
    ///
    /// # Errors
    /// When there is no such host.
    pub(crate) fn seed(&self, name: &str) -> Result<String> {
        let (_, key) = self.0.iter().find(|(known, _)| known == name).context("could not find the host")?;
        key.seed().context("could not write down a key")
    }

    /// The section for nats-server's configuration.
    pub(crate) fn accounts(&self) -> String {
        let mut text = String::from("authorization {\n  users = [\n");
        for (name, key) in &self.0 {
            let publish: Vec<String> =
                publish(name).iter().map(|subject| format!("        \"{subject}\"")).collect();
            let _ = write!(
                text,
                "    # {name}\n    {{ nkey: \"{}\", permissions: {{\n      publish: {{ allow: [\n{}\n      ] }}\n      \
                 subscribe: {{ allow: [\"_INBOX.{name}.>\"] }}\n    }} }}\n",
                key.public_key(),
                publish.join(",\n")
            );
        }
        text.push_str("  ]\n}\n");
        text
    }
}

/// All that a host may publish: what it says in its own name, and the calls that it makes. Never `$JS.>`, with which one host
/// could empty the stream for all.
fn publish(name: &str) -> Vec<String> {
    vec![
        format!("shield.v1.ban.{name}.>"),
        format!("shield.v1.lift.{name}.>"),
        format!("shield.v1.host.{name}"),
        format!("$JS.API.STREAM.INFO.{STREAM}"),
        format!("$JS.API.STREAM.CREATE.{STREAM}"),
        format!("$JS.API.STREAM.MSG.GET.{STREAM}"),
        format!("$JS.API.CONSUMER.CREATE.{STREAM}.{name}"),
        format!("$JS.API.CONSUMER.DELETE.{STREAM}.{name}"),
        format!("$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{name}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn each_host_gets_a_key_and_its_own_subjects() {
        let hosts = Hosts::new(&names(&["web-1", "web-2"])).unwrap();
        let text = hosts.accounts();
        assert_eq!(text.matches("nkey: \"U").count(), 2);
        assert_eq!(text.matches("shield.v1.ban.web-2.>").count(), 1);
        assert!(!text.contains("$JS.>") && !text.contains("$JS.API.>"));
        let (one, two) = (hosts.seed("web-1").unwrap(), hosts.seed("web-2").unwrap());
        assert!(one.starts_with("SU") && one != two && !text.contains(&one), "no secret is the server's");
        assert!(hosts.seed("web-3").is_err());
    }

    #[test]
    fn a_name_that_would_be_another_subject_is_refused() {
        for bad in [&["a.b"][..], &["*"], &[">"], &[""], &["a", "a"]] {
            assert!(Hosts::new(&names(bad)).is_err(), "{bad:?}");
        }
    }
}
