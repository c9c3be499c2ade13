//! The agent's end of a policy's process: starts it, asks, and ends it when it does not answer.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Point;
use super::bundle::Bundle;
use super::evaluate::{Mistake, Trace};
use super::worker::{Answer, Ask, Load, Loaded, Told};
use crate::text::counted;

/// The name of the hidden command.
pub(crate) const COMMAND: &str = "policy-worker";

/// How long the process may take to start and load the files, on a machine that is busy.
const LOAD_PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take to answer: the rules' own limit ends an evaluation long before, and the rest is waiting for a processor.
const PATIENCE: Duration = Duration::from_millis(250);
/// The length of an answer at most.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// Why there is no process that can be asked.
#[derive(Debug)]
pub(crate) enum NotStarted {
    /// The files are wrong.
    Mistakes(Vec<Mistake>),
    Failed(anyhow::Error),
}

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotStarted::Mistakes(mistakes) => {
                let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "the policy has {}: {}",
                    counted(mistakes.len() as u64, "mistake"),
                    lines.join("; ")
                )
            }
            NotStarted::Failed(error) => write!(f, "{error:#}"),
        }
    }
}

/// Why there is no decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// The rules took longer than this; the process goes on.
    TimedOut(Duration),
    /// The rules failed; the process goes on.
    Failed(String),
    /// The process did not answer, ended or wrote nonsense, and is no more.
    Broken(String),
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unanswered::TimedOut(limit) => {
                write!(f, "the rules took longer than {} ms", limit.as_millis())
            }
            Unanswered::Failed(error) => f.write_str(error),
            Unanswered::Broken(how) => write!(f, "the policy's process {how}"),
        }
    }
}

/// A decision with what led to it.
#[derive(Debug)]
pub(crate) struct Traced {
    pub value: Option<serde_json::Value>,
    pub trace: Trace,
    pub micros: u64,
}

/// A process that has loaded a policy.
#[derive(Debug)]
pub(crate) struct Asking {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    read: Vec<u8>,
    limit: Duration,
    patience: Duration,
}

