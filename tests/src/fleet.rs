//! The machines of a fleet, for the lab and the benchmark: hosts with real agents, each a network namespace, and three
//! nats-servers between them with the permissions that `init fleet` writes.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use serde_json::Value;
use tempfile::TempDir;

use crate::agent::{Agent, Home};
use crate::lab::kernel;
use crate::netns::{End, Namespace, connect};
use crate::wait;

/// A real wait's deadline.
pub const PATIENCE: Duration = Duration::from_secs(60);
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

/// Hosts without agents at first, and running servers. Everything ends and is deleted when it is dropped.
pub struct Fleet {
    // Fields are dropped in order: agents and servers must end before their machines are deleted.
    /// `web-1` and so on.
    pub hosts: Vec<Host>,
    /// Those that were not taken out.
    pub servers: Vec<Server>,
    /// Where the servers run and all hosts are linked to.
    pub hub: Namespace,
    folder: TempDir,
}

/// A host with its agent.
pub struct Host {
    // Fields are dropped in order: the agent must end before its machine is deleted.
    /// `None` before it was started.
    pub agent: Option<Agent>,
    /// Its files.
    pub home: Home,
    /// Its machine.
    pub namespace: Namespace,
    /// Its name in the fleet.
    pub name: String,
    /// The hub's end of its link.
    pub uplink: String,
    /// The hub's address on that link, where the servers listen.
    pub gateway: IpAddr,
}

/// A nats-server of the cluster.
pub struct Server(Child);

impl Server {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Fleet {
    /// Makes the machines and their keys, and starts the servers.
    ///
    /// # Errors
    /// Fails without root, or where nats-server is missing.
    pub fn create(many: usize) -> Result<Fleet> {
        ensure!((2..=200).contains(&many), "could not make a fleet of {many}: write 2 to 200 hosts");
        let hub = Namespace::create("hub")?;
        hub.run(&["ip", "link", "set", "lo", "up"])?;
        let hosts = (0..many).map(|n| host(&hub, n)).collect::<Result<Vec<Host>>>()?;
        let folder = tempfile::tempdir().context("could not create a folder")?;
        let mut fleet = Fleet { hosts, servers: Vec::new(), hub, folder };
        fleet.make_keys()?;
        for n in 0..PORTS.len() {
            let server = fleet.start_server(n)?;
            fleet.servers.push(server);
        }
        Ok(fleet)
    }

    fn keys(&self) -> PathBuf {
        self.folder.path().join("keys")
    }

    fn make_keys(&self) -> Result<()> {
        let folder = self.keys().display().to_string();
        let names = self.hosts.iter().map(|host| host.name.as_str());
        let arguments: Vec<&str> = ["init", "fleet", "--folder", &folder].into_iter().chain(names).collect();
        self.hosts[0].home.command(&self.hub, &arguments).map(drop)
    }

    /// Starts a host's agent. `more` are further lines of its configuration's section `[fleet]` and further sections.
    ///
    /// # Errors
    /// Fails if it does not answer.
    pub fn start_agent(&mut self, n: usize, more: &str) -> Result<()> {
        let host = &self.hosts[n];
        let servers: Vec<String> =
            PORTS.iter().map(|(port, _)| format!("nats://{}:{port}", host.gateway)).collect();
        let fleet = format!(
            "[fleet]\nurl = \"{}\"\nname = \"{}\"\ncredentials_file = {:?}\n{more}",
            servers.join(","),
            host.name,
            self.keys().join(format!("{}.seed", host.name)),
        );
        self.hosts[n].start(&fleet)
    }

    /// Starts the server of this number.
    fn start_server(&self, n: usize) -> Result<Server> {
        let written = fs::read_to_string(self.keys().join("nats-server.conf"))
            .context("could not read the servers' configuration")?;
        let accounts =
            written.find("authorization").map(|at| &written[at..]).context("could not find the accounts")?;
        let routes: Vec<String> =
            PORTS.iter().map(|(_, port)| format!("\"nats://127.0.0.1:{port}\"")).collect();
        let (port, cluster_port) = PORTS[n];
        let folder = self.folder.path();
        let config = format!(
            "server_name: nats-{n}\nlisten: \"0.0.0.0:{port}\"\njetstream {{ store_dir: \"{}\" }}\ncluster {{ name: shield, \
             listen: \"127.0.0.1:{cluster_port}\", no_advertise: true, routes: [{}] }}\n{accounts}",
            folder.join(format!("store{n}")).display(),
            routes.join(", "),
        );
        let file = folder.join(format!("nats-{n}.conf"));
        fs::write(&file, config).context("could not write a server's configuration")?;
        let log =
            File::create(folder.join(format!("nats-{n}.log"))).context("could not make a server's log")?;
        let mut command = Command::new("nats-server");
        command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = self
            .hub
            .enter(|| command.spawn())
            .context("could not start nats-server: cargo xtask setup installs it")?;
        Ok(Server(process))
    }

