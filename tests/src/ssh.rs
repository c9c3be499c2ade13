//! A machine with a real sshd on port 22, for whom SSH sessions exempt: a network namespace and a mount namespace with its own
//! /run, so that neither the sessions nor the users of this machine are touched.

use std::fs;
use std::net::{IpAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use shield_agent::test_support::api::types::PartStateName;

use crate::agent::Agent;
use crate::netns::Namespace;
use crate::site::{ATTACKER, SERVER, Site};
use crate::{command, unit, wait};

/// The agent looks every five seconds; the machine is busy.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// A child that is killed with all its children when it is dropped.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    fn start(namespace: &Namespace, argv: &[&str]) -> Result<Running> {
        let (program, arguments) = argv.split_first().context("could not run an empty command line")?;
        let mut command = Command::new(program);
        command.args(arguments).process_group(0).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = namespace.enter(|| command.spawn());
        Ok(Running(child.with_context(|| format!("could not start {argv:?}"))?))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(group) = i32::try_from(self.0.id()) {
            let group = nix::unistd::Pid::from_raw(group);
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.0.wait();
    }
}

/// The site with sshd, and with `anna`, who may log in with a key, as may root.
#[derive(Debug)]
pub struct Machine {
    /// The server with its nginx, and the street.
    pub site: Site,
    folder: tempfile::TempDir,
    /// The listening sshd.
    pub sshd: Running,
    holder: Running,
}

/// Whether sshd asks PAM, which tells logind of the session where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pam {
    /// `UsePAM yes`, as Debian has it.
    Used,
    /// `UsePAM no`: no logind session, and an entry in utmp for a session with a terminal alone.
    Unused,
}

const MOUNTS: &str = "set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/sshd /run/systemd/sessions
chmod 755 /run /run/systemd /run/systemd/sessions
: > /run/utmp
chown root:utmp /run/utmp
chmod 664 /run/utmp
mount --bind \"$0/passwd\" /etc/passwd
mount --bind \"$0/shadow\" /etc/shadow
: > \"$0/ready\"
exec sleep 1000";

