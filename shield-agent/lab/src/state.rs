//! The folder of all environments on this machine, and what may be in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::time::{ClockId, clock_gettime};

use crate::environment::Environment;

/// Names another folder, for tests.
pub const VARIABLE: &str = "SHIELD_LAB_STATE";
const FOLDER: &str = "/run/shield-lab";
const ARCHIVE: &str = "/var/log/shield-lab";
/// The longest name of an environment: with the time it is a part of a socket's path, of which the kernel takes 107 bytes.
const LONGEST_NAME: usize = 20;

/// The folder of all environments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    folder: PathBuf,
    archive: PathBuf,
}

impl State {
    /// This folder, or the one that the environment variable names, or `/run/shield-lab`.
    ///
    /// # Errors
    /// Fails if the path is not absolute.
    pub fn of(folder: Option<&Path>) -> Result<Self> {
        let named = folder.map(Path::to_owned).or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from));
        let Some(folder) = named.filter(|folder| folder != Path::new(FOLDER)) else {
            return Ok(Self { folder: FOLDER.into(), archive: ARCHIVE.into() });
        };
        ensure!(folder.is_absolute(), "could not use {}: name the folder from the root", folder.display());
        Ok(Self { archive: folder.join("archive"), folder })
    }

    /// Makes it, for everybody to look into: nginx's workers read below it.
    ///
    /// # Errors
    /// Fails without root.
    pub fn create(&self) -> Result<()> {
        fs::create_dir_all(self.environments())
            .with_context(|| format!("could not create {} (needs root)", self.folder.display()))
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where each environment has its folder.
    pub fn environments(&self) -> PathBuf {
        self.folder.join("labs")
    }

    /// Where the logs of those that are gone are.
    pub fn archive(&self) -> &Path {
        &self.archive
    }

    /// The control service's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    /// The folder of an environment.
    ///
    /// # Errors
    /// Fails if `id` is none: it comes from outside, and must not lead elsewhere.
    pub fn folder_of(&self, id: &str) -> Result<PathBuf> {
        ensure!(
            is_plain(id),
            "could not find an environment {id:?}: `shield-agent lab list` lists their ids"
        );
        Ok(self.environments().join(id))
    }

    /// The environment with this id, or the only one with this name.
    ///
    /// # Errors
    /// Fails if there is none, or several of the name.
    pub fn find(&self, id: &str) -> Result<Environment> {
        let folder = self.folder_of(id)?;
        if folder.is_dir() {
            return Environment::read(&folder);
        }
        let named: Vec<String> = self.ids()?.into_iter().filter(|known| name_of(known) == Some(id)).collect();
        match named.as_slice() {
            [one] => Environment::read(&self.folder_of(one)?),
            [] => bail!("could not find an environment {id}: `shield-agent lab list` lists them"),
            several => bail!("could not choose an environment {id}: there are {}", several.join(", ")),
        }
    }

    /// The ids of all environments, also of those whose state cannot be read.
    ///
    /// # Errors
    /// Fails if the folder cannot be read.
    pub fn ids(&self) -> Result<Vec<String>> {
        let folder = self.environments();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("could not list {}", folder.display())),
        };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut ids: Vec<String> = names.filter(|name| is_plain(name)).collect();
        ids.sort();
        Ok(ids)
    }

    /// All environments whose state can be read, in the order of their ids.
    ///
    /// # Errors
    /// Fails if the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Environment>> {
        let folders = self.ids()?.into_iter().filter_map(|id| self.folder_of(&id).ok());
        Ok(folders.filter_map(|folder| Environment::read(&folder).ok()).collect())
    }
}

/// Checks a name that somebody gave.
///
/// # Errors
/// Says what a name may be.
pub fn check_name(name: &str) -> Result<()> {
    let is_right = is_plain(name) && name.len() <= LONGEST_NAME && !name.starts_with('-');
    ensure!(
        is_right,
        "could not use the name {name:?}: it may have {LONGEST_NAME} small letters, digits and hyphens"
    );
    Ok(())
}

/// What an environment's id begins with: `shop` of `shop-20261130-021504`.
pub fn name_of(id: &str) -> Option<&str> {
    id.rsplitn(3, '-').nth(2)
}

fn is_plain(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !id.is_empty() && id.len() <= 48 && id.bytes().all(plain)
}

/// The time since the boot. It goes on while the machine sleeps, and nobody sets it.
///
/// # Errors
/// Fails if the kernel has no such clock.
pub fn since_boot() -> Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).context("could not read the clock of the boot")?;
    Ok(Duration::from(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_leads_nowhere_else() {
        for right in ["shop", "a-1", "web2"] {
            check_name(right).unwrap();
        }
        for wrong in ["", "-a", "../etc", "a/b", "Shop", "a b", "a234567890123456789012", "ü", "a\0"] {
            assert!(check_name(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(name_of("my-shop-20261130-021504"), Some("my-shop"));
        let state = State::of(Some(Path::new("/x"))).unwrap();
        assert!(state.folder_of("../../etc").is_err() && state.find("a").is_err());
    }
}
