//! Gives back the memory that only the start needed: a few seconds of reading the kernel's types, the database and the
//! arguments leave free memory in the heap and most of the program mapped, for an agent that then runs for months.
#![expect(unsafe_code, reason = "malloc_trim and madvise are calls of the C library")]

use std::fs;
use std::ops::Range;

use anyhow::{Context as _, Result};

/// From here on, a buffer is large.
const LARGE_BYTES: i32 = 1 << 20;

/// Has large buffers mapped by themselves for ever: else the first ones freed at the start teach the C library to take
/// later ones from the heap, where they stay, and where zeroes take memory. To be called first of all.
pub(crate) fn keep_large_buffers_apart() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes numbers. It is called before there are other threads.
    let _ = unsafe {
        (
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES),
            libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * LARGE_BYTES),
        )
    };
}

/// Gives free memory of the heap back to the kernel. Takes milliseconds; allocations wait meanwhile.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and may be called at any time by any thread.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Unmaps the program's own code and constants: what is used again is mapped again from the page cache when it is
/// touched, the rest no longer counts.
///
/// # Errors
/// When the mappings cannot be read, or the kernel refuses.
pub(crate) fn let_go_of_program() -> Result<()> {
    let program = fs::read_link("/proc/self/exe").context("asked for this program's own path")?;
    let maps = fs::read_to_string("/proc/self/maps").context("read this process' mappings")?;
    let program = program.to_string_lossy();
    for range in maps.lines().filter_map(|line| unwritten(line, &program)) {
        // SAFETY: the range is a whole private mapping of a file that this process never writes to (see `unwritten`), so
        // that the kernel puts back the very same bytes at the next access.
        let done = unsafe { libc::madvise(range.start as *mut _, range.len(), libc::MADV_DONTNEED) };
        if done != 0 {
            return Err(std::io::Error::last_os_error()).context("let go of the program's mapping");
        }
    }
    Ok(())
}

/// The mapping in this line of `/proc/self/maps`, when it is one of `program` that was never written to: its code, and what
/// lies before it with the file's head. Other read-only mappings were written by the dynamic linker before they were
/// protected.
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
    fn only_what_was_never_written_is_let_go_of() {
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
        let_go_of_program().unwrap();
        assert_eq!(RELOCATED.concat(), before);
    }
}
