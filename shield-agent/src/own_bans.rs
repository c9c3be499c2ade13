//! This host's own bans, for the parts that tell others of them: a fleet, CrowdSec. A ban that others asked for is none of them: told
//! again, it would live for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use crate::clock;
use crate::pipeline::{Announce, Handle};
use crate::text;
use shield_engine::action::{LiftReason, Notice};
use shield_engine::ban::Ban;
use shield_engine::client::Client;
use shield_engine::time::Ends;
use shield_engine::verdict::Rule;

/// Changes that wait at most. Beyond it the bans in force are read anew.
const QUEUED: usize = 65_536;

/// One of this host's own bans.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OwnBan {
    pub since_ms: i64,
    pub ends: Ends,
    pub rule: Rule,
    pub why: String,
}

/// What happened to this host's own bans.
#[derive(Debug)]
pub(crate) enum Change {
    Banned(Client, OwnBan),
    Extended(Client, Ends),
    Expired(Client),
    Withdrawn(Client),
    /// By an operator, here or on another host.
    Unbanned(Client),
}

impl Change {
    /// What a notice means for others.
    fn of(notice: &Notice) -> Option<Change> {
        match notice {
            Notice::Banned(record) if record.ban.rule.is_remote() => {
                Some(Change::Withdrawn(record.ban.client))
            }
            Notice::Banned(record) => {
                let Ban { client, since_ms, ends, rule, .. } = record.ban;
                let why = format!("{rule}: {}", text::cause(record));
                Some(Change::Banned(client, OwnBan { since_ms, ends, rule, why }))
            }
            Notice::Extended { client, ends, .. } => Some(Change::Extended(*client, *ends)),
            Notice::Lifted { client, reason, .. } => Some(match reason {
                LiftReason::Expired => Change::Expired(*client),
                LiftReason::Operator => Change::Unbanned(*client),
                LiftReason::Allowed | LiftReason::Withdrawn => Change::Withdrawn(*client),
            }),
            _ => None,
        }
    }
}

/// The changes as they come.
pub(crate) struct Changes {
    receiver: mpsc::Receiver<Change>,
    overflow: Arc<AtomicBool>,
}

/// The two ends: what hears the agent's notices, and what they mean.
pub(crate) fn listen() -> (Announce, Changes) {
    let (send, receiver) = mpsc::channel(QUEUED);
    let overflow = Arc::new(AtomicBool::new(false));
    let overflowed = Arc::clone(&overflow);
    let announce: Announce = Box::new(move |notice| {
        if let Some(change) = Change::of(notice)
            && send.try_send(change).is_err()
        {
            overflowed.store(true, Ordering::Relaxed);
        }
    });
    (announce, Changes { receiver, overflow })
}

impl Changes {
    /// `None` when nobody tells any more.
    pub(crate) async fn recv(&mut self) -> Option<Change> {
        self.receiver.recv().await
    }

    pub(crate) fn try_recv(&mut self) -> Result<Change, TryRecvError> {
        self.receiver.try_recv()
    }

    /// Whether changes were lost since this was asked last.
    pub(crate) fn overflowed(&self) -> bool {
        self.overflow.swap(false, Ordering::Relaxed)
    }
}

/// All that are in force. Their grounds are not: the ledger does not keep them.
pub(crate) async fn in_force(owner: &Handle) -> Result<Vec<(Client, OwnBan)>> {
    let now = clock::now();
    let bans = owner
        .query(|engine, _| {
            let entries = engine.ledger().entries();
            let own = entries.filter(|entry| entry.lifting.is_none() && !entry.ban.rule.is_remote());
            own.map(|entry| entry.ban).collect::<Vec<_>>()
        })
        .await?;
    let own = bans.into_iter().filter(|ban| !ban.ends.is_past(now)).map(|ban| {
        let Ban { client, since_ms, ends, rule, .. } = ban;
        (client, OwnBan { since_ms, ends, rule, why: text::fleet::why(rule) })
    });
    Ok(own.collect())
}
