//! Who is exempt because of an SSH session: with a real sshd, under the unit's sandbox and as plain root.
//!
//! There is no systemd here, so of the unit's sandbox what decides about this is made by hand: its capabilities,
//! `NoNewPrivileges=`, and `ProtectProc=invisible` as the mount of /proc that systemd makes of it. A machine is a network
//! namespace and a mount namespace with its own /run, so that neither the sessions nor the users of this machine are touched.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use shield_agent::test_support::api::types::PartStateName;
use shield_tests::agent::Agent;
use shield_tests::netns::Namespace;
use shield_tests::site::{ATTACKER, SERVER, Site, VISITOR};
use shield_tests::{command, wait};

/// The agent looks every five seconds; the machine is busy.
const PATIENCE: Duration = Duration::from_secs(40);

/// A child that is killed with all its children.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

fn start(namespace: &Namespace, argv: &[&str]) -> Running {
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]).process_group(0).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Running(namespace.enter(|| command.spawn()).unwrap_or_else(|error| panic!("{argv:?}: {error}")))
}

/// The site with a real sshd on port 22, and with `anna`, who may log in with a key, as may root.
struct Machine {
    site: Site,
    folder: tempfile::TempDir,
    sshd: Running,
    holder: Running,
}

const MACHINE: &str = "set -e
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
    fn create(more: &str) -> Machine {
        let site = Site::create(more).unwrap();
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        assert!(passwd.contains("\nsshd:"), "openssh-server is missing: `cargo xtask setup`");
        fs::write(path("passwd"), format!("{passwd}anna:x:4242:4242::/:/bin/sh\n")).unwrap();
        fs::write(path("shadow"), "root:*:20000::::::\nanna:*:20000::::::\n").unwrap();
        for key in ["host", "key"] {
            command::run(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &path(key)]).unwrap();
        }
        fs::set_permissions(path("key.pub"), fs::Permissions::from_mode(0o644)).unwrap();
        let config = format!(
            "Port 22\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\nUseDNS no\n\
             PermitRootLogin prohibit-password\n",
            path("host"),
            path("key.pub")
        );
        fs::write(path("sshd_config"), config).unwrap();
        let root = folder.path().to_str().unwrap();
        let holder = start(&site.server, &["unshare", "--mount", "sh", "-c", MACHINE, root]);
        wait::until("the machine's mounts", PATIENCE, || {
            Ok(Path::new(&path("ready")).exists().then_some(()))
        })
        .unwrap();
        let pid = holder.0.id().to_string();
        let sshd =
            ["nsenter", "--target", &pid, "--mount", "/usr/sbin/sshd", "-D", "-f", &path("sshd_config")];
        let sshd = start(&site.server, &[&sshd[..], &["-E", &path("sshd.log")]].concat());
        wait::until("sshd to listen", PATIENCE, || {
            let address = (SERVER.ip(), 22);
            Ok(site.street.enter(|| std::net::TcpStream::connect(address)).ok().map(drop))
        })
        .unwrap_or_else(|error| panic!("{error:#}: {}", fs::read_to_string(path("sshd.log")).unwrap()));
        Machine { site, folder, sshd, holder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the agent in this machine, behind `launcher`.
    fn agent(&self, launcher: &[&str]) -> Agent {
        let pid = self.holder.0.id().to_string();
        let launcher = [&["nsenter", "--target", &pid, "--mount"], launcher].concat();
        let agent = Agent::start_under(&launcher, &self.site.server, &self.site.home, &[]).unwrap();
        self.site.wait_until_protected().unwrap();
        agent
    }

    /// Logs in from this address and stays, with a terminal or without. Returns once sshd has let it in.
    fn log_in(&self, user: &str, from: IpAddr, terminal: &str) -> Running {
        let (from, key) = (from.to_string(), self.path("key"));
        let to = format!("{user}@{}", SERVER.ip());
        let options =
            ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"];
        let argv = [&["ssh", "-F", "none", terminal, "-b", &from, "-i", key.to_str().unwrap()], &options[..]]
            .concat();
        let session = start(&self.site.street, &[&argv[..], &[&to, "sleep 500"]].concat());
        let accepted = format!("Accepted publickey for {user} from {from} ");
        let log = || fs::read_to_string(self.path("sshd.log")).unwrap_or_default();
        wait::until("sshd to accept the login", PATIENCE, || Ok(log().contains(&accepted).then_some(())))
            .unwrap_or_else(|error| panic!("{error:#}: {}", log()));
        session
    }

    /// A connection to sshd that says nothing.
    fn connect_only(&self, from: IpAddr) -> Running {
        let script = format!(
            "import socket,time; s=socket.create_connection(('{}',22),5,('{from}',0)); time.sleep(500)",
            SERVER.ip()
        );
        start(&self.site.street, &["python3", "-c", &script])
    }

    /// What `ban` answers when the address is exempt; `None` when it was banned, which is undone.
    fn exemption(&self, addr: IpAddr) -> Option<String> {
        let addr = addr.to_string();
        let output =
            self.site.home.command_output(&self.site.server, &["ban", &addr, "--for", "10m"]).unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        if said.contains("is on the allowlist") {
            return Some(said);
        }
        assert!(output.status.success(), "{said}");
        self.site.home.command(&self.site.server, &["unban", &addr]).unwrap();
        None
    }

    fn wait_until_exempt(&self, addr: IpAddr, because: &str) {
        let mut said = None;
        wait::until(&format!("{addr} to be exempt: {because}"), PATIENCE, || {
            // Asking is a ban, which must not keep the session's packets out for long.
            std::thread::sleep(Duration::from_secs(2));
            said = self.exemption(addr);
            Ok(said.as_ref().is_some_and(|said| said.contains(because)).then_some(()))
        })
        .unwrap_or_else(|error| {
            let sshd = fs::read_to_string(self.path("sshd.log")).unwrap_or_default();
            panic!("{error:#}: {said:?}\n{}\n{sshd}", self.site.home.log())
        });
    }

    fn ssh(&self) -> (PartStateName, String) {
        let part = self.site.status().unwrap().parts.into_iter().find(|part| part.part == "ssh").unwrap();
        (part.state, part.text)
    }
}

