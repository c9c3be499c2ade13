//! The programs, each set up as its own documentation and Debian's package say, in a folder of its own.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shield_tests::netns::Namespace;
use shield_tests::{agent, bpffs::Bpffs, command, wait};

use crate::town::{Town, banned};

/// For a start or a stop.
const PATIENCE: Duration = Duration::from_secs(40);

/// A program that is measured.
pub(crate) trait Peer {
    fn name(&self) -> &'static str;

    /// Its version, as the program says.
    fn version(&self) -> Result<String>;

    /// The command that reads a log once and ends, to be run in the town.
    fn reader(&self, town: &Town, log: &Path) -> Result<Command>;

    /// Starts it in the town, reading the town's log.
    fn start(&mut self, town: &Town) -> Result<()>;

    /// Bans so many, and returns how many of them it holds when `at_most` is over.
    fn ban(&mut self, town: &Town, count: u32, at_most: Duration) -> Result<u32>;

    /// Stops it and takes away what it left in the kernel, as when the machine restarts. Its files stay.
    fn stop(&mut self, town: &Town) -> Result<()>;
}

/// A process that is killed when it is dropped.
struct Running(Child);

impl Running {
    fn start(town: &Namespace, command: &mut Command, log: &Path) -> Result<Running> {
        let log =
            File::options().create(true).append(true).open(log).context("could not open a program's log")?;
        command
            .stdin(Stdio::null())
            .stderr(log.try_clone().context("could not open a program's log")?)
            .stdout(log);
        let child = town.enter(|| command.spawn());
        child.map(Running).with_context(|| format!("could not start {:?}", command.get_program()))
    }

    fn end(&mut self, what: &str) -> Result<()> {
        let pid = Pid::from_raw(self.0.id().try_into().context("could not use a process id")?);
        kill(pid, Signal::SIGTERM).with_context(|| format!("could not stop {what}"))?;
        wait::until(&format!("{what} to end"), PATIENCE, || Ok(self.0.try_wait().ok().flatten().map(drop)))
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|status| status.is_some())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn first_line(argv: &[&str]) -> Result<String> {
    let output = command::output(argv)?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines()
        .find(|line| !line.trim().is_empty())
        .map(|line| line.trim().to_owned())
        .context("could not read a version: it says nothing")
}

fn write(path: &Path, text: &str) -> Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

fn write_list(path: &Path, count: u32) -> Result<()> {
    let list: String = banned(count).map(|address| format!("{address}\n")).collect();
    write(path, &list)
}

/// Shield with both enforcers.
#[derive(Default)]
pub(crate) struct Shield {
    running: Option<Running>,
    bpffs: Option<Bpffs>,
}

impl Shield {
    fn ask(town: &Town, words: &[&str]) -> Result<String> {
        let (binary, socket) = (agent::binary()?, town.folder.path().join("shield.sock"));
        let mut argv = vec![binary.to_str().context("could not use the agent's path")?];
        argv.extend(words);
        let socket = socket.to_str().context("could not use the socket's path")?.to_owned();
        argv.extend(["--socket", &socket]);
        town.server.run(&argv)
    }

    fn config(town: &Town) -> PathBuf {
        town.folder.path().join("shield.toml")
    }
}

impl Peer for Shield {
    fn name(&self) -> &'static str {
        "Shield"
    }

    fn version(&self) -> Result<String> {
        first_line(&[agent::binary()?.to_str().context("could not use the agent's path")?, "--version"])
    }

    fn reader(&self, _town: &Town, log: &Path) -> Result<Command> {
        let mut command = Command::new(agent::binary()?);
        command.arg("replay").arg(log);
        Ok(command)
    }

    fn start(&mut self, town: &Town) -> Result<()> {
        if self.bpffs.is_none() {
            self.bpffs = Some(Bpffs::mount()?);
        }
        let pins = self.bpffs.as_ref().context("could not mount a bpffs")?.path().join("shield");
        let folder = town.folder.path();
        let text = format!(
            "[agent]\nstate_dir = {:?}\nsocket = {:?}\n\n[[source]]\npath = {:?}\n\n[audit]\npath = {:?}\n\n\
             [ban]\nalways_allowed = 1000\n\n[xdp]\ninterfaces = [\"eth0\"]\npin_dir = {pins:?}\n",
            folder.join("state"),
            folder.join("shield.sock"),
            town.log,
            folder.join("audit.jsonl"),
        );
        write(&Self::config(town), &text)?;
        let mut run = Command::new(agent::binary()?);
        run.arg("run").env("SHIELD_CONFIG", Self::config(town));
        self.running = Some(Running::start(&town.server, &mut run, &folder.join("shield.log"))?);
        wait::until("Shield to protect", PATIENCE, || {
            let state = Self::ask(town, &["status", "--json"]).unwrap_or_default();
            let status: serde_json::Value = serde_json::from_str(&state).unwrap_or_default();
            let is_active = |part: &str| {
                let parts = status["parts"].as_array().into_iter().flatten();
                parts.filter(|found| found["part"] == part).any(|found| found["state"] == "active")
            };
            Ok((is_active("xdp") && is_active("iptables")).then_some(()))
        })
    }

