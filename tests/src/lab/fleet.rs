//! The story of `--fleet N`: hosts with real agents, each a network namespace, and three nats-servers between them.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::kernel;
use super::narrator::Narrator;
use crate::agent::{Agent, Home};
use crate::netns::{End, Namespace, connect};
use crate::wait;

const PATIENCE: Duration = Duration::from_secs(60);
/// Bans of which the times are measured.
const ATTACKERS: u8 = 10;
/// The servers' ports for clients and for each other.
const PORTS: [(u16, u16); 3] = [(4222, 6222), (4223, 6223), (4224, 6224)];
const PROBES: [&str; 12] = [
    "/.env",
    "/.git/config",
    "/wp-config.php.bak",
    "/.aws/credentials",
    "/phpmyadmin/index.php",
    "/backup.sql",
    "/.svn/entries",
    "/id_rsa",
    "/server-status",
    "/.htpasswd",
    "/dump.sql",
    "/config.json.old",
];

/// All measurements. `None` stands for steps that were not reached.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// All steps succeeded.
    pub ok: bool,
    /// The step that failed, and its error.
    pub failed: Option<String>,
    /// From the first machine to the last check, in seconds.
    pub took_secs: f64,
    /// How many hosts took part.
    pub hosts: usize,
    /// From the offending line's write on one host to the entry in the XDP map of the last host, in milliseconds, sorted.
    pub spread_ms: Vec<u64>,
    /// The same with one server of three killed.
    pub spread_without_a_server_ms: Option<u64>,
    /// From the end of a partition to the ban that was missed, in milliseconds.
    pub caught_up_ms: Option<u64>,
}

/// Runs the whole story on machines of its own, which are gone afterwards.
pub fn run(narrator: &mut Narrator, hosts: usize) -> Report {
    let started = Instant::now();
    let mut report = Report { hosts, ..Report::default() };
    let told = run_steps(narrator, hosts, &mut report);
    report.failed = narrator.ended(told);
    report.ok = report.failed.is_none();
    report.took_secs = started.elapsed().as_secs_f64();
    report
}

/// A host with its agent.
struct Host {
    // Fields are dropped in order: the agent must end before its machine is deleted.
    agent: Option<Agent>,
    home: Home,
    namespace: Namespace,
    name: String,
    /// The hub's end of its link.
    uplink: String,
}

impl Host {
    fn log(&self) -> std::path::PathBuf {
        self.home.folder().join("access.log")
    }

    /// A client asks for what only attackers ask for.
    fn attack(&self, client: &str) -> Result<Instant> {
        let mut lines = String::new();
        let now = Timestamp::now();
        for path in PROBES {
            lines.push_str(&format!(
                "{{\"source_ip\":\"{client}\",\"timestamp\":\"{now}\",\"method\":\"GET\",\"path\":\"{path}\",\"status\":404,\
                 \"response_size\":150}}\n"
            ));
        }
        let mut log = File::options().append(true).open(self.log()).context("could not open the log")?;
        log.write_all(lines.as_bytes()).context("could not write the log")?;
        Ok(Instant::now())
    }

    fn json(&self, arguments: &[&str]) -> Result<Value> {
        self.home.json(&self.namespace, arguments)
    }

    fn drops(&self, client: &str) -> Result<bool> {
        kernel::xdp_holds(&self.home.pins(), client.parse::<IpAddr>()?)
    }

    fn await_drop(&self, client: &str) -> Result<Instant> {
        wait::until(&format!("{client} to be dropped on {}", self.name), PATIENCE, || {
            Ok(self.drops(client)?.then(Instant::now))
        })
        .with_context(|| format!("could not see it; the agent's log:\n{}", self.home.log()))
    }

    fn await_lift(&self, client: &str) -> Result<()> {
        wait::until(&format!("{client} to be let through on {}", self.name), PATIENCE, || {
            Ok((!self.drops(client)?).then_some(()))
        })
    }

    fn await_connected(&self) -> Result<()> {
        wait::until(&format!("{} to join the fleet", self.name), PATIENCE, || {
            let fleet = self.json(&["fleet"])?;
            Ok((fleet["connected"] == true && fleet["waiting"] == 0).then_some(()))
        })
        .with_context(|| format!("could not see it; the agent's log:\n{}", self.home.log()))
    }
}

