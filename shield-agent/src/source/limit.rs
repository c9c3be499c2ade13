//! How many files this process may have open, and how many of them the sources may take.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// A log is opened in microseconds, so that many open ones are enough for any server.
const MAX_OPEN: u64 = 1024;

/// Each source keeps at least so many open.
const MIN_OPEN: usize = 8;

/// Raises the soft limit to the hard one, and returns how many open files each of `sources` may keep.
///
/// Half of the limit is left to the rest of the agent.
pub(super) fn open_files(sources: usize) -> usize {
    let limit = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(_) => soft,
        },
        Ok((soft, _)) => soft,
        // The usual limit.
        Err(_) => 1024,
    };
    share(limit, sources)
}

fn share(limit: u64, sources: usize) -> usize {
    let all = (limit / 2).min(MAX_OPEN) as usize;
    (all / sources.max(1)).max(MIN_OPEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_share_half_of_the_limit() {
        assert_eq!(share(65_536, 1), 1024);
        assert_eq!(share(1024, 2), 256);
        assert_eq!(share(64, 1), 32);
        assert_eq!(share(64, 100), MIN_OPEN);
    }
}
