//! CrowdSec itself, Debian's package, whose decisions the whole agent takes, in the sandbox of the shipped unit.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use shield_tests::agent::{Agent, Home};
use shield_tests::netns::Namespace;
use shield_tests::wait;

/// Decisions are asked for every 10 s, and after a failure later.
const PATIENCE: Duration = Duration::from_secs(90);
const KEY: &str = "a-bouncers-key";
/// Of the test's own network namespace.
const PORT: u16 = 8081;

/// Where the package is unpacked. Installing it would register this machine with CrowdSec's servers.
fn programs() -> Result<PathBuf> {
    // The tests run side by side, and each of them may be the first that needs it.
    static UNPACKING: Mutex<()> = Mutex::new(());
    let _unpacking = UNPACKING.lock().map_err(|_| anyhow!("another test could not unpack the package"))?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/crowdsec");
    let programs = folder.join("usr/bin");
    if !programs.join("cscli").exists() {
        fs::create_dir_all(&folder)?;
        let unpack = "apt-get download crowdsec && dpkg -x crowdsec_*.deb . && rm crowdsec_*.deb";
        let done = Command::new("sh").args(["-c", unpack]).current_dir(&folder).output()?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "could not get Debian's package crowdsec by apt-get download: {said}");
    }
    Ok(programs)
}

/// CrowdSec's local API, and nothing else of it.
struct Lapi<'a> {
    process: Child,
    folder: PathBuf,
    namespace: &'a Namespace,
}

impl<'a> Lapi<'a> {
    fn start(namespace: &'a Namespace, folder: PathBuf) -> Result<Lapi<'a>> {
        let at = folder.display();
        let config = format!(
            "common: {{daemonize: false, log_media: stdout, log_level: warning, working_dir: {at}}}\n\
             config_paths: {{config_dir: {at}, data_dir: {at}/data, hub_dir: {at}/hub, index_path: {at}/hub/.index.json, \
             simulation_path: {at}/simulation.yaml}}\n\
             crowdsec_service: {{acquisition_path: {at}/acquis.yaml}}\n\
             cscli: {{output: human}}\n\
             db_config: {{type: sqlite, log_level: warning, db_path: {at}/data/crowdsec.db}}\n\
             api:\n  client: {{credentials_path: {at}/client.yaml}}\n  server: {{enable: true, listen_uri: \
             \"127.0.0.1:{PORT}\", profiles_path: {at}/profiles.yaml}}\n\
             prometheus: {{enabled: false}}\n"
        );
        let client = format!("url: http://127.0.0.1:{PORT}/\nlogin: m1\npassword: a-machines-password\n");
        let profile = "name: default\nfilters:\n - Alert.Remediation == true\ndecisions:\n - type: ban\n   duration: 4h\n";
        fs::create_dir_all(folder.join("data"))?;
        fs::create_dir_all(folder.join("hub"))?;
        for (name, text) in [
            ("config.yaml", config.as_str()),
            ("client.yaml", client.as_str()),
            ("profiles.yaml", profile),
            ("simulation.yaml", "simulation: false\n"),
            ("hub/.index.json", "{}"),
            ("acquis.yaml", ""),
        ] {
            fs::write(folder.join(name), text)?;
        }
        let mut crowdsec = Command::new(programs()?.join("crowdsec"));
        crowdsec.arg("-c").arg(folder.join("config.yaml")).arg("-no-cs");
        crowdsec.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let cscli = |arguments: &[&str]| run_cscli(namespace, &folder, arguments);
        cscli(&["machines", "add", "m1", "--password", "a-machines-password", "-f", "/dev/null"])?;
        cscli(&["bouncers", "add", "shield", "-k", KEY])?;
        let process = namespace.enter(|| crowdsec.spawn()).context("could not start crowdsec")?;
        let lapi = Lapi { process, folder, namespace };
        wait::until("crowdsec to listen", PATIENCE, || {
            let is_there = namespace.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).is_ok());
            Ok(is_there.then_some(()))
        })?;
        Ok(lapi)
    }

    fn decisions(&self, arguments: &[&str]) {
        run_cscli(self.namespace, &self.folder, &[&["decisions"], arguments].concat()).unwrap();
    }

    /// The alerts with decisions of this origin, asked as another machine does: `cscli` of 1.4.6 leaves out other origins than its own.
    fn alerts_by(&self, origin: &str) -> Result<Vec<serde_json::Value>> {
        let at = format!("http://127.0.0.1:{PORT}/v1");
        let login = "{\"machine_id\":\"m1\",\"password\":\"a-machines-password\",\"scenarios\":[]}";
        let answer = self.curl(&[&format!("{at}/watchers/login"), "-d", login])?;
        let token = answer["token"].as_str().context("no token")?;
        let url = format!("{at}/alerts?origin={origin}&limit=0&include_capi=false");
        let alerts = self.curl(&["-H", &format!("Authorization: Bearer {token}"), &url])?;
        Ok(alerts.as_array().cloned().unwrap_or_default())
    }

    fn curl(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let mut curl = Command::new("curl");
        let done = self.namespace.enter(|| curl.args(["-sS", "--fail"]).args(arguments).output())?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        ensure!(done.status.success(), "curl: {}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_str(&text).context(text)
    }

    /// The scopes and values of what is in force of this origin. A prefix is no `Ip`: the source's scope says what it is.
    fn decided_by(&self, origin: &str) -> Result<Vec<String>> {
        let is_in_force = |alert: &&serde_json::Value| {
            let decisions = alert["decisions"].as_array();
            let left = |decision: &serde_json::Value| decision["duration"].as_str().map(str::to_owned);
            decisions.into_iter().flatten().filter_map(left).any(|left| !left.starts_with('-'))
        };
        let alerts = self.alerts_by(origin)?;
        let of = |alert: &serde_json::Value| {
            let word = |key: &str| alert["source"][key].as_str().unwrap_or_default().to_owned();
            format!("{} {}", word("scope"), word("value"))
        };
        let mut own: Vec<String> = alerts.iter().filter(is_in_force).map(of).collect();
        own.sort();
        Ok(own)
    }
}

