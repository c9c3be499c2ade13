//! A real nginx with the README's JSON log, in a network namespace, on port 80 of both address families.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::netns::Namespace;
use crate::wait;

/// The README's `log_format`, named `shield`.
pub const LOG_FORMAT: &str = r#"log_format shield escape=json
    '{"source_ip":"$remote_addr","timestamp":"$time_iso8601","method":"$request_method",'
    '"path":"$request_uri","status":$status,"response_size":$body_bytes_sent}';"#;

/// A running nginx. Dropping it ends it.
#[derive(Debug)]
pub struct Nginx {
    master: Child,
    access_log: PathBuf,
}

impl Nginx {
    /// Starts nginx in this namespace, with all its files under `folder`, and waits for its pid file, which it writes once
    /// it listens.
    ///
    /// It answers `/` and `/static/*` with 200, and everything else with 404.
    ///
    /// # Errors
    /// Fails if nginx is not installed or does not start; the error contains its error log.
    pub fn start(namespace: &Namespace, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder.join("www/static"))
            .with_context(|| format!("could not create {}", folder.display()))?;
        fs::write(
            folder.join("www/index.html"),
            "<!doctype html><title>Shop</title><p>Welcome.\n".repeat(20),
        )?;
        for file in ["app.js", "style.css", "logo.svg"] {
            fs::write(folder.join("www/static").join(file), "/* */\n".repeat(200))?;
        }
        let config = folder.join("nginx.conf");
        fs::write(&config, configuration(folder))
            .with_context(|| format!("could not write {}", config.display()))?;
        let errors = folder.join("error.log");
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&config).arg("-e").arg(&errors).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let master = namespace
            .enter(|| command.spawn())
            .context("could not start nginx (is it installed? `cargo xtask setup`)")?;
        let nginx = Self { master, access_log: folder.join("access.log") };
        let pid = folder.join("nginx.pid");
        wait::until("nginx to write its pid", Duration::from_secs(5), || {
            Ok(fs::read_to_string(&pid).ok().filter(|text| text.ends_with('\n')))
        })
        .with_context(|| {
            format!("could not start nginx; its log: {}", fs::read_to_string(&errors).unwrap_or_default())
        })?;
        Ok(nginx)
    }

    /// The access log, one JSON object per line.
    pub fn access_log(&self) -> &Path {
        &self.access_log
    }

    /// Makes it reopen its log, as logrotate does after renaming it.
    ///
    /// # Errors
    /// Fails if nginx has ended.
    pub fn reopen_log(&self) -> Result<()> {
        kill(self.pid(), Signal::SIGUSR1).context("could not signal nginx to reopen its log")
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.master.id().try_into().expect("a process id fits in an i32"))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = kill(self.pid(), Signal::SIGTERM);
        let _ = self.master.wait();
    }
}

fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"daemon off;
user root;
worker_processes 1;
pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
  {LOG_FORMAT}
  access_log {folder}/access.log shield;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  types {{ text/html html; text/css css; text/javascript js; image/svg+xml svg; }}
  server {{
    listen 80 reuseport;
    listen [::]:80 reuseport ipv6only=on;
    root {folder}/www;
    location /search {{ return 200 "nothing found\n"; }}
  }}
}}
"#
    )
}
