//! The real agent binary, run as an operator runs it: with a config file, a control socket, signals and its commands. Its
//! log goes to a file and is part of the error if it does not start.

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
use crate::{unit, wait};

/// Time limit for the first answer on the socket and for the exit after SIGTERM. Generous, because other tests run at the
/// same time.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The files of one agent that outlive its process: config, state, log, pins.
#[derive(Debug)]
pub struct Home {
    folder: tempfile::TempDir,
    bpffs: Bpffs,
}

impl Home {
    /// Creates an empty home.
    ///
    /// # Errors
    /// Fails without root, which mounting its BPF file system needs.
    pub fn create() -> Result<Self> {
        let folder = tempfile::tempdir().context("could not create a temporary folder")?;
        Ok(Self { folder, bpffs: Bpffs::mount()? })
    }

    /// The folder with all files but the pins.
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

    /// The agent's folder for pinned BPF maps and links.
    pub fn pins(&self) -> PathBuf {
        self.bpffs.path().join("shield")
    }

    /// Writes the config file: the paths of this home, `source` with the keys in `more_of_source`, and the tables in
    /// `more`. Both are TOML.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn configure(&self, source: &Path, more_of_source: &str, more: &str) -> Result<()> {
        let text = format!(
            "[agent]\nstate_dir = {state:?}\nsocket = {socket:?}\nlog = \"info\"\n\n\
             [[source]]\npath = {source:?}\n{more_of_source}\n[audit]\npath = {audit:?}\n\n{more}",
            state = self.folder().join("state"),
            socket = self.socket(),
            audit = self.audit(),
        );
        fs::write(self.config(), text).with_context(|| format!("could not write {}", self.config().display()))
    }

    /// The agent's log so far, from all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder().join("agent.log")).unwrap_or_default()
    }

    /// Runs one of the agent's commands (`bans`, `status`, `cleanup`…) with this home's config and socket, and returns its
    /// standard output.
    ///
    /// # Errors
    /// Fails if the command does; the error contains its standard error.
    pub fn command(&self, namespace: &Namespace, arguments: &[&str]) -> Result<String> {
        let output = self.command_output(namespace, arguments)?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("`shield-agent {}` failed ({}): {stderr}", arguments.join(" "), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// As [`Home::command`], but accepts any exit code.
    ///
    /// # Errors
    /// Fails if the command cannot be started.
    pub fn command_output(&self, namespace: &Namespace, arguments: &[&str]) -> Result<Output> {
        let mut command = self.shield_agent()?;
        command.args(arguments).stdin(Stdio::null());
        namespace.enter(|| command.output()).context("could not start shield-agent")
    }

    /// Runs one of the agent's commands with `--json` and returns the parsed output.
    ///
    /// # Errors
    /// Fails if the command does, or if it does not print JSON. That something is degraded is an answer and no failure.
    pub fn json(&self, namespace: &Namespace, arguments: &[&str]) -> Result<Value> {
        let arguments = [arguments, &["--json"]].concat();
        let output = self.command_output(namespace, &arguments)?;
        if !answers(&output) {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("`shield-agent {}` failed ({}): {stderr}", arguments.join(" "), output.status);
        }
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text)
            .with_context(|| format!("could not parse the JSON of {arguments:?}: {text}"))
    }

    fn shield_agent(&self) -> Result<Command> {
        self.shield_agent_under(&[])
    }

    /// The agent's command line behind `launcher`, an argument vector that may be empty.
    fn shield_agent_under(&self, launcher: &[&str]) -> Result<Command> {
        let binary = binary()?;
        let mut words = launcher.iter().map(OsStr::new).chain([binary.as_os_str()]);
        let mut command = Command::new(words.next().expect("the binary is always there"));
        command.args(words).env("SHIELD_CONFIG", self.config()).env("SHIELD_SOCKET", self.socket());
        Ok(command)
    }
}

/// The exit code of `status` and `check` when something is degraded.
const DEGRADED: i32 = 5;

fn answers(output: &Output) -> bool {
    output.status.success() || output.status.code() == Some(DEGRADED)
}

/// A running agent. Dropping it kills it, so that a test that fails early leaves no process behind.
#[derive(Debug)]
pub struct Agent {
    process: Child,
}

