//! A BPF file system for one test, so that its pins do not collide with those of other tests, and `/sys/fs/bpf` need not be
//! mounted.

use std::path::Path;

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A bpffs mounted on a temporary folder. Dropping it unmounts it, which removes every pin in it.
#[derive(Debug)]
pub struct Bpffs {
    folder: tempfile::TempDir,
}

impl Bpffs {
    /// Mounts an empty bpffs.
    ///
    /// # Errors
    /// Fails without root, or on a kernel without bpffs.
    pub fn mount() -> Result<Self> {
        let folder = tempfile::tempdir().context("could not create a temporary folder")?;
        mount(Some("bpf"), folder.path(), Some("bpf"), MsFlags::empty(), None::<&str>).with_context(
            || format!("could not mount a bpffs on {} (needs root)", folder.path().display()),
        )?;
        Ok(Self { folder })
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.folder.path(), MntFlags::MNT_DETACH) {
            eprintln!("could not unmount {}: {error}", self.folder.path().display());
        }
    }
}
