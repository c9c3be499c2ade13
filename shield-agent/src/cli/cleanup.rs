//! `shield-agent cleanup`: removes everything of Shield's from the kernel, and nothing else.

use anyhow::{Result, bail};
use clap::Args;

use super::client::AgentClient;
use super::run::ConfigArg;
use super::{Exit, print};
use crate::api::operation::Operation;
use crate::api::types::Status;
use crate::edge::cloudflare;
use crate::enforce::iptables::IptablesEnforcer;
use crate::enforce::xdp::XdpEnforcer;
use crate::enforce::{Enforcer, nginx};
use crate::netns_lock::{self, Taken};
use crate::text;

#[derive(Debug, Clone, Args)]
pub(crate) struct CleanupArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Clean up beside a running agent too, which restores everything unless it is stuck
    #[arg(long)]
    force: bool,
}

/// Removes all kernel state; a part that fails does not keep the other from being cleaned up. The database, the configuration and the audit log stay.
///
/// # Errors
/// When an agent is running (it would restore everything), also one that is suspended or has another control socket.
pub(crate) async fn run(args: &CleanupArgs, client: &AgentClient) -> Result<Exit> {
    let config = args.config.load()?;
    match netns_lock::take("shield-agent cleanup", &config.state_dir)? {
        // No agent starts meanwhile.
        Taken::Ours => {}
        Taken::Theirs(holder) if args.force => print::warning(&format!("cleaning up beside {holder}")),
        Taken::Theirs(holder) => bail!(
            "an agent is running and would restore everything: {holder}; stop it first (systemctl stop shield), or repeat the \
             command with --force"
        ),
        // An agent that could not take the lock either answers here.
        Taken::Without(why) => {
            print::warning(&why);
            if !args.force && client.get::<Status>(Operation::Status, &[]).await.is_ok() {
                bail!(
                    "the agent is running and would restore everything: stop it first (systemctl stop shield)"
                );
            }
        }
    }
    // The kernel may hold state of an earlier configuration, so all are cleaned up whatever is configured now.
    let enforcers: [Box<dyn Enforcer>; 3] = [
        Box::new(IptablesEnforcer::new(config.iptables)),
        Box::new(XdpEnforcer::new(config.xdp)),
        nginx::enforcer(config.nginx),
    ];
    let mut exit = Exit::Done;
    let mut removed = Vec::new();
    for mut enforcer in enforcers {
        match enforcer.cleanup() {
            Ok(done) => removed.extend(done),
            Err(error) => {
                exit = Exit::Failed;
                print::error(&error.context(format!("could not clean up {}", enforcer.name().name())));
            }
        }
    }
    if let Some(settings) = &config.cloudflare {
        match cloudflare::cleanup(settings).await {
            Ok(0) => {}
            Ok(items) => removed.push(text::cloudflare::removed(items)),
            Err(error) => {
                exit = Exit::Failed;
                print::error(&error.context("could not clean up the list at Cloudflare"));
            }
        }
    }
    if removed.is_empty() && exit == Exit::Done {
        print::text("nothing to remove: the kernel holds no state of Shield\n")?;
    }
    removed.iter().try_for_each(|line| print::text(&format!("removed {line}\n")))?;
    Ok(exit)
}