impl Asking {
    /// Starts a process of this very program, whatever has become of its file since, that is to decide about a point.
    ///
    /// # Errors
    /// When it cannot be started, or the files are wrong.
    pub(crate) fn start(bundle: &Bundle, point: Point) -> Result<Asking, NotStarted> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(COMMAND);
        Asking::start_as(command, bundle, point.limit())
    }

    fn start_as(mut command: Command, bundle: &Bundle, limit: Duration) -> Result<Asking, NotStarted> {
        command.env_clear().current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child =
            command.spawn().context("could not start the policy's process").map_err(NotStarted::Failed)?;
        let stdin = child.stdin.take().expect("it is piped above");
        let stdout = child.stdout.take().expect("it is piped above");
        let mut asking = Asking { child, stdin, stdout, read: Vec::new(), limit, patience: PATIENCE };
        let load = Load { bundle: bundle.clone(), limit_ms: limit.as_millis() as u64 };
        let loaded: Loaded = asking.exchange(&load, LOAD_PATIENCE).map_err(|how| {
            NotStarted::Failed(anyhow::anyhow!("the policy's process {how} when it loaded the policy"))
        })?;
        if loaded.mistakes.is_empty() { Ok(asking) } else { Err(NotStarted::Mistakes(loaded.mistakes)) }
    }

    /// Evaluates a rule; `None` when it has no value for this input.
    ///
    /// # Errors
    /// When there is no decision. After [`Unanswered::Broken`] there will be none any more.
    pub(crate) fn ask(
        &mut self,
        rule: &str,
        input: serde_json::Value,
    ) -> Result<Option<serde_json::Value>, Unanswered> {
        self.told(rule, input, false).map(|(value, _, _)| value)
    }

    /// As [`Asking::ask`], with what led to the decision.
    ///
    /// # Errors
    /// As of [`Asking::ask`].
    pub(crate) fn trace(&mut self, rule: &str, input: serde_json::Value) -> Result<Traced, Unanswered> {
        let (value, trace, micros) = self.told(rule, input, true)?;
        Ok(Traced { value, trace, micros })
    }

    fn told(
        &mut self,
        rule: &str,
        input: serde_json::Value,
        trace: bool,
    ) -> Result<(Option<serde_json::Value>, Trace, u64), Unanswered> {
        let ask = Ask { rule: rule.to_owned(), input, trace };
        let told: Told = self.exchange(&ask, self.patience).map_err(Unanswered::Broken)?;
        let value = match told.answer {
            Answer::Value(value) => Some(value),
            Answer::Undefined => None,
            Answer::TimedOut => return Err(Unanswered::TimedOut(self.limit)),
            Answer::Error(error) => return Err(Unanswered::Failed(error)),
        };
        Ok((value, told.trace.unwrap_or_default(), told.micros))
    }

    /// Sends a line and reads one. A process that fails at it is ended: its next line would be the answer to this one.
    fn exchange<T: DeserializeOwned>(
        &mut self,
        line: &impl Serialize,
        patience: Duration,
    ) -> Result<T, String> {
        let answered = self.try_exchange(line, patience);
        answered.map_err(|error| match self.end() {
            Some(how) => how,
            None => format!("{error:#}"),
        })
    }

    fn try_exchange<T: DeserializeOwned>(&mut self, line: &impl Serialize, patience: Duration) -> Result<T> {
        let mut text = serde_json::to_vec(line).context("could not be asked: no JSON")?;
        text.push(b'\n');
        self.stdin.write_all(&text).context("could not be asked")?;
        let answer = self.read_line(patience)?;
        let shown = || {
            let begin: String = String::from_utf8_lossy(&answer).chars().take(60).collect();
            format!("answered what is no answer ({begin:?})")
        };
        serde_json::from_slice(&answer).with_context(shown)
    }

    fn read_line(&mut self, patience: Duration) -> Result<Vec<u8>> {
        let until = Instant::now() + patience;
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.read) {
                let rest = self.read.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.read, rest);
                line.truncate(end);
                return Ok(line);
            }
            if self.read.len() > MAX_ANSWER_BYTES {
                bail!("answered with more than {MAX_ANSWER_BYTES} bytes");
            }
            let left = until.saturating_duration_since(Instant::now());
            let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, wait) {
                Ok(0) => bail!("has not answered within {} ms", patience.as_millis()),
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error).context("could not be waited for"),
            }
            let mut chunk = [0; 16 * 1024];
            match self.stdout.read(&mut chunk).context("could not be read from")? {
                0 => bail!("has closed its output"),
                count => self.read.extend_from_slice(&chunk[..count]),
            }
        }
    }

    /// Ends the process. Returns how it ended, if it had by itself.
    fn end(&mut self) -> Option<String> {
        // It closes its output a moment before it can be waited for, which is longer on a busy machine.
        let until = Instant::now() + Duration::from_secs(1);
        let mut ended = self.child.try_wait().ok().flatten();
        while ended.is_none() && Instant::now() < until && self.has_closed() {
            std::thread::sleep(Duration::from_millis(1));
            ended = self.child.try_wait().ok().flatten();
        }
        // Both fail only for one that is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
        ended.map(|status| format!("ended by itself ({status})"))
    }

    fn has_closed(&self) -> bool {
        let mut fds = [PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok()
            && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A process that answers as this shell script does.
    fn scripted(script: &str) -> Result<Asking, NotStarted> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        Asking::start_as(command, &Bundle::shipped(), Point::Ban.limit())
    }

    const LOADED: &str = "read a; echo '{\"mistakes\":[]}'; read a;";

    /// Asked with more patience than the agent has: a shell may be slow to start on a busy machine.
    fn asked(script: &str) -> Result<Option<serde_json::Value>, Unanswered> {
        let mut asking = scripted(&format!("{LOADED} {script}")).unwrap();
        asking.patience = LOAD_PATIENCE;
        asking.ask("data.a.x", json!({}))
    }

    #[test]
    fn an_answer_is_read() {
        let answer = r#"echo '{"answer":{"value":[1]},"micros":3}'"#;
        assert_eq!(asked(answer), Ok(Some(json!([1]))));
        assert_eq!(asked(r#"echo '{"answer":"undefined","micros":3}'"#), Ok(None));
        assert_eq!(
            asked(r#"echo '{"answer":"timed_out","micros":3}'"#),
            Err(Unanswered::TimedOut(Point::Ban.limit()))
        );
    }

    #[test]
    fn a_process_that_does_not_answer_is_ended_and_said() {
        let check = |script: &str, expected: &str| {
            let said = asked(script).unwrap_err();
            assert!(said.to_string().contains(expected), "{said}");
            assert!(matches!(said, Unanswered::Broken(_)));
        };
        let said = scripted(&format!("{LOADED} sleep 60")).unwrap().ask("data.a.x", json!({})).unwrap_err();
        assert!(said.to_string().contains("has not answered within 250 ms"), "{said}");
        check("exit 7", "ended by itself (exit status: 7)");
        check("kill -SEGV $$", "ended by itself (signal: 11");
        check("echo gibberish; sleep 60", "answered what is no answer (\"gibberish\")");
        check("while :; do echo -n xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done", "");
    }

    #[test]
    fn one_that_cannot_be_started_is_said() {
        let failed = scripted("exit 3").unwrap_err().to_string();
        assert!(failed.contains("ended by itself (exit status: 3) when it loaded the policy"), "{failed}");
        let missing = Asking::start_as(Command::new("/nonexistent"), &Bundle::shipped(), Point::Ban.limit())
            .unwrap_err();
        assert!(missing.to_string().contains("could not start the policy's process"), "{missing}");
    }
}
