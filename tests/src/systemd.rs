//! A systemd of its own over this machine's root, with the shipped unit: process 1 of its namespaces, in the network of a site's server.
//!
//! `tests/vm/here.sh` boots it. Its root is an overlay, so that nothing of this machine is changed; of this machine's own services
//! none is started there.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::site::Site;
use crate::{agent, command, unit, wait};

/// Where the agent is installed: no package has it.
pub const INSTALLED: &str = "/usr/local/sbin/shield-agent";
/// Where the files of the site are.
pub const FILES: &str = "/srv/site";
/// Time limit for a boot, beside other tests.
const BOOT: Duration = Duration::from_secs(120);

/// A booted systemd. Dropping it ends everything in it.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    first: i32,
    scratch: tempfile::TempDir,
}

impl Machine {
    /// Boots systemd in the network of the site's server. The shipped unit is installed and not started; its agent is `program`, its
    /// configuration reads the log of the site's nginx. The site's folder is at [`FILES`].
    ///
    /// # Errors
    /// Fails without root, or when systemd does not come up.
    pub fn boot(site: &Site, program: &Path, more_of_config: &str) -> Result<Machine> {
        let files = site.home.folder();
        let log = site.nginx.access_log().strip_prefix(files).context("could not find nginx's log")?;
        let config = format!("[[source]]\npath = \"{FILES}/{}\"\n{more_of_config}", log.display());
        fs::write(files.join("machine.toml"), config).context("could not write the configuration")?;
        let shipped = fs::read_to_string(unit::file()).context("could not read the unit")?;
        fs::write(files.join("machine.service"), shipped.replace("/usr/bin/shield-agent", INSTALLED))
            .context("could not write the unit")?;
        let prepare = files.join("prepare");
        let script = format!(
            "#!/bin/sh\nset -eu\nrm -rf etc/systemd/system/* etc/shield var/lib/shield var/log/shield\n\
             install -D -m 0755 '{program}' '.{INSTALLED}'\n\
             install -D -m 0640 '{files}/machine.toml' etc/shield/shield.toml\n\
             install -D -m 0644 '{files}/machine.service' etc/systemd/system/shield.service\n\
             ln -s /dev/null etc/systemd/system/systemd-sysctl.service\n\
             ln -s /dev/null etc/systemd/system/systemd-modules-load.service\n\
             grep -q ^shield: etc/group || echo shield:x:64991: >>etc/group\n\
             mkdir -p '.{FILES}'\nmount --bind '{files}' '.{FILES}'\n",
            program = program.display(),
            files = files.display(),
        );
        fs::write(&prepare, script).context("could not write the script that prepares the root")?;
        fs::set_permissions(&prepare, fs::Permissions::from_mode(0o755))?;
        let scratch = tempfile::tempdir().context("could not make a folder for the machine")?;
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("vm/here.sh");
        let child = Command::new("ip")
            .args(["netns", "exec", site.server.name()])
            .arg(here)
            .arg("/")
            .arg(scratch.path())
            .env("PREPARE", &prepare)
            .env("TARGET", "multi-user.target")
            .stdin(Stdio::null())
            .spawn()
            .context("could not start tests/vm/here.sh")?;
        let mut machine = Machine { child, first: 0, scratch };
        machine.first = wait::until("systemd to begin", BOOT, || Ok(machine.find_first()))?;
        wait::until("systemd to be up", BOOT, || {
            let state = machine.output(&["systemctl", "is-system-running"])?;
            let said = String::from_utf8_lossy(&state.stdout).into_owned();
            Ok(matches!(said.trim(), "running" | "degraded").then_some(()))
        })?;
        Ok(machine)
    }

    /// The last of the processes that each wait for the next: systemd, once it is there.
    fn find_first(&self) -> Option<i32> {
        let mut last = i32::try_from(self.child.id()).ok()?;
        loop {
            if fs::read_to_string(format!("/proc/{last}/comm")).ok()?.trim() == "systemd" {
                return Some(last);
            }
            let children = fs::read_to_string(format!("/proc/{last}/task/{last}/children")).ok()?;
            last = children.split_whitespace().next()?.parse().ok()?;
        }
    }

    /// Runs a command in the machine and returns its output with any exit code.
    ///
    /// # Errors
    /// Fails if it cannot be started.
    pub fn output(&self, argv: &[&str]) -> Result<Output> {
        let first = self.first.to_string();
        let enter =
            ["nsenter", "--target", &first, "--all", "env", "-i", "PATH=/usr/local/sbin:/usr/sbin:/usr/bin"];
        command::output(&[&enter, argv].concat())
    }

    /// Runs a command in the machine and returns its standard output.
    ///
    /// # Errors
    /// Fails if it does not succeed; the error has its output.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        let output = self.output(argv)?;
        let [out, err] =
            [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        if !output.status.success() {
            bail!("`{}` failed ({}): {out}{err}", argv.join(" "), output.status);
        }
        Ok(out)
    }

    /// Runs one of the agent's commands with `--json`. That something is degraded is an answer.
    ///
    /// # Errors
    /// Fails if it prints no JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.output(&[&["shield-agent"], arguments, &["--json"]].concat())?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("could not read: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Starts the unit, and waits until both enforcers are set up.
    ///
    /// # Errors
    /// Fails if it does not start; the error has the journal.
    pub fn start(&self) -> Result<()> {
        let started = self.run(&["systemctl", "start", "shield"]);
        started.with_context(|| self.journal())?;
        wait::until("both enforcers", BOOT, || {
            let status = self.json(&["status"])?;
            let is_active = |name: &str| {
                let mut parts = status["parts"].as_array().into_iter().flatten();
                parts.any(|part| part["part"] == name && part["state"] == "active")
            };
            Ok((is_active("iptables") && is_active("xdp")).then_some(()))
        })
        .with_context(|| self.journal())
    }

    /// The last lines of the unit's journal.
    pub fn journal(&self) -> String {
        self.run(&["journalctl", "-u", "shield", "-n", "40", "--no-pager"]).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The first process of its namespace: all others end with it, and here.sh cleans up.
        let first = if self.first > 0 { self.first } else { i32::try_from(self.child.id()).unwrap_or(0) };
        let ended = kill(Pid::from_raw(first), Signal::SIGKILL).map_err(anyhow::Error::new);
        if let Err(error) = ended.and_then(|()| Ok(self.child.wait()?)) {
            eprintln!("could not end the machine in {}: {error}", self.scratch.path().display());
        }
    }
}

/// A copy of the agent that was built, without what only a debugger reads: it is installed several times in memory.
///
/// # Errors
/// Fails if there is none, or `strip` is missing.
pub fn stripped_agent(folder: &Path) -> Result<PathBuf> {
    let stripped = folder.join("shield-agent");
    let (from, to) = (agent::binary()?, stripped.clone());
    let name = |path: &Path| path.to_str().map(str::to_owned).context("could not name a file: no UTF-8");
    command::run(&["strip", "-o", &name(&to)?, &name(&from)?])?;
    Ok(stripped)
}
