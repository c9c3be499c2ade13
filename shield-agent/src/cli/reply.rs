//! Prints the agent's result for each client of a command.

use anyhow::Result;

use super::Exit;
use super::print::{self, Colour, Style};
use shield_engine::action::Reply;

/// Prints a reply, as JSON or one line per client; the exit is `Failed` when a client was refused.
pub(crate) fn show(reply: &Reply, format: Format) -> Result<Exit> {
    match format {
        Format::Json => print::json(reply)?,
        Format::Text => print::text(&render(reply, Colour::of_stdout()))?,
    }
    Ok(exit(reply))
}

/// Output for people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
}

/// The `--json` switch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct JsonArg {
    /// Print JSON, as returned by the API
    #[arg(long)]
    pub json: bool,
}

impl JsonArg {
    pub(crate) fn format(self) -> Format {
        if self.json { Format::Json } else { Format::Text }
    }
}

pub(crate) fn exit(reply: &Reply) -> Exit {
    if reply.results.iter().all(|result| result.ok) { Exit::Done } else { Exit::Failed }
}

pub(super) fn render(reply: &Reply, colour: Colour) -> String {
    let line = |result: &shield_engine::action::CommandResult| {
        let style = if result.ok { Style::Good } else { Style::Bad };
        format!("{}: {}\n", result.client, colour.paint(style, &result.message))
    };
    reply.results.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shield_engine::action::CommandResult;

    #[test]
    fn each_client_has_its_line_and_one_refusal_fails_the_command() {
        let result = |client: &str, ok, message: &str| CommandResult {
            client: client.parse().unwrap(),
            ok,
            message: message.into(),
        };
        let mut reply = Reply { results: vec![result("192.0.2.7", true, "banned permanently")] };
        assert_eq!(exit(&reply), Exit::Done);
        reply.results.push(result("127.0.0.1", false, "not banned: an address of this host"));
        assert_eq!(exit(&reply), Exit::Failed);
        assert_eq!(
            render(&reply, Colour::Off),
            "192.0.2.7: banned permanently\n127.0.0.1: not banned: an address of this host\n"
        );
    }
}
