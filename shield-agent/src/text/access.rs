//! Why a log cannot be read, and what to do about it.

use std::path::Path;

use super::{bytes, counted, utc};

/// What a path names, if not a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Folder,
    Pipe,
    Socket,
    Device,
}

/// A part of the file system that the service's sandbox shows otherwise than it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hidden {
    /// `ProtectHome=yes`.
    Home,
    /// `ProtectHome=tmpfs`.
    HomeIsEmpty,
    /// `PrivateTmp=yes`.
    Tmp,
}

/// The states of a path that need no explanation.
pub(crate) const ABSENT: &str = "does not exist yet: the agent waits for it";
pub(crate) const PIPE: &str = "a named pipe, whose lines only the agent can read";
pub(crate) const FOLDER: &str = "a folder";

pub(crate) const LISTENING: &str = "listening";

/// A syslog socket that got datagrams of users that are not believed, most of them from `who`.
pub(crate) fn refused_senders(count: u64, who: &str) -> String {
    format!(
        "listening; refused {} of users that are not in `users`, most of {who}",
        counted(count, "datagram")
    )
}

/// The same when nothing else came. Without the count, which grows: a reason that changes is told anew each time.
pub(crate) fn only_refused_senders(who: &str) -> String {
    format!(
        "reads nothing: every datagram comes from users that are not in `users`, most from {who}, and is refused; if nginx \
         runs as {who}, add it to `users` of this [[source]]"
    )
}

/// The end of the reason of a source that panicked twice at the same lines.
pub(crate) const SKIPS_TO_THE_END: &str =
    "; it did so twice at the same lines, so it goes on at the end of its logs";

/// A source whose thread panicked.
pub(crate) fn broke_down(message: &str, wait_secs: u64) -> String {
    super::health::restarted(message, wait_secs)
}

/// A path that this user may not read.
pub(crate) fn not_readable(why: &str) -> String {
    format!("not readable by this user: the agent waits until it is; {why}")
}

/// A path at which nothing lies, for a reason.
pub(crate) fn absent(why: &str) -> String {
    format!("{why}; the agent waits for it")
}

/// Something that is no regular file, in place of a log.
pub(crate) fn not_a_file(kind: Kind, path: &Path) -> String {
    match kind {
        Kind::Folder => {
            "it is a folder, not a file; name the log in it, or a pattern such as FOLDER/*.log".to_owned()
        }
        Kind::Pipe => {
            "it is a named pipe, which can be read only as the path of a [[source]], without a pattern"
                .to_owned()
        }
        Kind::Socket => format!(
            "it is a socket, not a file; remove it and write `syslog = \"{}\"` instead of `path`, and the agent makes \
             the socket that nginx sends its lines to",
            path.display()
        ),
        Kind::Device => {
            "it is a device, not a file; name the log itself, or write `stdin = true` for standard input"
                .to_owned()
        }
    }
}

/// A part of the path that should be a folder, and is a file.
pub(crate) fn not_a_folder(at: &Path) -> String {
    format!("{} is not a folder", at.display())
}

/// Nothing lies at `path`, which leads to `target`; `at` is the first part of it that is missing.
pub(crate) fn missing(path: &Path, target: &Path, at: &Path) -> String {
    let what = if path == target || !path.is_symlink() {
        format!("{} does not exist (yet)", path.display())
    } else {
        format!("{} links to {}, which does not exist (yet)", path.display(), target.display())
    };
    if at == target { what } else { format!("{what}: there is no folder {}", at.display()) }
}

/// The service's sandbox hides what `path` leads to.
pub(crate) fn hidden(hidden: Hidden, path: &Path, target: &Path) -> String {
    let shown = target.display();
    let folder = target.parent().unwrap_or(target).display();
    let said = format!("could not see {}", path.display());
    match hidden {
        Hidden::Home => format!(
            "{said}: the service's sandbox hides {shown} (ProtectHome=yes); show it just this folder with \
             `systemctl edit shield` and the lines [Service], ProtectHome=tmpfs, BindReadOnlyPaths=-{folder}, and restart it"
        ),
        Hidden::HomeIsEmpty => format!(
            "{said}: the service's sandbox shows {shown} only if it is told to (ProtectHome=tmpfs); add \
             BindReadOnlyPaths=-{folder} below [Service] with `systemctl edit shield`, and restart it"
        ),
        Hidden::Tmp => format!(
            "{said}: the service has a /tmp of its own (PrivateTmp=yes); let nginx write below /var/log, or add \
             BindReadOnlyPaths=-{folder} below [Service] with `systemctl edit shield`, and restart it"
        ),
    }
}