/// A nats-server of the cluster.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run_steps(narrator: &mut Narrator, many: usize, report: &mut Report) -> Result<()> {
    ensure!((3..=200).contains(&many), "could not make a fleet of {many}: write 3 to 200 hosts");
    narrator.heading("The machines (network namespaces, deleted at the end)");
    let hub = Namespace::create("hub")?;
    hub.run(&["ip", "link", "set", "lo", "up"])?;
    let folder = tempfile::tempdir().context("could not create a folder")?;
    let names: Vec<String> = (1..=many).map(|n| format!("web-{n}")).collect();
    let mut hosts = Vec::new();
    for (n, name) in names.iter().enumerate() {
        let (namespace, home) = (Namespace::create(name)?, Home::create()?);
        let uplink = format!("to{n}");
        let ours = format!("192.0.2.{}/31", 2 * n);
        let theirs = format!("192.0.2.{}/31", 2 * n + 1);
        let (ours, theirs) = if n < 100 {
            (ours, theirs)
        } else {
            (format!("198.51.100.{}/31", 2 * (n - 100)), format!("198.51.100.{}/31", 2 * (n - 100) + 1))
        };
        connect(
            End { namespace: &hub, interface: &uplink, addresses: &[&ours] },
            End { namespace: &namespace, interface: "eth0", addresses: &[&theirs] },
        )?;
        namespace.run(&["ip", "link", "set", "lo", "up"])?;
        let gateway = ours.trim_end_matches("/31").parse()?;
        namespace.set_default_route(gateway)?;
        hosts.push((Host { agent: None, home, namespace, name: name.clone(), uplink }, gateway));
    }
    let arguments: Vec<&str> = names.iter().map(String::as_str).collect();
    let keys = folder.path().join("keys");
    let shown = keys.display().to_string();
    hosts[0].0.home.command(&hub, &[&["init", "fleet", "--folder", &shown], &arguments[..]].concat())?;
    let config = fs::read_to_string(keys.join("nats-server.conf"))
        .context("could not read the servers' configuration")?;
    let accounts =
        config.find("authorization").map(|at| &config[at..]).context("could not find the accounts")?;
    let mut servers = Vec::new();
    for (n, (port, cluster_port)) in PORTS.into_iter().enumerate() {
        servers.push(start_server(&hub, folder.path(), n, port, cluster_port, accounts)?);
    }
    narrator.step(format_args!(
        "{many} hosts, and three nats-servers with the permissions that `init fleet` writes"
    ));
    let mut started = Vec::new();
    for (mut host, gateway) in hosts {
        fs::write(host.log(), "").context("could not make the log")?;
        start_agent(&mut host, gateway, &keys, if started.len() == 1 { "203.0.113.77" } else { "" })?;
        started.push(host);
    }
    let mut hosts = started;
    for host in &hosts {
        host.await_connected()?;
    }
    narrator.step("every agent has joined");

    narrator.heading("Banned on one, dropped on all");
    for n in 0..ATTACKERS {
        let client = format!("203.0.113.{}", 100 + n);
        let spread = spread(&hosts, usize::from(n) % hosts.len(), &client)?;
        report.spread_ms.push(spread);
    }
    report.spread_ms.sort_unstable();
    narrator.step(format_args!(
        "from the offending line on one to the XDP entry on the last of {many}: {:?} ms",
        report.spread_ms
    ));
    let who = hosts[2].json(&["bans"])?;
    let reason = who["bans"][0]["reason"].as_str().unwrap_or_default().to_owned();
    ensure!(who["bans"].to_string().contains("banned by web-1"), "no ban says that web-1 made it: {who}");
    narrator.note(reason);

    narrator.heading("A veto");
    hosts[0].home.command(&hosts[0].namespace, &["ban", "203.0.113.77", "--for", "10m"])?;
    hosts[2].await_drop("203.0.113.77")?;
    ensure!(!hosts[1].drops("203.0.113.77")?, "an allowed client is dropped on web-2");
    narrator.step("web-2 allows 203.0.113.77 and does not drop it, the others do");

    narrator.heading("A partition");
    let last = hosts.len() - 1;
    hub.run(&["ip", "link", "set", &hosts[last].uplink, "down"])?;
    hosts[0].attack("203.0.113.200")?;
    hosts[1].await_drop("203.0.113.200")?;
    ensure!(!hosts[last].drops("203.0.113.200")?, "a ban crossed a cut");
    hub.run(&["ip", "link", "set", &hosts[last].uplink, "up"])?;
    let (gateway, namespace) = (gateway_of(last), &hosts[last].namespace);
    // The route went with the link.
    namespace.set_default_route(gateway).ok();
    let healed = Instant::now();
    let caught_up = hosts[last].await_drop("203.0.113.200")?.duration_since(healed);
    report.caught_up_ms = Some(caught_up.as_millis() as u64);
    narrator.step(format_args!(
        "{} was cut off; {} ms after the cut it drops who was banned meanwhile",
        hosts[last].name,
        caught_up.as_millis()
    ));

    narrator.heading("One server of three is killed, one agent is started again");
    servers.pop();
    let spread = spread(&hosts, 0, "203.0.113.201")?;
    report.spread_without_a_server_ms = Some(spread);
    narrator.step(format_args!("a ban is on all after {spread} ms"));
    hosts[1].agent.take().context("could not find an agent")?.stop()?;
    hosts[1].agent = Some(Agent::start(&hosts[1].namespace, &hosts[1].home, &[])?);
    ensure!(hosts[1].drops("203.0.113.201")?, "a restart lost a ban of another host");
    narrator.step("bans of other hosts outlive a restart");

    narrator.heading("An unban, and a host that is not believed any more");
    hosts[2].home.command(&hosts[2].namespace, &["unban", "203.0.113.201", "--reason", "a customer"])?;
    for host in &hosts {
        host.await_lift("203.0.113.201")?;
    }
    narrator.step("unbanned on web-3, let through on all");
    hosts[2].home.command(&hosts[2].namespace, &["fleet", "forget", "web-1"])?;
    hosts[2].await_lift("203.0.113.200")?;
    ensure!(hosts[0].drops("203.0.113.200")?, "forgetting a host lifted its own ban");
    narrator.step("web-3 forgot web-1: what web-1 alone wanted is let through on web-3, and nowhere else");
    Ok(())
}

