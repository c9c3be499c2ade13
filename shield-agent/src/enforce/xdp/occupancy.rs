//! How many elements a map holds, without listing it; and the guard that every change goes through.
//!
//! The kernel accounts for a map's memory in microseconds, however many elements it holds, and a map that is not
//! preallocated grows with each. So a map whose memory is as it was after our last change holds as many elements as then.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use super::kernel::Account;

/// What is known of the number of elements in a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occupancy {
    /// Not compared yet, or the kernel does not account for the memory (before Linux 6.4).
    Unknown,
    /// The memory after our last change. The elements were not counted, or somebody else changed the map before it.
    Uncounted { memory: u64 },
    /// The memory after our last change, and the number of elements then.
    Counted { memory: u64, count: usize },
}

impl Occupancy {
    fn new(memory: Option<u64>, count: Option<usize>) -> Occupancy {
        match (memory, count) {
            (None, _) => Occupancy::Unknown,
            (Some(memory), None) => Occupancy::Uncounted { memory },
            (Some(memory), Some(count)) => Occupancy::Counted { memory, count },
        }
    }

    /// The number of elements in a map with this memory, if that is known.
    pub(super) fn count_at(self, now: Option<u64>) -> Option<usize> {
        match self {
            Occupancy::Counted { memory, count } if now == Some(memory) => Some(count),
            _ => None,
        }
    }

    /// Whether a map with this memory holds as many elements as after our last change, if that is known.
    pub(super) fn is_as_left(self, now: Option<u64>) -> Option<bool> {
        match self {
            Occupancy::Unknown => None,
            Occupancy::Uncounted { memory } | Occupancy::Counted { memory, .. } => Some(now? == memory),
        }
    }
}

/// A map and its occupancy.
///
/// Reading goes through `fd`; writing only through the guard of [`OccupiedMap::modify`], which brings the occupancy up to
/// date when it is dropped. So no change can leave a wrong count behind.
#[derive(Debug)]
pub(super) struct OccupiedMap {
    map: OwnedFd,
    account: Account,
    occupancy: Occupancy,
}

/// A change of a map.
pub(super) struct Modify<'a> {
    map: &'a mut OccupiedMap,
    count: Option<usize>,
}

impl OccupiedMap {
    pub(super) fn new(map: OwnedFd) -> OccupiedMap {
        OccupiedMap { map, account: Account::default(), occupancy: Occupancy::Unknown }
    }

    /// The descriptor, for reading and pinning.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }

    /// Reads the memory that the map's elements take, in bytes; `None` where the kernel does not account for it.
    pub(super) fn memory(&self) -> Option<u64> {
        self.account.memory(self.map.as_fd())
    }

    pub(super) fn occupancy(&self) -> Occupancy {
        self.occupancy
    }

    /// Begins a change. The count is carried on only if nobody else changed the map since our last change.
    pub(super) fn modify(&mut self) -> Modify<'_> {
        let count = self.occupancy.count_at(self.memory());
        Modify { map: self, count }
    }

    /// Takes in the result of a listing that began when the map had this memory. An element that was added meanwhile
    /// changes the memory, and so makes the count unknown again.
    pub(super) fn listed(&mut self, memory: Option<u64>, count: usize) {
        self.occupancy = Occupancy::new(memory, Some(count));
    }

    /// Takes the map as it is for as we left it, after a reconcile compared its elements with the wanted ones.
    pub(super) fn accept(&mut self) {
        let memory = self.memory();
        self.occupancy = Occupancy::new(memory, self.occupancy.count_at(memory));
    }
}

impl Modify<'_> {
    /// The descriptor, for writing.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.map.fd()
    }

    pub(super) fn added(&mut self, elements: usize) {
        self.count = self.count.map(|count| count + elements);
    }

    pub(super) fn removed(&mut self, elements: usize) {
        self.count = self.count.and_then(|count| count.checked_sub(elements));
    }

    /// Gives the count up, for a change that does not return how many elements it added.
    pub(super) fn forget_count(&mut self) {
        self.count = None;
    }
}

impl Drop for Modify<'_> {
    fn drop(&mut self) {
        self.map.occupancy = Occupancy::new(self.map.memory(), self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_holds_only_for_the_memory_it_was_made_at() {
        let counted = Occupancy::Counted { memory: 320, count: 5 };
        assert_eq!((counted.count_at(Some(320)), counted.is_as_left(Some(320))), (Some(5), Some(true)));
        assert_eq!((counted.count_at(Some(384)), counted.is_as_left(Some(384))), (None, Some(false)));
        assert_eq!((counted.count_at(None), counted.is_as_left(None)), (None, None));
        let uncounted = Occupancy::Uncounted { memory: 320 };
        assert_eq!((uncounted.count_at(Some(320)), uncounted.is_as_left(Some(320))), (None, Some(true)));
        assert_eq!(
            (Occupancy::Unknown.count_at(Some(320)), Occupancy::Unknown.is_as_left(Some(320))),
            (None, None)
        );
    }

    /// Any file does for a map here: the kernel accounts for no memory of it.
    #[test]
    fn without_an_account_a_change_leaves_nothing_known() {
        let mut map = OccupiedMap::new(std::fs::File::open("/dev/null").unwrap().into());
        map.listed(None, 7);
        assert_eq!(map.occupancy(), Occupancy::Unknown);
        map.modify().added(1);
        assert_eq!(map.occupancy(), Occupancy::Unknown);
    }
}
