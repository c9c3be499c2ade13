//! Prefetching: asks the processor for memory that will be read soon, without waiting for it.

/// Prefetches the cache line that `value` begins in. Does nothing on processors other than x86-64: stable Rust has no
/// prefetch for them yet.
#[inline]
pub(crate) fn fetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[expect(unsafe_code, reason = "a prefetch cannot fault")]
        // SAFETY: `value` is a reference, and a prefetch has no effect but on the cache.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
