//! The folder whose files nginx looks for: one hard link for each name, all to one empty file.
//!
//! Links cost a fifth of what files of their own would: in a tmpfs, 100,000 take about 20 MB.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::names::Name;

/// nginx's workers, another user, may look names up and not list them.
const FOLDER_MODE: u32 = 0o711;
/// The file that all names link to. No client has this name.
const ORIGINAL: &str = ".denied";
/// Says that nginx's first look finds every name, and that nobody is exempt.
pub(super) const FEW_LOOKS: &str = ".few-looks";

/// A folder of names.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Its state after our last change.
    left: Option<Stamp>,
}

/// What changes when somebody else adds or removes a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    folder: u64,
    changed_secs: i64,
    changed_ns: i64,
    original: u64,
    links: u64,
}

impl Folder {
    pub(super) fn at(path: PathBuf) -> Folder {
        Folder { path, left: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates what is missing. Returns whether anything was.
    pub(super) fn prepare(&mut self) -> Result<bool> {
        let mut is_new = false;
        if !self.path.is_dir() {
            self.make_folder()?;
            is_new = true;
        }
        is_new |= self.make_original()?;
        Ok(is_new)
    }

    fn make_folder(&self) -> Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.path)
            .with_context(|| format!("could not create the folder {}", self.path.display()))?;
        // The service's umask hides what it makes from everybody else.
        fs::set_permissions(&self.path, Permissions::from_mode(FOLDER_MODE))
            .with_context(|| format!("could not set the mode of {}", self.path.display()))
    }

    fn make_original(&self) -> Result<bool> {
        let original = self.path.join(ORIGINAL);
        match File::options().write(true).create_new(true).open(&original) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error).with_context(|| format!("could not create {}", original.display())),
        }
    }

    /// Adds a name; one that is there stays. Returns whether it was missing.
    pub(super) fn add(&self, name: Name) -> Result<bool> {
        let link = self.path.join(name.to_string());
        let add = || match fs::hard_link(self.path.join(ORIGINAL), &link) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            // Outside of a tmpfs the links of one file are limited.
            Err(error) if error.kind() == ErrorKind::TooManyLinks => File::create(&link).map(|_| true),
            result => result.map(|()| true),
        };
        let result = match add() {
            // Somebody emptied or deleted the folder.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.make_folder()?;
                self.make_original()?;
                add()
            }
            result => result,
        };
        result.with_context(|| format!("could not create {}", link.display()))
    }

    /// Removes a name; one that is not there is no error.
    pub(super) fn remove(&self, name: Name) -> Result<()> {
        let link = self.path.join(name.to_string());
        absent_is_fine(fs::remove_file(&link)).with_context(|| format!("could not remove {}", link.display()))
    }

    /// Says whether nginx's first look is enough. It must not be said before it is true, nor longer.
    pub(super) fn set_few_looks(&self, is_enough: bool) -> Result<()> {
        let path = self.path.join(FEW_LOOKS);
        if !is_enough {
            return absent_is_fine(fs::remove_file(&path))
                .with_context(|| format!("could not remove {}", path.display()));
        }
        match fs::hard_link(self.path.join(ORIGINAL), &path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                // What is missing then is speed.
                tracing::debug!("could not create {}: {error}", path.display());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether that is said.
    pub(super) fn has_few_looks(&self) -> bool {
        self.path.join(FEW_LOOKS).exists()
    }

    /// The names in the folder. Files that Shield did not make are left alone.
    pub(super) fn names(&self) -> Result<Vec<Name>> {
        let context = || format!("could not list {}", self.path.display());
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(context),
        };
        let mut names = Vec::new();
        for entry in entries {
            let file = entry.with_context(context)?.file_name();
            names.extend(file.to_str().and_then(Name::parse));
        }
        Ok(names)
    }

    /// Remembers the folder as we leave it.
    pub(super) fn leave(&mut self) {
        self.left = self.stamp().ok();
    }

    /// Whether nobody has changed it since.
    pub(super) fn is_as_left(&self) -> bool {
        self.left.is_some() && self.stamp().ok() == self.left
    }

    fn stamp(&self) -> io::Result<Stamp> {
        let (folder, original) = (fs::metadata(&self.path)?, fs::metadata(self.path.join(ORIGINAL))?);
        Ok(Stamp {
            folder: folder.ino(),
            changed_secs: folder.mtime(),
            changed_ns: folder.mtime_nsec(),
            original: original.ino(),
            links: original.nlink(),
        })
    }

    /// Removes every name and, where nothing of others is in it, the folder. Returns what was removed.
    pub(super) fn clear(&mut self) -> Result<Option<String>> {
        self.left = None;
        let names = self.names()?;
        for name in &names {
            self.remove(*name)?;
        }
        self.set_few_looks(false)?;
        let original = self.path.join(ORIGINAL);
        let had_original = original.exists();
        absent_is_fine(fs::remove_file(&original))
            .with_context(|| format!("could not remove {}", original.display()))?;
        // A folder that holds files of others, or that the service manager made, stays.
        let _ = fs::remove_dir(&self.path);
        Ok((had_original || !names.is_empty()).then(|| self.path.display().to_string()))
    }

    /// A folder inside this one.
    pub(super) fn inside(&self, name: impl AsRef<OsStr>) -> Folder {
        Folder::at(self.path.join(name.as_ref()))
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
