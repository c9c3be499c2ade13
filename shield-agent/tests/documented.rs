//! The commands in README and in the operators' documentation are ones that the agent understands. That they do what is said of them
//! is shown with a real agent, in `tests/tests/operators_docs.rs`.

use std::path::Path;

use clap::Parser as _;
use shield_agent::Cli;

const FILES: [&str; 4] =
    ["README.md", "docs/operating.md", "docs/troubleshooting.md", "docs/behind-a-proxy.md"];

/// Programs of others that a reader is told to run.
const OTHERS: [&str; 24] = [
    "apt",
    "cargo",
    "curl",
    "systemctl",
    "journalctl",
    "nginx",
    "fail2ban-client",
    "cscli",
    "ufw",
    "firewall-cmd",
    "nft",
    "iptables",
    "docker",
    "podman",
    "packaging/install.sh",
    "packaging/uninstall.sh",
    "packaging/rolling-update.sh",
    "ssh",
    "dpkg",
    "namei",
    "tar",
    "df",
    "install",
    "mv",
];

/// What a reader would type: each line after `$` or `#` in a block of the kind `console`.
fn commands(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut is_inside = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_inside = line.trim() == "```console";
            continue;
        }
        let line = line.trim_start();
        let typed = line.strip_prefix("# ").or_else(|| line.strip_prefix("$ ")).filter(|_| is_inside);
        found.extend(typed.map(|typed| typed.split("  #").next().unwrap_or(typed).trim().to_owned()));
    }
    found
}

/// The words of a command as a shell would split them, up to a pipe.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    for char in command.chars() {
        match (quote, char) {
            (Some(open), _) if open == char => quote = None,
            (None, '"' | '\'') => quote = Some(char),
            (None, '|' | '>' | ';' | '&') => break,
            (None, ' ') if word.is_empty() => {}
            (None, ' ') => words.push(std::mem::take(&mut word)),
            _ => word.push(char),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

#[test]
fn every_documented_command_is_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut ours = 0;
    for file in FILES {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        for command in commands(&text) {
            let words = words(&command);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let words = if words.first() == Some(&"sudo") { &words[1..] } else { &words[..] };
            match words {
                ["shield-agent", ..] => {
                    ours += 1;
                    if let Err(error) = Cli::try_parse_from(words) {
                        let shown = matches!(
                            error.kind(),
                            clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion
                        );
                        assert!(shown, "{file}: `{command}`: {error}");
                    }
                }
                [program, ..] => {
                    assert!(OTHERS.contains(program), "{file}: what is {program} in `{command}`?");
                }
                [] => panic!("{file}: an empty command"),
            }
        }
    }
    assert!(ours >= 25, "only {ours} commands were found: does this test still read the documents?");
}

#[test]
fn commands_are_found_as_they_are_typed() {
    let text = "```console\n$ shield-agent ban 192.0.2.7 --reason \"a b\"  # why\noutput\n```\n```toml\n# no command\n```\n";
    let found = commands(text);
    assert_eq!(found, ["shield-agent ban 192.0.2.7 --reason \"a b\""]);
    assert_eq!(words(&found[0]), ["shield-agent", "ban", "192.0.2.7", "--reason", "a b"]);
    assert_eq!(words("shield-agent completions bash > /etc/x"), ["shield-agent", "completions", "bash"]);
}
