//! `shield-agent support`: one file with what somebody else needs to see to help, and nothing that is nobody's business.
//!
//! Every text goes through `redact`, one way in: [`Bundle::add`]. Never in it: the database, the page's token, the files that hold
//! URLs and tokens, nginx's configuration and its logs.

mod redact;

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::client::AgentClient;
use super::doctor::{self, LookArgs};
use super::print::{self, Colour};
use super::{Exit, check};
use crate::api::operation::Operation;
use crate::config::{Config, DEFAULT_PATH, UrlFrom};
use crate::crowdsec::machine::Machine;
use crate::notify::audit::files;
use crate::notify::secret;
use crate::text::support as text;
use crate::{clock, random};
use redact::{Addresses, Redactor};

#[derive(Debug, Clone, Args)]
pub(crate) struct SupportArgs {
    #[command(flatten)]
    look: LookArgs,
    /// The file to write; it must not exist
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What is done with public addresses
    #[arg(long, value_enum, default_value = "hash")]
    addresses: Addresses,
    /// Lines of the journal and of the audit log
    #[arg(long, value_name = "N", default_value_t = 500)]
    lines: usize,
}

/// The most bytes of a file that are looked at for its last lines.
const MAX_TAIL_BYTES: u64 = 4 << 20;
/// The most bytes that are kept of what a program printed.
const MAX_OUTPUT_BYTES: usize = 4 << 20;
const ANSWER: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: &SupportArgs, client: &AgentClient, socket: &Path) -> Result<Exit> {
    let now_ms = clock::now().wall_ms;
    let stamp: String =
        crate::text::utc(now_ms).chars().filter(|char| char.is_ascii_alphanumeric()).collect();
    let path = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("shield-support-{stamp}.tar.gz")));
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&path);
    let file =
        file.with_context(|| format!("could not write {}: name another file with --output", path.display()))?;
    let written = gather(args, client, socket).await.and_then(|bundle| bundle.write(&file, now_ms));
    if let Err(error) = written {
        // Half of it helps nobody.
        let _ = std::fs::remove_file(&path);
        return Err(error.context(format!("could not write {}", path.display())));
    }
    print::text(&text::written(&path, args.addresses == Addresses::Keep))?;
    Ok(Exit::Done)
}

async fn gather(args: &SupportArgs, client: &AgentClient, socket: &Path) -> Result<Bundle> {
    let config = args.look.config.load();
    let secrets = config.as_ref().map(secrets).unwrap_or_default();
    let redactor = Redactor::new(secrets, args.addresses, random::bytes()?);
    let mut bundle = Bundle { redactor, files: Vec::new() };
    bundle.add("README.txt", &text::read_me(env!("CARGO_PKG_VERSION")));
    bundle.add("versions.txt", &versions());
    bundle.add("doctor.txt", &doctor::Report::of(&args.look, client, socket).await.render(Colour::Off));
    let config_path = args.look.config.config.as_deref().unwrap_or(Path::new(DEFAULT_PATH));
    let as_written = tail(config_path, usize::MAX).unwrap_or_else(|error| format!("{error:#}\n"));
    bundle.add("shield.toml", &as_written);
    match &config {
        Ok(config) => {
            bundle.add("check.txt", &check::render_all(config, &check::logs::look(config)));
            bundle.add("audit.jsonl", &audit(&config.audit, args.lines));
        }
        Err(error) => bundle.add("check.txt", &format!("{error:#}\n")),
    }
    for (name, operation) in [("status.json", Operation::Status), ("allow.json", Operation::Allowlist)] {
        bundle.add(name, &answer(client, operation).await);
    }
    bundle.add("firewall.txt", &firewall());
    let lines = args.lines.to_string();
    let journal =
        ["journalctl", "-u", "shield", "-n", &lines, "--no-pager", "-o", "short-iso", "--no-hostname"];
    bundle.add("journal.txt", &output(&journal));
    Ok(bundle)
}

