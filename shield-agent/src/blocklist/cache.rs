//! The list as it was read last, on disk: what is in force while it cannot be read, over restarts too.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::fetch::Validators;

/// What is known of the text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    pub url: String,
    pub format: String,
    /// When the server last said that the text is its list, in milliseconds since the Unix epoch.
    pub read_ms: i64,
    pub validators: Validators,
    /// Of the text, so that neither file is taken for the other's.
    sha256: String,
}

/// A list's two files.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    dir: PathBuf,
    name: String,
}

impl Cache {
    pub(super) fn new(state_dir: &Path, name: &str) -> Cache {
        Cache { dir: state_dir.join("blocklists"), name: name.to_owned() }
    }

    /// The text with what is known of it; `None` when there is none or its files do not belong together.
    pub(super) fn load(&self) -> Option<(About, Vec<u8>)> {
        let about: About = serde_json::from_slice(&fs::read(self.path("json")).ok()?).ok()?;
        let body = fs::read(self.path("list")).ok()?;
        (about.sha256 == hash(&body)).then_some((about, body))
    }

    /// Keeps a text.
    pub(super) fn save(
        &self,
        url: &str,
        format: &str,
        read_ms: i64,
        validators: Validators,
        body: &[u8],
    ) -> Result<About> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .with_context(|| format!("could not create {}", self.dir.display()))?;
        let (url, format) = (url.to_owned(), format.to_owned());
        let about = About { url, format, read_ms, validators, sha256: hash(body) };
        self.write("list", body)?;
        self.save_about(&about)?;
        Ok(about)
    }

    /// Notes anew what is known of the text.
    pub(super) fn save_about(&self, about: &About) -> Result<()> {
        self.write("json", &serde_json::to_vec(about).context("could not write what is known of a list")?)
    }

    /// Forgets the list.
    pub(super) fn remove(&self) {
        // Mostly there is nothing.
        let _ = fs::remove_file(self.path("json"));
        let _ = fs::remove_file(self.path("list"));
    }

    fn write(&self, kind: &str, content: &[u8]) -> Result<()> {
        let (new, path) = (self.path("new"), self.path(kind));
        let write = || {
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            std::io::Write::write_all(&mut file, content)?;
            fs::rename(&new, &path)
        };
        write().with_context(|| format!("could not write {}", path.display()))
    }

    fn path(&self, kind: &str) -> PathBuf {
        self.dir.join(format!("{}.{kind}", self.name))
    }
}

fn hash(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}