    fn ban(&mut self, town: &Town, count: u32, _at_most: Duration) -> Result<u32> {
        let list = town.folder.path().join("list");
        write_list(&list, count)?;
        Self::ask(
            town,
            &["import", list.to_str().context("could not use the list's path")?, "--format", "plain"],
        )?;
        Ok(count)
    }

    fn stop(&mut self, town: &Town) -> Result<()> {
        self.running.take().map_or(Ok(()), |mut running| running.end("Shield"))?;
        let binary = agent::binary()?;
        let mut cleanup = Command::new(&binary);
        cleanup.arg("cleanup").env("SHIELD_CONFIG", Self::config(town));
        let done = town.server.enter(|| cleanup.output()).context("could not start shield-agent")?;
        ensure!(done.status.success(), "cleanup failed: {}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }
}

/// fail2ban, Debian's jail for scanners at nginx.
#[derive(Default)]
pub(crate) struct Fail2ban {
    running: Option<Running>,
}

const JAIL: &str = "nginx-botsearch";

impl Fail2ban {
    fn folder(town: &Town) -> PathBuf {
        town.folder.path().join("fail2ban")
    }

    fn ask(town: &Town, words: &[&str]) -> Result<String> {
        let folder = Self::folder(town).display().to_string();
        let socket = format!("{folder}/socket");
        let mut argv = vec!["fail2ban-client", "-c", &folder, "-s", &socket];
        argv.extend(words);
        town.server.run(&argv)
    }

    fn held(town: &Town) -> u32 {
        let rules = town.server.run(&["iptables", "-S", &format!("f2b-{JAIL}")]).unwrap_or_default();
        rules.lines().filter(|rule| rule.contains("-s ")).count() as u32
    }
}

impl Peer for Fail2ban {
    fn name(&self) -> &'static str {
        "fail2ban"
    }

    fn version(&self) -> Result<String> {
        first_line(&["fail2ban-server", "--version"])
    }

    fn reader(&self, _town: &Town, log: &Path) -> Result<Command> {
        let mut command = Command::new("fail2ban-regex");
        command.args(["--print-no-missed", "--print-no-ignored"]);
        command.arg(log).arg(format!("/etc/fail2ban/filter.d/{JAIL}.conf"));
        Ok(command)
    }

    fn start(&mut self, town: &Town) -> Result<()> {
        let folder = Self::folder(town);
        if !folder.exists() {
            command::run(&["cp", "-r", "/etc/fail2ban", folder.to_str().context("could not use a path")?])?;
            fs::remove_dir_all(folder.join("jail.d"))
                .context("could not leave out Debian's jail for sshd")?;
            let at = |name: &str| folder.join(name).display().to_string();
            let own = format!(
                "[Definition]\nlogtarget = {}\nsocket = {}\npidfile = {}\ndbfile = {}\n",
                at("log"),
                at("socket"),
                at("pid"),
                at("db.sqlite3")
            );
            write(&folder.join("fail2ban.local"), &own)?;
            let jail = format!("[{JAIL}]\nenabled = true\nlogpath = {}\n", town.log.display());
            write(&folder.join("jail.local"), &jail)?;
        }
        let mut server = Command::new("fail2ban-server");
        server.arg("-f").arg("-c").arg(&folder).arg("-s").arg(folder.join("socket"));
        server.arg("-p").arg(folder.join("pid")).arg("start");
        let mut running = Running::start(&town.server, &mut server, &folder.join("said"))?;
        wait::until("fail2ban's jail", PATIENCE, || {
            ensure!(!running.has_ended(), "{}", fs::read_to_string(folder.join("said")).unwrap_or_default());
            Ok(Self::ask(town, &["status"]).is_ok_and(|status| status.contains(JAIL)).then_some(()))
        })?;
        self.running = Some(running);
        Ok(())
    }

    fn ban(&mut self, town: &Town, count: u32, at_most: Duration) -> Result<u32> {
        let began = Instant::now();
        let all: Vec<String> = banned(count).map(|address| address.to_string()).collect();
        for some in all.chunks(500) {
            let words: Vec<&str> =
                ["set", JAIL, "banip"].into_iter().chain(some.iter().map(String::as_str)).collect();
            Self::ask(town, &words)?;
            if began.elapsed() >= at_most {
                break;
            }
        }
        while Self::held(town) < count && began.elapsed() < at_most {
            wait::sleep(Duration::from_millis(500))?;
        }
        Ok(Self::held(town))
    }

    fn stop(&mut self, town: &Town) -> Result<()> {
        // It takes its rules away one by one when it is told to end; a machine that restarts does not wait for that.
        drop(self.running.take());
        for flush in ["-F", "-X"] {
            town.server.run(&["iptables", flush])?;
        }
        let _ = fs::remove_file(Self::folder(town).join("socket"));
        let _ = fs::remove_file(Self::folder(town).join("pid"));
        Ok(())
    }
}

/// CrowdSec's engine with the collections that Debian's package switches on, and its firewall bouncer with nftables.
#[derive(Default)]
pub(crate) struct CrowdSec {
    engine: Option<Running>,
    bouncer: Option<Running>,
}

const KEY: &str = "a-bouncers-key";
const PASSWORD: &str = "a-machines-password";

/// Where both packages are unpacked. Installing them would register this machine with CrowdSec's servers.
fn crowdsec() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/crowdsec-peer");
    if !folder.join("usr/bin/crowdsec-firewall-bouncer").exists() {
        fs::create_dir_all(&folder).context("could not create a folder for CrowdSec")?;
        let unpack = "apt-get download crowdsec crowdsec-firewall-bouncer && for p in *.deb; do dpkg -x $p .; done && \
                      dpkg -e crowdsec_*.deb control && rm *.deb";
        let done = Command::new("sh").args(["-c", unpack]).current_dir(&folder).output()?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "could not get Debian's packages by apt-get download: {said}");
    }
    folder.canonicalize().context("could not find CrowdSec's folder")
}

