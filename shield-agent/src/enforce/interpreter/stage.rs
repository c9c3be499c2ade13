//! Whether an enforcer is set up, and how that reads as a state.

use std::any::Any;
use std::fmt;

use crate::beat::panic_text;
use shield_engine::event::PartState;

/// A panic inside an enforcer, caught at the call.
#[derive(Debug, Clone)]
pub(super) struct Panicked {
    step: &'static str,
    message: String,
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} panicked: {}", self.step, self.message)
    }
}

impl std::error::Error for Panicked {}

impl Panicked {
    pub(super) fn new(step: &'static str, payload: &(dyn Any + Send)) -> Panicked {
        Panicked { step, message: panic_text(payload).to_owned() }
    }
}

pub(super) enum Stage {
    Up,
    Down { cause: Cause, attempts: u32, retry_at_ms: u64 },
}

/// Why an enforcer is down. Decides what a lift means meanwhile: only after a breakdown may bans be in the kernel.
pub(super) enum Cause {
    NotStartedYet,
    StartFailed(anyhow::Error),
    BrokeDown(anyhow::Error),
}

impl Stage {
    /// Down, to be started at once.
    pub(super) fn not_started() -> Stage {
        Stage::Down { cause: Cause::NotStartedYet, attempts: 0, retry_at_ms: 0 }
    }

    /// Down after a panic, to be started again at once.
    pub(super) fn broken(panicked: Panicked) -> Stage {
        Stage::broken_until(panicked, 0)
    }

    /// Down after a panic, to be started again at `retry_at_ms` (boot clock).
    pub(super) fn broken_until(panicked: Panicked, retry_at_ms: u64) -> Stage {
        Stage::Down { cause: Cause::BrokeDown(panicked.into()), attempts: 0, retry_at_ms }
    }

    /// The same after one more failed start, after `attempts` earlier ones.
    ///
    /// A panic in the start itself leaves `BrokeDown`: it may have left bans in the kernel.
    pub(super) fn after_failed_start(self, error: anyhow::Error, attempts: u32, retry_at_ms: u64) -> Stage {
        let cause = match self {
            Stage::Down { cause: Cause::BrokeDown(_), .. } => Cause::BrokeDown(error),
            Stage::Down { .. } | Stage::Up => Cause::StartFailed(error),
        };
        Stage::Down { cause, attempts: attempts + 1, retry_at_ms }
    }
}

impl Cause {
    pub(super) fn state(&self) -> PartState {
        match self {
            Cause::NotStartedYet => PartState::Waiting { reason: "starting".to_owned() },
            Cause::StartFailed(error) => {
                PartState::Degraded { reason: format!("inactive, retrying: {error:#}") }
            }
            // Not "inactive": what it left in the kernel may still drop.
            Cause::BrokeDown(error) => {
                PartState::Degraded { reason: format!("broke down, restarting: {error:#}") }
            }
        }
    }

    /// The error for orders and queries that come in meanwhile.
    pub(super) fn refusal(&self) -> String {
        match self {
            Cause::NotStartedYet => "not started yet".to_owned(),
            Cause::StartFailed(error) | Cause::BrokeDown(error) => format!("{error:#}"),
        }
    }

    /// Returns whether none of the enforcer's bans can be in the kernel, so that a lift has nothing to do.
    pub(super) fn was_never_in_force(&self) -> bool {
        !matches!(self, Cause::BrokeDown(_))
    }
}
