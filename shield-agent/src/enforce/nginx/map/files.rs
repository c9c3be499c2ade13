//! The files that nginx's maps include: who is refused, who is let through all the same, and until when it holds.
//!
//! nginx reads them when it starts and at a reload. Nothing there ends by itself while the agent is away, so that the time is one of
//! the maps: a name counts only while the wall clock is in one of the listed [`BLOCK_SECS`], about half a day from the last
//! reload. Names of the files that nginx includes never begin with a dot, those of what is half written always do.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::enforce::nginx::include::VALID;
use crate::enforce::nginx::names::Name;

/// Changed since the last reload: nginx may not have read it.
const PENDING: &str = ".pending";
/// When nginx was last told to reload, as its time of change.
const TOLD: &str = ".told";

/// Seconds of the wall clock that have the same first digits.
const BLOCK_SECS: i64 = 10_000;
/// Blocks ahead of the present one in which the maps count: 11 to 14 hours.
const BLOCKS_AHEAD: i64 = 4;
/// Blocks after which they are written anew.
const RENEW_AFTER: i64 = 2;

/// One of the included files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::enforce::nginx) enum Part {
    /// Who is let through inside a refused network.
    Exempt,
    /// Networks and single IPv6 addresses.
    More,
    /// IPv4 addresses and IPv6 /64s: nearly all.
    Clients,
    /// The time in which all of it counts.
    Valid,
}

impl Part {
    /// In the order in which they are written, so that somebody else's reload in between meets no network without its exemptions.
    pub(in crate::enforce::nginx) const ALL: [Part; 4] =
        [Part::Exempt, Part::More, Part::Clients, Part::Valid];

    /// The start of the file's name, by which nginx includes it.
    pub(in crate::enforce::nginx) fn name(self) -> &'static str {
        match self {
            Part::Exempt => "exempt",
            Part::More => "more",
            Part::Clients => "clients",
            Part::Valid => "valid",
        }
    }
}

/// What the files are to say.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) exempt: BTreeSet<Name>,
    pub(super) denied: BTreeSet<Name>,
}

impl Content {
    fn text(&self, part: Part, block: i64) -> String {
        let lines = |names: &mut dyn Iterator<Item = &Name>, value: &str| {
            let mut text = String::new();
            for name in names {
                writeln!(text, "{name} {value};").expect("writing to a String cannot fail");
            }
            text
        };
        let valid = format!("${VALID}");
        match part {
            Part::Exempt => lines(&mut self.exempt.iter(), "1"),
            Part::More => lines(&mut self.denied.iter().filter(|name| !name.is_first_look()), &valid),
            Part::Clients => lines(&mut self.denied.iter().filter(|name| name.is_first_look()), &valid),
            Part::Valid if self.denied.is_empty() => String::new(),
            Part::Valid => {
                let blocks: Vec<String> =
                    (block..=block + BLOCKS_AHEAD).map(|block| block.to_string()).collect();
                format!("\"~^({})[0-9]{{4}}\\.\" 1;\n", blocks.join("|"))
            }
        }
    }
}

/// The folder of the files.
#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
    /// Their state after our last change.
    left: Option<Vec<Stamp>>,
    /// The block of the wall clock in which they were written.
    block: Option<i64>,
}

/// What changes when somebody else writes to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: u64,
    length: u64,
    changed_secs: i64,
    changed_ns: i64,
}

