//! `docs/openapi.json`, the page's `types.ts` and `docs/shield.schema.json` are what the agent's types say. `cargo xtask
//! api-types` renews them.

use std::fs;
use std::path::Path;

use shield_agent::test_support::api::document::{openapi, typescript};
use shield_agent::test_support::config::schema;

/// Set by `cargo xtask api-types`: write the files instead of comparing them.
const RENEW: &str = "SHIELD_RENEW_API_TYPES";

#[test]
fn the_document_and_the_pages_types_are_up_to_date() {
    let document = openapi();
    let json = serde_json::to_string_pretty(&document).expect("a JSON value can be written");
    let schema = serde_json::to_string_pretty(&schema()).expect("a JSON value can be written");
    let files = [
        ("docs/openapi.json", json + "\n"),
        ("dashboard/web/src/api/types.ts", typescript(&document)),
        ("docs/shield.schema.json", schema + "\n"),
    ];
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

/// What is shipped, and what this agent shows of it with every default, are of the schema; slips are not.
#[test]
fn a_configuration_is_of_the_schema() {
    let validator = jsonschema::validator_for(&schema()).expect("a schema");
    let json = |text: &str| -> serde_json::Value { toml::from_str(text).expect("TOML") };
    let uncommented = include_str!("../../packaging/container/shield.toml");
    for text in [
        uncommented,
        "[ban]\nterms = ['10m', 600, 'permanent']\n[detect]\nflood.mode = 'observe'\nz_score.threshold = 7\n[page]\nlisten = '[::1]:1'",
        "[[source]]\npath = '/a'\ncatch_up = 60\n[allow]\nnetworks = ['192.0.2.7']\n[fleet]\nmax_remote_term = '2h'",
    ] {
        let errors: Vec<String> = validator.iter_errors(&json(text)).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{text}: {errors:?}");
    }
    for text in [
        "[bann]",
        "[ban]\nmax_shere = 1.0",
        "[detect]\nflood.swich = 'on'",
        "[detect]\nflood.mode = 'watch'",
        "[xdp]\ninterfaces = 'eth0'",
        "[page]\nenabled = 'yes'",
    ] {
        assert!(!validator.is_valid(&json(text)), "{text}");
    }
}
