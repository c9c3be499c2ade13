//! `shield-agent lab` with a folder and a port of its own, for tests to run side by side.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use shield_lab::netns::names_of;
use shield_lab::wire::Request;

use crate::agent;

/// The environments of a test. Dropping it ends them.
#[derive(Debug)]
pub struct Labs {
    folder: tempfile::TempDir,
    /// The front nginx's port.
    pub port: u16,
    name: String,
}

impl Labs {
    /// No environment yet, and no control service. The names of the environments begin with `label`.
    ///
    /// # Errors
    /// Fails if there is no port.
    pub fn create(label: &str) -> Result<Self> {
        let folder = tempfile::tempdir().context("could not create a folder")?;
        let free = TcpListener::bind("127.0.0.1:0").context("could not find a port")?;
        let port = free.local_addr().context("could not find a port")?.port();
        Ok(Self { folder, port, name: format!("{label}{}", std::process::id()) })
    }

    /// The folder of all environments.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A name of an environment, at most 20 bytes.
    pub fn name(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    /// Runs `shield-agent lab` with these arguments, and returns what it printed with any exit code.
    ///
    /// # Errors
    /// Fails if it cannot be started.
    pub fn output(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(agent::binary()?);
        command.arg("lab").args(arguments).env("SHIELD_LAB_STATE", self.folder()).stdin(Stdio::null());
        command.output().context("could not start shield-agent")
    }

    /// As [`Labs::output`], for a command that must succeed.
    ///
    /// # Errors
    /// Fails if the command does; the error contains its standard error.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments)?;
        let shown = arguments.join(" ");
        if !output.status.success() {
            bail!("`lab {shown}` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts the control service.
    ///
    /// # Errors
    /// Fails if it does not answer.
    pub fn up(&self) -> Result<()> {
        self.run(&["up", "--port", &self.port.to_string(), "--poll", "1s"]).map(drop)
    }

    /// The control service's process.
    ///
    /// # Errors
    /// Fails if none was started.
    pub fn service(&self) -> Result<i32> {
        let card: Value = serde_json::from_slice(&fs::read(self.folder().join("service.json"))?)?;
        Ok(i32::try_from(card["pid"].as_i64().context("could not find the process id")?)?)
    }

    /// Makes an environment and returns its id.
    ///
    /// # Errors
    /// Fails if it cannot be made.
    pub fn make(&self, number: usize, more: &[&str]) -> Result<String> {
        let name = self.name(number);
        let made = self.run(&[&["create", &name, "--json"], more].concat())?;
        let made: Value = serde_json::from_str(&made).context("could not read the environment")?;
        Ok(made["id"].as_str().context("could not find the id")?.to_owned())
    }

    /// What the front nginx answers for a name: its status.
    ///
    /// # Errors
    /// Fails if it does not answer.
    pub fn front(&self, host: &str) -> Result<u16> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        Ok(Request { host, ..Request::get("/") }.send(address, None, Duration::from_secs(10))?.status)
    }

    /// The namespaces, mounts and processes of these environments.
    ///
    /// # Errors
    /// Fails if they cannot be listed.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let mut found = names_of(&format!("shl-{}", self.name))?;
        let folder = self.folder().to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("could not read the mounts")?;
        found.extend(mounts.lines().filter(|line| line.contains(&folder)).map(str::to_owned));
        for entry in fs::read_dir("/proc").context("could not list /proc")?.flatten() {
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            if words.contains(&folder) {
                found.push(format!("process {}: {words}", entry.file_name().to_string_lossy()));
            }
        }
        Ok(found)
    }

    /// That nothing is left.
    ///
    /// # Errors
    /// Fails with what is.
    pub fn ensure_gone(&self) -> Result<()> {
        let left = self.leftovers()?;
        ensure!(left.is_empty(), "these are left: {left:#?}");
        Ok(())
    }
}

impl Drop for Labs {
    fn drop(&mut self) {
        let _ = self.run(&["down"]);
        for entry in fs::read_dir(self.folder().join("labs")).into_iter().flatten().flatten() {
            let _ = self.run(&["destroy", &entry.file_name().to_string_lossy()]);
        }
    }
}
