//! `docs/openapi.json` and the page's `types.ts` are what the agent's types say. `cargo xtask api-types` renews both.

use std::fs;
use std::path::Path;

use shield_agent::test_support::api::document::{openapi, typescript};

/// Set by `cargo xtask api-types`: write the files instead of comparing them.
const RENEW: &str = "SHIELD_RENEW_API_TYPES";

#[test]
fn the_document_and_the_pages_types_are_up_to_date() {
    let document = openapi();
    let json = serde_json::to_string_pretty(&document).expect("a JSON value can be written");
    let files =
        [("docs/openapi.json", json + "\n"), ("dashboard/web/src/api/types.ts", typescript(&document))];
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is a folder of the workspace");
    let mut stale = Vec::new();
    for (file, expected) in files {
        let path = root.join(file);
        if std::env::var_os(RENEW).is_some() {
            fs::write(&path, expected).expect("the file can be written");
        } else if fs::read_to_string(&path).ok() != Some(expected) {
            stale.push(file);
        }
    }
    assert!(
        stale.is_empty(),
        "{} stale: run `cargo xtask api-types` and commit the result",
        stale.join(" and ")
    );
}
