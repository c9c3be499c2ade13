//! The file of the Unix control socket (mode 0660, root and group `shield`) and its peers' permissions. A stale file is
//! replaced; one that answers belongs to another agent. Not here: serving (`listen`), the answers (`routes`).

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{ffi::CString, fs};

use anyhow::{Context, Result, bail};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};

use super::auth::Peer;

/// The group whose members may use the control socket.
pub(crate) const GROUP: &str = "shield";

const SOCKET_MODE: u32 = 0o660;
const DIR_MODE: u32 = 0o755;

/// The bound control socket. Dropping it removes the file, unless another agent has replaced it meanwhile.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    inode: (u64, u64),
    listener: UnixListener,
    policy: PeerPolicy,
}

impl ControlSocket {
    /// Binds `path` for root, the user of this process and the members of [`GROUP`] if this host has it.
    ///
    /// # Errors
    /// If another agent answers there, or if the file there is not a socket.
    pub fn bind(path: &Path) -> Result<ControlSocket> {
        let policy = PeerPolicy::of_this_host()?;
        make_dir(path)?;
        refuse_if_in_use(path)?;
        let listener = bind_with_permissions(path, policy.group)?;
        let metadata = fs::metadata(path).with_context(|| format!("could not look at {}", path.display()))?;
        let inode = (metadata.dev(), metadata.ino());
        Ok(ControlSocket { path: path.to_owned(), inode, listener, policy })
    }

    /// Accepts the next connection and judges its peer.
    pub async fn accept(&self) -> std::io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.listener.accept().await?;
        let credentials = stream.peer_cred()?;
        let peer = self.policy.judge(&credentials).await;
        Ok((stream, peer))
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let is_ours = fs::metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.inode);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "could not remove the control socket");
        }
    }
}

fn make_dir(path: &Path) -> Result<()> {
    let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty() && !dir.exists()) else {
        return Ok(());
    };
    fs::create_dir_all(dir)
        .and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(DIR_MODE)))
        .with_context(|| format!("could not create {} for the control socket", dir.display()))
}

fn refuse_if_in_use(path: &Path) -> Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("could not look at {}", path.display())),
    };
    if !found.file_type().is_socket() {
        bail!(
            "{} exists and is not a socket; move it away or set another `socket` in [agent]",
            path.display()
        );
    }
    match StdUnixStream::connect(path) {
        Ok(_) => bail!(
            "another shield-agent answers on {}; stop it first, or set another `socket` in [agent]",
            path.display()
        ),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error).with_context(|| {
            format!("could not find out whether another agent answers on {}", path.display())
        }),
    }
}

/// Binds beside `path` and renames, so that nobody can connect before the permissions are set.
fn bind_with_permissions(path: &Path, group: Option<Gid>) -> Result<UnixListener> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(name);
    let listener = UnixListener::bind(&fresh)
        .with_context(|| format!("could not bind the control socket {}", path.display()))?;
    let ready = fs::set_permissions(&fresh, fs::Permissions::from_mode(SOCKET_MODE))
        .and_then(|()| group.map_or(Ok(()), |gid| chown(&fresh, None, Some(gid.as_raw()))))
        .and_then(|()| fs::rename(&fresh, path));
    if let Err(error) = ready {
        let _ = fs::remove_file(&fresh);
        return Err(error).with_context(|| format!("could not set up the control socket {}", path.display()));
    }
    Ok(listener)
}

#[derive(Debug, Clone)]
struct PeerPolicy {
    own: Uid,
    group: Option<Gid>,
}

impl PeerPolicy {
    fn of_this_host() -> Result<PeerPolicy> {
        let group =
            Group::from_name(GROUP).with_context(|| format!("could not look up the group {GROUP}"))?;
        let group = group.map(|group| group.gid);
        Ok(PeerPolicy { own: Uid::effective(), group })
    }

    async fn judge(&self, credentials: &UCred) -> Peer {
        let (uid, gid) = (Uid::from_raw(credentials.uid()), Gid::from_raw(credentials.gid()));
        if self.is_allowed(uid, gid, &[]) {
            return Peer(Ok(()));
        }
        // The user database may be remote and slow: queried off the runtime's threads, and only if it is needed.
        let groups = tokio::task::spawn_blocking(move || groups_of(uid)).await.unwrap_or_default();
        if self.is_allowed(uid, gid, &groups) { Peer(Ok(())) } else { Peer(Err(self.refusal(uid))) }
    }

    /// root, the agent's own user, and members of the group.
    fn is_allowed(&self, uid: Uid, gid: Gid, groups: &[Gid]) -> bool {
        let in_group = |group: Gid| gid == group || groups.contains(&group);
        uid.is_root() || uid == self.own || self.group.is_some_and(in_group)
    }

    fn refusal(&self, uid: Uid) -> Arc<str> {
        let advice = match self.group {
            Some(_) => {
                format!("is not in the group {GROUP}; add it (`usermod -aG {GROUP} USER`) or use root")
            }
            None => format!("is not root, and this host has no group {GROUP}"),
        };
        format!("user {uid} {advice}").into()
    }
}

fn groups_of(uid: Uid) -> Vec<Gid> {
    let Ok(Some(user)) = User::from_uid(uid) else { return Vec::new() };
    let Ok(name) = CString::new(user.name) else { return Vec::new() };
    getgrouplist(&name, user.gid).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_the_own_user_and_the_group_may_use_the_socket() {
        let policy = PeerPolicy { own: Uid::from_raw(990), group: Some(Gid::from_raw(980)) };
        let check = |uid, gid, groups: &[u32], expected| {
            let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
            let got = policy.is_allowed(Uid::from_raw(uid), Gid::from_raw(gid), &groups);
            assert_eq!(got, expected, "uid {uid} gid {gid} groups {groups:?}");
        };
        check(0, 0, &[], true);
        check(990, 990, &[], true);
        check(1000, 980, &[], true);
        check(1000, 1000, &[27, 980], true);
        check(1000, 1000, &[27], false);
        check(1000, 0, &[0], false);
        let without_group = PeerPolicy { group: None, ..policy };
        assert!(!without_group.is_allowed(Uid::from_raw(1000), Gid::from_raw(980), &[Gid::from_raw(980)]));
    }

    #[tokio::test]
    async fn a_stale_file_is_taken_over_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/control.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        let error = format!("{:#}", ControlSocket::bind(&path).unwrap_err());
        assert!(error.contains("another shield-agent answers on"), "{error}");
        drop(socket);
        assert!(!path.exists(), "removed when the agent stops");

        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind as by a kill -9");
        ControlSocket::bind(&path).unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_not_a_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        fs::write(&path, "another file").unwrap();
        let error = format!("{:#}", ControlSocket::bind(&path).unwrap_err());
        assert!(error.contains("is not a socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "another file");
    }

    #[tokio::test]
    async fn a_socket_that_another_agent_made_meanwhile_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let first = ControlSocket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = ControlSocket::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }
}
