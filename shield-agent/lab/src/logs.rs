//! The last lines of an environment's logs.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::destroy;
use crate::environment::Environment;

/// At most so much of a log's end is looked at.
const MOST_BYTES: u64 = 1024 * 1024;

/// The end of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// Its path below the environment's folder, as `server/agent.log`.
    pub file: String,
    /// Its last lines.
    pub lines: Vec<String>,
}

/// The last `n` lines of each log.
pub fn read(environment: &Environment, n: usize) -> Vec<Log> {
    let logs = destroy::logs(&environment.folder);
    let logs = logs.iter().filter(|path| path.to_string_lossy().contains(".log"));
    logs.map(|path| Log {
        file: path.strip_prefix(&environment.folder).unwrap_or(path).to_string_lossy().into_owned(),
        lines: last(path, n),
    })
    .collect()
}

fn last(path: &Path, n: usize) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let from = file.metadata()?.len().saturating_sub(MOST_BYTES);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(MOST_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    // A log that was deleted just now has no lines.
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = VecDeque::new();
    for line in text.lines() {
        if lines.len() == n {
            lines.pop_front();
        }
        if n > 0 {
            lines.push_back(line.to_owned());
        }
    }
    lines.into()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_last_lines_of_a_log() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "1\n2\n3\n").unwrap();
        assert_eq!(super::last(file.path(), 2), ["2", "3"]);
        assert!(super::last(file.path(), 0).is_empty());
        assert_eq!(super::last(file.path(), 9).len(), 3);
    }
}
