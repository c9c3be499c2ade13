//! The folder in bpffs that keeps maps and links alive without the agent: `maps/NAME` and `link_INDEX`.
//!
//! Names have no dots, because bpffs refuses them. What the maps and links mean is in `maps` and `attach`.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::kernel;

/// Where init systems mount the bpffs.
const SYSTEM_BPFFS: &str = "/sys/fs/bpf";
/// The mount source of a bpffs that is Shield's alone, so that a cleanup unmounts no other.
const OWN_MOUNT: &str = "shield";
const MAPS: &str = "maps";
const NEW_MAPS: &str = "maps_new";
const LINK: &str = "link_";

#[derive(Debug, Clone)]
pub(super) struct Pins {
    root: PathBuf,
}

impl Pins {
    pub(super) fn new(root: &Path) -> Pins {
        Pins { root: root.to_owned() }
    }

    /// Makes the folder, and mounts a bpffs if there is none.
    pub(super) fn prepare(&self) -> Result<()> {
        if !self.is_on_bpffs() {
            self.mount()?;
        }
        fs::create_dir_all(&self.root).map_err(|error| {
            let hint = match error.kind() {
                // The unit can write this folder alone, which is made before each start.
                ErrorKind::ReadOnlyFilesystem => {
                    ": was it removed? What drops goes on until the agent ends; `systemctl restart shield` makes it again"
                }
                _ => "",
            };
            anyhow::Error::new(error).context(format!("could not make {}{hint}", self.root.display()))
        })
    }

    /// Returns whether the folder, or its nearest existing parent, is on a bpffs.
    fn is_on_bpffs(&self) -> bool {
        let existing = self.root.ancestors().find(|path| path.exists());
        existing.is_some_and(|path| statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC))
    }

    fn mount(&self) -> Result<()> {
        let system = Path::new(SYSTEM_BPFFS);
        let (at, source) =
            if self.root.starts_with(system) { (system, "bpf") } else { (self.root.as_path(), OWN_MOUNT) };
        fs::create_dir_all(at)
            .with_context(|| format!("could not make {} as a mount point", at.display()))?;
        mount(Some(source), at, Some("bpf"), MsFlags::empty(), None::<&str>).with_context(|| {
            format!(
                "could not mount a bpffs: run `mount -t bpf bpf {}`, or configure another pin folder",
                at.display()
            )
        })
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.root.join(MAPS)
    }

    /// The folder of new maps, until every link runs on them.
    pub(super) fn new_maps(&self) -> PathBuf {
        self.root.join(NEW_MAPS)
    }

    /// The pin of the link on the interface with this index.
    pub(super) fn link(&self, interface_index: u32) -> PathBuf {
        self.root.join(format!("{LINK}{interface_index}"))
    }

    /// Lists the interface indices with a pinned link.
    pub(super) fn links(&self) -> Result<Vec<u32>> {
        Ok(self.names()?.iter().filter_map(|name| name.strip_prefix(LINK)?.parse().ok()).collect())
    }

    fn names(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(error).with_context(|| format!("could not list {}", self.root.display()));
            }
        };
        Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    }

    /// Finishes or undoes a replacement of maps in which an agent was killed. New maps count only if the old ones are gone:
    /// otherwise some links may still run on the old ones.
    pub(super) fn recover(&self) -> Result<()> {
        if self.new_maps().exists() {
            if self.maps().exists() {
                return remove_folder(&self.new_maps()).map(drop);
            }
            return self.promote();
        }
        Ok(())
    }

    /// Replaces the old maps by the new ones.
    pub(super) fn promote(&self) -> Result<()> {
        remove_folder(&self.maps())?;
        fs::rename(self.new_maps(), self.maps())
            .with_context(|| format!("could not rename {} to {MAPS}", self.new_maps().display()))
    }

    /// Removes everything of Shield's, the folder included, and a bpffs that was mounted for it alone. Returns the names.
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

    /// Returns whether the folder is itself a bpffs that Shield mounted.
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
        Err(error) => return Err(error).with_context(|| format!("could not list {}", folder.display())),
    };
    let mut removed = Vec::new();
    for entry in entries.flatten() {
        removed.extend(remove_file(&entry.path())?);
    }
    fs::remove_dir(folder).with_context(|| format!("could not remove {}", folder.display()))?;
    Ok(removed)
}

/// Detaches a pinned link and removes the pin. Without detaching, the kernel would end the link some time later, and go on
/// dropping until then.
pub(super) fn remove_link(path: &Path) -> Result<Option<String>> {
    match kernel::open_pinned(path) {
        // A link whose interface is gone cannot be detached, and need not be.
        Ok(link) => drop(kernel::detach_link(link.as_fd())),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("could not open the link {}", path.display()));
        }
    }
    remove_file(path)
}

/// Removes a pin; an absent one is no failure.
pub(super) fn remove_file(path: &Path) -> Result<Option<String>> {
    match fs::remove_file(path) {
        Ok(()) => Ok(Some(path.display().to_string())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("could not remove {}", path.display())),
    }
}
