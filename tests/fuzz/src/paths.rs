//! The target `paths`: what the engine takes for the path that is served.
//!
//! For every target there is no panic; what is served as written comes out as written; no `.`, `..` or repeated slash is
//! left; and a path that comes out, escaped byte by byte, comes out again.

use shield_engine::test_support::served_path::{is_as_written, resolve};

/// See the module.
pub fn check(target: &[u8]) {
    let mut space = Vec::new();
    let served = resolve(target, &mut space);
    assert!(served.path.len() + served.query.len() <= target.len() + 1, "{served:?} of {target:?}");
    let end = target.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(target.len());
    if is_as_written(&target[..end]) && target.first() == Some(&b'/') {
        assert_eq!(served.path, &target[..end]);
    }
    if served.path.first() != Some(&b'/') {
        return;
    }
    let mut segments = served.path[1..].split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        assert!(segment != b"." && segment != b"..", "{served:?} of {target:?}");
        assert!(!segment.is_empty() || segments.peek().is_none(), "{served:?} of {target:?}");
    }
    let escaped: String = served.path[1..].iter().map(|byte| format!("%{byte:02x}")).collect();
    let mut again = Vec::new();
    assert_eq!(resolve(format!("/{escaped}").as_bytes(), &mut again).path, served.path, "{target:?}");
}