impl CrowdSec {
    fn folder(town: &Town) -> PathBuf {
        town.folder.path().join("crowdsec")
    }

    fn program(name: &str) -> Result<String> {
        Ok(crowdsec()?.join("usr/bin").join(name).display().to_string())
    }

    fn cscli(town: &Town, folder: &Path, words: &[&str]) -> Result<String> {
        let (program, config) = (Self::program("cscli")?, folder.join("config.yaml").display().to_string());
        town.server.run(&[&[program.as_str(), "-c", &config][..], words].concat())
    }

    /// Writes its files and registers the machine with its own API.
    fn prepare(town: &Town, folder: &Path, log: &Path) -> Result<()> {
        Self::configure(folder, log)?;
        Self::cscli(town, folder, &["machines", "add", "m1", "--password", PASSWORD, "-f", "/dev/null"])
            .map(drop)
    }

    /// The configuration of Debian's package, with other paths and without CrowdSec's own servers.
    fn configure(folder: &Path, log: &Path) -> Result<()> {
        let (at, package) = (folder.display(), crowdsec()?);
        let config = format!(
            "common: {{daemonize: false, log_media: stdout, log_level: info, working_dir: {at}}}\n\
             config_paths: {{config_dir: {at}, data_dir: {at}/data, hub_dir: {at}/hub, index_path: {at}/hub/.index.json, \
             simulation_path: {at}/simulation.yaml}}\n\
             crowdsec_service: {{acquisition_path: {at}/acquis.yaml, parser_routines: 1}}\n\
             cscli: {{output: human}}\n\
             db_config: {{type: sqlite, log_level: info, db_path: {at}/data/crowdsec.db, use_wal: true, flush: {{max_items: 5000, \
             max_age: 7d}}}}\n\
             api:\n  client: {{credentials_path: {at}/client.yaml}}\n  server: {{log_level: info, listen_uri: \"127.0.0.1:8080\", \
             profiles_path: {at}/profiles.yaml}}\n\
             prometheus: {{enabled: false}}\n"
        );
        let bouncer =
            fs::read_to_string(package.join("etc/crowdsec/bouncers/crowdsec-firewall-bouncer.yaml"))
                .context("could not read the bouncer's configuration")?
                .replace("${BACKEND}", "nftables")
                .replace("${API_KEY}", KEY)
                .replace("daemonize: true", "daemonize: false")
                .replace("log_mode: file", "log_mode: stdout")
                .replace("pid_dir: /var/run/", &format!("pid_dir: {at}"));
        let client = format!("url: http://127.0.0.1:8080/\nlogin: m1\npassword: {PASSWORD}\n");
        write(&folder.join("config.yaml"), &config)?;
        write(&folder.join("bouncer.yaml"), &bouncer)?;
        write(&folder.join("client.yaml"), &client)?;
        write(
            &folder.join("acquis.yaml"),
            &format!("filenames:\n  - {}\nlabels:\n  type: nginx\n", log.display()),
        )?;
        for name in ["simulation.yaml", "profiles.yaml"] {
            fs::copy(package.join("etc/crowdsec").join(name), folder.join(name))
                .context("could not copy a configuration")?;
        }
        let share = package.join("usr/share/crowdsec");
        for (from, to) in [
            (share.join("hub"), "hub"),
            (share.join("data"), "data"),
            (package.join("etc/crowdsec/patterns"), "patterns"),
        ] {
            command::run(&[
                "cp",
                "-r",
                from.to_str().context("could not use a path")?,
                folder.join(to).to_str().context("could not use a path")?,
            ])?;
        }
        // A scenario of the package asks for it by another name than the package gives it, and says so at every line without it.
        let data = folder.join("data");
        fs::copy(data.join("path_traversal.txt"), data.join("http_path_traversal.txt"))
            .context("could not copy a list")?;
        enable(folder, &package)
    }
}

