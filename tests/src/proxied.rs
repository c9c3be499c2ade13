//! A real nginx behind a "proxy": it listens on a socket, and whoever writes to it claims a client's address in `X-Real-IP`,
//! which nginx's realip module takes over. It includes Shield's lines that refuse denied clients.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shield_agent::test_support::enforce::nginx::{HTTP, server};

use crate::nginx::LOG_FORMAT;
use crate::wait;

const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// A running nginx. Dropping it ends it.
#[derive(Debug)]
pub struct ProxiedNginx {
    master: Child,
    socket: PathBuf,
    access_log: PathBuf,
}

impl ProxiedNginx {
    /// Starts it with its files in `folder`, and waits until it listens. It looks for denied clients in `denied`, and refuses
    /// them with `status`. It answers `/names` with the names that it looks for, `/` with 200, everything else with 404.
    ///
    /// # Errors
    /// Fails if nginx is not installed or does not start.
    pub fn start(folder: &Path, denied: &Path, status: u16) -> Result<Self> {
        let config = folder.join("nginx.conf");
        fs::write(&config, configuration(folder, &server(denied, status)))
            .with_context(|| format!("could not write {}", config.display()))?;
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&config).arg("-e").arg(folder.join("error.log"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let master =
            command.spawn().context("could not start nginx (is it installed? `cargo xtask setup`)")?;
        let nginx = Self { master, socket: folder.join("s"), access_log: folder.join("access.log") };
        wait::until("nginx to listen", Duration::from_secs(10), || {
            Ok(UnixStream::connect(&nginx.socket).ok())
        })?;
        Ok(nginx)
    }

    /// Its log, in the README's format.
    pub fn access_log(&self) -> &Path {
        &self.access_log
    }

    /// A new connection of the proxy's.
    ///
    /// # Errors
    /// Fails if nginx does not accept it.
    pub fn connect(&self) -> Result<Connection> {
        let stream = UnixStream::connect(&self.socket).context("could not connect to nginx")?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        Ok(Connection(BufReader::new(stream)))
    }
}

impl Drop for ProxiedNginx {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.master.id().try_into().expect("a process id fits in an i32"));
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.master.wait();
    }
}

fn configuration(folder: &Path, server: &str) -> String {
    let folder = folder.display();
    format!(
        r#"daemon off;
user nobody nogroup;
worker_processes 1;
pid {folder}/nginx.pid;
events {{ worker_connections 512; }}
http {{
  {LOG_FORMAT}
  access_log {folder}/access.log shield;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000;
  {HTTP}
  server {{
    listen unix:{folder}/s;
    set_real_ip_from unix:;
    real_ip_header X-Real-IP;
    {server}
    location / {{ return 404 "nothing"; }}
    location = / {{ return 200 "welcome"; }}
    location = /names {{ return 200 "$remote_addr|$shield_address|$shield_network|$shield_site"; }}
  }}
}}
"#
    )
}

/// A connection that is kept open, as proxies do.
#[derive(Debug)]
pub struct Connection(BufReader<UnixStream>);

impl Connection {
    /// Sends a request of this client's and returns the answer's status and body.
    ///
    /// # Errors
    /// Fails if nginx closes the connection, as it does for the status 444.
    pub fn get(&mut self, client: &str, path: &str) -> Result<(u16, String)> {
        write!(self.0.get_mut(), "GET {path} HTTP/1.1\r\nHost: a\r\nX-Real-IP: {client}\r\n\r\n")?;
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            ensure!(self.0.read_line(&mut line)? > 0, "nginx closed the connection");
            let line = line.trim_end();
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest.get(..3).context("could not find the status")?.parse()?;
            } else if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.parse()?;
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok((status, String::from_utf8(body)?))
    }
}
