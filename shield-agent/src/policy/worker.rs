//! The process that evaluates a policy: reads questions, a line of JSON each, and writes an answer to each. It opens no file, holds
//! no capability, and ends with its standard input.
//!
//! Its limits are its own, so that whatever a rule does ends this process and no other: the agent starts the next one.

use std::io::{self, BufRead as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeValLike as _;
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use super::bundle::Bundle;
use super::evaluate::{Evaluator, Failure, Mistake, Trace};

/// The address space of the process: some hundred times what a policy needs.
const MEMORY_BYTES: u64 = 512 * 1024 * 1024;
/// The processor's time for one question, after which the kernel ends the process.
const CPU_SECS: u64 = 2;

/// The first line: what to evaluate.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Load {
    pub bundle: Bundle,
    pub limit_ms: u64,
}

/// The answer to the first line.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Loaded {
    pub mistakes: Vec<Mistake>,
}

/// A further line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ask {
    pub rule: String,
    pub input: serde_json::Value,
    #[serde(default)]
    pub trace: bool,
}

/// The answer to a further line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Told {
    pub answer: Answer,
    pub micros: u64,
    #[serde(default)]
    pub trace: Option<Trace>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Value(serde_json::Value),
    Undefined,
    TimedOut,
    Error(String),
}

impl Answer {
    fn of(decided: Result<Option<serde_json::Value>, Failure>) -> Answer {
        match decided {
            Ok(Some(value)) => Answer::Value(value),
            Ok(None) => Answer::Undefined,
            Err(Failure::TimedOut) => Answer::TimedOut,
            Err(Failure::Error(error)) => Answer::Error(error),
        }
    }
}

/// Answers until standard input ends.
///
/// # Errors
/// When the limits cannot be set, or a line is no question.
pub(crate) fn run() -> Result<()> {
    limit()?;
    let mut lines = io::stdin().lock().lines();
    let Some(first) = lines.next() else { return Ok(()) };
    let load: Load = parse(&first.context("could not read the policy")?)?;
    allow_cpu()?;
    let mut evaluator = match Evaluator::new(&load.bundle, Duration::from_millis(load.limit_ms)) {
        Ok(evaluator) => evaluator,
        Err(mistakes) => return say(&Loaded { mistakes }),
    };
    say(&Loaded::default())?;
    for line in lines {
        let ask: Ask = parse(&line.context("could not read a question")?)?;
        allow_cpu()?;
        let begin = Instant::now();
        let (decided, trace) = if ask.trace {
            let (decided, trace) = evaluator.trace(&ask.rule, &ask.input);
            (decided, Some(trace))
        } else {
            (evaluator.decide(&ask.rule, &ask.input), None)
        };
        say(&Told { answer: Answer::of(decided), micros: begin.elapsed().as_micros() as u64, trace })?;
    }
    Ok(())
}

fn parse<'a, T: Deserialize<'a>>(line: &'a str) -> Result<T> {
    serde_json::from_str(line)
        .context("could not read a line of the agent's: this command is started by it alone")
}

fn say(answer: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(answer).context("could not write an answer as JSON")?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line).and_then(|()| out.flush()).context("could not answer the agent")
}

/// Gives up what the agent may do, and bounds memory. A sandbox in which a capability cannot be given up is no reason to protect
/// nobody.
fn limit() -> Result<()> {
    let none = CapabilitySet::empty();
    let nothing = CapabilitySets { effective: none, permitted: none, inheritable: none };
    let _ = rustix::thread::set_capabilities(None, nothing);
    setrlimit(Resource::RLIMIT_AS, MEMORY_BYTES, MEMORY_BYTES).context("could not bound the memory")?;
    // A rule that ends the process is told of by the agent; its memory is nobody's business.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("could not switch core files off")
}

/// Moves the limit of the processor's time ahead of what is used up.
fn allow_cpu() -> Result<()> {
    let used = getrusage(UsageWho::RUSAGE_SELF).context("could not read the processor's time")?;
    let secs = (used.user_time() + used.system_time()).num_seconds().max(0) as u64;
    let (_, most) =
        getrlimit(Resource::RLIMIT_CPU).context("could not read the limit of the processor's time")?;
    let soft = (secs + CPU_SECS).min(most);
    setrlimit(Resource::RLIMIT_CPU, soft, most).context("could not bound the processor's time")
}