impl Files {
    pub(super) fn at(path: PathBuf) -> Files {
        Files { path, left: None, block: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the folder. Returns whether it, or one of the files, was missing.
    pub(super) fn prepare(&mut self) -> Result<bool> {
        let is_missing = |part: &Part| !self.path.join(file_of(*part)).exists();
        let had_all = !Part::ALL.iter().any(is_missing);
        self.make_folder()?;
        Ok(!had_all)
    }

    fn make_folder(&self) -> Result<()> {
        let open = |path: &Path| {
            let is_there = path.is_dir();
            if !is_there {
                DirBuilder::new().recursive(true).mode(0o755).create(path)?;
                // The service's umask hides what it makes from everybody else.
                fs::set_permissions(path, Permissions::from_mode(0o755))?;
            }
            Ok::<(), std::io::Error>(())
        };
        let parent = self.path.parent().unwrap_or(&self.path);
        open(parent)
            .and_then(|()| open(&self.path))
            .with_context(|| format!("could not create the folder {}", self.path.display()))
    }

    /// Writes the files. What they say is pending until [`Files::taken`].
    pub(super) fn write(&mut self, content: &Content, wall_secs: i64) -> Result<()> {
        self.make_folder()?;
        self.write_one(PENDING, "")?;
        let block = wall_secs.div_euclid(BLOCK_SECS);
        for part in Part::ALL {
            self.write_one(&file_of(part), &content.text(part, block))?;
        }
        self.block = Some(block);
        self.left = self.stamps();
        Ok(())
    }

    fn write_one(&self, name: &str, text: &str) -> Result<()> {
        let (half, whole) = (self.path.join(format!(".{name}.new")), self.path.join(name));
        fs::write(&half, text)
            .and_then(|()| fs::set_permissions(&half, Permissions::from_mode(0o644)))
            .and_then(|()| fs::rename(&half, &whole))
            .with_context(|| format!("could not write {}", whole.display()))
    }

    /// The refused names that the files have. Lines that Shield did not write are left out.
    pub(super) fn denied(&self) -> Result<BTreeSet<Name>> {
        let mut names = BTreeSet::new();
        for part in [Part::More, Part::Clients] {
            let path = self.path.join(file_of(part));
            let text = match fs::read_to_string(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                result => result.with_context(|| format!("could not read {}", path.display()))?,
            };
            names.extend(text.lines().filter_map(|line| Name::parse(line.split_once(' ')?.0)));
        }
        Ok(names)
    }

    /// Whether the files say exactly this, in any block.
    pub(super) fn have(&self, content: &Content) -> bool {
        let is_right = |part: &Part| {
            let is = fs::read_to_string(self.path.join(file_of(*part))).ok();
            match part {
                Part::Valid => is.is_some_and(|text| text.is_empty() == content.denied.is_empty()),
                _ => is.is_some_and(|text| text == content.text(*part, 0)),
            }
        };
        Part::ALL.iter().all(is_right)
    }

    /// Takes the files as they are for ours.
    pub(super) fn take_over(&mut self) {
        self.left = self.stamps();
        let valid = fs::read_to_string(self.path.join(file_of(Part::Valid))).unwrap_or_default();
        let first = valid.split_once('(').and_then(|(_, blocks)| blocks.split_once('|'));
        self.block = first.and_then(|(first, _)| first.parse().ok());
    }

    /// Whether nobody has changed them since.
    pub(super) fn are_as_left(&self) -> bool {
        self.left.is_some() && self.stamps() == self.left
    }

    fn stamps(&self) -> Option<Vec<Stamp>> {
        let stamp = |part: &Part| {
            let file = fs::metadata(self.path.join(file_of(*part))).ok()?;
            Some(Stamp {
                file: file.ino(),
                length: file.size(),
                changed_secs: file.mtime(),
                changed_ns: file.mtime_nsec(),
            })
        };
        Part::ALL.iter().map(stamp).collect()
    }

    /// Whether the time in which they count has to be moved on.
    pub(super) fn are_old(&self, wall_secs: i64) -> bool {
        let now = wall_secs.div_euclid(BLOCK_SECS);
        self.block.is_none_or(|block| !(block..block + RENEW_AFTER).contains(&now))
    }

    /// Whether nginx may not have read what they say.
    pub(super) fn are_pending(&self) -> bool {
        self.path.join(PENDING).exists()
    }

    /// nginx has read them.
    pub(super) fn taken(&self) -> Result<()> {
        let path = self.path.join(PENDING);
        absent_is_fine(fs::remove_file(&path)).with_context(|| format!("could not remove {}", path.display()))
    }

    /// Remembers that nginx is told to reload now, over a restart of the agent too.
    pub(super) fn told(&self) -> Result<()> {
        self.write_one(TOLD, "")
    }

    /// The time since then; `None` where it cannot be told.
    pub(super) fn since_told(&self) -> Option<Duration> {
        fs::metadata(self.path.join(TOLD)).ok()?.modified().ok()?.elapsed().ok()
    }

    /// Removes the files and, where nothing of others is in it, the folder. Returns its name if there was anything.
    pub(super) fn clear(&mut self) -> Result<Option<String>> {
        self.left = None;
        let mut had_any = false;
        for name in Part::ALL.map(file_of).iter().map(String::as_str).chain([PENDING, TOLD]) {
            let path = self.path.join(name);
            had_any |= path.exists();
            absent_is_fine(fs::remove_file(&path))
                .with_context(|| format!("could not remove {}", path.display()))?;
        }
        // A folder that holds files of others stays.
        for folder in [Some(self.path.as_path()), self.path.parent()].into_iter().flatten() {
            let _ = fs::remove_dir(folder);
        }
        Ok(had_any.then(|| self.path.display().to_string()))
    }
}

fn file_of(part: Part) -> String {
    format!("{}.map", part.name())
}

fn absent_is_fine(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> BTreeSet<Name> {
        list.iter().map(|text| Name::parse(text).unwrap()).collect()
    }

    fn content() -> Content {
        Content {
            exempt: names(&["192.0.2.9"]),
            denied: names(&["192.0.2.0-24", "198.51.100.7", "2001:db8:0:1-64", "2001:db8::9"]),
        }
    }

    #[test]
    fn each_name_is_in_the_file_of_its_look() {
        let text = |part| content().text(part, 176_441);
        assert_eq!(text(Part::Exempt), "192.0.2.9 1;\n");
        assert_eq!(text(Part::More), "192.0.2.0-24 $shield_valid;\n2001:db8::9 $shield_valid;\n");
        assert_eq!(text(Part::Clients), "198.51.100.7 $shield_valid;\n2001:db8:0:1-64 $shield_valid;\n");
        assert_eq!(text(Part::Valid), "\"~^(176441|176442|176443|176444|176445)[0-9]{4}\\.\" 1;\n");
        assert!(Part::ALL.iter().all(|part| Content::default().text(*part, 176_441).is_empty()));
    }

    #[test]
    fn what_was_written_is_read_and_pending_until_nginx_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = Files::at(folder.path().join("deny/map"));
        assert!(files.prepare().unwrap());
        assert!(!files.are_pending() && !files.have(&content()));
        files.write(&content(), 1_764_410_000).unwrap();
        assert!(files.are_pending() && files.have(&content()) && files.are_as_left());
        assert_eq!(files.denied().unwrap(), content().denied);
        assert!(!files.prepare().unwrap());
        files.taken().unwrap();
        assert!(!files.are_pending());
        let mut next = Files::at(files.path().to_owned());
        next.take_over();
        assert!(next.are_as_left() && !next.are_old(1_764_410_000) && next.are_old(1_764_440_000));
        fs::write(folder.path().join("deny/map/clients.map"), "198.51.100.7 1;\n").unwrap();
        assert!(!files.are_as_left() && !files.have(&content()));
        assert!(files.clear().unwrap().is_some());
        assert_eq!(files.clear().unwrap(), None);
    }

    #[test]
    fn the_time_is_moved_on_long_before_it_is_over() {
        let mut files = Files::at(tempfile::tempdir().unwrap().path().join("map"));
        assert!(files.are_old(0));
        files.write(&content(), 1_764_419_999).unwrap();
        for (at, expected) in [
            (1_764_410_000, false),
            (1_764_429_999, false),
            (1_764_430_000, true),
            // A clock that was set back: nginx would not take them for valid either.
            (1_764_409_999, true),
            (0, true),
        ] {
            assert_eq!(files.are_old(at), expected, "{at}");
        }
    }
}
