//! The bytes of an upgrade: from the file that was named into a folder that root alone can enter, and from there into place.
//!
//! What is checked, run and installed is one copy: the named file is opened once, and never asked again. Each change of the
//! installed file is a rename, so that at any moment there is a whole one.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};

/// More than any build of the agent.
const MAX_BYTES: u64 = 1 << 30;
const ELF: [u8; 4] = *b"\x7fELF";
/// Bits of a mode by which others than the owner may write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// A folder that root alone can enter, which goes with its owner.
#[derive(Debug)]
pub(super) struct Staging(PathBuf);

impl Staging {
    /// Makes the folder below `parent`, whose file system it shares. One that a killed upgrade left is replaced.
    pub(super) fn create(parent: &Path) -> Result<Staging> {
        let folder = parent.join(".shield-agent-upgrade");
        let could_not = || format!("could not make the folder {}", folder.display());
        match fs::symlink_metadata(&folder) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(&folder).with_context(could_not)?,
            Ok(_) => bail!("{}: there is something else", could_not()),
            Err(_) => {}
        }
        DirBuilder::new().mode(0o700).create(&folder).with_context(could_not)?;
        Ok(Staging(folder))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What stays is replaced by the next upgrade.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The copy that is checked and installed.
#[derive(Debug)]
pub(super) struct Staged {
    pub path: PathBuf,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// Copies the named file, once it is found to be one that nobody but its owner can have changed. The owner is root or, through
/// sudo, whoever asks.
pub(super) fn stage(source: &Path, staging: &Staging, owners: &[u32]) -> Result<Staged> {
    let could_not = || format!("could not take {}", source.display());
    // Without following a link, and without waiting for the writer of a named pipe.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut file = match File::options().read(true).custom_flags(flags).open(source) {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            bail!("{}: it is a link; name the file itself", could_not())
        }
        other => other.with_context(could_not)?,
    };
    let meta = file.metadata().with_context(could_not)?;
    if !meta.is_file() {
        bail!("{}: it is no regular file", could_not());
    }
    if meta.mode() & WRITABLE_BY_OTHERS != 0 {
        bail!(
            "{}: others than its owner may write it (mode {:04o}), so that nobody knows whose it is; \
             get it again, then: chmod go-w",
            could_not(),
            meta.mode() & 0o7777
        );
    }
    if !owners.contains(&meta.uid()) {
        bail!(
            "{}: it belongs to the user {}, who could change what root runs; make it root's (chown root) if it is the file that \
             you mean",
            could_not(),
            meta.uid()
        );
    }
    if meta.len() > MAX_BYTES {
        bail!("{}: it is larger than any shield-agent", could_not());
    }
    let path = staging.path("shield-agent");
    let sha256 = copy(&mut file, &path).with_context(could_not)?;
    Ok(Staged { path, sha256 })
}

