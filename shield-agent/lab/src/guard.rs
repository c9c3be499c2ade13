//! What may be stopped, broken or changed: only what an environment made. The host's own services, this program itself, the root
//! network namespace and files outside of the environment's folder are refused, whatever the environment's file says.
//!
//! Each check gives a handle to the very thing that was checked (a pidfd, an open namespace, an open file), and only the
//! handle acts: a process id that is used again, or a path that is swapped in between, does not lead elsewhere.

use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::environment::{Environment, NAMESPACE_PREFIX, Process, started};

/// iproute2's folder of named namespaces.
const NAMED_NAMESPACES: &str = "/run/netns";
/// `NSFS_MAGIC`: a file that is a namespace lies on this file system.
const NSFS: u64 = 0x6e73_6673;

/// No file that is read is longer.
const MOST_BYTES: u64 = 1 << 20;

/// A network namespace of an environment, held open.
#[derive(Debug)]
pub struct OwnNamespace {
    name: String,
    file: File,
}

/// A process of an environment, held by a pidfd.
#[derive(Debug)]
pub struct OwnProcess {
    pid: u32,
    fd: OwnedFd,
}

/// The folder of an environment, held open. Names are resolved below it alone, and through no symbolic link.
#[derive(Debug)]
pub struct OwnFolder {
    path: PathBuf,
    fd: OwnedFd,
}

/// Opens the namespace of a machine.
///
/// # Errors
/// Fails if the environment has no such machine, and if the namespace does not carry the environment's name, is no namespace, or
/// is this machine's own.
pub fn namespace(environment: &Environment, machine: &str) -> Result<OwnNamespace> {
    check_id(&environment.id)?;
    let found = environment.machines.iter().find(|found| found.name == machine);
    let found =
        found.with_context(|| format!("could not find a machine `{machine}` in {}", environment.id))?;
    let name = &found.namespace;
    let is_marked = name == &format!("{NAMESPACE_PREFIX}{}-{machine}", environment.id);
    ensure!(is_marked, "could not use the namespace {name}: its name is none of {}", environment.id);
    open_namespace(name).with_context(|| format!("could not use the namespace {name}"))
}

fn open_namespace(name: &str) -> Result<OwnNamespace> {
    ensure!(is_plain(name), "it is no name of a namespace");
    let path = Path::new(NAMED_NAMESPACES).join(name);
    let fd = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
        .with_context(|| format!("could not open {}", path.display()))?;
    let kind = rustix::fs::fstatfs(&fd).context("could not inspect it")?.f_type;
    ensure!(kind as u64 == NSFS, "{} is no namespace", path.display());
    let file = File::from(fd);
    let inode = file.metadata().context("could not inspect it")?.ino();
    for (whose, of) in [("this machine's own", "1"), ("this program's own", "self")] {
        let own = match fs::metadata(format!("/proc/{of}/ns/net")) {
            // Inside a container process 1 may be somebody stronger, whom its root may not look at: this program is in the
            // container's own namespace then, and no other one of the host's has a name here.
            Err(error) if of == "1" && error.kind() == std::io::ErrorKind::PermissionDenied => continue,
            found => found.with_context(|| format!("could not compare it with {whose}"))?,
        };
        ensure!(own.ino() != inode, "it is {whose}, which is none of an environment's");
    }
    Ok(OwnNamespace { name: name.to_owned(), file })
}

impl OwnNamespace {
    /// Its name, as `ip netns list` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `inside` on a new thread in this namespace. Sockets that it opens and children that it starts stay in there.
    ///
    /// # Errors
    /// Fails without the right to enter it.
    ///
    /// # Panics
    /// Panics if `inside` does.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("could not enter the namespace {} (needs root)", self.name))?;
                Ok(inside())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `argv` inside and returns its standard output.
    ///
    /// # Errors
    /// Fails if the program cannot be started or does not succeed.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        self.enter(|| crate::command::run(argv))?
            .with_context(|| format!("could not run a command in {}", self.name))
    }

    fn inode(&self) -> Result<u64> {
        Ok(self.file.metadata().with_context(|| format!("could not inspect {}", self.name))?.ino())
    }
}

/// Opens a process that the environment started.
///
/// # Errors
/// Fails if it has ended, and if the process with this id is another one, does not carry the environment's marker, or does
/// not run in the namespace of its machine.
pub fn process(environment: &Environment, process: &Process) -> Result<OwnProcess> {
    let refused = || format!("could not use process {} as one of {}", process.pid, environment.id);
    open_process(environment, process).with_context(refused)
}

