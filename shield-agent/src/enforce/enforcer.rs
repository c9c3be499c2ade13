//! The [`Enforcer`] contract.
//!
//! Its verbs are idempotent: banning a banned client moves the end of its ban, lifting an absent one succeeds. A failed
//! query of the kernel is an error, never "not banned" (invariant 9).

use anyhow::Result;
use ipnet::IpNet;

use super::ban::{Ban, Drops, Failure, Slow};
use super::desired::Desired;
use shield_engine::client::Client;
use shield_engine::event::{EnforcerName, PartState, Repair};
use shield_engine::time::Now;

/// How many lifts an enforcer takes in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifts {
    /// Pieces of some ten milliseconds, with new bans in between: the cost grows with the number of lifts.
    InPieces,
    /// All that are queued: the cost is that of one transaction, however many lifts it holds.
    Together,
}

/// New bans that must not wait for the end of a long reconcile.
pub trait Urgent {
    /// Takes the bans that came in since the last call; often none.
    fn take(&mut self) -> Vec<Ban>;

    /// Reports that the bans taken are in force, except those in `failures`.
    fn done(&mut self, bans: &[Ban], failures: Vec<Failure>);
}

/// An [`Urgent`] without bans.
pub(crate) struct NothingUrgent;

impl Urgent for NothingUrgent {
    fn take(&mut self) -> Vec<Ban> {
        Vec::new()
    }

    fn done(&mut self, _: &[Ban], _: Vec<Failure>) {}
}

/// Makes the kernel drop the packets of banned clients.
pub trait Enforcer: Send {
    /// Returns the name that states, outcomes and metrics carry.
    fn name(&self) -> EnforcerName;

    /// Sets up, or takes over, what it needs in the kernel. What is already right stays untouched, so that a restart
    /// opens no gap.
    ///
    /// # Errors
    /// Nothing of it is in force then, and nothing half-made is left behind.
    fn start(&mut self, exempt: &[IpNet], now: Now) -> Result<()>;

    /// Returns `Active` with mode and place, `Degraded` with the reason, or `Off`. Never queries the kernel.
    fn state(&self) -> PartState;

    /// Drops these clients until their bans end. Tries all and returns those that failed.
    fn ensure_banned(&mut self, bans: &[Ban], now: Now) -> Vec<Failure>;

    /// Returns the reason that this enforcer holds no ban of `client`, whatever a reconcile returns; `None` where it can
    /// hold one. Never queries the kernel.
    ///
    /// A reconcile leaves such clients out without an error, so that one missing IP version neither fails the repairs of
    /// the other nor hides their errors.
    fn refusal(&self, client: &Client) -> Option<String> {
        let _ = client;
        None
    }

    /// Stops dropping these clients. Tries all and returns those that failed.
    fn ensure_lifted(&mut self, clients: &[Client]) -> Vec<Failure>;

    /// Returns how many lifts to pass to [`Enforcer::ensure_lifted`]. May change from one call to the next.
    fn lifts(&self) -> Lifts {
        Lifts::InPieces
    }

    /// Lets these networks through even inside a banned network. Replaces the earlier list.
    fn ensure_exempt(&mut self, networks: &[IpNet]) -> Result<()>;

    /// Lets exactly these clients through no faster than their limits. Replaces the earlier list, additions first; a client that
    /// stays keeps what is left of its allowance. A banned one is dropped all the same.
    ///
    /// An enforcer that knows only dropping does nothing: iptables makes no rule for a slowed client.
    fn ensure_slowed(&mut self, slowed: &[Slow], now: Now) -> Result<()> {
        let _ = (slowed, now);
        Ok(())
    }

    /// Lists the slowed clients in the kernel.
    #[cfg(any(test, feature = "test-support"))]
    fn observe_slowed(&mut self) -> Result<Vec<Client>> {
        Ok(Vec::new())
    }

    /// Lists the bans in the kernel, with their ends where the kernel knows them.
    ///
    /// Only for a start without a database, and tests: a reconcile compares its listing entry by entry instead, because a list
    /// of a million bans takes tens of megabytes.
    fn observe(&mut self, now: Now) -> Result<Vec<(Client, Option<shield_engine::time::Ends>)>>;

    /// Returns whether everything in the kernel is as this enforcer left it, `desired` bans included.
    ///
    /// Runs every 2 s, hence compares generations, attachments and counts instead of listing the bans.
    fn is_intact(&mut self, desired: usize) -> Result<bool>;

    /// Makes the kernel hold exactly `desired`: adds what is missing, then removes what is not wanted, so that no repair
    /// opens a gap. Returns `None` when nothing had to be changed.
    ///
    /// # Errors
    /// Bans that cannot be listed are neither added nor removed.
    fn reconcile(&mut self, desired: &Desired, exempt: &[IpNet], now: Now) -> Result<Option<Repair>>;

    /// Reconciles like [`Enforcer::reconcile`], but puts `urgent` bans in force every few ten milliseconds. They are not
    /// in `desired`, and stay. An enforcer whose reconcile is always short need not implement it.
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

    /// Returns what was dropped of each client since its ban, `None` where that is unknown, as for one that refuses elsewhere.
    fn drops(&mut self, clients: &[Client]) -> Result<Vec<Option<Drops>>> {
        Ok(vec![None; clients.len()])
    }

    /// Returns what was dropped in total since the enforcer was set up.
    fn total_drops(&mut self) -> Result<Drops> {
        Ok(Drops::default())
    }

    /// Removes everything of Shield's from the kernel and nothing else. Returns the names of what it removed.
    fn cleanup(&mut self) -> Result<Vec<String>>;
}
