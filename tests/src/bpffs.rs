//! A BPF file system of a test's own, so that pins neither meet those of other tests nor need `/sys/fs/bpf` mounted.

use std::path::Path;

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A mounted bpffs in a temporary folder; unmounted, with every pin in it, when dropped.
#[derive(Debug)]
pub struct Bpffs {
    folder: tempfile::TempDir,
}

impl Bpffs {
    /// Mounts a new, empty one.
    ///
    /// # Errors
    /// Without root, or on a kernel without bpffs.
    pub fn mount() -> Result<Self> {
        let folder = tempfile::tempdir().context("made a temporary folder")?;
        mount(Some("bpf"), folder.path(), Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mounted bpffs on {} (needs root)", folder.path().display()))?;
        Ok(Self { folder })
    }

    /// Where it is mounted.
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