impl Machine {
    /// Creates the machine; `more` are tables of the agent's configuration.
    ///
    /// # Errors
    /// Fails without root, or if openssh is missing.
    pub fn create(more: &str, pam: Pam) -> Result<Machine> {
        let site = Site::create(more)?;
        let folder = tempfile::tempdir_in("/var/tmp")?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let passwd = fs::read_to_string("/etc/passwd")?;
        ensure!(passwd.contains("\nsshd:"), "openssh-server is missing: `cargo xtask setup`");
        fs::write(path("passwd"), format!("{passwd}anna:x:4242:4242::/:/bin/sh\n"))?;
        fs::write(path("shadow"), "root:*:20000::::::\nanna:*:20000::::::\n")?;
        for key in ["host", "key"] {
            command::run(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &path(key)])?;
        }
        fs::set_permissions(path("key.pub"), fs::Permissions::from_mode(0o644))?;
        let config = format!(
            "Port 22\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM {}\nPidFile none\nUseDNS no\n\
             PermitRootLogin prohibit-password\n",
            path("host"),
            path("key.pub"),
            if pam == Pam::Used { "yes" } else { "no" },
        );
        fs::write(path("sshd_config"), config)?;
        let root = path("");
        let holder = Running::start(&site.server, &["unshare", "--mount", "sh", "-c", MOUNTS, &root])?;
        wait::until("the machine's mounts", PATIENCE, || {
            Ok(Path::new(&path("ready")).exists().then_some(()))
        })?;
        let pid = holder.pid().to_string();
        let sshd =
            ["nsenter", "--target", &pid, "--mount", "/usr/sbin/sshd", "-D", "-f", &path("sshd_config")];
        let sshd = Running::start(&site.server, &[&sshd[..], &["-E", &path("sshd.log")]].concat())?;
        wait::until("sshd to listen", PATIENCE, || {
            let address = (SERVER.ip(), 22);
            Ok(site.street.enter(|| TcpStream::connect(address)).ok().map(drop))
        })
        .with_context(|| {
            format!("could not reach sshd: {}", fs::read_to_string(path("sshd.log")).unwrap_or_default())
        })?;
        Ok(Machine { site, folder, sshd, holder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder of logind's sessions, as this process sees it.
    pub fn sessions(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/run/systemd/sessions", self.holder.pid()))
    }

    /// The launcher that makes the unit's sandbox, after `before` was run in its mounts.
    ///
    /// # Errors
    /// As for [`unit::launcher`].
    pub fn unit(&self, before: &str) -> Result<Vec<String>> {
        let script = format!("set -e\nmount --make-rprivate /\n{before}\nexec \"$0\" \"$@\"");
        let mounts = ["unshare", "--mount", "sh", "-c", &script].map(str::to_owned);
        Ok([&mounts[..], &unit::launcher(&self.site.home, &[])?].concat())
    }

    /// Starts the agent in this machine, behind `launcher`.
    ///
    /// # Errors
    /// As for [`Agent::start`].
    pub fn agent(&self, launcher: &[String]) -> Result<Agent> {
        let pid = self.holder.pid().to_string();
        let enter = ["nsenter", "--target", &pid, "--mount"];
        let launcher: Vec<&str> = enter.into_iter().chain(launcher.iter().map(String::as_str)).collect();
        let agent = Agent::start_under(&launcher, &self.site.server, &self.site.home, &[])?;
        self.site.wait_until_protected()?;
        Ok(agent)
    }

    /// Logs in from this address and stays, with a terminal (`-tt`) or without (`-T`). Returns once sshd has let it in.
    ///
    /// # Errors
    /// Fails if sshd does not.
    pub fn log_in(&self, user: &str, from: IpAddr, terminal: &str) -> Result<Running> {
        let (from, key) = (from.to_string(), self.path("key").display().to_string());
        let to = format!("{user}@{}", SERVER.ip());
        let options =
            ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"];
        let argv = [&["ssh", "-F", "none", terminal, "-b", &from, "-i", &key], &options[..]].concat();
        let session = Running::start(&self.site.street, &[&argv[..], &[&to, "sleep 500"]].concat())?;
        let accepted = format!("Accepted publickey for {user} from {from} ");
        wait::until("sshd to accept the login", PATIENCE, || {
            Ok(self.sshd_log().contains(&accepted).then_some(()))
        })
        .with_context(|| self.sshd_log())?;
        Ok(session)
    }

    fn sshd_log(&self) -> String {
        fs::read_to_string(self.path("sshd.log")).unwrap_or_default()
    }

    /// A connection to sshd that says nothing.
    fn connect_only(&self, from: IpAddr) -> Result<Running> {
        let script = format!(
            "import socket,time; s=socket.create_connection(('{}',22),5,('{from}',0)); time.sleep(500)",
            SERVER.ip()
        );
        Running::start(&self.site.street, &["python3", "-c", &script])
    }

    /// A local user's process called `sshd`, that is connected to the attacker.
    fn forged_sshd(&self) -> Result<[Running; 2]> {
        let listener = format!(
            "import socket,time; c=socket.create_server(('{ATTACKER}',4444)).accept(); time.sleep(500)"
        );
        let listener = Running::start(&self.site.street, &["python3", "-c", &listener])?;
        let forged = self.path("sshd");
        fs::copy("/bin/bash", &forged).context("could not copy a shell")?;
        let forged = forged.display().to_string();
        let script = format!("until exec 3<>/dev/tcp/{ATTACKER}/4444; do sleep 0.1; done; sleep 500; true");
        let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        let argv = [&nobody[..], &[&forged, "-c", &script]].concat();
        Ok([listener, Running::start(&self.site.server, &argv)?])
    }

    /// What `ban` answers when the address is exempt; `None` when it was banned, which is undone.
    ///
    /// # Errors
    /// Fails if it was neither.
    pub fn exemption(&self, addr: IpAddr) -> Result<Option<String>> {
        let addr = addr.to_string();
        let Site { home, server, .. } = &self.site;
        let output = home.command_output(server, &["ban", &addr, "--for", "10m"])?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        if said.contains("is on the allowlist") {
            return Ok(Some(said));
        }
        ensure!(output.status.success(), "{said}");
        // An exemption that came right behind the ban has lifted it already, and then there is nothing to lift.
        home.command_output(server, &["unban", &addr])?;
        Ok(None)
    }

    /// Waits until this address is exempt, for this reason.
    ///
    /// # Errors
    /// Fails if it is not in time.
    pub fn wait_until_exempt(&self, addr: IpAddr, because: &str) -> Result<()> {
        let mut said = None;
        wait::until(&format!("{addr} to be exempt: {because}"), PATIENCE, || {
            // Asking is a ban, which must not keep the session's packets out for long.
            std::thread::sleep(Duration::from_secs(2));
            said = self.exemption(addr)?;
            Ok(said.as_ref().is_some_and(|said| said.contains(because)).then_some(()))
        })
        .with_context(|| {
            format!("could not see it exempt: {said:?}\n{}\n{}", self.site.home.log(), self.sshd_log())
        })
    }

    /// Neither a connection without a login nor a local user's process named `sshd` makes an exemption, or lifts a ban that is
    /// there. Returns how long this was looked at.
    ///
    /// # Errors
    /// Fails if one of them does.
    pub fn nobody_is_exempt_without_a_login(&self) -> Result<Duration> {
        // Two looks of the agent and more.
        const LOOKS: Duration = Duration::from_secs(12);
        let _silent = self.connect_only(ATTACKER)?;
        let _forged = self.forged_sshd()?;
        let until = Instant::now() + LOOKS;
        while Instant::now() < until {
            let exemption = self.exemption(ATTACKER)?;
            ensure!(exemption.is_none(), "an exemption without a login: {exemption:?}");
            std::thread::sleep(Duration::from_secs(1));
        }
        self.site.ban_attacker("10m")?;
        let until = Instant::now() + LOOKS;
        while Instant::now() < until {
            ensure!(self.site.request(ATTACKER)?.is_none(), "the ban was lifted without a login");
            std::thread::sleep(Duration::from_secs(1));
        }
        self.site.home.command(&self.site.server, &["unban", &ATTACKER.to_string()])?;
        Ok(2 * LOOKS)
    }

    /// The state of the agent's part `ssh`, and its text.
    ///
    /// # Errors
    /// Fails if the agent does not answer.
    pub fn ssh(&self) -> Result<(PartStateName, String)> {
        let part = self.site.status()?.parts.into_iter().find(|part| part.part == "ssh");
        let part = part.context("could not find the part ssh")?;
        Ok((part.state, part.text))
    }
}