    /// From an offence on one host to the drop on each of all, in the order of the drops.
    ///
    /// # Errors
    /// Fails if one of them does not drop the client.
    pub fn spread(&self, on: usize, client: Ipv4Addr) -> Result<Vec<Duration>> {
        let written = self.hosts[on].attack(client)?;
        let mut missing: Vec<&Host> = self.hosts.iter().filter(|host| host.agent.is_some()).collect();
        let mut taken = Vec::new();
        wait::until(&format!("{client} to be dropped on all"), PATIENCE, || {
            let before = std::mem::take(&mut missing);
            for host in before {
                match host.drops(client)? {
                    true => taken.push(written.elapsed()),
                    false => missing.push(host),
                }
            }
            Ok(missing.is_empty().then_some(()))
        })
        .with_context(|| format!("could not see it; the agents' logs:\n{}", self.logs()))?;
        Ok(taken)
    }

    fn logs(&self) -> String {
        let logs = self.hosts.iter().map(|host| format!("{}:\n{}", host.name, host.home.log()));
        logs.collect::<Vec<_>>().join("\n")
    }

    /// The last of [`Fleet::spread`], in milliseconds.
    ///
    /// # Errors
    /// As there.
    pub fn last_of_spread(&self, on: usize, client: Ipv4Addr) -> Result<u64> {
        let taken = self.spread(on, client)?;
        Ok(taken.last().context("could not find a running agent")?.as_millis() as u64)
    }
}

fn host(hub: &Namespace, n: usize) -> Result<Host> {
    let name = format!("web-{}", n + 1);
    let (namespace, home) = (Namespace::create(&name)?, Home::create()?);
    let uplink = format!("to{n}");
    let [a, b, c, d] = if n < 100 { [192, 0, 2, 2 * n as u8] } else { [198, 51, 100, 2 * (n - 100) as u8] };
    let (ours, theirs) = (format!("{a}.{b}.{c}.{d}/31"), format!("{a}.{b}.{c}.{}/31", d + 1));
    connect(
        End { namespace: hub, interface: &uplink, addresses: &[&ours] },
        End { namespace: &namespace, interface: "eth0", addresses: &[&theirs] },
    )?;
    namespace.run(&["ip", "link", "set", "lo", "up"])?;
    let gateway = IpAddr::from([a, b, c, d]);
    namespace.set_default_route(gateway)?;
    let host = Host { agent: None, home, namespace, name, uplink, gateway };
    fs::write(host.log(), "").context("could not make the log")?;
    Ok(host)
}

impl Host {
    fn log(&self) -> PathBuf {
        self.home.folder().join("access.log")
    }

    /// Starts its agent with these sections beside those of every host.
    ///
    /// # Errors
    /// Fails if it does not answer.
    pub fn start(&mut self, sections: &str) -> Result<()> {
        let more = format!(
            "[page]\nenabled = false\n[iptables]\nmode = \"off\"\n[xdp]\npin_dir = {:?}\ninterfaces = [\"eth0\"]\n{sections}",
            self.home.pins(),
        );
        self.home.configure(&self.log(), "", &more)?;
        self.agent = Some(Agent::start(&self.namespace, &self.home, &[])?);
        Ok(())
    }

    /// A client asks for what only attackers ask for.
    ///
    /// # Errors
    /// Fails if the log cannot be written.
    pub fn attack(&self, client: Ipv4Addr) -> Result<Instant> {
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

    /// Runs a command of the agent.
    ///
    /// # Errors
    /// Fails if the command does.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        self.home.command(&self.namespace, arguments)
    }

    /// The same with `--json`.
    ///
    /// # Errors
    /// Fails if the command does.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        self.home.json(&self.namespace, arguments)
    }

    /// Whether the kernel drops a client here.
    ///
    /// # Errors
    /// Fails if the map cannot be read.
    pub fn drops(&self, client: Ipv4Addr) -> Result<bool> {
        kernel::xdp_holds(&self.home.pins(), client.into())
    }

    /// Waits until the kernel drops a client, and returns when.
    ///
    /// # Errors
    /// Fails if it does not.
    pub fn await_drop(&self, client: Ipv4Addr) -> Result<Instant> {
        wait::until(&format!("{client} to be dropped on {}", self.name), PATIENCE, || {
            Ok(self.drops(client)?.then(Instant::now))
        })
        .with_context(|| format!("could not see it; the agent's log:\n{}", self.home.log()))
    }

    /// Waits until the kernel lets a client through.
    ///
    /// # Errors
    /// Fails if it does not.
    pub fn await_lift(&self, client: Ipv4Addr) -> Result<()> {
        wait::until(&format!("{client} to be let through on {}", self.name), PATIENCE, || {
            Ok((!self.drops(client)?).then_some(()))
        })
    }

    /// Waits until it has told everything.
    ///
    /// # Errors
    /// Fails if it does not.
    pub fn await_connected(&self) -> Result<()> {
        wait::until(&format!("{} to join the fleet", self.name), PATIENCE, || {
            let fleet = self.json(&["fleet"])?;
            Ok((fleet["connected"] == true && fleet["waiting"] == 0).then_some(()))
        })
        .with_context(|| format!("could not see it; the agent's log:\n{}", self.home.log()))
    }

    /// What it says of another host of the fleet.
    ///
    /// # Errors
    /// Fails if it never heard of that one.
    pub fn origin(&self, name: &str) -> Result<Value> {
        let fleet = self.json(&["fleet"])?;
        let origins = fleet["origins"].as_array().context("could not find the origins")?;
        let origin = origins.iter().find(|origin| origin["name"] == name);
        origin
            .cloned()
            .with_context(|| format!("could not find {name} among the origins of {}: {fleet}", self.name))
    }
}
