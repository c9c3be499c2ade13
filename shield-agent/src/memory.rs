//! Returns memory that only the start needed to the kernel: a few seconds of reading the kernel's types, the database and
//! the arguments leave free memory in the heap and most of the program mapped, in an agent that then runs for months.
#![expect(unsafe_code, reason = "malloc_trim and madvise are calls of the C library")]

use std::fs;
use std::ops::Range;

use anyhow::{Context as _, Result};

/// Buffers from this size on get a mapping of their own.
const LARGE_BYTES: i32 = 1 << 20;

/// Fixes the size from which buffers get a mapping of their own. By default glibc raises that threshold when the first
/// large buffers are freed, and later ones then come from the heap, where they are not returned and where zeroed memory
/// is resident. Call it before any other thread exists.
pub(crate) fn keep_large_buffers_apart() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes numbers, and is called before there are other threads.
    let _ = unsafe {
        (
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES),
            libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * LARGE_BYTES),
        )
    };
}

/// Returns the heap's free memory to the kernel. Takes milliseconds, during which allocations wait.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and may be called at any time by any thread.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Returns what the start has left so far, in a start that takes long: the free heap of reading the kernel's types, and the program's
/// pages, while tables of millions of bans are filled.
pub(crate) fn return_early() {
    trim_heap();
    if let Err(error) = unmap_program() {
        tracing::debug!("{error:#}");
    }
}

/// Drops the program's own code and constants from resident memory. Pages in use come back from the page cache when they
/// are touched.
///
/// # Errors
/// When the mappings cannot be read, or the kernel refuses.
pub(crate) fn unmap_program() -> Result<()> {
    let program =
        fs::read_link("/proc/self/exe").context("could not read the path of the running program")?;
    let maps = fs::read_to_string("/proc/self/maps").context("could not read /proc/self/maps")?;
    let program = program.to_string_lossy();
    for range in maps.lines().filter_map(|line| unwritten(line, &program)) {
        // SAFETY: the range is a whole private mapping of a file that this process never writes to (see `unwritten`), so
        // that the kernel puts back the very same bytes at the next access.
        let result = unsafe { libc::madvise(range.start as *mut _, range.len(), libc::MADV_DONTNEED) };
        if result != 0 {
            return Err(std::io::Error::last_os_error()).context("could not drop the program's pages");
        }
    }
    Ok(())
}

/// Returns the mapping of this line of `/proc/self/maps` when it belongs to `program` and was never written to: the code,
/// and the mapping of the file's head. Other read-only mappings were written by the dynamic linker before they were
/// protected, and dropping them would undo its relocations.
fn unwritten(line: &str, program: &str) -> Option<Range<usize>> {
    let (fields, path) = line.split_once('/')?;
    if path != program.strip_prefix('/')? {
        return None;
    }
    let mut fields = fields.split_ascii_whitespace();
    let (range, rights, offset) = (fields.next()?, fields.next()?, fields.next()?);
    let is_head = u64::from_str_radix(offset, 16).ok()? == 0;
    if !(rights == "r-xp" || (rights == "r--p" && is_head)) {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mappings_never_written_to_are_dropped() {
        let check = |rights: &str, offset: &str, path: &str, expected: Option<Range<usize>>| {
            let line = format!("55d0c000-55d0f000 {rights} {offset} fe:00 1234    {path}");
            assert_eq!(unwritten(&line, "/usr/bin/shield-agent"), expected, "{line}");
        };
        check("r-xp", "003e7000", "/usr/bin/shield-agent", Some(0x55d0_c000..0x55d0_f000));
        check("r--p", "00000000", "/usr/bin/shield-agent", Some(0x55d0_c000..0x55d0_f000));
        // Relocated by the dynamic linker, then protected.
        check("r--p", "01002000", "/usr/bin/shield-agent", None);
        check("rw-p", "01042000", "/usr/bin/shield-agent", None);
        check("r-xp", "00026000", "/usr/lib/libc.so.6", None);
        assert_eq!(
            unwritten("55d0c000-55d0f000 rw-p 00000000 00:00 0   [heap]", "/usr/bin/shield-agent"),
            None
        );
    }

    #[test]
    fn the_program_runs_on() {
        static RELOCATED: [&str; 2] = ["shield", "agent"];
        let before = RELOCATED.concat();
        trim_heap();
        unmap_program().unwrap();
        assert_eq!(RELOCATED.concat(), before);
    }
}
