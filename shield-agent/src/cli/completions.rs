//! `shield-agent completions SHELL` and `shield-agent manual FOLDER`: made of the command line's own description.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, Exit, print};

const COMPLETIONS_HELP: &str = "\
Examples:
  shield-agent completions bash > /etc/bash_completion.d/shield-agent
  shield-agent completions zsh > ~/.zfunc/_shield-agent
  shield-agent completions fish > ~/.config/fish/completions/shield-agent.fish";

#[derive(Debug, Clone, Args)]
#[command(after_help = COMPLETIONS_HELP)]
pub(crate) struct CompletionsArgs {
    shell: Shell,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ManualArgs {
    /// An existing folder, such as /usr/local/share/man/man1
    folder: PathBuf,
}

const NAME: &str = "shield-agent";

pub(crate) fn completions(args: &CompletionsArgs) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), NAME, &mut script);
    print::text(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

/// Writes a page for the program and one for each command.
pub(crate) fn manual(args: &ManualArgs) -> Result<Exit> {
    clap_mangen::generate_to(Cli::command(), &args.folder)
        .with_context(|| format!("could not write manual pages into {}", args.folder.display()))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_every_shell_knows_it() {
        let folder = tempfile::tempdir().unwrap();
        manual(&ManualArgs { folder: folder.path().to_owned() }).unwrap();
        let page = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let whole = page("shield-agent.1");
        assert!(whole.contains(".TH shield-agent 1") && whole.contains("shield\\-agent\\-ban(1)"), "{whole}");
        let commands = Cli::command();
        let names = commands.get_subcommands().filter(|it| !it.is_hide_set()).map(clap::Command::get_name);
        let names: Vec<&str> = names.collect();
        assert!(names.len() > 15 && names.contains(&"doctor"), "{names:?}");
        for name in &names {
            assert!(page(&format!("shield-agent-{name}.1")).contains(".SH SYNOPSIS"), "{name}");
        }
        assert!(page("shield-agent-init-nginx.1").contains("\\-\\-nginx"));
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(names.iter().all(|name| script.contains(name)), "{shell}");
        }
    }
}
