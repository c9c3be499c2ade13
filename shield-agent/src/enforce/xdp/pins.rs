//! The folder in bpffs that keeps maps and links alive without the agent: `maps/NAME` and `link_INDEX`.
//!
//! Names have no dots: bpffs refuses them. What the maps and links mean is `tables` and `attach`.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::kernel;

/// Where systems mount their bpffs.
const SYSTEM_BPFFS: &str = "/sys/fs/bpf";
/// The source that a bpffs mounted for Shield alone is listed under, so that cleaning up unmounts no other.
const OWN_MOUNT: &str = "shield";
const MAPS: &str = "maps";
const NEW_MAPS: &str = "maps_new";
const LINK: &str = "link_";

/// The folder.
#[derive(Debug, Clone)]
pub(super) struct Pins {
    root: PathBuf,
}

impl Pins {
    /// The folder at `root`, not looked at yet.
    pub(super) fn new(root: &Path) -> Pins {
        Pins { root: root.to_owned() }
    }

    /// Makes the folder, and mounts a bpffs when there is none.
    ///
    /// # Errors
    /// When it can be neither made nor mounted; the message says what to do.
    pub(super) fn prepare(&self) -> Result<()> {
        if !self.is_on_bpffs() {
            self.mount()?;
        }
        fs::create_dir_all(&self.root).with_context(|| format!("made {}", self.root.display()))
    }

    /// Whether the folder, or its nearest parent that exists, is on a bpffs.
    fn is_on_bpffs(&self) -> bool {
        let existing = self.root.ancestors().find(|path| path.exists());
        existing.is_some_and(|path| statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC))
    }

    fn mount(&self) -> Result<()> {
        let system = Path::new(SYSTEM_BPFFS);
        let (at, source) =
            if self.root.starts_with(system) { (system, "bpf") } else { (self.root.as_path(), OWN_MOUNT) };
        fs::create_dir_all(at).with_context(|| format!("made {} to mount a bpffs on", at.display()))?;
        mount(Some(source), at, Some("bpf"), MsFlags::empty(), None::<&str>).with_context(|| {
            format!("mounted a bpffs: run `mount -t bpf bpf {}` or set another pin folder", at.display())
        })
    }

    /// Where the maps are pinned.
    pub(super) fn maps(&self) -> PathBuf {
        self.root.join(MAPS)
    }

    /// Where maps are pinned that will replace them.
    pub(super) fn new_maps(&self) -> PathBuf {
        self.root.join(NEW_MAPS)
    }

    /// The pin of the link on the interface with this index.
    pub(super) fn link(&self, interface_index: u32) -> PathBuf {
        self.root.join(format!("{LINK}{interface_index}"))
    }

    /// Interface indices with a pinned link.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(super) fn links(&self) -> Result<Vec<u32>> {
        Ok(self.names()?.iter().filter_map(|name| name.strip_prefix(LINK)?.parse().ok()).collect())
    }

    fn names(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("listed {}", self.root.display())),
        };
        Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    }

    /// Settles what an agent that was killed between two steps of replacing maps left: the new ones count only when
    /// the old ones are gone already.
    ///
    /// # Errors
    /// When the folder cannot be changed.
    pub(super) fn recover(&self) -> Result<()> {
        if self.new_maps().exists() {
            if self.maps().exists() {
                return remove_folder(&self.new_maps()).map(drop);
            }
            return self.promote();
        }
        Ok(())
    }

    /// Puts the new maps in the old ones' place.
    ///
    /// # Errors
    /// When the folder cannot be changed.
    pub(super) fn promote(&self) -> Result<()> {
        remove_folder(&self.maps())?;
        fs::rename(self.new_maps(), self.maps())
            .with_context(|| format!("renamed {} to {MAPS}", self.new_maps().display()))
    }

    /// Removes everything of Shield's, the folder included, and a bpffs that was mounted for it alone.
    ///
    /// # Errors
    /// When something cannot be removed; the rest is.
    pub(super) fn remove(&self) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for index in self.links()? {
            removed.extend(remove_link(&self.link(index))?);
        }
        for folder in [self.maps(), self.new_maps()] {
            removed.extend(remove_folder(&folder)?);
        }
        if fs::remove_dir(&self.root).is_ok() {
            removed.push(self.root.display().to_string());
        } else if self.is_own_mount() && umount2(&self.root, MntFlags::empty()).is_ok() {
            removed.push(format!("the bpffs on {}", self.root.display()));
        }
        Ok(removed)
    }

    /// Whether the folder is itself a bpffs that was mounted here by Shield.
    fn is_own_mount(&self) -> bool {
        let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap_or_default();
        let ours = format!("{OWN_MOUNT} {} bpf ", self.root.display());
        mounts.lines().any(|line| line.starts_with(&ours))
    }
}

fn remove_folder(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("listed {}", folder.display())),
    };
    let mut removed = Vec::new();
    for entry in entries.flatten() {
        removed.extend(remove_file(&entry.path())?);
    }
    fs::remove_dir(folder).with_context(|| format!("removed {}", folder.display()))?;
    Ok(removed)
}

/// Takes a pinned link's program off its interface and removes the pin. Without detaching, the kernel would end the link
/// some time later, and go on dropping until then.
///
/// # Errors
/// When the pin cannot be opened or removed.
pub(super) fn remove_link(path: &Path) -> Result<Option<String>> {
    match kernel::open_pinned(path) {
        // A link whose interface is gone cannot be detached, and need not be.
        Ok(link) => drop(kernel::detach_link(link.as_fd())),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("opened the link {}", path.display())),
    }
    remove_file(path)
}

/// Removes a pin; gone already is as good.
///
/// # Errors
/// When it cannot be removed.
pub(super) fn remove_file(path: &Path) -> Result<Option<String>> {
    match fs::remove_file(path) {
        Ok(()) => Ok(Some(path.display().to_string())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("removed {}", path.display())),
    }
}