/// Switches on what the package switches on after its installation, by the list in its own script.
fn enable(folder: &Path, package: &Path) -> Result<()> {
    let script = fs::read_to_string(package.join("control/postinst"))
        .context("could not read the package's script")?;
    let items =
        script.split("UPSTREAM_ITEMS=$(cat <<EOF\n").nth(1).and_then(|rest| rest.split("\nEOF").next());
    for item in items.context("could not find the list of collections in the package's script")?.lines() {
        // A vendor's folder is left out where it is in force.
        let mut parts: Vec<&str> = item.split('/').collect();
        ensure!(parts.len() >= 3, "could not understand {item} in the package's script");
        parts.remove(parts.len() - 2);
        let link = folder.join(parts.join("/"));
        link.parent().map_or(Ok(()), fs::create_dir_all)?;
        std::os::unix::fs::symlink(folder.join("hub").join(item), &link)
            .context("could not switch on a collection")?;
    }
    Ok(())
}

impl Peer for CrowdSec {
    fn name(&self) -> &'static str {
        "CrowdSec"
    }

    fn version(&self) -> Result<String> {
        let version = command::output(&[&Self::program("cscli")?, "version"])?;
        let text = String::from_utf8_lossy(&[version.stdout, version.stderr].concat()).into_owned();
        let line = text
            .lines()
            .find(|line| line.contains("version:"))
            .context("could not read a version: it says none")?;
        Ok(line.rsplit("version:").next().unwrap_or(line).trim().to_owned())
    }

    fn reader(&self, town: &Town, log: &Path) -> Result<Command> {
        let folder = town.folder.path().join("reader");
        Self::prepare(town, &folder, log)?;
        let mut command = Command::new(Self::program("crowdsec")?);
        command.arg("-c").arg(folder.join("config.yaml"));
        command.arg("-dsn").arg(format!("file://{}", log.display())).args(["-type", "nginx"]);
        Ok(command)
    }

    fn start(&mut self, town: &Town) -> Result<()> {
        let folder = Self::folder(town);
        if !folder.exists() {
            Self::prepare(town, &folder, &town.log)?;
            Self::cscli(town, &folder, &["bouncers", "add", "firewall", "-k", KEY])?;
        }
        let mut engine = Command::new(Self::program("crowdsec")?);
        engine.arg("-c").arg(folder.join("config.yaml"));
        let mut engine = Running::start(&town.server, &mut engine, &folder.join("engine.log"))?;
        wait::until("CrowdSec's API", PATIENCE, || {
            ensure!(
                !engine.has_ended(),
                "{}",
                fs::read_to_string(folder.join("engine.log")).unwrap_or_default()
            );
            let is_there =
                town.server.enter(|| std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, 8080)).is_ok());
            Ok(is_there.then_some(()))
        })?;
        self.engine = Some(engine);
        let mut bouncer = Command::new(Self::program("crowdsec-firewall-bouncer")?);
        bouncer.arg("-c").arg(folder.join("bouncer.yaml"));
        let mut bouncer = Running::start(&town.server, &mut bouncer, &folder.join("bouncer.log"))?;
        wait::until("the bouncer's table", PATIENCE, || {
            ensure!(
                !bouncer.has_ended(),
                "{}",
                fs::read_to_string(folder.join("bouncer.log")).unwrap_or_default()
            );
            Ok(town.server.run(&["nft", "list", "tables"])?.contains("crowdsec").then_some(()))
        })?;
        self.bouncer = Some(bouncer);
        Ok(())
    }

    fn ban(&mut self, town: &Town, count: u32, at_most: Duration) -> Result<u32> {
        let list = town.folder.path().join("list.csv");
        let decisions = banned(count).map(|address| format!("24h,Ip,{address}\n"));
        let text: String = ["duration,scope,value\n".to_owned()].into_iter().chain(decisions).collect();
        write(&list, &text)?;
        let began = Instant::now();
        let list = list.to_str().context("could not use the list's path")?;
        Self::cscli(town, &Self::folder(town), &["decisions", "import", "-i", list])?;
        loop {
            let set = town.server.run(&["nft", "list", "set", "ip", "crowdsec", "crowdsec-blacklists"])?;
            let held = set.matches("expires").count() as u32;
            if held >= count || began.elapsed() >= at_most {
                return Ok(held);
            }
            wait::sleep(Duration::from_millis(500))?;
        }
    }

    fn stop(&mut self, town: &Town) -> Result<()> {
        drop(self.bouncer.take());
        self.engine.take().map_or(Ok(()), |mut engine| engine.end("CrowdSec"))?;
        town.server.run(&["nft", "flush", "ruleset"]).map(drop)
    }
}

