//! The map `TOTALS`: what the program of each slot counted.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, PerCpuArray};
use shield_common::{SLOTS, Totals, map_name};

use crate::enforce::ban::Drops;

use super::kernel;

pub(super) struct TotalsMap {
    map: OwnedFd,
    reader: PerCpuArray<MapData, Totals>,
    unused: Option<Unused>,
}

/// What earlier programs counted in slots that no program of ours uses. Read once, because it does not change.
#[derive(Clone, Copy)]
struct Unused {
    from: u32,
    drops: Drops,
}

impl TotalsMap {
    /// Opens the map pinned in `maps`.
    pub(super) fn open(maps: &Path) -> Result<TotalsMap> {
        let path = maps.join(map_name::TOTALS);
        let map = kernel::open_pinned(&path)
            .with_context(|| format!("could not open the map {}", path.display()))?;
        let reader = map.try_clone().map_err(anyhow::Error::from).and_then(|map| {
            let map = Map::PerCpuArray(MapData::from_fd(map)?);
            Ok(map.try_into()?)
        });
        let reader = reader.context("could not open the map TOTALS for reading")?;
        Ok(TotalsMap { map, reader, unused: None })
    }

    /// Sums the totals of the program in `slot` over all CPUs.
    pub(super) fn of_slot(&self, slot: u32) -> Result<Totals> {
        let values = self.reader.get(&slot, 0).context("could not read the map TOTALS")?;
        Ok(values.iter().fold(Totals::default(), |sum, cpu| Totals {
            passed: sum.passed + cpu.passed,
            dropped_v4: sum.dropped_v4 + cpu.dropped_v4,
            dropped_v6: sum.dropped_v6 + cpu.dropped_v6,
            dropped_bytes: sum.dropped_bytes + cpu.dropped_bytes,
            expired: sum.expired + cpu.expired,
            exempt: sum.exempt + cpu.exempt,
            malformed: sum.malformed + cpu.malformed,
            not_ip: sum.not_ip + cpu.not_ip,
            slowed: sum.slowed + cpu.slowed,
        }))
    }

    /// Sums the drops of all slots, of which those below `used` still count.
    pub(super) fn drops(&mut self, used: u32) -> Result<Drops> {
        let unused = match self.unused {
            Some(unused) if unused.from == used => unused.drops,
            _ => self.drops_in(used..SLOTS)?,
        };
        self.unused = Some(Unused { from: used, drops: unused });
        let drops = self.drops_in(0..used)?;
        Ok(Drops { packets: drops.packets + unused.packets, bytes: drops.bytes + unused.bytes })
    }

    fn drops_in(&self, slots: std::ops::Range<u32>) -> Result<Drops> {
        let mut sum = Drops::default();
        for slot in slots {
            let totals = self.of_slot(slot)?;
            sum.packets += totals.dropped_v4 + totals.dropped_v6 + totals.slowed;
            sum.bytes += totals.dropped_bytes;
        }
        Ok(sum)
    }

    /// The map's name and descriptor, for pinning.
    pub(super) fn pinnable(&self) -> (&'static str, BorrowedFd<'_>) {
        (map_name::TOTALS, self.map.as_fd())
    }
}
