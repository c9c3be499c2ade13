//! Real nginxes: with the README's JSON log, in a network namespace, on port 80 of both address families; and on sockets, with
//! the sites that a test needs.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
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

/// An nginx on sockets in its folder, with the sites that a test needs. Dropping it ends it.
#[derive(Debug)]
pub struct SocketNginx {
    master: Child,
    folder: PathBuf,
}

impl SocketNginx {
    /// Starts it with its files in `folder`, and this in its `http` section.
    ///
    /// # Errors
    /// Fails if nginx is not installed or does not start.
    pub fn start(folder: &Path, http: &str) -> Result<Self> {
        let shown = folder.display();
        let config = format!(
            "daemon off; user root; worker_processes 1; pid {shown}/pid;
            events {{ worker_connections 64; }}
            http {{
              client_body_temp_path {shown}/body; proxy_temp_path {shown}/proxy; fastcgi_temp_path {shown}/fastcgi;
              uwsgi_temp_path {shown}/uwsgi; scgi_temp_path {shown}/scgi;
              {http}
            }}"
        );
        fs::write(folder.join("nginx.conf"), config).context("could not write nginx's configuration")?;
        let mut command = Command::new("nginx");
        command.arg("-c").arg(folder.join("nginx.conf")).arg("-e").arg(folder.join("error.log"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let master =
            command.spawn().context("could not start nginx (is it installed? `cargo xtask setup`)")?;
        let nginx = Self { master, folder: folder.to_owned() };
        wait::until("nginx to listen", Duration::from_secs(10), || {
            Ok(fs::read_to_string(folder.join("pid")).ok().filter(|text| text.ends_with('\n')))
        })?;
        Ok(nginx)
    }

    /// Sends a request to one of its sockets, and returns the answer once nginx has closed the connection: its line is in the
    /// log by then. The end of the headers is added.
    ///
    /// # Errors
    /// Fails if nginx does not answer.
    pub fn ask(&self, socket: &str, head: &str) -> Result<String> {
        let mut stream =
            UnixStream::connect(self.folder.join(socket)).context("could not connect to nginx")?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).context("could not read nginx's answer")?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

impl Drop for SocketNginx {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.master.id().try_into().expect("a process id fits in an i32"));
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.master.wait();
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
