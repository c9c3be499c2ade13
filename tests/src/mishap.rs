//! Bad luck to order: a damaged database, a disk that is full.

use std::fs::{self, File};
use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Overwrites the first page of a database, and removes what is not in the file yet, in its write-ahead log.
///
/// # Errors
/// Fails if the file cannot be read or written.
pub fn damage(database: &Path) -> Result<()> {
    overwrite(database, 0..4096)
}

/// Damages what a start does not read, and only the check of every page finds: the number of the database's free pages.
/// Removes the write-ahead log, too, which may have a page with the right one.
///
/// # Errors
/// Fails if the file cannot be read or written.
pub fn damage_unread(database: &Path) -> Result<()> {
    // https://www.sqlite.org/fileformat2.html#the_database_header
    overwrite(database, 36..40)
}

fn overwrite(database: &Path, part: Range<usize>) -> Result<()> {
    for companion in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{companion}", database.display()));
    }
    let shown = database.display();
    let mut bytes = fs::read(database).with_context(|| format!("could not read {shown}"))?;
    let part = bytes.get_mut(part).with_context(|| format!("could not find a page in {shown}"))?;
    part.fill(0x5a);
    fs::write(database, bytes).with_context(|| format!("could not write {shown}"))
}

/// A small file system of its own, unmounted on drop.
#[derive(Debug)]
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// Mounts 2 MiB over this folder, which is created.
    ///
    /// # Errors
    /// Fails without root.
    pub fn mount(folder: &Path) -> Result<SmallDisk> {
        fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some("size=2m,mode=0700"))
            .with_context(|| format!("could not mount a small disk on {}", folder.display()))?;
        Ok(SmallDisk { folder: folder.to_owned() })
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    /// Leaves no room.
    ///
    /// # Errors
    /// Fails if no file can be created.
    pub fn fill(&self) -> Result<()> {
        let mut filled = File::options()
            .create(true)
            .append(true)
            .open(self.ballast())
            .context("could not create the ballast")?;
        while filled.write_all(&[1; 4096]).is_ok() {}
        Ok(())
    }

    /// Makes room again.
    ///
    /// # Errors
    /// Fails if it is not full.
    pub fn clear(&self) -> Result<()> {
        fs::remove_file(self.ballast()).context("could not remove the ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.folder, MntFlags::MNT_DETACH) {
            eprintln!("could not unmount {}: {error}", self.folder.display());
        }
    }
}
