//! The front nginx: one address on this host's loopback for all environments, each by its own name, `ID.localhost`, and a file of
//! its own in `conf.d`. Everything else is answered with 404. It is an nginx of its own and never the host's.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::environment::{Environment, Keeper, MARKER, started};
use crate::state::State;
use crate::wire::Request;
use crate::{command, launch};

/// Where it listens unless told otherwise.
pub const PORT: u16 = 8089;
/// What its marker says: an id that no environment can have.
const ID: &str = "FRONT";
/// What is answered for every other name.
const UNKNOWN: &str = "there is no such environment";
const PATIENCE: Duration = Duration::from_secs(10);

/// The running front nginx.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Front {
    /// Its port on 127.0.0.1.
    pub port: u16,
    master: Keeper,
}

impl Front {
    /// The one that runs, if one does.
    pub fn of(state: &State) -> Option<Self> {
        let text = fs::read(folder(state).join("front.json")).ok()?;
        let front: Self = serde_json::from_slice(&text).ok()?;
        front.master.is_alive().then_some(front)
    }

    /// The address of an environment for a browser.
    pub fn url(self, id: &str) -> String {
        format!("http://{id}.localhost:{}/", self.port)
    }

    fn workers(self) -> Vec<u32> {
        let path = format!("/proc/{pid}/task/{pid}/children", pid = self.master.pid);
        let children = fs::read_to_string(path).unwrap_or_default();
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Reloads, and waits until the environment is known, or is no longer; `false` if nginx does not take its configuration. A
    /// reload takes effect a moment after its signal, and the workers before it accept connections until they are told to shut
    /// down.
    fn reload(self, id: &str, should_be_known: bool) -> Result<bool> {
        let old = self.workers();
        self.signal(Signal::SIGHUP)?;
        let accepts = |pid: &u32| {
            let title = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            title.contains("worker") && !title.contains("shutting down")
        };
        let host = format!("{id}.localhost");
        let request = Request { host: &host, ..Request::get("/") };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = request.send(SocketAddr::from(([127, 0, 0, 1], self.port)), None, PATIENCE);
            let is_known = answer.is_ok_and(|answer| answer.body != UNKNOWN.as_bytes());
            if is_known == should_be_known && !old.iter().any(accepts) {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.master.pid).context("could not use the front nginx's process id")?;
        kill(Pid::from_raw(pid), signal).context("could not signal the front nginx")
    }
}

/// Starts it without any environment.
///
/// # Errors
/// Fails if nginx is not installed, or if the port is taken.
pub fn start(state: &State, port: u16) -> Result<Front> {
    stop(state)?;
    let folder = folder(state);
    let sites = folder.join("conf.d");
    let _ = fs::remove_dir_all(&sites);
    fs::create_dir_all(&sites).with_context(|| format!("could not create {}", sites.display()))?;
    let config = folder.join("nginx.conf");
    fs::write(&config, configuration(&folder.to_string_lossy(), port))
        .with_context(|| format!("could not write {}", config.display()))?;
    let pid_file = folder.join("nginx.pid");
    let _ = fs::remove_file(&pid_file);
    let errors = folder.join("error.log");
    let log = File::create(&errors).with_context(|| format!("could not write {}", errors.display()))?;
    let mut nginx = Command::new("nginx");
    nginx.arg("-c").arg(&config).arg("-e").arg(&errors).env(MARKER, ID).process_group(0);
    nginx.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let child = nginx.spawn().context("could not start the front nginx (is nginx installed?)")?;
    let pid = child.id();
    let started = started(pid).context("could not start the front nginx: it ended at once")?;
    let front = Front { port, master: Keeper { pid, started } };
    launch::reap(child);
    write(state, &front)?;
    let deadline = Instant::now() + PATIENCE;
    // It writes the file once it listens.
    while !fs::read_to_string(&pid_file).is_ok_and(|text| text.ends_with('\n')) {
        if Front::of(state).is_none() || Instant::now() >= deadline {
            let said = fs::read_to_string(&errors).unwrap_or_default();
            bail!("could not start the front nginx on port {port}: {}", said.trim());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(front)
}

/// Ends the one that a service started, also one that was killed.
///
/// # Errors
/// Fails if it does not end.
pub fn stop(state: &State) -> Result<()> {
    let Some(front) = Front::of(state) else { return Ok(()) };
    front.signal(Signal::SIGTERM)?;
    let deadline = Instant::now() + PATIENCE;
    while Front::of(state).is_some() {
        if Instant::now() >= deadline {
            bail!("could not end the front nginx: process {} goes on", front.master.pid);
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Puts an environment, which answers already, on the front. Without a front nothing happens.
///
/// # Errors
/// Fails if its file cannot be written, or if nginx refuses it.
pub fn add(state: &State, environment: &Environment) -> Result<()> {
    let Some(front) = Front::of(state) else { return Ok(()) };
    let path = file(state, &environment.id);
    let new = path.with_extension("new");
    fs::write(&new, site(environment, front.port))
        .and_then(|()| fs::rename(&new, &path))
        .with_context(|| format!("could not write {}", path.display()))?;
    let config = folder(state).join("nginx.conf").to_string_lossy().into_owned();
    let errors = folder(state).join("error.log").to_string_lossy().into_owned();
    if let Err(error) = command::run(&["nginx", "-t", "-q", "-c", &config, "-e", &errors]) {
        // A file that nginx refuses would keep every later reload from working.
        let _ = fs::remove_file(&path);
        return Err(error.context("could not put the environment on the front"));
    }
    let is_taken = front.reload(&environment.id, true)?;
    ensure!(
        is_taken,
        "could not put {} on the front: nginx does not take its new configuration",
        environment.id
    );
    Ok(())
}

/// Takes an environment off the front; one that is not on it is no error.
///
/// # Errors
/// Fails if its file cannot be removed.
pub fn remove(state: &State, id: &str) -> Result<()> {
    let path = file(state, id);
    match fs::remove_file(&path) {
        // A front that does not take it answers 502 in place of 404: no reason to leave the rest of an environment.
        Ok(()) => Front::of(state).map_or(Ok(()), |front| front.reload(id, false).map(drop)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("could not remove {}", path.display())),
    }
}

fn write(state: &State, front: &Front) -> Result<()> {
    let path = folder(state).join("front.json");
    let text = serde_json::to_vec(front).context("could not write down the front nginx")?;
    fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))
}

fn folder(state: &State) -> PathBuf {
    state.folder().join("front")
}

fn file(state: &State, id: &str) -> PathBuf {
    folder(state).join("conf.d").join(format!("{id}.conf"))
}

fn configuration(folder: &str, port: u16) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("  {kind}_temp_path {folder}/temp-{kind};\n"))
        .collect();
    format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\n\
         events {{ worker_connections 512; }}\nhttp {{\n{temporary}  access_log {folder}/access.log;\n  \
         server_names_hash_bucket_size 128;\n  server {{\n    listen 127.0.0.1:{port} default_server;\n    \
         return 404 \"{UNKNOWN}\";\n  }}\n  include {folder}/conf.d/*.conf;\n}}\n"
    )
}

fn site(environment: &Environment, port: u16) -> String {
    let host = environment.host.as_deref().unwrap_or("shop.example");
    format!(
        "server {{\n  listen 127.0.0.1:{port};\n  server_name {}.localhost;\n  location / {{\n    \
         proxy_pass http://unix:{};\n    proxy_set_header Host {host};\n    proxy_read_timeout 30s;\n  }}\n}}\n",
        environment.id,
        environment.door().display(),
    )
}
