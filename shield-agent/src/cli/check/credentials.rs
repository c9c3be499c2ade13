//! The secrets' files that the configuration names, and which of them cannot be read.

use crate::config::{Config, UrlFrom};
use crate::crowdsec::machine::Machine;
use crate::notify::secret::{self, Secret};

/// A line for each that cannot be read. A systemd credential is there only inside the unit.
pub(super) fn unreadable(config: &Config) -> Vec<String> {
    let fleet = config.fleet.iter().filter_map(|fleet| fleet.credentials.as_ref());
    let fleet = fleet.map(|from| ("[fleet]".to_owned(), from, "credentials"));
    let crowdsec = config.crowdsec.iter().map(|crowdsec| ("[crowdsec]".to_owned(), &crowdsec.key, "key"));
    let machine = config.crowdsec.iter().filter_map(|crowdsec| crowdsec.machine.as_ref());
    let machine = machine.filter(|from| matches!(from, UrlFrom::File(_)));
    let machine = machine.filter_map(|from| Some(format!("[crowdsec]: {:#}", Machine::load(from).err()?)));
    let lists = config.blocklists.iter().filter_map(|list| {
        let from = list.credentials.as_ref()?;
        Some((format!("[[blocklist]] {}", list.name), from, "credentials"))
    });
    let of_files = fleet.chain(crowdsec).chain(lists).filter(|(_, from, _)| matches!(from, UrlFrom::File(_)));
    let unreadable = |(section, from, what): (String, &UrlFrom, &str)| {
        let error = secret::load_whole(from, what).err()?;
        Some(format!("{section}: {error:#}"))
    };
    of_files.filter_map(unreadable).chain(machine).chain(unusable_urls(config)).collect()
}

/// The URLs of webhooks, which are secrets too, and have to be URLs.
fn unusable_urls(config: &Config) -> Vec<String> {
    let hooks = [("[slack]", &config.slack), ("[webhook]", &config.webhook)];
    let hooks = hooks.into_iter().filter_map(|(section, from)| Some((section, from.as_ref()?)));
    let of_files = hooks.filter(|(_, from)| matches!(from, UrlFrom::File(_)));
    let unusable = |(section, from): (&str, &UrlFrom)| {
        let error = Secret::load(from).err()?;
        Some(format!("{section}: {error:#}"))
    };
    of_files.filter_map(unusable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_that_is_missing_is_named_with_its_section() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("there");
        std::fs::write(&there, "secret\n").unwrap();
        let of = |file: &std::path::Path| {
            let text = format!(
                "[fleet]\nurl = 'nats://a:4222'\nname = 'a'\ncredentials_file = {file:?}\n\
                 [crowdsec]\nurl = 'http://localhost:8080'\nkey_file = {file:?}\n\
                 [[blocklist]]\nname = 'drop'\nurl = 'https://a/b'\ncredentials_file = {file:?}\n"
            );
            unreadable(&Config::parse(&text).unwrap())
        };
        assert!(of(&there).is_empty());
        let missing = of(&dir.path().join("missing"));
        assert_eq!(missing.len(), 3, "{missing:?}");
        for (line, section) in
            missing.iter().zip(["[fleet]: could not read", "[crowdsec]: could", "[[blocklist]] drop: could"])
        {
            assert!(line.starts_with(section) && line.contains("missing"), "{line}");
        }
        // History: `check` called a missing file of Slack's good.
        let hooks = |file: &std::path::Path| {
            let text = format!("[slack]\nurl_file = {file:?}\n[webhook]\nurl_file = {file:?}\n");
            unreadable(&Config::parse(&text).unwrap())
        };
        let missing = hooks(&dir.path().join("missing"));
        assert!(missing[0].starts_with("[slack]: ") && missing[0].contains("missing"), "{missing:?}");
        assert!(missing[1].starts_with("[webhook]: ") && missing.len() == 2, "{missing:?}");
        assert!(hooks(&there)[0].contains("is not a URL"), "{:?}", hooks(&there));
        std::fs::write(&there, "https://hooks.example/a\n").unwrap();
        assert!(hooks(&there).is_empty(), "{:?}", hooks(&there));
        let listed = "[crowdsec]\nurl = 'http://localhost:8080'\nkey_credential = 'key'";
        assert!(unreadable(&Config::parse(listed).unwrap()).is_empty(), "the unit alone has it");
    }
}