/// The files, redacted.
struct Bundle {
    redactor: Redactor,
    files: Vec<(&'static str, String)>,
}

impl Bundle {
    fn add(&mut self, name: &'static str, content: &str) {
        self.files.push((name, self.redactor.text(content)));
    }

    fn write(&self, file: &File, now_ms: i64) -> Result<()> {
        let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        for (name, content) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(u64::try_from(now_ms / 1000).unwrap_or(0));
            archive
                .append_data(&mut header, format!("shield-support/{name}"), content.as_bytes())
                .with_context(|| format!("could not add {name}"))?;
        }
        let packed = archive.into_inner().context("could not finish the archive")?;
        packed.finish().and_then(|mut file| file.flush()).context("could not finish the archive")
    }
}

/// Every secret that the configuration leads to, by value.
fn secrets(config: &Config) -> Vec<String> {
    let token = config.cloudflare.as_ref().map(|it| (&it.token, "token"));
    let urls = [&config.slack, &config.webhook].into_iter().flatten().map(|from| (from, "webhook URL"));
    let mut found = Vec::new();
    let fleet = config.fleet.iter().filter_map(|fleet| fleet.credentials.as_ref());
    let lists = config.blocklists.iter().filter_map(|list| list.credentials.as_ref());
    let crowdsec = config.crowdsec.iter().map(|crowdsec| &crowdsec.key);
    let logins = fleet.chain(lists).chain(crowdsec).map(|from| (from, "credentials"));
    // Keys of a list may be in its URL.
    found.extend(config.blocklists.iter().filter_map(|list| list.url.query().map(str::to_owned)));
    for (from, what) in urls.chain(token).chain(logins) {
        if let Ok(text) = secret::load_text(from, what) {
            found.push(text);
        }
        // The whole file: what stands below its first line is one as well.
        if let UrlFrom::File(path) = from
            && let Ok(text) = std::fs::read_to_string(path)
        {
            found.extend(text.lines().map(str::to_owned));
        }
    }
    let machine = config.crowdsec.as_ref().and_then(|crowdsec| crowdsec.machine.as_ref());
    if let Some(Ok(machine)) = machine.map(Machine::load) {
        found.extend([machine.expose().to_owned()]);
    }
    if let Some(cloudflare) = &config.cloudflare {
        found.extend([cloudflare.account.clone(), cloudflare.list.clone()]);
    }
    found.extend(std::fs::read_to_string(config.state_dir.join(crate::api::TOKEN_FILE)));
    found
}

fn versions() -> String {
    let mut out = format!("shield-agent {}\n", env!("CARGO_PKG_VERSION"));
    out.push_str(&std::fs::read_to_string("/etc/os-release").unwrap_or_default());
    // Without the host's name.
    for argv in [
        &["uname", "-srvm"][..],
        &["iptables", "-V"],
        &["ipset", "-v"],
        &["nft", "-v"],
        &["nginx", "-v"],
        &["systemctl", "--version"],
        &[
            "systemctl",
            "show",
            "shield",
            "--property=ActiveState,SubState,Result,NRestarts,UnitFileState,DropInPaths",
        ],
        &["ip", "-brief", "link"],
    ] {
        out.push_str(&format!("\n$ {}\n{}", argv.join(" "), output(argv)));
    }
    out
}

/// Shield's own rules and sets, and the jumps to them.
fn firewall() -> String {
    let mut out = String::new();
    for program in ["iptables-save", "ip6tables-save"] {
        let rules = output(&[program, "-c"]);
        let ours = rules.lines().filter(|line| line.contains("SHIELD") || line.starts_with("could not"));
        let places = rules.lines().filter(|line| line.contains("-A INPUT ")).count();
        out.push_str(&format!("$ {program} (Shield's own lines; INPUT has {places} rules)\n"));
        ours.for_each(|line| out.push_str(&format!("{line}\n")));
    }
    for argv in [
        &["ipset", "list", "-t"][..],
        &["nft", "list", "table", "ip", "shield"],
        &["nft", "list", "table", "ip6", "shield"],
    ] {
        let all = output(argv);
        out.push_str(&format!("$ {}\n", argv.join(" ")));
        let sets = all.split("\n\n").filter(|set| argv[0] == "nft" || set.contains("shield"));
        sets.for_each(|set| out.push_str(&format!("{set}\n")));
    }
    out
}

