//! Where an environment's files are: each machine that runs something has a folder.

use std::path::PathBuf;

use crate::environment::{Environment, Part};

impl Environment {
    /// The folder of a machine.
    pub fn machine_folder(&self, machine: &str) -> PathBuf {
        self.folder.join(machine)
    }

    /// The agent's configuration.
    pub fn config(&self, machine: &str) -> PathBuf {
        self.machine_folder(machine).join("shield.toml")
    }

    /// The agent's control socket.
    pub fn socket(&self, machine: &str) -> PathBuf {
        self.machine_folder(machine).join("control.sock")
    }

    /// The agent's `state_dir`: a small file system of its own, which `disk-full` fills.
    pub fn state(&self, machine: &str) -> PathBuf {
        self.machine_folder(machine).join("state")
    }

    /// Where the machine's BPF file system is mounted.
    pub fn bpffs(&self, machine: &str) -> PathBuf {
        self.machine_folder(machine).join("bpf")
    }

    /// The agent's `pin_dir`.
    pub fn pins(&self, machine: &str) -> PathBuf {
        self.bpffs(machine).join("shield")
    }

    /// The agent's audit log.
    pub fn audit(&self, machine: &str) -> PathBuf {
        self.machine_folder(machine).join("audit.jsonl")
    }

    /// nginx's log, which the agent reads.
    pub fn access_log(&self, machine: &str) -> PathBuf {
        self.machine_folder(machine).join("log/access.log")
    }

    /// How far the agent's wall clock is ahead, in milliseconds as text. No file: not at all.
    pub fn clock(&self, machine: &str) -> PathBuf {
        self.machine_folder(machine).join("clock")
    }

    /// What a process wrote to its standard output and error.
    pub fn output(&self, machine: &str, part: Part) -> PathBuf {
        self.machine_folder(machine).join(format!("{}.log", part.name()))
    }

    /// How a process was started, for it to be started again.
    pub(crate) fn start_of(&self, machine: &str, part: Part) -> PathBuf {
        self.machine_folder(machine).join(format!("{}.start.json", part.name()))
    }
}

impl Part {
    /// As in the environment's file.
    pub fn name(self) -> &'static str {
        match self {
            Part::Nginx => "nginx",
            Part::App => "app",
            Part::Agent => "agent",
            Part::Proxy => "proxy",
            Part::Visitors => "visitors",
            Part::Attack => "attack",
            Part::Outage => "outage",
            Part::Door => "door",
            Part::Nats => "nats",
        }
    }
}
