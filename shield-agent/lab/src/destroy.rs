//! Takes an environment down, from the front to the back, and keeps its logs. Works on what a crash left as well: every step looks
//! at what is there, and none needs the one before it.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::environment::{Environment, MARKER, Part, Phase, Process, namespace_name};
use crate::state::State;
use crate::{front, netns};

/// For a process to end by itself.
const GRACE: Duration = Duration::from_secs(3);
/// Of a longer file the archive has the end.
const MOST_OF_A_FILE: u64 = 16 * 1024 * 1024;

/// Takes an environment down and returns the path of its archived logs. One that is not there is no error.
///
/// # Errors
/// Fails if something of it is left; the next try goes on there.
pub fn destroy(state: &State, id: &str) -> Result<Option<PathBuf>> {
    let folder = state.folder_of(id)?;
    if !folder.is_dir() {
        return Ok(None);
    }
    // The way in first, so that nobody is sent to a server that is gone.
    front::remove(state, id)?;
    if let Ok(mut environment) = Environment::read(&folder) {
        environment.phase = Phase::Destroying;
        // The disk may be full; what follows makes room.
        let _ = environment.write();
        end_processes(&environment);
    }
    end_marked(id);
    for name in netns::names_of(&namespace_name(id, ""))? {
        netns::delete(&name)?;
    }
    let archived = archive(state, id, &folder);
    unmount_below(&folder)?;
    delete(&folder)?;
    archived.map(Some)
}

/// Deletes the folder. A look at its health, or a process that just ends, may write a file meanwhile.
fn delete(folder: &Path) -> Result<()> {
    let deadline = Instant::now() + GRACE;
    loop {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && Instant::now() < deadline => {}
            deleted => {
                return deleted.with_context(|| format!("could not delete {}", folder.display()));
            }
        }
    }
}

/// Ends its processes: what sends first, then the agent, then what it protects.
fn end_processes(environment: &Environment) {
    let order = |part: Part| match part {
        Part::Visitors | Part::Attack | Part::Outage => 0,
        Part::Door => 1,
        Part::Proxy => 2,
        Part::Agent => 3,
        Part::Nginx => 4,
        Part::App | Part::Nats => 5,
    };
    let mut processes: Vec<&Process> = environment.processes.iter().collect();
    processes.sort_by_key(|process| order(process.part));
    let signal = |signal: Signal, process: &Process| {
        if process.is_alive(&environment.id)
            && let Ok(pid) = i32::try_from(process.pid)
        {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    };
    for process in &processes {
        signal(Signal::SIGTERM, process);
        // One that an outage stopped takes no other signal.
        signal(Signal::SIGCONT, process);
    }
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline && processes.iter().any(|process| process.is_alive(&environment.id)) {
        thread::sleep(Duration::from_millis(10));
    }
    for process in processes {
        signal(Signal::SIGKILL, process);
    }
}

/// Kills whatever else was started with the environment's marker.
fn end_marked(id: &str) {
    let wanted = format!("{MARKER}={id}");
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else { return };
    for pid in entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let is_marked = environ.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes());
        if is_marked
            && pid != own
            && let Ok(pid) = i32::try_from(pid)
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Unmounts everything below a folder, the last mounted first.
fn unmount_below(folder: &Path) -> Result<()> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("could not read the mounts")?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut below: Vec<PathBuf> = points.filter(|point| point.starts_with(folder)).collect();
    below.reverse();
    for point in below {
        umount2(&point, MntFlags::MNT_DETACH)
            .with_context(|| format!("could not unmount {}", point.display()))?;
    }
    Ok(())
}

/// Packs the environment's logs and configurations, and returns the file's path.
fn archive(state: &State, id: &str, folder: &Path) -> Result<PathBuf> {
    let path = state.archive().join(format!("{id}.tar.gz"));
    let pack = || -> Result<()> {
        fs::create_dir_all(state.archive())?;
        let file = File::create(&path)?;
        let mut packed = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        for found in logs(folder) {
            let name = Path::new(id).join(found.strip_prefix(folder).unwrap_or(&found));
            add(&mut packed, &found, &name)?;
        }
        packed.into_inner()?.finish()?.sync_all()?;
        Ok(())
    };
    pack().with_context(|| format!("could not keep the logs of {id} as {}", path.display()))?;
    Ok(path)
}

fn add<W: io::Write>(packed: &mut tar::Builder<W>, path: &Path, name: &Path) -> Result<()> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let kept = length.min(MOST_OF_A_FILE);
    file.seek(SeekFrom::Start(length - kept))?;
    let mut header = tar::Header::new_gnu();
    header.set_size(kept);
    header.set_mode(0o640);
    header.set_mtime(crate::create::now());
    // What still grows is read no further than its length at the beginning.
    Ok(packed.append_data(&mut header, name, file.take(kept))?)
}

/// The files of an environment that are worth keeping.
pub(crate) fn logs(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && !is_inner(&name) => folders.push(path),
                Ok(kind) if kind.is_file() && is_kept(&name) => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

fn is_inner(name: &str) -> bool {
    name == "bpf" || name == "state" || name.starts_with("temp-")
}

fn is_kept(name: &str) -> bool {
    [".log", ".jsonl", ".json", ".conf", ".toml"].iter().any(|end| name.ends_with(end))
        || name.contains(".log.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_has_the_logs_and_no_keys() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::of(Some(folder.path())).unwrap();
        let own = state.folder_of("a-20261130-021504").unwrap();
        fs::create_dir_all(own.join("server/log")).unwrap();
        fs::create_dir_all(own.join("server/state")).unwrap();
        for name in ["server/log/access.log", "server/state/x.log", "server/key.pem", "server/shield.toml"] {
            fs::write(own.join(name), "one\n").unwrap();
        }
        let names: Vec<String> =
            logs(&own).iter().map(|path| path.strip_prefix(&own).unwrap().display().to_string()).collect();
        assert_eq!(names, ["server/log/access.log", "server/shield.toml"]);
        let packed = archive(&state, "a-20261130-021504", &own).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(File::open(packed).unwrap()));
        let entries = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned());
        assert_eq!(entries.count(), 2);
    }
}