impl Agent {
    /// Starts `shield-agent run` in this namespace and waits until it answers on its socket.
    ///
    /// # Errors
    /// Fails if the binary was not built, or if the agent exits or does not answer; the error contains its log.
    pub fn start(namespace: &Namespace, home: &Home, more_arguments: &[&str]) -> Result<Self> {
        Self::start_under(&[], namespace, home, more_arguments)
    }

    /// As [`Agent::start`], in the sandbox of the shipped unit: see [`crate::unit`].
    ///
    /// # Errors
    /// As for [`Agent::start`].
    pub fn start_in_unit(namespace: &Namespace, home: &Home, more_arguments: &[&str]) -> Result<Self> {
        let launcher = unit::launcher(home, &[])?;
        let launcher: Vec<&str> = launcher.iter().map(String::as_str).collect();
        Self::start_under(&launcher, namespace, home, more_arguments)
    }

    /// As [`Agent::start`], through a launcher such as `setpriv` with its arguments. The launcher must exec the agent,
    /// because signals go to the process started here.
    ///
    /// # Errors
    /// As for [`Agent::start`].
    pub fn start_under(
        launcher: &[&str],
        namespace: &Namespace,
        home: &Home,
        more_arguments: &[&str],
    ) -> Result<Self> {
        let mut agent = Self::launch(launcher, namespace, home, more_arguments, &[])?;
        agent.wait_until_it_answers(namespace, home)?;
        Ok(agent)
    }

    /// As [`Agent::start_under`] with more environment variables, and returns as soon as the process runs.
    ///
    /// # Errors
    /// Fails if the binary was not built, or cannot be run.
    pub fn launch(
        launcher: &[&str],
        namespace: &Namespace,
        home: &Home,
        more_arguments: &[&str],
        environment: &[(&str, &OsStr)],
    ) -> Result<Self> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(home.folder().join("agent.log"))
            .context("could not open the agent's log")?;
        let mut command = home.shield_agent_under(launcher)?;
        command.arg("run").args(more_arguments).envs(environment.iter().copied()).stdin(Stdio::null());
        command.stdout(log.try_clone().context("could not duplicate the agent's log")?).stderr(log);
        let process = namespace.enter(|| command.spawn()).context("could not start shield-agent")?;
        Ok(Self { process })
    }

    fn wait_until_it_answers(&mut self, namespace: &Namespace, home: &Home) -> Result<()> {
        wait::until("the agent to answer on its socket", TIMEOUT, || {
            if let Some(status) = self.process.try_wait().context("could not check the agent's process")? {
                bail!("the agent exited ({status})");
            }
            let answers =
                home.socket().exists() && answers(&home.command_output(namespace, &["status", "--json"])?);
            Ok(answers.then_some(()))
        })
        .with_context(|| format!("could not start the agent; its log:\n{}", home.log()))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends SIGKILL: as after a power failure, the agent cannot clean up.
    ///
    /// # Errors
    /// Fails if the process cannot be killed or waited for.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill().context("could not kill the agent")?;
        self.process.wait().context("could not wait for the agent").map(drop)
    }

    /// Sends SIGTERM, as systemd does, and returns the exit status.
    ///
    /// # Errors
    /// Fails if the agent does not exit in time.
    pub fn stop(mut self) -> Result<ExitStatus> {
        let pid = Pid::from_raw(self.pid().try_into().expect("a process id fits in an i32"));
        kill(pid, Signal::SIGTERM).context("could not send SIGTERM to the agent")?;
        wait::until("the agent to exit after SIGTERM", TIMEOUT, || {
            self.process.try_wait().context("could not wait for the agent")
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The path of the agent that was built together with the running test; of another one, such as a package's, where `SHIELD_AGENT`
/// names it.
///
/// # Errors
/// Fails if the agent was not built.
pub fn binary() -> Result<PathBuf> {
    if let Some(other) = std::env::var_os("SHIELD_AGENT") {
        return Ok(PathBuf::from(other));
    }
    built("shield-agent")
}

/// The path of a program that was built together with the running test. Cargo puts tests into `deps/`, and programs one folder
/// above them.
///
/// # Errors
/// Fails if it was not built.
pub fn built(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("could not get this program's own path")?;
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|file| file.is_file());
    found.with_context(|| {
        format!(
            "could not find {name} near {}: build it with `cargo build -p shield-agent -p shield-tests`",
            own.display()
        )
    })
}