/// GoAccess, which reads logs and bans nobody.
pub(crate) struct GoAccess;

impl Peer for GoAccess {
    fn name(&self) -> &'static str {
        "GoAccess"
    }

    fn version(&self) -> Result<String> {
        first_line(&["goaccess", "--version"])
    }

    fn reader(&self, _town: &Town, log: &Path) -> Result<Command> {
        let mut command = Command::new("goaccess");
        command.arg(log).args(["--log-format=COMBINED", "--no-progress", "-o", "json"]).env("TERM", "dumb");
        Ok(command)
    }

    fn start(&mut self, _town: &Town) -> Result<()> {
        bail!("bans nobody")
    }

    fn ban(&mut self, _town: &Town, _count: u32, _at_most: Duration) -> Result<u32> {
        bail!("bans nobody")
    }

    fn stop(&mut self, _town: &Town) -> Result<()> {
        Ok(())
    }
}

/// xdp-filter, which drops whom it is told to and reads no log.
pub(crate) struct XdpFilter;

impl XdpFilter {
    /// In a file system of BPF programs of its own: it pins its maps below `/sys/fs/bpf`.
    fn script(town: &Town, script: &str) -> Result<String> {
        let script = format!("mount -t bpf bpf /sys/fs/bpf && {script}");
        town.server.run(&["unshare", "--mount", "sh", "-c", &script])
    }
}

impl Peer for XdpFilter {
    fn name(&self) -> &'static str {
        "xdp-filter"
    }

    fn version(&self) -> Result<String> {
        first_line(&["dpkg-query", "--show", "--showformat=${Version}", "xdp-tools"])
    }

    fn reader(&self, _town: &Town, _log: &Path) -> Result<Command> {
        bail!("reads no log")
    }

    fn start(&mut self, _town: &Town) -> Result<()> {
        Ok(())
    }

    fn ban(&mut self, town: &Town, count: u32, at_most: Duration) -> Result<u32> {
        let list = town.folder.path().join("list");
        write_list(&list, count)?;
        let until = crate::town::now() + at_most.as_secs() as i64;
        let script = format!(
            "xdp-filter load --policy allow --features ipv4 eth0 >&2 && n=0 && while read -r a; do \
             [ $(date +%s) -lt {until} ] && xdp-filter ip --mode src $a >&2 || break; n=$((n+1)); done < {} && echo $n",
            list.display()
        );
        let said = Self::script(town, &script)?;
        said.trim().parse().with_context(|| format!("could not understand {said:?}"))
    }

    fn stop(&mut self, town: &Town) -> Result<()> {
        town.server.run(&["ip", "link", "set", "eth0", "xdp", "off"]).map(drop)
    }
}