impl Drop for Lapi<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run_cscli(namespace: &Namespace, folder: &Path, arguments: &[&str]) -> Result<()> {
    let mut cscli = Command::new(programs()?.join("cscli"));
    cscli.arg("-c").arg(folder.join("config.yaml")).args(arguments);
    let done = namespace.enter(|| cscli.output())?;
    ensure!(done.status.success(), "cscli {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// What the agent says of a part, and all of its log where it says nothing.
fn state_of(home: &Home, namespace: &Namespace, part: &str) -> Result<String> {
    let status = home.json(namespace, &["status"])?;
    let parts = status["parts"].as_array().context("no parts")?;
    Ok(parts.iter().find(|known| known["part"] == part).map_or_else(|| home.log(), ToString::to_string))
}

#[test]
fn the_agent_bans_what_crowdsec_decides_and_lets_go_what_it_takes_back() {
    let (server, home) = (Namespace::create("server").unwrap(), Home::create().unwrap());
    let lapi = Lapi::start(&server, home.folder().join("lapi")).unwrap();
    lapi.decisions(&["add", "--ip", "203.0.113.5", "--duration", "4h", "--reason", "scan"]);
    lapi.decisions(&["add", "--range", "198.51.100.0/24", "--duration", "24h"]);
    lapi.decisions(&["add", "--ip", "203.0.113.6", "--type", "captcha"]);
    lapi.decisions(&["add", "--ip", "192.0.2.10"]);

    let (log, key) = (home.folder().join("access.log"), home.folder().join("key"));
    fs::write(&log, "").unwrap();
    // Root's alone, as the documentation says.
    fs::write(&key, KEY).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let more = format!(
        "[xdp]\nmode = \"off\"\n[page]\nenabled = false\n[allow]\nnetworks = [\"192.0.2.10\"]\n\
         [crowdsec]\nurl = \"http://127.0.0.1:{PORT}\"\nkey_file = {key:?}\n"
    );
    home.configure(&log, "", &more).unwrap();
    let agent = Agent::start_in_unit(&server, &home, &[]).unwrap();
    let dropped = || -> Result<Vec<String>> {
        let page = home.json(&server, &["bans", "--all"])?;
        let bans = page["bans"].as_array().context("no list of bans")?;
        ensure!(bans.iter().all(|ban| ban["rule"] == "crowdsec"), "{page}");
        let mut clients: Vec<String> =
            bans.iter().filter_map(|ban| Some(ban["client"].as_str()?.to_owned())).collect();
        clients.sort();
        Ok(clients)
    };
    let until_dropped_are = |expected: &[&str]| {
        wait::until("the bans to be CrowdSec's decisions", PATIENCE, || {
            Ok((dropped()? == expected).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}: {:?}, not {expected:?}\n{}", dropped(), home.log()));
    };
    until_dropped_are(&["198.51.100.0/24", "203.0.113.5"]);
    let rules = server.enter(|| Command::new("iptables-save").output()).unwrap();
    let sets = server.enter(|| Command::new("ipset").arg("save").output()).unwrap();
    let kernel = [rules.stdout, sets.stdout].concat();
    assert!(String::from_utf8_lossy(&kernel).contains("203.0.113.5"), "in the kernel as well");

    lapi.decisions(&["delete", "--ip", "203.0.113.5"]);
    lapi.decisions(&["add", "--ip", "203.0.113.9"]);
    until_dropped_are(&["198.51.100.0/24", "203.0.113.9"]);

    // Another bouncer's key: said with what to do, and what is in force stays.
    fs::write(&key, "wrong").unwrap();
    wait::until("the refusal to be a state", PATIENCE, || {
        let status = home.json(&server, &["status"])?;
        let parts = status["parts"].as_array().context("no parts")?;
        let part = parts.iter().find(|part| part["part"] == "crowdsec").context("no part crowdsec")?;
        let text = part["text"].as_str().unwrap_or_default();
        let is_said =
            part["state"] == "degraded" && text.contains("403") && text.contains("cscli bouncers add");
        Ok(is_said.then_some(()))
    })
    .unwrap();
    assert_eq!(dropped().unwrap(), ["198.51.100.0/24", "203.0.113.9"]);
    assert!(agent.stop().unwrap().success());
}

/// The other direction, and the switching on and off of both by a reload.
#[test]
fn crowdsec_is_told_of_the_agents_bans_and_of_their_end() {
    let (server, home) = (Namespace::create("server").unwrap(), Home::create().unwrap());
    let lapi = Lapi::start(&server, home.folder().join("lapi")).unwrap();
    let (log, key) = (home.folder().join("access.log"), home.folder().join("key"));
    let machine = home.folder().join("machine.yaml");
    fs::write(&log, "").unwrap();
    fs::write(&key, KEY).unwrap();
    let added = ["machines", "add", "web-1", "--auto", "-f", machine.to_str().unwrap()];
    run_cscli(&server, &lapi.folder, &added).unwrap();
    for file in [&key, &machine] {
        fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
    }
    let password = fs::read_to_string(&machine).unwrap();
    let password = password.lines().find_map(|line| line.strip_prefix("password: ")).unwrap().to_owned();
    let off = "[xdp]\nmode = \"off\"\n[page]\nenabled = false\n";
    let bouncer =
        format!("{off}[crowdsec]\nurl = \"http://127.0.0.1:{PORT}\"\nkey_file = {key:?}\npoll = \"1s\"\n");
    let both = format!("{bouncer}machine_file = {machine:?}\n");
    lapi.decisions(&["add", "--ip", "203.0.113.9", "--duration", "4h"]);

    home.configure(&log, "", off).unwrap();
    let agent = Agent::start_in_unit(&server, &home, &[]).unwrap();
    let shield = |words: &[&str]| home.command(&server, words).unwrap();
    shield(&["ban", "203.0.113.5", "2001:db8:1::/64", "--for", "1h"]);
    home.configure(&log, "", &both).unwrap();
    shield(&["reload"]);
    let until_told = |expected: &[&str]| {
        let told = || lapi.decided_by("shield:web-1");
        wait::until("CrowdSec to know the bans", PATIENCE, || Ok((told()? == expected).then_some(())))
            .unwrap_or_else(|error| {
                let (alerts, decisions) =
                    (state_of(&home, &server, "crowdsec alerts"), state_of(&home, &server, "crowdsec"));
                panic!(
                    "{error:#}: {:?}, not {expected:?}\n{alerts:?}\n{decisions:?}\n{}",
                    told(),
                    home.log()
                );
            });
    };
    until_told(&["Ip 203.0.113.5", "Range 2001:db8:1::/64"]);
    // What CrowdSec itself decided is banned here and is not sent back.
    let is_banned = |client: &str| -> Result<bool> {
        let page = home.json(&server, &["bans", "--all"])?;
        Ok(page["bans"].as_array().context("no list of bans")?.iter().any(|ban| ban["client"] == client))
    };
    wait::until("CrowdSec's decision", PATIENCE, || Ok(is_banned("203.0.113.9")?.then_some(()))).unwrap();
    shield(&["ban", "203.0.113.7", "--for", "1h"]);
    until_told(&["Ip 203.0.113.5", "Ip 203.0.113.7", "Range 2001:db8:1::/64"]);
    // A prefix's decision is a range to others.
    shield(&["unban", "203.0.113.5"]);
    shield(&["unban", "2001:db8:1::/64"]);
    until_told(&["Ip 203.0.113.7"]);
    // Its own decisions confirm nothing: the ban here is the operator's alone.
    let explained = shield(&["explain", "203.0.113.7"]);
    assert!(!explained.contains("CrowdSec"), "{explained}");
    let state = state_of(&home, &server, "crowdsec alerts").unwrap();
    assert!(state.contains("1 ban of this host's told") && state.contains("no allowlists to ask"), "{state}");

    // A start asks what is told already, and tells nothing twice.
    assert!(agent.stop().unwrap().success());
    let agent = Agent::start_in_unit(&server, &home, &[]).unwrap();
    shield(&["ban", "203.0.113.8", "--for", "1h"]);
    until_told(&["Ip 203.0.113.7", "Ip 203.0.113.8"]);
    let alerts = lapi.alerts_by("shield:web-1").unwrap();
    let once = alerts.iter().filter(|alert| alert["source"]["value"] == "203.0.113.7").count();
    assert_eq!(once, 1, "{alerts:?}");

    // Switched off: what CrowdSec wanted is let go, what is the agent's own stays on both sides.
    home.configure(&log, "", off).unwrap();
    shield(&["reload"]);
    wait::until("CrowdSec's decision to be let go", PATIENCE, || {
        Ok((!is_banned("203.0.113.9")?).then_some(()))
    })
    .unwrap();
    assert!(is_banned("203.0.113.7").unwrap());
    until_told(&["Ip 203.0.113.7", "Ip 203.0.113.8"]);
    assert!(!home.log().contains(&password), "the password is nobody's to read");
    assert!(agent.stop().unwrap().success());
}
