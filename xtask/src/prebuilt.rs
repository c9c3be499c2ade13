//! Committed build products, so that building the agent takes only stable Rust and a C compiler.
//!
//! The XDP object needs a BPF toolchain and the page needs Node, which most machines lack and which take minutes to
//! install. Next to each product lies a digest of the sources it was built from. While the digest matches, nothing is built;
//! once it differs, a test in this file fails. `cargo xtask test` rebuilds both products and compares them byte for byte.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::sh;

/// The file with the digest of the sources and the tools' versions, in the product's folder.
const RECORD: &str = "SOURCES";

/// A committed product.
#[derive(Debug)]
pub(crate) struct Product {
    /// Its name in messages.
    pub(crate) name: &'static str,
    /// Relative to the root of the workspace.
    pub(crate) folder: &'static str,
    pub(crate) files: &'static [&'static str],
    /// The files and folders that it is built from.
    sources: &'static [&'static str],
    /// The command that builds it.
    pub(crate) command: &'static str,
}

/// The XDP program without its debug information.
pub(crate) const OBJECT: Product = Product {
    name: "the XDP object",
    folder: "shield-ebpf/prebuilt",
    files: &["shield-ebpf"],
    sources: &[
        "shield-ebpf/Cargo.lock",
        "shield-ebpf/Cargo.toml",
        "shield-ebpf/src",
        "shield-common/Cargo.toml",
        "shield-common/src",
    ],
    command: "cargo xtask build-ebpf",
};

pub(crate) const PAGE: Product = Product {
    name: "the page",
    folder: "dashboard/web/dist",
    files: &["app.js", "favicon.svg", "index.html"],
    sources: &[
        "dashboard/web/build.mjs",
        "dashboard/web/package-lock.json",
        "dashboard/web/package.json",
        "dashboard/web/src",
    ],
    command: "cargo xtask build-page",
};

impl Product {
    /// Returns whether the committed files were built from the present sources.
    pub(crate) fn is_current(&self) -> Result<bool> {
        let folder = self.path();
        let recorded = fs::read_to_string(folder.join(RECORD)).unwrap_or_default();
        let digest = self.digest()?;
        Ok(recorded.lines().next() == Some(&digest)
            && self.files.iter().all(|file| folder.join(file).is_file()))
    }

    /// The versions of the tools that built the committed files; `None` before the first build.
    pub(crate) fn tools(&self) -> Option<String> {
        let record = fs::read_to_string(self.path().join(RECORD)).ok()?;
        record.lines().nth(1).map(str::to_owned)
    }

    /// Records that these tools have built the files from the present sources.
    pub(crate) fn record(&self, tools: &str) -> Result<()> {
        let record = self.path().join(RECORD);
        let text = format!("{}\n{tools}\n", self.digest()?);
        if fs::read_to_string(&record).is_ok_and(|old| old == text) {
            return Ok(());
        }
        fs::write(&record, text).with_context(|| format!("could not write {}", record.display()))
    }

    /// Reads the content of each file, in the order of `files`.
    pub(crate) fn read(&self) -> Result<Vec<Vec<u8>>> {
        let read = |file: &&str| {
            let path = self.path().join(file);
            fs::read(&path).with_context(|| format!("could not read {}", path.display()))
        };
        self.files.iter().map(read).collect()
    }

    /// Compares the rebuilt files with `committed`, their content before the build.
    ///
    /// # Errors
    /// Names the files that differ, and the remedy.
    pub(crate) fn compare(&self, committed: &[Vec<u8>]) -> Result<()> {
        let built = self.read()?;
        let differ =
            |((file, old), new): ((&&'static str, &Vec<u8>), &Vec<u8>)| (old != new).then_some(*file);
        let differing: Vec<&str> = self.files.iter().zip(committed).zip(&built).filter_map(differ).collect();
        if !differing.is_empty() {
            bail!(
                "{} as committed does not match its sources (differs: {}); `{}` has rebuilt it: commit {}",
                self.name,
                differing.join(", "),
                self.command,
                self.folder
            );
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> PathBuf {
        sh::root_folder().join(self.folder)
    }

    /// The SHA-256 of every source's path and content, sorted by path.
    fn digest(&self) -> Result<String> {
        let mut files = Vec::new();
        for source in self.sources {
            collect(&sh::root_folder().join(source), &mut files)?;
        }
        files.sort();
        let mut hash = Sha256::new();
        for file in files {
            let content = fs::read(&file).with_context(|| format!("could not read {}", file.display()))?;
            let name = file.strip_prefix(sh::root_folder()).unwrap_or(&file).to_string_lossy().into_owned();
            // The length delimits the content: otherwise two different lists of files could hash the same bytes.
            hash.update(format!("{name}\0{}\0", content.len()));
            hash.update(content);
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Adds the file, or every file below the folder, to `files`.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let entries = fs::read_dir(path).with_context(|| format!("could not list {}", path.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("could not list {}", path.display()))?;
        collect(&entry.path(), files)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_products_were_built_from_these_sources() {
        for product in [OBJECT, PAGE] {
            assert!(
                product.is_current().unwrap(),
                "{} was built from other sources: run `{}` and commit {}",
                product.name,
                product.command,
                product.folder
            );
        }
    }

    #[test]
    fn a_changed_file_is_named_with_the_command_that_rebuilds_it() {
        let mut committed = PAGE.read().unwrap();
        PAGE.compare(&committed).unwrap();
        committed[0].push(b' ');
        let error = PAGE.compare(&committed).unwrap_err().to_string();
        assert!(error.contains("differs: app.js") && error.contains("cargo xtask build-page"), "{error}");
    }
}
