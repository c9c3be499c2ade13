//! The files of a policy: `*.rego` of one folder, or those that are shipped. Reads, and judges nothing but their size.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// Files of a folder at most.
const MAX_FILES: usize = 100;
/// The size of a file at most: more than what people write, and less than what costs the agent its memory.
const MAX_BYTES: u64 = 256 * 1024;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct File {
    pub path: String,
    pub text: String,
}

/// All files of a policy, in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bundle {
    pub files: Vec<File>,
}

macro_rules! shipped {
    ($($name:literal),*) => {
        [$(($name, include_str!(concat!("../../../packaging/policy/", $name)))),*]
    };
}

const SHIPPED: [(&str, &str); 6] = shipped![
    "ban.rego",
    "ban_test.rego",
    "promote.rego",
    "promote_test.rego",
    "start.rego",
    "start_test.rego"
];

impl Bundle {
    /// The rules that come with Shield.
    pub(crate) fn shipped() -> Bundle {
        let file = |(name, text): &(&str, &str)| File { path: (*name).to_owned(), text: (*text).to_owned() };
        Bundle { files: SHIPPED.iter().map(file).collect() }
    }

    /// Of these rules those of one file and its tests.
    pub(crate) fn only(self, name: &str) -> Bundle {
        let is_of = |file: &File| file.path.starts_with(name);
        Bundle { files: self.files.into_iter().filter(is_of).collect() }
    }

    /// Reads the folder's files; other files and folders in it are left alone.
    ///
    /// # Errors
    /// When the folder or a file cannot be read, or there are too many or too large ones.
    pub(crate) fn read(folder: &Path) -> Result<Bundle> {
        let cannot = || format!("could not read the policy's folder {}", folder.display());
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder).with_context(cannot)? {
            let path = entry.with_context(cannot)?.path();
            if path.extension().is_some_and(|extension| extension == "rego") {
                paths.push(path);
            }
        }
        ensure!(
            !paths.is_empty(),
            "there is no *.rego file in the policy's folder {}: put one there (packaging/policy has some), or leave out `dir` in [policy]",
            folder.display()
        );
        ensure!(
            paths.len() <= MAX_FILES,
            "there are {} *.rego files in {}: at most {MAX_FILES}",
            paths.len(),
            folder.display()
        );
        paths.sort();
        let files = paths.iter().map(|path| read(path)).collect::<Result<_>>()?;
        Ok(Bundle { files })
    }

    /// Whether a file says that it is of this package. What is wrong with it is found when it is loaded.
    pub(crate) fn has_package(&self, package: &str) -> bool {
        let name = package.strip_prefix("data.").unwrap_or(package);
        let line = |line: &str| {
            line.trim()
                .strip_prefix("package ")
                .map(|rest| rest.split('#').next().unwrap_or(rest).trim() == name)
        };
        self.files.iter().any(|file| file.text.lines().find_map(line) == Some(true))
    }
}

fn read(path: &Path) -> Result<File> {
    let shown = path.display().to_string();
    let about = fs::metadata(path).with_context(|| format!("could not read {shown}"))?;
    // A pipe would be waited for without end.
    if !about.is_file() {
        bail!("{shown} is no file");
    }
    if about.len() > MAX_BYTES {
        bail!("{shown} has {} bytes: a policy's file has at most {MAX_BYTES}", about.len());
    }
    let text = fs::read_to_string(path).with_context(|| format!("could not read {shown} as text"))?;
    Ok(File { path: shown, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_in_the_order_of_names_and_what_is_wrong_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let message = || format!("{:#}", Bundle::read(folder.path()).unwrap_err());
        assert!(message().contains("no *.rego file"), "{}", message());
        fs::write(folder.path().join("b.rego"), "package b").unwrap();
        fs::write(folder.path().join("a.rego"), "# x\npackage shield.ban # of mine\n").unwrap();
        fs::write(folder.path().join("c.txt"), "x").unwrap();
        let bundle = Bundle::read(folder.path()).unwrap();
        let names: Vec<_> = bundle.files.iter().map(|file| file.path.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["a.rego", "b.rego"]);
        assert!(bundle.has_package("data.shield.ban") && !bundle.has_package("data.shield"));
        fs::write(folder.path().join("d.rego"), " ".repeat(300_000)).unwrap();
        assert!(message().contains("d.rego has 300000 bytes"), "{}", message());
        assert!(Bundle::read(Path::new("/nonexistent")).is_err());
    }
}
