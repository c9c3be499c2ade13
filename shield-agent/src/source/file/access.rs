//! Why a path cannot be read: what it is, who may read it, and what the service's sandbox hides.
//!
//! Every reason is found by looking, at the moment it is given: the type and owner of what lies there, and the mounts that this
//! process sees. The sentences are in `text::access`.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use nix::unistd::{AccessFlags, Gid, Group, Uid, User};

use crate::text::access::{self as text, Hidden, Kind};

/// Links followed until they count as a loop; the kernel's own number.
const MAX_LINKS: usize = 40;

/// Returns what a file is; `None` for a regular one.
pub(crate) fn kind_of(kind: FileType) -> Option<Kind> {
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some(Kind::Folder)
    } else if kind.is_fifo() {
        Some(Kind::Pipe)
    } else if kind.is_socket() {
        Some(Kind::Socket)
    } else {
        Some(Kind::Device)
    }
}

/// Opens a regular file. Never waits: a pipe without a writer would be waited for, and opening a device can do things.
///
/// # Errors
/// When it cannot be opened, or is something else.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let refuse = |meta: &Metadata| match kind_of(meta.file_type()) {
        Some(kind) => Err(io::Error::new(ErrorKind::InvalidInput, text::not_a_file(kind, path))),
        None => Ok(()),
    };
    refuse(&path.metadata()?)?;
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    // It may have been replaced in between.
    refuse(&file.metadata()?)?;
    Ok(file)
}

/// Returns the reason for `error` in one clause.
pub(super) fn reason(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::PermissionDenied => denied(path).unwrap_or_else(|| error.to_string()),
        ErrorKind::NotADirectory => text::not_a_folder(&resolve(path).at),
        _ => error.to_string(),
    }
}

/// Returns why nothing lies at `path`, in one sentence.
pub(crate) fn missing(path: &Path) -> String {
    let resolved = resolve(path);
    match hidden(&resolved.target) {
        Some(hidden) => text::hidden(hidden, path, &resolved.target),
        None => text::missing(path, &resolved.target, &resolved.at),
    }
}

/// Returns why this user cannot read the path of a source as a file, in one clause. Waits for nothing.
pub(crate) fn unreadable(path: &Path) -> Option<String> {
    let kind = path.metadata().map(|meta| kind_of(meta.file_type()));
    Some(match kind {
        Ok(None) => text::not_readable(&reason(path, &open_regular(path).err()?)),
        Ok(Some(Kind::Pipe)) => text::PIPE.to_owned(),
        Ok(Some(Kind::Folder)) => text::FOLDER.to_owned(),
        Ok(Some(kind)) => text::not_a_file(kind, path),
        Err(error) if error.kind() == ErrorKind::NotFound => match missing(path) {
            plain if plain == text::missing(path, path, path) => text::ABSENT.to_owned(),
            why => text::absent(why.strip_prefix(&format!("{} ", path.display())).unwrap_or(&why)),
        },
        Err(error) => text::not_readable(&reason(path, &error)),
    })
}

/// Returns what the sandbox hides at `path`, if this process sees it hidden.
pub(crate) fn hidden(path: &Path) -> Option<Hidden> {
    let homes = ["/home", "/root", "/run/user"];
    let tmps = ["/tmp", "/var/tmp"];
    let above = |folders: &[&'static str]| folders.iter().copied().find(|folder| path.starts_with(folder));
    let (home, tmp) = (above(&homes), above(&tmps));
    home.or(tmp)?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounts: Vec<Mount<'_>> = mounts.lines().filter_map(Mount::read).collect();
    hidden_by(&mounts, path, home, tmp)
}

fn hidden_by(mounts: &[Mount<'_>], path: &Path, home: Option<&str>, tmp: Option<&str>) -> Option<Hidden> {
    // The one that `path` lies in: a folder bound into a hidden one is not hidden.
    let around = mounts.iter().filter(|mount| path.starts_with(mount.at));
    // Of several at one place the last one, which covers the others.
    let nearest = around.max_by_key(|mount| mount.at.len())?;
    if Some(nearest.at) == home {
        if nearest.root.ends_with("/inaccessible/dir") {
            return Some(Hidden::Home);
        }
        return (nearest.kind == "tmpfs" && nearest.root == "/" && nearest.is_read_only)
            .then_some(Hidden::HomeIsEmpty);
    }
    (Some(nearest.at) == tmp && nearest.root.contains("/systemd-private-")).then_some(Hidden::Tmp)
}

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, Copy)]
struct Mount<'a> {
    root: &'a str,
    at: &'a str,
    is_read_only: bool,
    kind: &'a str,
}

