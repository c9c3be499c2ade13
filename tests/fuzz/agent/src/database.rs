//! A database that a disk, a power failure or somebody damaged: the agent starts on it, and throws nothing away.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use shield_agent::test_support::fuzz::{self, Started};

/// # Panics
/// When the agent would not start, a damaged file is lost, or an undamaged one is not read.
pub fn check(data: &[u8]) {
    let written = written();
    let mut bytes = written.to_vec();
    for edit in data.chunks_exact(4) {
        let &[high, middle, low, byte] = edit else { unreachable!("chunks of four") };
        let at = u32::from_be_bytes([0, high, middle, low]) as usize;
        match at.checked_sub(bytes.len()) {
            None => bytes[at] = byte,
            Some(over) => bytes.truncate(over % (written.len() + 1)),
        }
        if bytes.is_empty() {
            break;
        }
    }
    let folder = in_memory();
    match fuzz::start_on_database(folder.path(), &bytes) {
        Started::Bans(bans) => assert!(bytes != written || bans.len() == fuzz::BANS, "{bans:?}"),
        Started::MovedAside(to) => {
            assert!(bytes != written, "a sound database is taken for a damaged one");
            assert_eq!(fs::read(to).expect("the damaged file is kept"), bytes);
        }
        // What another program or a later version wrote is not ours to move.
        Started::Refused(words) => {
            assert!(words.contains("newer Shield") || words.contains("another program"), "{words}");
        }
    }
}

fn written() -> &'static [u8] {
    static WRITTEN: OnceLock<Vec<u8>> = OnceLock::new();
    WRITTEN.get_or_init(|| fuzz::database(in_memory().path()))
}

/// A folder of its own for each input, where nothing waits for a disk.
fn in_memory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.expect("a temporary folder can be made")
}