/// From an offence on one host to the drop on the last of all.
fn spread(hosts: &[Host], on: usize, client: &str) -> Result<u64> {
    let written = hosts[on].attack(client)?;
    let mut last = written;
    for host in hosts {
        last = last.max(host.await_drop(client)?);
    }
    Ok(last.duration_since(written).as_millis() as u64)
}

fn gateway_of(n: usize) -> IpAddr {
    let v4 = if n < 100 { [192, 0, 2, 2 * n as u8] } else { [198, 51, 100, 2 * (n - 100) as u8] };
    IpAddr::from(v4)
}

fn start_agent(host: &mut Host, gateway: IpAddr, keys: &std::path::Path, allowed: &str) -> Result<()> {
    let servers: Vec<String> = PORTS.iter().map(|(port, _)| format!("nats://{gateway}:{port}")).collect();
    let allow =
        if allowed.is_empty() { String::new() } else { format!("[allow]\nnetworks = [\"{allowed}/32\"]\n") };
    let more = format!(
        "[page]\nenabled = false\n[iptables]\nmode = \"off\"\n[xdp]\npin_dir = {:?}\ninterfaces = [\"eth0\"]\n{allow}[fleet]\nurl = \
         \"{}\"\nname = \"{}\"\ncredentials_file = {:?}\n",
        host.home.pins(),
        servers.join(","),
        host.name,
        keys.join(format!("{}.seed", host.name)),
    );
    host.home.configure(&host.log(), "", &more)?;
    host.agent = Some(Agent::start(&host.namespace, &host.home, &[])?);
    Ok(())
}

fn start_server(
    hub: &Namespace,
    folder: &std::path::Path,
    n: usize,
    port: u16,
    cluster_port: u16,
    accounts: &str,
) -> Result<Server> {
    let routes: Vec<String> = PORTS.iter().map(|(_, port)| format!("\"nats://127.0.0.1:{port}\"")).collect();
    let config = format!(
        "server_name: nats-{n}\nlisten: \"0.0.0.0:{port}\"\njetstream {{ store_dir: \"{}\" }}\ncluster {{ name: shield, listen: \
         \"127.0.0.1:{cluster_port}\", no_advertise: true, routes: [{}] }}\n{accounts}",
        folder.join(format!("store{n}")).display(),
        routes.join(", "),
    );
    let file = folder.join(format!("nats-{n}.conf"));
    fs::write(&file, config).context("could not write a server's configuration")?;
    let log = File::create(folder.join(format!("nats-{n}.log"))).context("could not make a server's log")?;
    let mut command = Command::new("nats-server");
    command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let process = hub
        .enter(|| command.spawn())
        .context("could not start nats-server: cargo xtask setup installs it")?;
    Ok(Server(process))
}