impl Mount<'_> {
    fn read(line: &str) -> Option<Mount<'_>> {
        let mut fields = line.split(' ').skip(3);
        let (root, at, options) = (fields.next()?, fields.next()?, fields.next()?);
        let kind = fields.skip_while(|field| *field != "-").nth(1)?;
        Some(Mount { root, at, is_read_only: options.split(',').any(|option| option == "ro"), kind })
    }
}

/// Where a path leads.
#[derive(Debug)]
struct Resolved {
    /// The path with its links followed as far as they can be.
    target: PathBuf,
    /// The first part of it that is missing or no folder; the target itself when all is there.
    at: PathBuf,
}

/// Follows every link of `path`, past what is missing.
fn resolve(path: &Path) -> Resolved {
    let mut rest: Vec<PathBuf> = parts(path);
    let mut target = if path.is_absolute() { PathBuf::new() } else { PathBuf::from(".") };
    let (mut at, mut links) = (None, 0);
    while let Some(part) = rest.pop() {
        if part == Path::new("..") {
            target.pop();
            continue;
        }
        target.push(part);
        match target.symlink_metadata() {
            Ok(meta) if meta.is_symlink() && links < MAX_LINKS => {
                links += 1;
                let Ok(to) = target.read_link() else { continue };
                target.pop();
                if to.is_absolute() {
                    target = PathBuf::new();
                }
                rest.extend(parts(&to));
            }
            Ok(meta) if meta.is_dir() || rest.is_empty() => {}
            _ => drop(at.get_or_insert_with(|| target.clone())),
        }
    }
    Resolved { at: at.unwrap_or_else(|| target.clone()), target }
}

/// Returns a path's components, the last first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let named = path.components().rev().filter(|part| *part != Component::CurDir);
    named.map(|part| PathBuf::from(part.as_os_str())).collect()
}

/// Returns who would have to permit what, for a path that this process may not read.
fn denied(path: &Path) -> Option<String> {
    let target = path.canonicalize().unwrap_or_else(|_| resolve(path).target);
    if let Some(hidden) = hidden(&target) {
        return Some(text::hidden(hidden, path, &target));
    }
    let (at, flag) = barrier(&target)?;
    let meta = at.metadata().ok()?;
    let user = User::from_uid(Uid::effective()).ok().flatten();
    let user = user.map_or_else(|| Uid::effective().to_string(), |user| user.name);
    let owner = User::from_uid(Uid::from_raw(meta.uid())).ok().flatten();
    let owner = owner.map_or_else(|| meta.uid().to_string(), |user| user.name);
    let group = Group::from_gid(Gid::from_raw(meta.gid())).ok().flatten();
    let group = group.map_or_else(|| meta.gid().to_string(), |group| group.name);
    let needed = if flag == AccessFlags::X_OK { 0o010 } else { 0o040 };
    Some(text::denied(&text::Denied {
        at: &at,
        owner: &owner,
        group: &group,
        mode: meta.mode() & 0o7777,
        user: &user,
        is_root: Uid::effective().is_root(),
        is_folder: meta.is_dir(),
        group_may: meta.mode() & needed != 0 && meta.gid() != 0,
    }))
}

/// Returns the first part of a path that this process may not pass, or the file that it may not read.
fn barrier(target: &Path) -> Option<(PathBuf, AccessFlags)> {
    let mut folders: Vec<&Path> =
        target.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
    folders.reverse();
    let may = |path: &Path, flag| nix::unistd::eaccess(path, flag).is_ok();
    if let Some(folder) = folders.into_iter().find(|folder| !may(folder, AccessFlags::X_OK)) {
        return Some((folder.to_owned(), AccessFlags::X_OK));
    }
    Some((target.to_owned(), AccessFlags::R_OK))
}

