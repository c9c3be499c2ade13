//! When something is due in a table of slots, without a heap beside it: of each chunk of slots the soonest moment at which one of
//! them may be due. A heap of 5,000,000 deadlines takes 200 MB; these take 20 kB, and finding what is due reads a chunk.

/// Slots in a chunk. Smaller ones are read quicker, and there are more of them to choose from.
pub(super) const CHUNK: usize = 2048;

/// The moment of a chunk in which nothing will ever be due.
pub(super) const NEVER: u64 = u64::MAX;

/// See the module. Milliseconds on the boot clock.
#[derive(Debug)]
pub(super) struct Moments {
    /// Of each chunk a moment before which nothing in it is due. It may be too early, after a change of a slot, and is mended
    /// when it comes up; never too late.
    chunks: Vec<u64>,
    soonest: u64,
}

impl Moments {
    pub(super) fn new() -> Moments {
        Moments { chunks: Vec::new(), soonest: NEVER }
    }

    /// Takes note that a slot is due at this moment.
    pub(super) fn note(&mut self, slot: usize, at_ms: u64) {
        let chunk = slot / CHUNK;
        if chunk >= self.chunks.len() {
            self.chunks.resize(chunk + 1, NEVER);
        }
        self.chunks[chunk] = self.chunks[chunk].min(at_ms);
        self.soonest = self.soonest.min(at_ms);
    }

    /// The moment before which nothing is due.
    pub(super) fn soonest(&self) -> Option<u64> {
        (self.soonest != NEVER).then_some(self.soonest)
    }

    /// The chunk with the soonest moment, when that has come.
    pub(super) fn due(&self, now_ms: u64) -> Option<usize> {
        if self.soonest > now_ms {
            return None;
        }
        self.chunks.iter().position(|at_ms| *at_ms == self.soonest)
    }

    /// Sets the moment of a chunk that was just read.
    pub(super) fn set(&mut self, chunk: usize, at_ms: u64) {
        self.chunks[chunk] = at_ms;
        self.soonest = self.chunks.iter().copied().min().unwrap_or(NEVER);
    }
}