/// What a program prints, both ways, or why it could not be run.
fn output(argv: &[&str]) -> String {
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]).env("LC_ALL", "C").stdin(Stdio::null());
    match command.output() {
        Ok(done) => {
            let mut text = String::from_utf8_lossy(&done.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&done.stderr));
            if text.len() > MAX_OUTPUT_BYTES {
                let cut = (0..=MAX_OUTPUT_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
                text.truncate(cut);
                text.push('\n');
            }
            text
        }
        Err(error) => format!("could not start {}: {error}\n", argv[0]),
    }
}

async fn answer(client: &AgentClient, operation: Operation) -> String {
    let asked = client.get::<serde_json::Value>(operation, &[]);
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(Ok(mut value)) => {
            if let Some(name) = value.pointer_mut("/host/name") {
                *name = "[host]".into();
            }
            serde_json::to_string_pretty(&value).unwrap_or_default() + "\n"
        }
        Ok(Err(error)) => format!("{error}\n"),
        Err(_) => "no answer in time\n".to_owned(),
    }
}

fn audit(path: &Path, lines: usize) -> String {
    let files = files::family(path).unwrap_or_default();
    let newest = files.last().map_or(path, PathBuf::as_path);
    tail(newest, lines).unwrap_or_else(|error| format!("{error:#}\n"))
}