/// Whose permission is missing.
#[derive(Debug)]
pub(crate) struct Denied<'a> {
    pub at: &'a Path,
    pub owner: &'a str,
    pub group: &'a str,
    pub mode: u32,
    pub user: &'a str,
    pub is_root: bool,
    pub is_folder: bool,
    /// Members of the group may do what the agent may not.
    pub group_may: bool,
}

pub(crate) fn denied(denied: &Denied<'_>) -> String {
    let Denied { at, owner, group, mode, user, is_root, is_folder, group_may } = denied;
    let at = at.display();
    let fact = format!("permission denied: {at} belongs to {owner}:{group}, mode {mode:04o}");
    if *is_root {
        return format!(
            "{fact}, and the agent is root: it lacks CAP_DAC_READ_SEARCH, or SELinux, AppArmor or a network file system \
             refuses it (`journalctl -k` tells)"
        );
    }
    let right = if *is_folder { "x" } else { "r" };
    let acl = format!("`setfacl -m u:{user}:{right} {at}`");
    if *group_may {
        format!(
            "{fact}; `usermod -aG {group} {user}` lets the agent's user in at its next start, or {acl} at once"
        )
    } else {
        format!("{fact}; {acl} lets the agent's user {user} in")
    }
}

/// The drop-in that shows the service one folder below a home directory; `None` for all of them.
pub(crate) fn protect_home_drop_in(folder: Option<&Path>) -> String {
    let head = "# /etc/systemd/system/shield.service.d/home.conf: lets the service read logs below a home directory.\n";
    match folder {
        Some(folder) => {
            format!("{head}[Service]\nProtectHome=tmpfs\nBindReadOnlyPaths=-{}\n", folder.display())
        }
        None => format!("{head}[Service]\nProtectHome=read-only\n"),
    }
}

/// A packed log that ends in damage.
pub(crate) fn damaged(path: &Path, damage: &str, read_bytes: u64) -> String {
    format!("{} is damaged after {} of text ({damage})", path.display(), bytes(read_bytes))
}

/// A rotated log that could not be read at all.
pub(crate) fn unread(path: &Path, why: &str) -> String {
    format!("could not read the rotated log {}: {why}", path.display())
}

/// A packing that cannot be read.
pub(crate) fn foreign(ending: &str) -> String {
    format!("{ending} files cannot be unpacked here (gzip, bzip2, xz and zstd can)")
}

/// The rest of the log that was read before the restart is not found.
pub(crate) fn gone(path: &Path, read_bytes: u64, last_write_ms: i64) -> String {
    format!(
        "the file that was {} when the agent last read it (up to byte {read_bytes}, last written to at {}) is gone, with what was \
         written to it since: it lies neither beside the log nor where logrotate moves old ones, or it was emptied",
        path.display(),
        utc(last_write_ms)
    )
}

/// A log that is read under another name.
pub(crate) fn twin(path: &Path, of: &Path) -> String {
    if path == of {
        return format!("an earlier [[source]] names {} too; read once, there", path.display());
    }
    format!("{} is the same file as {}; read once as {}", path.display(), of.display(), of.display())
}

/// As [`twin`], beside the path.
pub(crate) fn is_twin(path: &Path, of: &Path) -> String {
    if path == of {
        return "an earlier [[source]] names it too; read once, there".to_owned();
    }
    format!("the same file as {}; read once, as that", of.display())
}

/// A named pipe that no program writes to.
pub(crate) fn pipe_without_writer(path: &Path) -> String {
    format!("no program has the named pipe {} open for writing; waiting for one", path.display())
}

/// A named pipe that could not be opened.
pub(crate) fn pipe_not_opened(path: &Path, error: &std::io::Error) -> String {
    format!("could not open the named pipe {}: {error}; retrying", path.display())
}

/// A named pipe that could not be read.
pub(crate) fn pipe_not_read(path: &Path, error: &std::io::Error) -> String {
    format!("could not read the named pipe {}: {error}; retrying", path.display())
}

/// Folders that could not be watched, because the system has no more inotify watches to give.
pub(crate) fn unwatched(folders: usize) -> String {
    format!(
        "could not watch {} of logs: the system's limit of inotify watches is reached, so the logs are looked at every 250 ms \
         instead; `sysctl fs.inotify.max_user_watches` raises it",
        super::counted(folders as u64, "folder")
    )
}

/// nginx writes a log below a home directory.
pub(crate) fn below_home(log: &str, drop_in: &str) -> String {
    format!(
        "access_log {log} lies below a home directory, and the service's sandbox hides those (ProtectHome=yes). This file shows it \
         the log, from `systemctl daemon-reload` and a restart of shield on:\n{drop_in}"
    )
}