fn words_of(key: &str) -> Vec<String> {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/shield.service");
    let unit = fs::read_to_string(unit).unwrap();
    let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap();
    line.split_whitespace().map(str::to_owned).collect()
}

/// The launcher that makes the unit's sandbox.
fn sandbox(before: &str) -> Vec<String> {
    assert_eq!(words_of("ProtectProc"), ["invisible"]);
    assert_eq!(words_of("NoNewPrivileges"), ["yes"]);
    let capabilities = words_of("CapabilityBoundingSet").join(",+").to_lowercase().replace("cap_", "");
    let script = format!(
        "set -e\nmount --make-rprivate /\nmount -t proc -o hidepid=invisible proc /proc\n{before}\n\
         exec setpriv --bounding-set=-all,+{capabilities} --inh-caps=-all --no-new-privs \"$0\" \"$@\""
    );
    ["unshare", "--mount", "sh", "-c", &script].map(str::to_owned).to_vec()
}

fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Neither a connection without a login nor a local user's process named `sshd` makes an exemption.
fn nobody_is_exempt_without_a_login(machine: &Machine) {
    let _silent = machine.connect_only(ATTACKER);
    let listener =
        "import socket,time; s=socket.create_server(('203.0.113.66',4444)); c=s.accept(); time.sleep(500)";
    let _listener = start(&machine.site.street, &["python3", "-c", listener]);
    let forged = machine.path("sshd");
    fs::copy("/bin/bash", &forged).unwrap();
    let script = format!("until exec 3<>/dev/tcp/{ATTACKER}/4444; do sleep 0.1; done; sleep 500; true");
    let uid = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", forged.to_str().unwrap()];
    let _forged = start(&machine.site.server, &[&uid[..], &["-c", &script]].concat());
    // Two looks of the agent and more.
    let until = std::time::Instant::now() + Duration::from_secs(12);
    while std::time::Instant::now() < until {
        assert_eq!(machine.exemption(ATTACKER), None);
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[test]
fn as_plain_root_who_logged_in_is_exempt_and_nobody_else() {
    let machine = Machine::create("");
    let agent = machine.agent(&["env"]);
    nobody_is_exempt_without_a_login(&machine);
    let session = machine.log_in("anna", VISITOR, "-T");
    machine.wait_until_exempt(VISITOR, "live SSH session");
    drop(session);
    machine.wait_until_exempt(VISITOR, "earlier SSH session");
    let _root = machine.log_in("root", ATTACKER, "-T");
    machine.wait_until_exempt(ATTACKER, "live SSH session");
    assert_eq!(machine.ssh().0, PartStateName::Active, "{:?}", machine.ssh());
    agent.stop().unwrap();
}

#[test]
fn in_the_unit_utmp_as_sshd_writes_it_makes_the_exemption_and_it_outlives_session_and_agent() {
    let machine = Machine::create("");
    // Being in root's group the agent sees that the process is there; what it runs is hidden.
    let exe = format!("/proc/{}/exe", machine.sshd.0.id());
    let unit = sandbox("");
    assert!(command::output(&["readlink", &exe]).unwrap().status.success());
    let seen = command::output(&[&strs(&unit)[..], &["readlink", &exe]].concat()).unwrap();
    assert!(!seen.status.success(), "the sandbox hides what sshd runs");
    let launcher = unit;
    let agent = machine.agent(&strs(&launcher));
    nobody_is_exempt_without_a_login(&machine);
    let session = machine.log_in("anna", VISITOR, "-tt");
    machine.wait_until_exempt(VISITOR, "live SSH session");
    let (state, text) = machine.ssh();
    assert_eq!(state, PartStateName::Active, "{text}");
    assert!(text.contains("asked: logind, utmp") && !text.contains("processes"), "{text}");
    drop(session);
    machine.wait_until_exempt(VISITOR, "earlier SSH session");
    agent.stop().unwrap();
    let agent = machine.agent(&strs(&launcher));
    assert!(machine.exemption(VISITOR).is_some_and(|said| said.contains("earlier SSH session")));
    agent.stop().unwrap();
    let audit = fs::read_to_string(machine.site.home.audit()).unwrap();
    assert!(audit.contains("allowlist_changed") && audit.contains("live SSH session"), "{audit}");
}

/// The file is input in the format that logind writes, because there is no logind here.
#[test]
fn in_the_unit_logind_is_asked_and_the_exemption_ends_with_a_reason() {
    let machine = Machine::create("[allow]\nssh_keep = '10s'\n");
    let agent = machine.agent(&strs(&sandbox("")));
    let session = "UID=4242\nUSER=anna\nACTIVE=1\nSTATE=active\nREMOTE=1\nTYPE=tty\nCLASS=user\n\
                   REMOTE_HOST=198.51.100.7\nSERVICE=sshd\nLEADER=1\n";
    let sessions = format!("/proc/{}/root/run/systemd/sessions", machine.holder.0.id());
    fs::write(format!("{sessions}/3"), session).unwrap();
    machine.wait_until_exempt(VISITOR, "live SSH session");
    fs::remove_file(format!("{sessions}/3")).unwrap();
    wait::until("the exemption to end", PATIENCE, || Ok(machine.exemption(VISITOR).is_none().then_some(())))
        .unwrap();
    let audit = fs::read_to_string(machine.site.home.audit()).unwrap();
    assert!(audit.contains("no SSH session from there"), "{audit}");
    agent.stop().unwrap();
}

#[test]
fn in_the_unit_with_nothing_to_ask_the_part_is_degraded_with_what_to_do() {
    let machine = Machine::create("");
    let gone = "umount -l /run 2>/dev/null || true\nmount -t tmpfs tmpfs /run";
    let agent = machine.agent(&strs(&sandbox(gone)));
    let mut ssh = machine.ssh();
    wait::until("the part to be degraded", PATIENCE, || {
        ssh = machine.ssh();
        Ok((ssh.0 == PartStateName::Degraded).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {ssh:?}"));
    assert!(ssh.1.contains("libpam-systemd") && ssh.1.contains("[allow] networks"), "{}", ssh.1);
    agent.stop().unwrap();
}
