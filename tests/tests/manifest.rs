//! The files that `shield-agent generate` writes, each read by the program that it is for; and `--check`, as a CI job runs it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use shield_tests::agent;
use tempfile::TempDir;

/// With everything that is generated, and names that need quoting.
const MANIFEST: &str = r#"
[agent]
state_dir = "/srv/shield 100%/it's \"state\""
socket = "/srv/shield $x/control.sock"
[[source]]
path = "LOGS/my site;1.log"
[[source]]
path = "/var/log/nginx/*.access.log"
[[source]]
path = "/home/anna/logs/a.log"
[[source]]
syslog = "/run/shield/nginx.sock"
[[site]]
host = "shop.example.org"
[allow]
trusted_proxies = ["192.0.2.0/24", "2001:db8::/48"]
[nginx]
mode = "on"
[page]
listen = "192.0.2.1:80"
[audit]
path = "/srv/my audit/a.jsonl"
[slack]
url_credential = "slack"
"#;

struct Made {
    folder: TempDir,
}

impl Made {
    fn new(manifest: &str) -> Made {
        let folder = tempfile::tempdir().unwrap();
        let logs = folder.path().join("logs");
        fs::create_dir(&logs).unwrap();
        let text = manifest.replace("LOGS", logs.to_str().unwrap());
        fs::write(folder.path().join("shield.toml"), text).unwrap();
        Made { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("generated").join(name)
    }

    fn generate(&self, more: &[&str]) -> Output {
        let mut agent = Command::new(agent::binary().unwrap());
        agent.arg("generate").args(more).arg("--config").arg(self.folder.path().join("shield.toml"));
        agent.output().unwrap()
    }

    fn written(manifest: &str) -> Made {
        let made = Made::new(manifest);
        let output = made.generate(&[]);
        assert!(output.status.success(), "{}", said(&output));
        made
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn run(program: &str, package: &str, arguments: &[&Path]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C");
    command.output().unwrap_or_else(|error| panic!("{program} is needed (package {package}): {error}"))
}

/// nginx tests its configuration with all four files where their comments say.
fn nginx_takes(made: &Made) -> Output {
    let path = |name: &str| made.path(&format!("nginx/{name}")).display().to_string();
    let conf = made.folder.path().join("nginx.conf");
    let text = format!(
        "pid {folder}/nginx.pid;\nerror_log {folder}/error.log;\nevents {{}}\nhttp {{\n include {};\n include {};\n include {};\n \
         server {{ listen 127.0.0.1:59999; include {}; }}\n}}\n",
        path("shield-http.conf"),
        path("shield-realip.conf"),
        path("shield-log.conf"),
        path("shield-server.conf"),
        folder = made.folder.path().display(),
    );
    fs::write(&conf, text).unwrap();
    run("nginx", "nginx", &[Path::new("-t"), Path::new("-c"), &conf])
}

#[test]
fn nginx_reads_its_part() {
    // nginx opens the logs that it would write.
    let manifest = MANIFEST.replace("[[source]]\npath = \"/home/anna/logs/a.log\"\n", "");
    for manifest in [manifest.as_str(), "[[source]]\npath = \"LOGS/a.log\"\n"] {
        let made = Made::written(manifest);
        let output = nginx_takes(&made);
        assert!(output.status.success(), "{}", said(&output));
    }
    let made = Made::written(&manifest);
    assert!(nginx_takes(&made).status.success());
    assert!(made.folder.path().join("logs/my site;1.log").exists(), "the name arrived whole");
}

#[test]
fn prometheus_reads_its_part() {
    for manifest in [MANIFEST, "", "[page]\nenabled = false\n"] {
        let made = Made::written(manifest);
        for (what, file) in [("config", "prometheus.yml"), ("rules", "shield.rules.yml")] {
            let file = made.path(&format!("prometheus/{file}"));
            let mut promtool = Command::new("promtool");
            // The token's file is not on this machine.
            promtool.args(["check", what]).args((what == "config").then_some("--syntax-only")).arg(file);
            let output = promtool.output().expect("promtool is needed (package prometheus)");
            assert!(output.status.success(), "{}", said(&output));
        }
    }
}

#[test]
fn systemd_reads_its_part() {
    let made = Made::written(MANIFEST);
    let units = made.folder.path().join("units");
    let drop_ins = units.join("shield.service.d");
    fs::create_dir_all(&drop_ins).unwrap();
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/shield.service");
    let unit = fs::read_to_string(unit).unwrap().replace("/usr/bin/shield-agent", "/bin/true");
    fs::write(units.join("shield.service"), unit).unwrap();
    let generated = fs::read_to_string(made.path("systemd/shield.service.d/manifest.conf")).unwrap();
    let complaints = |text: &str| {
        fs::write(drop_ins.join("manifest.conf"), text).unwrap();
        let unit = units.join("shield.service");
        said(&run("systemd-analyze", "systemd", &[Path::new("verify"), Path::new("--man=no"), &unit]))
    };
    let found = complaints(&generated);
    assert!(!found.contains("manifest.conf"), "{found}\n{generated}");
    let found = complaints(&generated.replace("ReadWritePaths=\"", "ReadWritePaths=relative\""));
    assert!(found.contains("manifest.conf"), "the drop-in is read at all: {found}");
}

#[test]
fn logrotate_reads_its_part() {
    let made = Made::written(MANIFEST);
    let output = run("logrotate", "logrotate", &[Path::new("-d"), &made.path("logrotate/shield")]);
    let said = said(&output);
    assert!(output.status.success() && said.contains("/srv/my audit/a.jsonl"), "{said}");
    assert!(!said.contains("error:"), "{said}");
}

#[test]
fn a_ci_job_finds_what_was_edited_or_is_old() {
    let made = Made::written(MANIFEST);
    assert!(made.generate(&["--check"]).status.success());
    fs::remove_dir_all(made.path("")).unwrap();
    let output = made.generate(&["--check"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("is missing"), "{}", said(&output));
    assert!(!made.path("").exists(), "--check wrote something");
    assert!(made.generate(&[]).status.success());
    assert!(made.generate(&["--check"]).status.success());

    let log = made.path("nginx/shield-log.conf");
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, text.replace(" shield;", " combined;")).unwrap();
    let output = made.generate(&["--check"]);
    assert_eq!(output.status.code(), Some(1));
    let shown = said(&output);
    assert!(shown.contains("was edited by hand") && shown.contains("combined;"), "{shown}");

    fs::write(&log, "access_log off;\n").unwrap();
    let output = made.generate(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("shield-log.conf was not generated"), "{}", said(&output));
    assert_eq!(fs::read_to_string(&log).unwrap(), "access_log off;\n");
}