fn copy(from: &mut File, to: &Path) -> Result<String> {
    let mut new = OpenOptions::new().write(true).create_new(true).mode(0o700).open(to)?;
    let (mut hash, mut copied, mut buffer) = (Sha256::new(), 0_u64, vec![0; 1 << 16]);
    loop {
        let read = from.read(&mut buffer)?;
        let part = buffer.get(..read).unwrap_or_default();
        if copied == 0 && !part.starts_with(&ELF) {
            bail!("it is no program for Linux");
        }
        if part.is_empty() {
            break;
        }
        copied += read as u64;
        if copied > MAX_BYTES {
            bail!("it grows while it is read");
        }
        hash.update(part);
        new.write_all(part)?;
    }
    new.sync_all()?;
    Ok(hex(&hash.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of a file, in hexadecimal.
fn sha256_of(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    std::io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(hex(&hash.finalize()))
}

/// Where the old version is kept.
pub(super) fn kept(installed: &Path) -> PathBuf {
    let mut name = installed.as_os_str().to_owned();
    name.push(".before-upgrade");
    name.into()
}

/// Whoever could write the folder could put another file there between the check and the start.
pub(super) fn only_root_writes(installed: &Path) -> Result<()> {
    for folder in installed.ancestors().skip(1) {
        let meta = folder.metadata().with_context(|| format!("could not look at {}", folder.display()))?;
        // In one with the sticky bit nobody can replace what is root's.
        let is_sticky = meta.mode() & 0o1000 != 0;
        if meta.uid() != 0 || (meta.mode() & WRITABLE_BY_OTHERS != 0 && !is_sticky) {
            bail!(
                "could not install into {}: others than root may write {}, and with it replace the agent",
                installed.display(),
                folder.display()
            );
        }
    }
    Ok(())
}

/// Puts the checked copy in the installed file's place and keeps that one beside.
pub(super) fn install(staged: &Staged, installed: &Path) -> Result<()> {
    let could_not = || format!("could not install {}", installed.display());
    let old = fs::symlink_metadata(installed).with_context(could_not)?;
    if !old.is_file() {
        bail!("{}: it is no regular file", could_not());
    }
    if sha256_of(&staged.path).with_context(could_not)? != staged.sha256 {
        bail!("{}: the copy that was checked has changed on the disk", could_not());
    }
    let copy = File::open(&staged.path).with_context(could_not)?;
    fchown(&copy, Some(old.uid()), Some(old.gid())).with_context(could_not)?;
    // Never set-user-ID, whatever the old one was.
    copy.set_permissions(Permissions::from_mode(old.mode() & 0o755)).with_context(could_not)?;
    copy.sync_all().with_context(could_not)?;
    keep(installed).with_context(could_not)?;
    fs::rename(&staged.path, installed).with_context(could_not)?;
    sync_folder(installed).with_context(could_not)
}

/// A second name for the installed file, under which it stays.
fn keep(installed: &Path) -> Result<()> {
    let kept = kept(installed);
    match fs::remove_file(&kept) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    Ok(fs::hard_link(installed, &kept)?)
}

/// Puts the old version back by a rename.
pub(super) fn put_back(installed: &Path) -> Result<()> {
    let kept = kept(installed);
    fs::rename(&kept, installed)
        .with_context(|| format!("could not put {} back to {}", kept.display(), installed.display()))?;
    sync_folder(installed)
}

fn sync_folder(file: &Path) -> Result<()> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    Ok(File::open(folder)?.sync_all()?)
}

/// One upgrade at a time: a lock on the folder of the installed file, until this is dropped.
pub(super) fn lock(installed: &Path) -> Result<File> {
    let folder = installed.parent().unwrap_or(Path::new("/"));
    let could_not = || format!("could not lock {}", folder.display());
    let file = File::open(folder).with_context(could_not)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => bail!("could not begin: another upgrade is under way"),
        Err(fs::TryLockError::Error(error)) => Err(error).with_context(could_not),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Place {
            Place(tempfile::tempdir().unwrap())
        }

        fn file(&self, name: &str, text: &[u8], mode: u32) -> PathBuf {
            let path = self.0.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    fn me() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    fn refusal(source: &Path, owners: &[u32]) -> String {
        let place = Place::new();
        let staging = Staging::create(place.0.path()).unwrap();
        format!("{:#}", stage(source, &staging, owners).unwrap_err())
    }

    #[test]
    fn only_a_program_that_nobody_else_could_have_changed_is_taken() {
        let place = Place::new();
        let good = place.file("good", b"\x7fELFrest", 0o755);
        let link = place.0.path().join("link");
        std::os::unix::fs::symlink(&good, &link).unwrap();
        let pipe = place.0.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let cases: [(PathBuf, &[u32], &str); 7] = [
            (link, &[me()], "name the file itself"),
            (pipe, &[me()], "no regular file"),
            (place.0.path().to_owned(), &[me()], "no regular file"),
            (
                place.file("group", b"\x7fELF", 0o775),
                &[me()],
                "others than its owner may write it (mode 0775)",
            ),
            (place.file("script", b"#!/bin/sh\n", 0o755), &[me()], "no program for Linux"),
            (place.file("empty", b"", 0o755), &[me()], "no program for Linux"),
            (good.clone(), &[me() + 1], "could change what root runs"),
        ];
        for (source, owners, expected) in cases {
            let said = refusal(&source, owners);
            assert!(said.starts_with("could not take") && said.contains(expected), "{said}");
        }
    }

    /// What is installed is what was copied, whatever becomes of the file that was named.
    #[test]
    fn the_copy_is_installed_and_the_old_one_kept_and_put_back() {
        let place = Place::new();
        let source = place.file("new", b"\x7fELFnew", 0o700);
        let installed = place.file("shield-agent", b"\x7fELFold", 0o4755);
        let staging = Staging::create(place.0.path()).unwrap();
        let staged = stage(&source, &staging, &[me()]).unwrap();
        fs::write(&source, b"\x7fELFother").unwrap();
        install(&staged, &installed).unwrap();
        assert_eq!(fs::read(&installed).unwrap(), b"\x7fELFnew");
        assert_eq!(fs::metadata(&installed).unwrap().mode() & 0o7777, 0o755, "no set-user-ID");
        assert_eq!(fs::read(kept(&installed)).unwrap(), b"\x7fELFold");
        put_back(&installed).unwrap();
        assert_eq!(fs::read(&installed).unwrap(), b"\x7fELFold");
        let staged = stage(
            &place.file("newer", b"\x7fELFnewer", 0o700),
            &Staging::create(place.0.path()).unwrap(),
            &[me()],
        );
        assert!(staged.is_ok(), "a folder that was left is replaced");
    }

    #[test]
    fn a_copy_that_was_changed_is_not_installed() {
        let place = Place::new();
        let source = place.file("new", b"\x7fELFnew", 0o700);
        let installed = place.file("shield-agent", b"\x7fELFold", 0o755);
        let staging = Staging::create(place.0.path()).unwrap();
        let staged = stage(&source, &staging, &[me()]).unwrap();
        fs::write(&staged.path, b"\x7fELFevil").unwrap();
        assert!(install(&staged, &installed).is_err());
        assert_eq!(fs::read(&installed).unwrap(), b"\x7fELFold");
    }

    #[test]
    fn one_upgrade_at_a_time() {
        let place = Place::new();
        let installed = place.file("shield-agent", b"", 0o755);
        let first = lock(&installed).unwrap();
        assert!(format!("{:#}", lock(&installed).unwrap_err()).contains("another upgrade"));
        drop(first);
        lock(&installed).unwrap();
    }
}
