//! Whether all maps are pinned still, without looking for each of them every two seconds.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use shield_common::map_name;

/// Remembers the folder of pins as it was when every map was there.
#[derive(Default)]
pub(super) struct PinCheck {
    complete: Option<FolderState>,
}

/// Identifies a folder, and the last time that a name in it was created or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FolderState {
    inode: u64,
    changed: SystemTime,
}

impl PinCheck {
    /// Returns whether every map is pinned in `maps`. Looks for each only when the folder has changed.
    pub(super) fn is_complete(&mut self, maps: &Path) -> bool {
        let Some(now) = FolderState::of(maps) else { return false };
        if self.complete == Some(now) {
            return true;
        }
        let all = map_name::PINNED.iter().all(|name| maps.join(name).exists());
        self.complete = Some(now).filter(|now| all && now.is_settled());
        all
    }
}

impl FolderState {
    fn of(folder: &Path) -> Option<FolderState> {
        let meta = folder.metadata().ok()?;
        Some(FolderState { inode: meta.ino(), changed: meta.modified().ok()? })
    }

    /// Returns whether another change would show: the kernel's clock for files stands still for some milliseconds.
    fn is_settled(self) -> bool {
        const TICK: Duration = Duration::from_millis(100);
        self.changed.elapsed().is_ok_and(|age| age >= TICK)
    }
}