/// The last lines of a file.
fn tail(path: &Path, lines: usize) -> Result<String> {
    let mut bytes = Vec::new();
    let mut file = File::open(path).with_context(|| format!("could not open {}", path.display()))?;
    let len = file.metadata().with_context(|| format!("could not look at {}", path.display()))?.len();
    let from = len.saturating_sub(MAX_TAIL_BYTES);
    file.seek(SeekFrom::Start(from))
        .and_then(|_| file.take(MAX_TAIL_BYTES).read_to_end(&mut bytes))
        .with_context(|| format!("could not read {}", path.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    let mut all: Vec<&str> = text.lines().collect();
    // The first one is cut.
    if from > 0 && !all.is_empty() {
        all.remove(0);
    }
    Ok(all.split_off(all.len().saturating_sub(lines)).join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::Parser as _;
    use flate2::read::GzDecoder;

    use super::*;
    use crate::cli::client::Endpoint;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: SupportArgs,
    }

    const SLACK: &str = "https://hooks.slack.example/services/T0SECRET1/B0SECRET2/sEcReT3sEcReT3";
    const SECRETS: [&str; 12] = [
        "T0SECRET1",
        "sEcReT3",
        "below-the-url",
        "cf-tok-SECRET",
        "apitokenSECRET",
        "QUERYSECRET",
        "COMMENTSECRET",
        "bobby@mail.example",
        "PASSSECRET",
        "deadbeef",
        "LINESECRET",
        "JWTSECRET0JWTSECRET0JWTSECRET0",
    ];

    /// Writes secrets wherever one may stand, makes the file, and returns what is in it.
    async fn bundle(folder: &Path, addresses: &str) -> BTreeMap<String, String> {
        let file = |name: &str, content: &str| {
            let path = folder.join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let slack = file("slack", &format!("{SLACK}\nbelow-the-url\n"));
        let cloudflare = file("cf", "cf-tok-SECRET\n");
        file("api-token", "apitokenSECRETapitokenSECRET0123");
        let log = file("access.log", &"LINESECRET is no log line ?QUERYSECRET\n".repeat(30));
        let audit = file(
            "audit.jsonl",
            "{\"client\":\"203.0.113.66\",\"path\":\"/reset?key=QUERYSECRET\",\"reason\":\"bobby@mail.example\"}\n\
             {\"client\":\"2001:db8::66\",\"path\":\"/v/JWTSECRET0JWTSECRET0JWTSECRET0\",\"error\":\"to https://x.example/COMMENTSECRET\"}\n",
        );
        let text = format!(
            "# the old one: https://hooks.slack.example/services/COMMENTSECRET\n\
             # password = \"PASSSECRET\"\n\
             [agent]\nstate_dir = {folder:?}\n[[source]]\npath = {log:?}\n[audit]\npath = {audit:?}\n\
             [slack]\nurl_file = {slack:?}\n[allow]\nnetworks = [\"198.51.100.0/24\"]\n\
             [cloudflare]\naccount = \"deadbeefdeadbeefdeadbeefdeadbeef\"\nlist = \"0123456789abcdef0123456789abcdef\"\n\
             token_file = {cloudflare:?}\n"
        );
        let config = file("shield.toml", &text);
        let path = folder.join(format!("out-{addresses}.tar.gz"));
        let args = [
            "shield-agent",
            "--config",
            config.to_str().unwrap(),
            "--output",
            path.to_str().unwrap(),
            "--addresses",
            addresses,
            "--nginx",
            "/nonexistent/nginx",
        ];
        let args = Line::parse_from(args).args;
        let socket = folder.join("none.sock");
        let client = AgentClient::new(Endpoint::Unix(socket.clone()));
        assert_eq!(run(&args, &client, &socket).await.unwrap(), Exit::Done);
        let again = run(&args, &client, &socket).await.unwrap_err();
        assert!(format!("{again:#}").contains("--output"), "it wrote over a file: {again:#}");
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        let mut archive = tar::Archive::new(GzDecoder::new(File::open(&path).unwrap()));
        let read = |entry: std::io::Result<tar::Entry<'_, GzDecoder<File>>>| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            (name.replace("shield-support/", ""), content)
        };
        archive.entries().unwrap().map(read).collect()
    }

    #[tokio::test]
    async fn no_secret_is_in_the_file_and_what_helps_is() {
        let folder = tempfile::tempdir().unwrap();
        let files = bundle(folder.path(), "hash").await;
        for (name, content) in &files {
            for secret in SECRETS {
                assert!(!content.contains(secret), "{name} has {secret}:\n{content}");
            }
            for address in ["203.0.113.66", "2001:db8::66", "198.51.100.0"] {
                assert!(!content.contains(address), "{name} has {address}:\n{content}");
            }
        }
        let of =
            |name: &str| files.get(name).unwrap_or_else(|| panic!("{name} is missing: {:?}", files.keys()));
        assert!(of("shield.toml").contains("[cloudflare]") && of("shield.toml").contains("url_file = "));
        assert!(of("audit.jsonl").lines().count() == 2 && of("audit.jsonl").contains("\"client\":\"ip4-"));
        assert!(of("check.txt").contains("30 lines"), "{}", of("check.txt"));
        assert!(of("doctor.txt").contains("seen  ") && of("versions.txt").contains("uname"));
        assert!(of("README.txt").contains("Read it before you send it"), "{}", of("README.txt"));
        for name in ["status.json", "firewall.txt", "journal.txt"] {
            assert!(!of(name).is_empty(), "{name}");
        }
    }

    #[tokio::test]
    async fn addresses_stay_where_they_are_wanted_and_secrets_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let files = bundle(folder.path(), "keep").await;
        let whole: String = files.into_values().collect();
        assert!(whole.contains("203.0.113.66") && whole.contains("2001:db8::66"));
        for secret in SECRETS {
            assert!(!whole.contains(secret), "{secret}");
        }
    }
}
