//! `--help`: the commands in groups, in the order in which a newcomer meets them, and examples.

use std::fmt::Write as _;

use clap::{Command, CommandFactory as _, FromArgMatches as _};

use super::{Cli, EXIT_CODES_HELP};

/// The groups of commands. A command that is in none is missed by the test.
const GROUPS: [(&str, &[&str]); 6] = [
    (
        "Set up",
        &["init", "check", "config", "policy", "generate", "replay", "suggest", "learn", "notify", "run"],
    ),
    ("Look", &["status", "top", "page", "bans", "explain", "events", "fleet", "health"]),
    (
        "Act",
        &[
            "ban", "unban", "pause", "resume", "allow", "reload", "canary", "rollback", "upgrade", "import",
            "export",
        ],
    ),
    ("Rehearse", &["rehearse", "lab"]),
    ("When something is wrong", &["doctor", "support", "audit", "cleanup"]),
    ("For the shell", &["completions", "help"]),
];

const EXAMPLES: &str = "\
Examples:
  shield-agent replay /var/log/nginx/access.log*     what it would have done; changes nothing
  shield-agent doctor                                why it does not protect
  shield-agent explain 203.0.113.66                  why this client is banned, or not
  shield-agent unban 203.0.113.66                    lift a ban
  shield-agent allow 192.0.2.0/24 --reason office    never ban these";

impl Cli {
    /// Reads the process' command line; ends the process for `--help` and mistakes.
    pub fn of_process() -> Cli {
        let matches = grouped().get_matches();
        Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// The command line, with help in groups.
pub(super) fn grouped() -> Command {
    let command = Cli::command();
    let template = template(&command);
    command.help_template(template)
}

fn template(command: &Command) -> String {
    let width = GROUPS.iter().flat_map(|(_, names)| *names).map(|name| name.len()).max().unwrap_or(0);
    let mut out = "{about-with-newline}\n{usage-heading} {usage}\n".to_owned();
    for (heading, names) in GROUPS {
        let _ = write!(out, "\n{heading}:\n");
        for name in names {
            let own = command.get_subcommands().find(|sub| sub.get_name() == *name);
            let about = own.and_then(|sub| sub.get_about()).map_or_else(
                || "Print this message or the help of a command".to_owned(),
                ToString::to_string,
            );
            let _ = writeln!(out, "  {name:<width$}  {about}");
        }
    }
    let _ = write!(out, "\nOptions:\n{{options}}\n\n{EXAMPLES}\n\n{EXIT_CODES_HELP}\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_one_group_and_every_example_is_understood() {
        let command = Cli::command();
        let mut names: Vec<&str> =
            command.get_subcommands().filter(|it| !it.is_hide_set()).map(Command::get_name).collect();
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
        names.push("help");
        names.sort_unstable();
        grouped.sort_unstable();
        assert_eq!(grouped, names);
        for example in EXAMPLES.lines().filter_map(|line| line.strip_prefix("  ")) {
            let typed = example.split("    ").next().unwrap_or(example);
            let parsed = super::grouped().try_get_matches_from(typed.split_whitespace());
            assert!(parsed.is_ok(), "{typed}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn help_shows_the_groups_the_options_and_the_exit_codes() {
        let help = grouped().render_help().to_string();
        for expected in
            ["\nLook:\n  status ", "\nOptions:\n", "--socket", "\nExamples:\n", "\nExit codes: 0 done"]
        {
            assert!(help.contains(expected), "{expected:?} is not in\n{help}");
        }
        assert!(!help.contains("manual"), "{help}");
    }
}
