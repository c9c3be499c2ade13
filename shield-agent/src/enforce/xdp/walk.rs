//! The keys of a map, one after the other: for kernels that cannot list a kind of map in batches (tries on Linux 5.10).
//!
//! The kernel has no cursor here. Asked for the key after one that is gone, it begins again with the first, so a map that
//! others change meanwhile returns keys a second time, and might never come to an end.

use std::io;

use hashbrown::HashSet;

/// After this many keys that came a second time, the walk must have got on, or it is given up.
const PATIENCE: usize = 100_000;

/// Collects all keys, each once. `next` returns the key after one, or the first.
///
/// # Errors
/// Those of `next`; EAGAIN if the map changes so fast that the walk does not come to its end.
pub(super) fn keys(
    mut next: impl FnMut(Option<&[u8]>) -> io::Result<Option<Box<[u8]>>>,
) -> io::Result<Vec<Box<[u8]>>> {
    let mut keys: Vec<Box<[u8]>> = Vec::new();
    let mut seen = HashSet::new();
    let mut repeated = 0;
    let mut last = next(None)?;
    while let Some(key) = last {
        last = next(Some(&key))?;
        if seen.insert(key.clone()) {
            keys.push(key);
            continue;
        }
        repeated += 1;
        if repeated > PATIENCE.max(keys.len()) {
            return Err(io::Error::from_raw_os_error(libc::EAGAIN));
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A map of one-byte keys that answers as the kernel does: after a key that is gone comes the first.
    fn next(map: &BTreeSet<u8>, key: Option<&[u8]>) -> Option<Box<[u8]>> {
        let known = key.map(|key| key[0]).filter(|key| map.contains(key));
        let next = match known {
            Some(key) => map.range(key + 1..).next(),
            None => map.first(),
        };
        next.map(|key| Box::from([*key]))
    }

    fn flat(keys: &[Box<[u8]>]) -> Vec<u8> {
        keys.iter().map(|key| key[0]).collect()
    }

    #[test]
    fn an_empty_map_and_a_full_one() {
        for map in [BTreeSet::new(), (0..200).collect()] {
            let walked = keys(|key| Ok(next(&map, key))).unwrap();
            assert_eq!(flat(&walked), map.iter().copied().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_key_that_goes_under_the_walk_starts_it_again_and_none_comes_twice() {
        let mut map: BTreeSet<u8> = (0..200).collect();
        let walked = keys(|key| {
            if key == Some(&[100]) {
                map.remove(&100);
            }
            Ok(next(&map, key))
        });
        let walked = flat(&walked.unwrap());
        assert_eq!(walked.len(), 200, "100 was there when it was read: {walked:?}");
        assert_eq!(walked.iter().collect::<BTreeSet<_>>().len(), 200);
    }

    #[test]
    fn a_walk_without_an_end_is_given_up() {
        let map: BTreeSet<u8> = (0..200).collect();
        let error = keys(|key| {
            let is_last = key == Some(&[199]);
            Ok(if is_last { next(&map, None) } else { next(&map, key) })
        });
        assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::EAGAIN));
    }

    #[test]
    fn an_error_of_the_kernel_is_one_of_the_walk() {
        let denied = keys(|_| Err(io::Error::from_raw_os_error(libc::EPERM)));
        assert_eq!(denied.unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
}
