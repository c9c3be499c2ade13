//! What makes the kernel drop: the [`Enforcer`] contract, its implementations and the one interpreter of orders.
//!
//! An enforcer is a blocking object that runs on a thread of its own (`interpreter`), so that a slow iptables never
//! holds up XDP. Its verbs are idempotent: banning what is banned moves the end, lifting what is absent succeeds.
//! "Could not ask" is an error, never "not banned" (invariant 9).

pub(crate) mod desired;
pub(crate) mod interpreter;
pub(crate) mod iptables;
pub(crate) mod reconcile;
pub(crate) mod simulator;
pub(crate) mod xdp;

use anyhow::Result;
use ipnet::IpNet;

use shield_engine::allowlist::BannableClient;
use shield_engine::client::Client;
use shield_engine::event::{EnforcerName, PartState, Repair};
use shield_engine::time::{Ends, Now};

pub(crate) use desired::Desired;

/// One ban as an enforcer is told it, and as the interpreter remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ban {
    /// Who.
    pub client: BannableClient,
    /// Until when.
    pub ends: Ends,
}

/// One order that could not be carried out.
#[derive(Debug)]
pub struct Failure {
    /// Who it was about.
    pub client: Client,
    /// Why, with the command line or system call in it.
    pub error: anyhow::Error,
}

/// Packets and bytes dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Drops {
    /// Packets.
    pub packets: u64,
    /// Bytes, link-layer header included where the enforcer sees it.
    pub bytes: u64,
}

/// How an enforcer likes lifts to be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifts {
    /// In pieces of some ten milliseconds, with new bans in between: each costs about the same.
    InPieces,
    /// All that wait at once: many cost no more than a few.
    Together,
}

/// New bans that must not wait until a long reconcile is over.
pub trait Urgent {
    /// Those that came in since the last call; often none.
    fn take(&mut self) -> Vec<Ban>;

    /// What became of those taken: all are in force but these.
    fn done(&mut self, bans: &[Ban], failures: Vec<Failure>);
}

/// For a reconcile that nobody waits for.
pub(crate) struct NothingUrgent;

impl Urgent for NothingUrgent {
    fn take(&mut self) -> Vec<Ban> {
        Vec::new()
    }

    fn done(&mut self, _: &[Ban], _: Vec<Failure>) {}
}

/// Something that makes the kernel drop.
pub trait Enforcer: Send {
    /// Which one.
    fn name(&self) -> EnforcerName;

    /// Sets up (or takes over) what it needs in the kernel. What is already right stays untouched, so that a restart
    /// opens no gap. An error means that nothing of it is in force and nothing half-made was left behind.
    fn start(&mut self, exempt: &[IpNet], now: Now) -> Result<()>;

    /// How it stands: `Active` with mode and place, `Degraded` with the reason, `Off`. Never asks the kernel.
    fn state(&self) -> PartState;

    /// Drops these clients until their ends. All are tried; those that failed are returned.
    fn ensure_banned(&mut self, bans: &[Ban], now: Now) -> Vec<Failure>;

    /// Stops dropping these clients. All are tried; those that failed are returned.
    fn ensure_lifted(&mut self, clients: &[Client]) -> Vec<Failure>;

    /// How [`Enforcer::ensure_lifted`] is best called, as it stands now.
    fn lifts(&self) -> Lifts {
        Lifts::InPieces
    }

    /// Lets these networks through even inside a banned network; replaces the list given before.
    fn ensure_exempt(&mut self, networks: &[IpNet]) -> Result<()>;

    /// Everything it holds in the kernel, with the end where the kernel knows one.
    fn observe(&mut self, now: Now) -> Result<Vec<(Client, Option<Ends>)>>;

    /// Cheap check (every 2 s): `Ok(true)` when what it set up is still there and as it was left (generation,
    /// attachment, count), without listing every ban.
    fn is_intact(&mut self, desired: usize) -> Result<bool>;

    /// Full reconcile: what is missing comes back, what nobody wants goes, additions first. `None` when all was right.
    fn reconcile(&mut self, desired: &Desired, exempt: &[IpNet], now: Now) -> Result<Option<Repair>>;

    /// As [`Enforcer::reconcile`], but every few ten milliseconds takes `urgent` bans and puts them in force. Those are
    /// not in `desired`; they stay. An enforcer whose reconcile is never long need not implement it.
    fn reconcile_yielding(
        &mut self,
        desired: &Desired,
        exempt: &[IpNet],
        now: Now,
        urgent: &mut dyn Urgent,
    ) -> Result<Option<Repair>> {
        let _ = urgent;
        self.reconcile(desired, exempt, now)
    }

    /// What was dropped of each of these clients since its ban, `None` where it does not know.
    fn drops(&mut self, clients: &[Client]) -> Result<Vec<Option<Drops>>>;

    /// What was dropped in all, since it was set up.
    fn total_drops(&mut self) -> Result<Drops>;

    /// Removes everything of Shield's from the kernel and nothing else; says what it removed.
    fn cleanup(&mut self) -> Result<Vec<String>>;
}
