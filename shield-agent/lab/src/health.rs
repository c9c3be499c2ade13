//! Whether an environment does what it is for: a request from outside is answered, and each agent answers on its socket. The last
//! looks are kept in a file beside its state, so that whoever asks needs no control service.

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::environment::{Environment, Role};
use crate::wire::Request;

/// Looks that are kept.
const KEPT: usize = 10;
/// Bad looks in a row that make an environment degraded.
const DEGRADED_AFTER: usize = 3;
const TIMEOUT: Duration = Duration::from_secs(5);

/// One look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// From the request to the end of the answer.
    pub latency_ms: u64,
    /// What was wrong; nothing otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Sample {
    /// Whether all was well.
    pub fn is_good(&self) -> bool {
        self.error.is_none()
    }
}

/// What is to be thought of an environment.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// Nobody looked yet.
    #[default]
    Unknown,
    /// The last look was good, or fewer than three after a good one were bad.
    Good,
    /// Three looks in a row were bad, and none since was good.
    Degraded,
}

impl Condition {
    /// As in the file.
    pub fn name(self) -> &'static str {
        match self {
            Condition::Unknown => "unknown",
            Condition::Good => "good",
            Condition::Degraded => "degraded",
        }
    }
}

/// The last looks at an environment.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What they say together.
    pub condition: Condition,
    /// The last ten, the newest last.
    pub samples: VecDeque<Sample>,
}

impl Health {
    /// The one in the environment's folder; that nobody looked yet is no error.
    pub fn read(environment: &Environment) -> Self {
        let text = fs::read(file(environment)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Adds a look.
    pub fn add(&mut self, sample: Sample) {
        if sample.is_good() {
            self.condition = Condition::Good;
        }
        self.samples.push_back(sample);
        while self.samples.len() > KEPT {
            self.samples.pop_front();
        }
        let bad = self.samples.iter().rev().take_while(|sample| !sample.is_good()).count();
        if bad >= DEGRADED_AFTER {
            self.condition = Condition::Degraded;
        }
    }

    /// Writes it into the environment's folder, whole or not at all.
    ///
    /// # Errors
    /// Fails if the folder is gone or the disk full.
    pub fn write(&self, environment: &Environment) -> Result<()> {
        let path = file(environment);
        let new = path.with_extension("new");
        let text = serde_json::to_vec(self).context("could not write down a look")?;
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("could not write {}", path.display()))
    }
}

fn file(environment: &Environment) -> PathBuf {
    environment.folder.join("health.json")
}

/// Looks once.
pub fn look(environment: &Environment) -> Sample {
    let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let started = Instant::now();
    let error = look_inside(environment).err().map(|error| format!("{error:#}"));
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Sample { at_ms: ms(at_ms), latency_ms: ms(started.elapsed()), error }
}

fn look_inside(environment: &Environment) -> Result<()> {
    let host = environment.host.as_deref().unwrap_or("shop.example");
    let front = Request { host, ..Request::get("/") }.send_to(&environment.door(), TIMEOUT)?;
    ensure!(front.status < 500, "the server answers {}", front.status);
    for machine in environment.machines.iter().filter(|machine| machine.role == Role::Server) {
        let name = &machine.name;
        let answer = Request::get("/healthz")
            .send_to(&environment.socket(name), TIMEOUT)
            .with_context(|| format!("could not ask the agent of {name}"))?;
        let words = String::from_utf8_lossy(&answer.body).into_owned();
        ensure!(answer.status == 200, "the agent of {name} says {}: {}", answer.status, words.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_bad_looks_in_a_row_degrade_and_a_good_one_mends() {
        let look = |error: Option<&str>| Sample { at_ms: 0, latency_ms: 1, error: error.map(str::to_owned) };
        let mut health = Health::default();
        health.add(look(Some("down")));
        assert_eq!(health.condition, Condition::Unknown);
        health.add(look(None));
        let mut check = |error, expected| {
            health.add(look(error));
            assert_eq!(health.condition, expected);
        };
        for expected in [Condition::Good, Condition::Good, Condition::Degraded, Condition::Degraded] {
            check(Some("down"), expected);
        }
        check(None, Condition::Good);
        check(Some("down"), Condition::Good);
        for _ in 0..20 {
            check(None, Condition::Good);
        }
        assert_eq!(health.samples.len(), KEPT);
    }
}
