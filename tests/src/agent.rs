//! The real agent binary, run as an operator runs it: a config file, a control socket, signals, and what its commands
//! print. What it logs is in a file, and in the error when something goes wrong.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::bpffs::Bpffs;
use crate::netns::Namespace;
use crate::wait;

/// How long the agent may take to answer on its socket after its start, and to end after SIGTERM. Generous: on a busy
/// machine two cores run everybody's tests.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything of one agent that outlives its process: config, state, log, pins.
#[derive(Debug)]
pub struct Home {
    folder: tempfile::TempDir,
    bpffs: Bpffs,
}

impl Home {
    /// A new one, empty.
    ///
    /// # Errors
    /// Without root: it has a BPF file system.
    pub fn create() -> Result<Self> {
        let folder = tempfile::tempdir().context("made a temporary folder")?;
        Ok(Self { folder, bpffs: Bpffs::mount()? })
    }

    /// The folder of everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.folder().join("control.sock")
    }

    /// The config file.
    pub fn config(&self) -> PathBuf {
        self.folder().join("shield.toml")
    }

    /// The audit log.
    pub fn audit(&self) -> PathBuf {
        self.folder().join("audit.jsonl")
    }

    /// Where the agent keeps what it pins.
    pub fn pins(&self) -> PathBuf {
        self.bpffs.path().join("shield")
    }

    /// Writes the config file: the paths of this home, the source with `more_of_source` (keys of `[[source]]`), and
    /// `more` (further tables), both TOML.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(&self, source: &Path, more_of_source: &str, more: &str) -> Result<()> {
        let text = format!(
            "[agent]\nstate_dir = {state:?}\nsocket = {socket:?}\nlog = \"info\"\n\n\
             [[source]]\npath = {source:?}\n{more_of_source}\n[audit]\npath = {audit:?}\n\n{more}",
            state = self.folder().join("state"),
            socket = self.socket(),
            audit = self.audit(),
        );
        fs::write(self.config(), text).with_context(|| format!("wrote {}", self.config().display()))
    }

    /// What the agent has logged so far, all starts together.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder().join("agent.log")).unwrap_or_default()
    }

    /// Runs one of the agent's commands (`bans`, `status`, `cleanup`…) against this home's config and socket.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn command(&self, namespace: &Namespace, arguments: &[&str]) -> Result<String> {
        let output = self.command_output(namespace, arguments)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`shield-agent {}` failed ({}): {said}", arguments.join(" "), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// As [`Home::command`], whatever its exit code.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn command_output(&self, namespace: &Namespace, arguments: &[&str]) -> Result<Output> {
        let mut command = self.shield_agent()?;
        command.args(arguments).stdin(Stdio::null());
        namespace.enter(|| command.output()).context("started shield-agent")
    }

    /// What one of the agent's commands prints with `--json`.
    ///
    /// # Errors
    /// When it fails, or prints something else.
    pub fn json(&self, namespace: &Namespace, arguments: &[&str]) -> Result<Value> {
        let arguments = [arguments, &["--json"]].concat();
        let text = self.command(namespace, &arguments)?;
        serde_json::from_str(&text).with_context(|| format!("read the JSON of {arguments:?}: {text}"))
    }

    fn shield_agent(&self) -> Result<Command> {
        self.shield_agent_under(&[])
    }

    /// The agent's command, started by `launcher` (an argument vector; none is the plain program).
    fn shield_agent_under(&self, launcher: &[&str]) -> Result<Command> {
        let binary = binary()?;
        let mut words = launcher.iter().map(OsStr::new).chain([binary.as_os_str()]);
        let mut command = Command::new(words.next().expect("the binary is always there"));
        command.args(words).env("SHIELD_CONFIG", self.config()).env("SHIELD_SOCKET", self.socket());
        Ok(command)
    }
}

/// A running agent; killed when dropped, because a test that ends early must not leave it behind.
#[derive(Debug)]
pub struct Agent {
    process: Child,
}

impl Agent {
    /// Starts `shield-agent run` in this namespace and waits until it answers on its socket.
    ///
    /// # Errors
    /// When the binary was not built, or ends, or does not answer; then with its log.
    pub fn start(namespace: &Namespace, home: &Home, more_arguments: &[&str]) -> Result<Self> {
        Self::start_under(&[], namespace, home, more_arguments)
    }

    /// As [`Agent::start`], by a launcher such as `setpriv` with its arguments, which must become the agent (exec).
    ///
    /// # Errors
    /// As for [`Agent::start`].
    pub fn start_under(
        launcher: &[&str],
        namespace: &Namespace,
        home: &Home,
        more_arguments: &[&str],
    ) -> Result<Self> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(home.folder().join("agent.log"))
            .context("opened the agent's log")?;
        let mut command = home.shield_agent_under(launcher)?;
        command.arg("run").args(more_arguments).stdin(Stdio::null());
        command.stdout(log.try_clone().context("shared the agent's log")?).stderr(log);
        let process = namespace.enter(|| command.spawn()).context("started shield-agent")?;
        let mut agent = Self { process };
        agent.wait_until_it_answers(namespace, home)?;
        Ok(agent)
    }

    fn wait_until_it_answers(&mut self, namespace: &Namespace, home: &Home) -> Result<()> {
        wait::until("the agent to answer on its socket", PATIENCE, || {
            if let Some(status) = self.process.try_wait().context("looked at the agent")? {
                bail!("the agent ended ({status})");
            }
            let answers = home.socket().exists()
                && home.command_output(namespace, &["status", "--json"])?.status.success();
            Ok(answers.then_some(()))
        })
        .with_context(|| format!("the agent's log:\n{}", home.log()))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Ends it as the power cut does: nothing can be tidied up.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill().context("killed the agent")?;
        self.process.wait().context("waited for the agent").map(drop)
    }

    /// Ends it as systemd does, and returns how it ended.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(mut self) -> Result<ExitStatus> {
        let pid = Pid::from_raw(self.pid().try_into().context("a process id fits in an i32")?);
        kill(pid, Signal::SIGTERM).context("asked the agent to end")?;
        wait::until("the agent to end after SIGTERM", PATIENCE, || {
            self.process.try_wait().context("waited for the agent")
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The agent that was built together with the running test: cargo puts it one or two folders above.
///
/// # Errors
/// When it was not built.
pub fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe().context("asked for this program's own path")?;
    let found =
        own.ancestors().skip(1).take(2).map(|folder| folder.join("shield-agent")).find(|file| file.is_file());
    found.with_context(|| {
        format!("found no shield-agent near {}: build it with `cargo build -p shield-agent`", own.display())
    })
}
