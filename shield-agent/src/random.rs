//! Random bytes from the kernel, for secrets and seeds.

use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result};

/// Not getrandom(2): the file needs no further crate, and a sandbox that hides it shows up as an error with its path.
const DEVICE: &str = "/dev/urandom";

/// Returns `N` bytes that are fit for a secret.
///
/// # Errors
/// When the device is missing or unreadable. There is no weaker fallback.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open(DEVICE)
        .and_then(|mut device| device.read_exact(&mut bytes))
        .with_context(|| format!("could not read {N} random bytes from {DEVICE}"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_readings_differ() {
        assert_ne!(bytes::<16>().unwrap(), bytes::<16>().unwrap());
    }
}