fn open_process(environment: &Environment, process: &Process) -> Result<OwnProcess> {
    ensure!(process.pid > 1, "it is this machine's first process");
    ensure!(process.pid != std::process::id(), "it is this program itself");
    let namespace = namespace(environment, &process.machine)?;
    let raw = i32::try_from(process.pid).ok().and_then(Pid::from_raw).context("it is no process id")?;
    // What is checked from here on is the process that the pidfd holds, as long as that one lives at the end.
    let fd = pidfd_open(raw, PidfdFlags::empty()).context("it has ended")?;
    let since = started(process.pid).context("it has ended")?;
    ensure!(since == process.started, "it has ended, and another process has its id now");
    ensure!(process.is_alive(&environment.id), "it does not carry the marker of the environment");
    let inode = fs::metadata(format!("/proc/{}/ns/net", process.pid)).context("it has ended")?.ino();
    ensure!(inode == namespace.inode()?, "it does not run on the machine {}", process.machine);
    let handle = OwnProcess { pid: process.pid, fd };
    handle.is_alive()?.then_some(handle).context("it has ended")
}

impl OwnProcess {
    /// Its id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// Fails if it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        pidfd_send_signal(&self.fd, signal)
            .with_context(|| format!("could not send a signal to process {}", self.pid))
    }

    /// Waits until it has ended; `false` if it has not after `at_most_ms`.
    ///
    /// # Errors
    /// Fails if its end cannot be waited for.
    pub fn wait_for_end(&self, at_most_ms: u16) -> Result<bool> {
        let mut fds = [nix::poll::PollFd::new(self.fd.as_fd(), nix::poll::PollFlags::POLLIN)];
        let ended = nix::poll::poll(&mut fds, at_most_ms)
            .with_context(|| format!("could not wait for the end of process {}", self.pid))?;
        Ok(ended > 0)
    }

    fn is_alive(&self) -> Result<bool> {
        self.wait_for_end(0).map(|ended| !ended)
    }
}

/// Opens the folder of an environment.
///
/// # Errors
/// Fails if it is a symbolic link, belongs to somebody else, others may write to it, or it does not hold this environment's file.
pub fn folder(environment: &Environment) -> Result<OwnFolder> {
    check_id(&environment.id)?;
    let path = &environment.folder;
    open_folder(environment).with_context(|| format!("could not use {} as an environment", path.display()))
}

fn open_folder(environment: &Environment) -> Result<OwnFolder> {
    let path = environment.folder.clone();
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&path, flags, Mode::empty()).context("could not open it as a folder")?;
    let stat = rustix::fs::fstat(&fd).context("could not inspect it")?;
    ensure!(stat.st_uid == rustix::process::geteuid().as_raw(), "it belongs to another user");
    ensure!(stat.st_mode & 0o022 == 0, "others may write to it (mode {:o})", stat.st_mode & 0o777);
    let here = Environment::read(&path)?;
    ensure!(here.id == environment.id, "it holds the environment {}", here.id);
    Ok(OwnFolder { path, fd })
}

impl OwnFolder {
    /// Opens a file for writing, which must be there.
    ///
    /// # Errors
    /// Fails if the path leads out of the folder or through a symbolic link, or if the file has a second name, which may be
    /// outside.
    pub fn open(&self, path: &Path) -> Result<OwnFile> {
        self.open_with(path, OFlags::WRONLY)
    }

    /// Opens a file for writing, and makes it if it is not there.
    ///
    /// # Errors
    /// As for [`OwnFolder::open`].
    pub fn create(&self, path: &Path) -> Result<OwnFile> {
        self.open_with(path, OFlags::WRONLY | OFlags::CREATE)
    }

    /// Reads a file of this user's own.
    ///
    /// # Errors
    /// Fails as [`OwnFolder::open`], and if the file belongs to somebody else.
    pub fn read(&self, path: &Path) -> Result<Vec<u8>> {
        let own = self.open_with(path, OFlags::RDONLY)?;
        let about = own.file.metadata().with_context(|| format!("could not inspect {}", path.display()))?;
        let is_own = about.uid() == rustix::process::geteuid().as_raw();
        ensure!(is_own, "could not use {}: it belongs to another user", path.display());
        let mut bytes = Vec::new();
        let limited = &mut Read::take(&own.file, MOST_BYTES);
        limited.read_to_end(&mut bytes).with_context(|| format!("could not read {}", path.display()))?;
        Ok(bytes)
    }

