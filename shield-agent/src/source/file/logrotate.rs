//! Where logrotate puts old logs (`olddir`), as its configuration says.
//!
//! Only that is read of it. A configuration that cannot be read says nothing, and then the folders beside the log are searched
//! all the same.

use std::path::{Path, PathBuf};

/// The configuration, and the folder that it includes on every distribution.
const CONFIGURATION: &str = "/etc/logrotate.conf";
const INCLUDED: &str = "/etc/logrotate.d";

/// A larger file is no configuration.
const MAX_BYTES: u64 = 1 << 20;

/// What begins a script, in which braces mean nothing; `endscript` ends it.
const SCRIPTS: [&str; 5] = ["prerotate", "postrotate", "firstaction", "lastaction", "preremove"];

/// Returns the folders that logrotate moves this log's predecessors to.
pub(super) fn old_folders(log: &Path) -> Vec<PathBuf> {
    let included = Path::new(INCLUDED).read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let files = std::iter::once(PathBuf::from(CONFIGURATION)).chain(included);
    let is_small =
        |path: &PathBuf| path.metadata().is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_BYTES);
    let texts = files.filter(is_small).filter_map(|path| std::fs::read_to_string(path).ok());
    texts.flat_map(|text| read(&text, log)).collect()
}

/// Returns the `olddir` of every section about `log`, or else those outside of any section.
fn read(text: &str, log: &Path) -> Vec<PathBuf> {
    let mut outside = Vec::new();
    let mut ours = Vec::new();
    let mut patterns: Vec<&str> = Vec::new();
    let mut in_section = false;
    let mut in_script = false;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        in_script |= SCRIPTS.contains(&line);
        if in_script {
            in_script = line != "endscript";
            continue;
        }
        let (before, opens) = line.split_once('{').map_or((line, false), |(before, _)| (before, true));
        if let Some(folder) = old_folder(line, log) {
            match (in_section, patterns.iter().any(|pattern| matches(pattern, log))) {
                (false, _) => outside.push(folder),
                (true, true) => ours.push(folder),
                (true, false) => {}
            }
        } else if !in_section && (opens || before.starts_with(['/', '"', '\''])) {
            patterns.extend(before.split_whitespace());
        }
        in_section |= opens;
        if line.ends_with('}') {
            in_section = false;
            patterns.clear();
        }
    }
    if ours.is_empty() { outside } else { ours }
}

fn old_folder(line: &str, log: &Path) -> Option<PathBuf> {
    let folder = line.strip_prefix("olddir")?.strip_prefix([' ', '\t', '='])?;
    let folder = folder.trim_start_matches(['=', ' ', '\t']).trim_matches(['"', '\'']);
    // A folder without a leading slash is one beside the log.
    (!folder.is_empty()).then(|| log.parent().unwrap_or(Path::new("/")).join(folder))
}

fn matches(pattern: &str, log: &Path) -> bool {
    let pattern = pattern.trim_matches(['"', '\'']);
    let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::default() };
    glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_path_with(log, options))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_the_log_s_own_section_counts() {
        let text = "\
# olddir /not/this
olddir /all
/var/log/nginx/*.log /srv/*/access.log {
    daily
    postrotate
        [ -f /run/nginx.pid ] && kill -USR1 ${PID}
    endscript
    olddir old
}
\"/var/log/apache2/*.log\"
{
    olddir \"/backup/apache logs\"
}
";
        let check = |log: &str, expected: &str| {
            assert_eq!(read(text, Path::new(log)), [PathBuf::from(expected)], "{log}");
        };
        check("/var/log/nginx/access.log", "/var/log/nginx/old");
        check("/srv/a/access.log", "/srv/a/old");
        check("/var/log/apache2/a.log", "/backup/apache logs");
        check("/var/log/other.log", "/all");
    }
}
