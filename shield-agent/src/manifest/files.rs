//! Generated files on disk: compared with what they should be, and written.
//!
//! Nothing is written while one of them is somebody's own. Each file is replaced whole by a rename, so that nobody who reads it
//! meets half of one.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::header::{self, Origin};
use super::{Generated, difference};

/// The longest file that is read: far more than any that is generated.
const MOST_BYTES: u64 = 4 << 20;

/// How a file on disk differs from what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Current,
    Missing,
    /// It was generated from another manifest, or by another version.
    Stale,
    /// It was changed by hand.
    Edited,
    /// It was not generated.
    Own,
}

/// A file beside what it should be.
#[derive(Debug)]
pub(crate) struct Compared<'g> {
    pub path: PathBuf,
    pub state: State,
    /// Lines of it with `-`, lines that it should have with `+`.
    pub difference: String,
    text: &'g str,
}

/// Compares each file below `folder`.
///
/// # Errors
/// When one cannot be read, or is no regular file.
pub(crate) fn compare<'g>(folder: &Path, files: &'g [Generated]) -> Result<Vec<Compared<'g>>> {
    files.iter().map(|file| compare_one(folder.join(file.path), &file.text)).collect()
}

fn compare_one(path: PathBuf, text: &str) -> Result<Compared<'_>> {
    let found = read(&path)?;
    let state = match &found {
        None => State::Missing,
        Some(found) if found == text => State::Current,
        Some(found) => match header::origin(found) {
            Origin::Untouched => State::Stale,
            Origin::Edited => State::Edited,
            Origin::Own => State::Own,
        },
    };
    let difference = found.map(|found| difference::of(&found, text)).unwrap_or_default();
    Ok(Compared { path, state, difference, text })
}

/// Returns `None` when it is not there. What is no text is not generated, which its text shows as well.
fn read(path: &Path) -> Result<Option<String>> {
    let could_not = || format!("could not read {}", path.display());
    // A link, a pipe or a device would be replaced by a file.
    match path.symlink_metadata() {
        Ok(meta) if !meta.is_file() => {
            bail!("{} is no regular file: move it away, or choose another folder with --out", path.display())
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(could_not),
    }
    let mut bytes = Vec::new();
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    file.and_then(|file| file.take(MOST_BYTES).read_to_end(&mut bytes)).with_context(could_not)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Writes those that are not current.
///
/// # Errors
/// When one of them was not generated: then none is written. When one cannot be written: those before it are.
pub(crate) fn write(files: &[Compared<'_>]) -> Result<()> {
    let own: Vec<String> = files
        .iter()
        .filter(|file| file.state == State::Own)
        .map(|file| file.path.display().to_string())
        .collect();
    if !own.is_empty() {
        bail!(
            "nothing was written, because {} was not generated: it has no header of `shield-agent generate`. Move it away, or \
             choose another folder with --out",
            own.join(", ")
        );
    }
    files
        .iter()
        .filter(|file| file.state != State::Current)
        .try_for_each(|file| replace(&file.path, file.text))
}

fn replace(path: &Path, text: &str) -> Result<()> {
    let could_not = || format!("could not write {}", path.display());
    // Of a name alone it is empty, which is no folder.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(could_not)?;
    let name = path.file_name().with_context(could_not)?.to_string_lossy();
    // None of the programs that read whole folders takes a hidden file.
    let temporary = folder.join(format!(".{name}.{}", std::process::id()));
    let written = write_new(&temporary, text).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.and_then(|()| File::open(folder)?.sync_all()).with_context(could_not)
}

fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    // Of a run with the same process id that was killed.
    if let Err(error) = fs::remove_file(path)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    // They hold no secret, and nginx, Prometheus and logrotate read them; whatever umask the caller has.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::manifest::generate;

    fn made(manifest: &str) -> Vec<Generated> {
        generate(&Config::parse(manifest).unwrap(), manifest).unwrap()
    }

    fn states(folder: &Path, files: &[Generated]) -> Vec<State> {
        compare(folder, files).unwrap().iter().map(|file| file.state).collect()
    }

    #[test]
    fn files_are_missing_current_stale_or_edited() {
        let folder = tempfile::tempdir().unwrap();
        let files = made("");
        let all = |state: State| vec![state; files.len()];
        assert_eq!(states(folder.path(), &files), all(State::Missing));
        write(&compare(folder.path(), &files).unwrap()).unwrap();
        assert_eq!(states(folder.path(), &files), all(State::Current));
        // A comment in the manifest is another manifest.
        assert_eq!(states(folder.path(), &made("# other\n")), all(State::Stale));
        let edited = folder.path().join("nginx/shield-log.conf");
        let text = fs::read_to_string(&edited).unwrap();
        fs::write(&edited, text.replace("access_log", "# access_log")).unwrap();
        let compared = compare(folder.path(), &files).unwrap();
        let found: Vec<_> = compared.iter().filter(|file| file.state != State::Current).collect();
        assert_eq!((found.len(), &found[0].path, found[0].state), (1, &edited, State::Edited));
        assert!(found[0].difference.contains("\n+access_log \"/var/log"), "{}", found[0].difference);
        write(&compared).unwrap();
        fs::remove_dir_all(folder.path().join("nginx")).unwrap();
        write(&compare(folder.path(), &files).unwrap()).unwrap();
        assert_eq!(states(folder.path(), &files), all(State::Current));
        let left = fs::read_dir(folder.path().join("nginx")).unwrap().count();
        assert_eq!(left, 4, "no temporary file is left");
    }

    #[test]
    fn what_somebody_wrote_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("compose.yaml");
        let files = made("");
        for text in ["services: {}\n", ""] {
            fs::write(&own, text).unwrap();
            let message = format!("{:#}", write(&compare(folder.path(), &files).unwrap()).unwrap_err());
            assert!(message.contains("compose.yaml was not generated"), "{message}");
            assert_eq!(fs::read_to_string(&own).unwrap(), text);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else was written");
        fs::remove_file(&own).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &own).unwrap();
        let message = format!("{:#}", compare(folder.path(), &files).unwrap_err());
        assert!(message.contains("compose.yaml is no regular file"), "{message}");
    }
}
