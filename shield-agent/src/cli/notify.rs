//! `shield-agent notify test`: whether Slack and the webhook take messages.

use anyhow::Result;
use clap::{Args, Subcommand};

use super::run::ConfigArg;
use super::{Exit, print};
use crate::notify::{self, Trial};

#[derive(Debug, Clone, Args)]
pub(crate) struct NotifyArgs {
    #[command(subcommand)]
    command: NotifyCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum NotifyCommand {
    /// Post a test message to Slack and the webhook as configured, and say what came of it
    Test {
        #[command(flatten)]
        config: ConfigArg,
    },
}

pub(crate) async fn run(args: &NotifyArgs) -> Result<Exit> {
    let NotifyCommand::Test { config } = &args.command;
    let config = config.load()?;
    let trials = notify::test_posts(config.slack.as_ref(), config.webhook.as_ref()).await;
    print::text(&render(&trials))?;
    Ok(exit(&trials))
}

/// Without a receiver nobody would hear of an attack, which is no success either.
fn exit(trials: &[Trial]) -> Exit {
    let is_good = !trials.is_empty() && trials.iter().all(|trial| trial.result.is_ok());
    if is_good { Exit::Done } else { Exit::Failed }
}

fn render(trials: &[Trial]) -> String {
    if trials.is_empty() {
        return "Neither [slack] nor [webhook] has a URL: set url_file, url_env or url_credential.\n"
            .to_owned();
    }
    let line = |trial: &Trial| match &trial.result {
        Ok(()) => format!("{}: the test message was accepted\n", trial.receiver),
        Err(why) => format!("{}: {why}\n", trial.receiver),
    };
    trials.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_receiver_has_its_line() {
        assert!(render(&[]).starts_with("Neither [slack] nor [webhook]"));
        let trial =
            |receiver, result: Result<(), &str>| Trial { receiver, result: result.map_err(str::to_owned) };
        let both = [trial("slack", Ok(())), trial("webhook", Err("answered 404"))];
        assert_eq!(render(&both), "slack: the test message was accepted\nwebhook: answered 404\n");
        assert_eq!((exit(&[]), exit(&both), exit(&both[..1])), (Exit::Failed, Exit::Failed, Exit::Done));
    }
}
