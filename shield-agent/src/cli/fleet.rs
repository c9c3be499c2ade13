//! `shield-agent fleet [forget|trust HOST]`: the fleet, its other hosts, and whom of them this one believes.

use anyhow::Result;
use clap::{Args, Subcommand};

use super::Exit;
use super::client::AgentClient;
use super::print::{self, Colour, Table};
use super::reply::{self, Format, JsonArg};
use crate::api::operation::Operation;
use crate::api::types::{FleetView, OriginRequest};
use crate::text;
use shield_engine::action::Reply;

#[derive(Debug, Clone, Args)]
pub struct FleetArgs {
    #[command(subcommand)]
    change: Option<Change>,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Debug, Clone, Subcommand)]
enum Change {
    /// Lift all bans that this host alone wanted, and believe it no more
    Forget(Host),
    /// Believe a host again
    Trust(Host),
}

#[derive(Debug, Clone, Args)]
struct Host {
    /// The host's name in the fleet
    #[arg(value_name = "HOST")]
    host: String,
    #[command(flatten)]
    json: JsonArg,
}

pub(crate) async fn run(args: &FleetArgs, client: &AgentClient) -> Result<Exit> {
    match &args.change {
        None => show(client, args.json.format()).await,
        Some(Change::Forget(host)) => {
            let request = OriginRequest { origin: host.host.clone() };
            let reply: Reply = client.post(Operation::ForgetOrigin, &request).await?;
            if reply.results.is_empty() && host.json.format() == Format::Text {
                print::text(&format!("{} wanted nobody banned; it is not believed any more\n", host.host))?;
                return Ok(Exit::Done);
            }
            reply::show(&reply, host.json.format())
        }
        Some(Change::Trust(host)) => {
            let request = OriginRequest { origin: host.host.clone() };
            let reply: Reply = client.post(Operation::TrustOrigin, &request).await?;
            match host.json.format() {
                Format::Json => print::json(&reply)?,
                Format::Text => print::text(&format!("{} is believed again\n", host.host))?,
            }
            Ok(Exit::Done)
        }
    }
}

async fn show(client: &AgentClient, format: Format) -> Result<Exit> {
    let view: FleetView = client.get(Operation::Fleet, &[]).await?;
    match format {
        Format::Json => print::json(&view)?,
        Format::Text => print::text(&render(&view, Colour::of_stdout()))?,
    }
    Ok(Exit::Done)
}

fn render(view: &FleetView, colour: Colour) -> String {
    let summary = format!("{}\n", text::fleet::summary(view));
    if view.origins.is_empty() {
        return summary;
    }
    let mut table = Table::new(
        &["HOST", "HEARD", "BANS", "COUNTED", "ALLOWED HERE", "NETWORKS REFUSED", "ITS WORD"],
        &[],
    );
    for origin in &view.origins {
        table.row(vec![
            origin.name.clone(),
            format!("{} ago", text::duration(origin.heard_secs_ago)),
            text::count(origin.bans),
            text::count(origin.counted),
            text::count(origin.vetoed),
            text::count(origin.refused_networks),
            text::fleet::trust(origin.trust).to_owned(),
        ]);
    }
    format!("{summary}\n{}", table.render(colour))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{FleetOrigin, Trust};

    #[test]
    fn the_fleet_in_words() {
        assert!(render(&FleetView::default(), Colour::Off).contains("part of no fleet"));
        let origin = |name: &str, trust| FleetOrigin {
            name: name.to_owned(),
            heard_ms: 0,
            heard_secs_ago: 75,
            bans: 1_200,
            counted: 1_000,
            trust,
            vetoed: 1,
            refused_networks: 0,
        };
        let view = FleetView {
            name: Some("web-1".to_owned()),
            connected: true,
            server: "nats-1".to_owned(),
            own_bans: 1,
            waiting: 3,
            origins: vec![origin("web-2", Trust::Full), origin("web-3", Trust::Limited)],
            ..FleetView::default()
        };
        let shown = render(&view, Colour::Off);
        assert!(
            shown.starts_with("web-1, connected to nats-1; 1 ban of its own, 3 not told yet\n\nHOST"),
            "{shown}"
        );
        assert!(shown.contains("web-2  1 min 15 s ago") && shown.contains("over a limit"), "{shown}");
    }
}