    /// Removes a file; `false` if there is none.
    ///
    /// # Errors
    /// Fails if the path leads out of the folder or through a symbolic link, or if it is a folder.
    pub fn remove(&self, path: &Path) -> Result<bool> {
        let (parent, name) = self.parent(path)?;
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("could not remove {}", path.display())),
        }
    }

    /// Gives a file another name in its folder.
    ///
    /// # Errors
    /// Fails if the path leads out of the folder or through a symbolic link.
    pub fn rename(&self, path: &Path, name: &str) -> Result<()> {
        ensure!(is_plain(name), "could not rename {} to {name}: that is no name", path.display());
        let (parent, old) = self.parent(path)?;
        rustix::fs::renameat(&parent, old, &parent, name)
            .with_context(|| format!("could not rename {}", path.display()))
    }

    /// The names in a folder.
    ///
    /// # Errors
    /// Fails if the path leads out of the folder or through a symbolic link, or if it cannot be listed.
    pub fn list(&self, path: &Path) -> Result<Vec<String>> {
        let fd = self.resolve(path, OFlags::DIRECTORY, Mode::empty())?;
        let entries =
            rustix::fs::Dir::read_from(&fd).with_context(|| format!("could not list {}", path.display()))?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let names: Vec<String> = names
            .collect::<rustix::io::Result<_>>()
            .with_context(|| format!("could not list {}", path.display()))?;
        Ok(names.into_iter().filter(|name| name != "." && name != "..").collect())
    }

    fn open_with(&self, path: &Path, flags: OFlags) -> Result<OwnFile> {
        // openat2(2) refuses a mode for a file that it must not make.
        let is_made = flags.contains(OFlags::CREATE);
        let mode = if is_made { Mode::from_raw_mode(0o600) } else { Mode::empty() };
        // Not blocking: a pipe in place of a file would hold up whoever opens it.
        let fd = self.resolve(path, flags | OFlags::NONBLOCK, mode)?;
        let file = File::from(fd);
        let about = file.metadata().with_context(|| format!("could not inspect {}", path.display()))?;
        ensure!(about.is_file(), "could not use {}: it is no file", path.display());
        ensure!(about.nlink() == 1, "could not use {}: it has a second name elsewhere", path.display());
        Ok(OwnFile { file, path: path.to_owned() })
    }

    /// The folder that holds `path`, and its last name.
    fn parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a str)> {
        let name = path.file_name().and_then(|name| name.to_str()).filter(|name| is_plain(name));
        let name = name.with_context(|| format!("could not use {}: it names no file", path.display()))?;
        let parent = path.parent().unwrap_or(Path::new(""));
        Ok((self.resolve(parent, OFlags::DIRECTORY, Mode::empty())?, name))
    }

    fn resolve(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        let inside = path
            .strip_prefix(&self.path)
            .ok()
            .filter(|inside| inside.components().all(|component| matches!(component, Component::Normal(_))));
        let Some(inside) = inside else {
            bail!("could not use {}: it is not in {}", path.display(), self.path.display());
        };
        let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.fd, inside, flags | OFlags::CLOEXEC, mode, resolve).with_context(|| {
            format!("could not open {} without a symbolic link and below its environment", path.display())
        })
    }
}

/// A file of an environment, held open.
#[derive(Debug)]
pub struct OwnFile {
    file: File,
    path: PathBuf,
}

impl OwnFile {
    /// Makes it empty.
    ///
    /// # Errors
    /// Fails if the disk does.
    pub fn truncate(&self) -> Result<()> {
        self.file.set_len(0).with_context(|| format!("could not empty {}", self.path.display()))
    }

    /// Writes `text` over its begin, in one piece and at once.
    ///
    /// # Errors
    /// Fails if the disk does.
    pub fn overwrite(&self, text: &str) -> Result<()> {
        self.file
            .write_all_at(text.as_bytes(), 0)
            .with_context(|| format!("could not write {}", self.path.display()))
    }

    /// Appends zeros until its disk is full, `at_most` of them.
    ///
    /// # Errors
    /// Fails if that much fits.
    pub fn fill(&mut self, at_most: u64) -> Result<u64> {
        let block = [0; 4096];
        let mut written = 0;
        while written < at_most {
            match self.file.write(&block) {
                Ok(bytes) => written += bytes as u64,
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(written),
                Err(error) => {
                    return Err(error).with_context(|| format!("could not write {}", self.path.display()));
                }
            }
        }
        bail!("could not fill the disk of {}: it is larger than {at_most} bytes", self.path.display())
    }

    /// Whether it lies on another file system than the environment's folder.
    ///
    /// # Errors
    /// Fails if it cannot be inspected.
    pub fn is_on_own_disk(&self, folder: &OwnFolder) -> Result<bool> {
        let device = |stat: rustix::io::Result<rustix::fs::Stat>| {
            stat.map(|stat| stat.st_dev).with_context(|| format!("could not inspect {}", self.path.display()))
        };
        Ok(device(rustix::fs::fstat(&self.file))? != device(rustix::fs::fstat(&folder.fd))?)
    }
}

/// Ids become names of files and namespaces.
fn check_id(id: &str) -> Result<()> {
    ensure!(is_plain(id), "could not use {id:?} as an environment's id: it is none");
    Ok(())
}

fn is_plain(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && name.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests;