/// Returns the drop-in for the unit that shows the service just the folder of a log below /home, /root or /run/user, which
/// its `ProtectHome=yes` hides; `None` for a log elsewhere.
///
/// `log` may be a pattern; the folder before its first wildcard is shown.
pub(crate) fn protect_home_drop_in(log: &Path) -> Option<String> {
    let target = resolve(log).target;
    let homes = ["/home", "/root", "/run/user"];
    let home = homes.into_iter().find(|home| target.starts_with(home))?;
    // A variable of nginx's is one too.
    let has_wildcard = |path: &Path| path.to_string_lossy().contains(['*', '?', '[', '$']);
    let folder = target.ancestors().skip(1).find(|folder| !has_wildcard(folder))?;
    // A log in /root itself: there is no smaller folder to show.
    let folder = (folder != Path::new(home) && folder.starts_with(home)).then_some(folder);
    Some(text::protect_home_drop_in(folder))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_missing_log_is_told_from_a_missing_folder_and_from_a_link_to_nothing() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        symlink(root.join("gone/b.log"), root.join("link.log")).unwrap();
        let check = |path: &str, expected: &str| {
            let said = missing(&root.join(path)).replace(root.to_str().unwrap(), "");
            assert_eq!(said, expected);
        };
        check("a.log", "/a.log does not exist (yet)");
        check("deep/er/a.log", "/deep/er/a.log does not exist (yet): there is no folder /deep");
        check(
            "link.log",
            "/link.log links to /gone/b.log, which does not exist (yet): there is no folder /gone",
        );
    }

    #[test]
    fn what_is_no_file_is_named_and_never_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let pipe = root.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixDatagram::bind(root.path().join("socket")).unwrap();
        for (path, expected) in [
            (pipe, "a named pipe"),
            (root.path().join("socket"), "syslog = "),
            (root.path().to_owned(), "a folder"),
            (PathBuf::from("/dev/null"), "a device"),
        ] {
            let error = open_regular(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_folder_bound_into_a_hidden_one_is_not_hidden() {
        let table = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
80 22 8:2 / /home rw,relatime shared:3 - ext4 /dev/sda2 rw
90 22 0:25 /systemd/inaccessible/dir /home ro,nosuid,nodev,noexec shared:2 - tmpfs tmpfs rw,mode=755
91 22 0:31 / /root ro,nosuid,nodev,noexec - tmpfs tmpfs ro,mode=755
92 91 8:1 /root/logs /root/logs ro,relatime - ext4 /dev/sda1 rw
93 22 8:1 /tmp/systemd-private-4f2b-shield.service-Ab/tmp /tmp rw,nosuid - ext4 /dev/sda1 rw
";
        let mounts: Vec<Mount<'_>> = table.lines().filter_map(Mount::read).collect();
        let check = |path: &str, expected: Option<Hidden>| {
            let above = |folder| Path::new(path).starts_with(folder).then_some(folder);
            let home = above("/home").or_else(|| above("/root"));
            assert_eq!(hidden_by(&mounts, Path::new(path), home, above("/tmp")), expected, "{path}");
        };
        check("/home/anna/logs/a.log", Some(Hidden::Home));
        check("/root/a.log", Some(Hidden::HomeIsEmpty));
        check("/root/logs/a.log", None);
        check("/tmp/a.log", Some(Hidden::Tmp));
        check("/var/log/a.log", None);
    }

    #[test]
    fn the_drop_in_shows_one_folder() {
        let drop_in = |log: &str| protect_home_drop_in(Path::new(log));
        let one = drop_in("/home/anna/logs/access.log").unwrap();
        assert!(one.contains("ProtectHome=tmpfs\nBindReadOnlyPaths=-/home/anna/logs\n"), "{one}");
        assert!(drop_in("/home/anna/*/access.log").unwrap().contains("=-/home/anna\n"));
        let all = drop_in("/home/*/logs/access.log").unwrap();
        assert!(all.contains("ProtectHome=read-only\n"), "{all}");
        assert_eq!(drop_in("/var/log/nginx/access.log"), None);
    }
}
