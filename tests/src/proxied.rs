//! A real nginx behind a "proxy": it listens on a socket, and whoever writes to it claims a client's address in `X-Real-IP`,
//! which nginx's realip module takes over. It includes Shield's lines that refuse denied clients.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shield_agent::test_support::enforce::nginx::{Commands, Settings, http, server};

use crate::netns::Namespace;
use crate::nginx::LOG_FORMAT;
use crate::wait;

/// Nobody is refused below it.
pub const OPEN: &str = "/.well-known/acme-challenge/";

const READ_TIMEOUT: Duration = Duration::from_secs(20);
/// Mounts the first folder on the second, and goes on as the command that follows.
const MOUNT_READ_ONLY: &str =
    r#"mount --bind "$0" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@""#;

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
        Self::start_for(folder, &of_files(denied, status))
    }

    /// As [`ProxiedNginx::start`], for the agent's whole settings. `/slow` begins an answer that takes an hour.
    ///
    /// # Errors
    /// As for [`ProxiedNginx::start`].
    pub fn start_for(folder: &Path, settings: &Settings) -> Result<Self> {
        Self::start_with(folder, &configuration(folder, settings), |command| command.spawn())
    }

    /// As [`ProxiedNginx::start`], in a namespace, where it listens on port 80 too and trusts the proxy at this address. Its log
    /// has the connection's address beside the client's.
    ///
    /// # Errors
    /// As for [`ProxiedNginx::start`].
    pub fn start_in(
        namespace: &Namespace,
        folder: &Path,
        denied: &Path,
        status: u16,
        proxy: IpAddr,
    ) -> Result<Self> {
        let configuration = with_peer(&reached_by(&configuration(folder, &of_files(denied, status)), proxy));
        Self::start_with(folder, &configuration, |command| namespace.enter(|| command.spawn()))
    }

    /// As [`ProxiedNginx::start_in`], but nothing in its log says that there is a proxy.
    ///
    /// # Errors
    /// As for [`ProxiedNginx::start`].
    pub fn start_unnamed_in(
        namespace: &Namespace,
        folder: &Path,
        denied: &Path,
        proxy: IpAddr,
    ) -> Result<Self> {
        let configuration = reached_by(&configuration(folder, &of_files(denied, 403)), proxy);
        Self::start_with(folder, &configuration, |command| namespace.enter(|| command.spawn()))
    }

    /// As [`ProxiedNginx::start_in`], as in a container: with the host's folder of denied clients mounted read-only at another
    /// place, in a mount namespace of its own.
    ///
    /// # Errors
    /// As for [`ProxiedNginx::start`].
    pub fn start_in_container(
        namespace: &Namespace,
        folder: &Path,
        denied: &Path,
        status: u16,
        proxy: IpAddr,
    ) -> Result<Self> {
        let mounted = folder.join("mounted");
        fs::create_dir(&mounted).with_context(|| format!("could not create {}", mounted.display()))?;
        let configuration =
            with_peer(&reached_by(&configuration(folder, &of_files(&mounted, status)), proxy));
        Self::start_with(folder, &configuration, |command| {
            let mut inside = Command::new("unshare");
            inside.args(["--mount", "--propagation", "private", "sh", "-c", MOUNT_READ_ONLY]);
            inside.arg(denied).arg(&mounted).arg(command.get_program()).args(command.get_args());
            inside.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            namespace.enter(|| inside.spawn())
        })
    }

    fn start_with(
        folder: &Path,
        configuration: &str,
        spawn: impl FnOnce(&mut Command) -> std::io::Result<Child>,
    ) -> Result<Self> {
        let config = folder.join("nginx.conf");
        fs::write(&config, configuration).with_context(|| format!("could not write {}", config.display()))?;
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&config).arg("-e").arg(folder.join("error.log"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let master =
            spawn(&mut command).context("could not start nginx (is it installed? `cargo xtask setup`)")?;
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

    /// A new HTTP/2 connection of the proxy's.
    ///
    /// # Errors
    /// Fails if nginx does not accept it.
    pub fn connect_http2(&self) -> Result<Http2> {
        let socket = self.socket.with_file_name("h2");
        let mut stream = UnixStream::connect(socket).context("could not connect to nginx")?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        let mut connection = Http2 { stream, next_id: 1 };
        connection.write_frame(SETTINGS, 0, 0, &[])?;
        Ok(connection)
    }

    /// The commands with which the backend `map` reaches it.
    pub fn commands(&self) -> Commands {
        let config = self.socket.with_file_name("nginx.conf").display().to_string();
        let errors = self.socket.with_file_name("error.log").display().to_string();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Commands {
            copy: Vec::new(),
            test: words(&["nginx", "-t", "-c", &config, "-e", &errors]),
            reload: words(&["nginx", "-s", "reload", "-c", &config, "-e", &errors]),
            workers: words(&["ps", "-o", "pid,args", "--ppid", &self.master.id().to_string()]),
        }
    }

    /// Its worker processes, which a reload replaces.
    ///
    /// # Errors
    /// Fails if nginx has ended.
    pub fn workers(&self) -> Result<String> {
        let id = self.master.id();
        let path = format!("/proc/{id}/task/{id}/children");
        fs::read_to_string(&path).with_context(|| format!("could not read {path}"))
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

/// Has it listen on port 80, for this proxy.
fn reached_by(configuration: &str, proxy: IpAddr) -> String {
    configuration.replace("set_real_ip_from unix:;", &format!("listen 80;\n    set_real_ip_from {proxy};"))
}

/// Has its log name the connection's address.
fn with_peer(configuration: &str) -> String {
    configuration.replace(r#""$remote_addr","#, r#""$remote_addr","peer":"$realip_remote_addr","#)
}

fn of_files(denied: &Path, status: u16) -> Settings {
    Settings { folder: denied.to_owned(), status, ..Settings::default() }
}

fn configuration(folder: &Path, settings: &Settings) -> String {
    let open = OPEN.parse().expect("the constant is a path");
    let (http, server) = (http(settings), server(settings, &[open]));
    let long = "x".repeat(3600);
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
  {http}
  server {{
    listen unix:{folder}/s;
    listen unix:{folder}/h2 http2;
    set_real_ip_from unix:;
    real_ip_header X-Real-IP;
    {server}
    location / {{ return 404 "nothing"; }}
    location = / {{ return 200 "welcome"; }}
    location = /slow {{ limit_rate_after 1000; limit_rate 10; return 200 "{long}"; }}
    location = /names {{ return 200 "$remote_addr|$shield_address|$shield_client|$shield_network"; }}
  }}
}}
"#
    )
}

/// A connection that is kept open, as proxies do.
#[derive(Debug)]
pub struct Connection<S = UnixStream>(BufReader<S>);

impl Connection<TcpStream> {
    /// A connection to this address from a namespace.
    ///
    /// # Errors
    /// Fails if it is not accepted.
    pub fn open(from: &Namespace, to: SocketAddr) -> Result<Self> {
        let stream = from.enter(|| TcpStream::connect(to)).context("could not connect to nginx")?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }
}

impl Connection {
    /// Sends a request of this client's, and reads no more than the first line of the answer.
    ///
    /// # Errors
    /// Fails if nginx does not answer.
    pub fn begin(&mut self, client: &str, path: &str) -> Result<()> {
        write!(self.0.get_mut(), "GET {path} HTTP/1.1\r\nHost: a\r\nX-Real-IP: {client}\r\n\r\n")?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        ensure!(line.starts_with("HTTP/1.1 200"), "nginx answered {line:?}");
        Ok(())
    }

    /// Whether more of the answer comes.
    ///
    /// # Errors
    /// Fails if nothing comes in time.
    pub fn goes_on(&mut self) -> Result<bool> {
        let held = self.0.buffer().len();
        self.0.consume(held);
        Ok(!self.0.fill_buf()?.is_empty())
    }
}

impl<S: Read + Write> Connection<S> {
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

/// Types of frames (RFC 9113, section 6), and the flags that end a stream and its headers.
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// As much of an HTTP/2 client as a request without a body needs.
#[derive(Debug)]
pub struct Http2 {
    stream: UnixStream,
    next_id: u32,
}

impl Http2 {
    /// Sends a request of this client's for `/`, as a stream of the connection, and returns the answer's status.
    ///
    /// # Errors
    /// Fails if nginx ends the connection or the stream.
    pub fn get(&mut self, client: &str) -> Result<u16> {
        let id = self.next_id;
        self.next_id += 2;
        // RFC 7541: GET, http and / of the static table, then literals.
        let mut block = vec![0x82, 0x86, 0x84, 0x01, 1, b'a', 0x00];
        for text in ["x-real-ip", client] {
            block.push(u8::try_from(text.len())?);
            block.extend_from_slice(text.as_bytes());
        }
        self.write_frame(HEADERS, END_STREAM | END_HEADERS, id, &block)?;
        let mut status = None;
        loop {
            let (kind, flags, of, payload) = self.read_frame()?;
            ensure!(kind != GOAWAY && (kind, of) != (RST_STREAM, id), "nginx ended it: {kind} {payload:?}");
            if kind == SETTINGS && flags & 1 == 0 {
                self.write_frame(SETTINGS, 1, 0, &[])?;
            }
            if (kind, of) == (HEADERS, id) {
                status = Some(status_of(&payload)?);
            }
            if of == id && flags & END_STREAM != 0 && kind <= HEADERS {
                return status.context("could not find the status");
            }
        }
    }

    fn write_frame(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) -> Result<()> {
        let length = u32::try_from(payload.len())?.to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend_from_slice(&id.to_be_bytes());
        frame.extend_from_slice(payload);
        Ok(self.stream.write_all(&frame)?)
    }

    fn read_frame(&mut self) -> Result<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).context("could not read a frame: nginx closed the connection")?;
        let [l0, l1, l2, kind, flags, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, l0, l1, l2]) as usize];
        self.stream.read_exact(&mut payload)?;
        Ok((kind, flags, u32::from_be_bytes(id) & 0x7fff_ffff, payload))
    }
}

/// The status of a block of headers as nginx writes it: first, indexed or as three digits.
fn status_of(block: &[u8]) -> Result<u16> {
    // A change of the table's size may come before.
    let at = block.iter().position(|byte| byte & 0xe0 != 0x20).context("could not find the status")?;
    match &block[at..] {
        [0x88, ..] => Ok(200),
        [0x8d, ..] => Ok(404),
        [0x08 | 0x48, 3, digits @ ..] => Ok(std::str::from_utf8(&digits[..3])?.parse()?),
        other => anyhow::bail!("could not read the status in {other:x?}"),
    }
}
