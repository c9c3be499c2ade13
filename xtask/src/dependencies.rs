//! The check that `docs/dependencies.md` has a row for every direct dependency and no stale row.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

const DOCUMENT: &str = "docs/dependencies.md";

/// Compares the document with the manifests.
///
/// # Errors
/// Names every dependency without a row, and every row without a dependency.
pub(crate) fn check(root: &Path) -> Result<()> {
    let read = |file: &str| {
        std::fs::read_to_string(root.join(file)).with_context(|| format!("could not read {file}"))
    };
    let mut declared = declared(&read("Cargo.toml")?, "[workspace.dependencies]");
    declared.extend(declared_in(&read("shield-ebpf/Cargo.toml")?));
    for manifest in ["dashboard/web/package.json", "tests/browser/package.json"] {
        declared.extend(packages(&read(manifest)?)?);
    }
    let documented = documented(&read(DOCUMENT)?);
    let missing: Vec<_> = declared.difference(&documented).cloned().collect();
    let stale: Vec<_> = documented.difference(&declared).cloned().collect();
    if !missing.is_empty() {
        bail!(
            "{DOCUMENT} has no row for {}: add its purpose and the reason for this choice",
            missing.join(", ")
        );
    }
    if !stale.is_empty() {
        bail!("{DOCUMENT} still has a row for {}, which is not a dependency: remove it", stale.join(", "));
    }
    Ok(())
}

fn declared_in(manifest: &str) -> BTreeSet<String> {
    declared(manifest, "[dependencies]")
}

/// The names in one section of a manifest, without the workspace's own crates (those with a path).
fn declared(manifest: &str, section: &str) -> BTreeSet<String> {
    let lines = manifest.lines().skip_while(|line| line.trim() != section).skip(1);
    lines
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.contains("path ="))
        .filter_map(|line| Some(line.split_once('=')?.0.trim().to_owned()))
        .filter(|name| !name.starts_with('#') && !name.is_empty())
        .collect()
}

fn packages(manifest: &str) -> Result<BTreeSet<String>> {
    let manifest: serde_json::Value =
        serde_json::from_str(manifest).context("could not read package.json")?;
    let sections =
        ["dependencies", "devDependencies"].into_iter().filter_map(|name| manifest[name].as_object());
    Ok(sections.flat_map(|section| section.keys().cloned()).collect())
}

/// The names in the first column of the document's tables; one row may name several.
fn documented(document: &str) -> BTreeSet<String> {
    let cells = document.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let names = cells.filter(|cell| !matches!(*cell, "crate" | "package" | "---"));
    names.flat_map(|cell| cell.split(',')).map(|name| name.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sh;

    #[test]
    fn every_dependency_has_its_reason() {
        check(sh::root_folder()).unwrap();
    }

    #[test]
    fn names_are_read_from_manifests_and_tables() {
        let manifest = "[x]\na = 1\n[workspace.dependencies]\nown = { path = \"own\" }\n# no\nb = \"1\"\n\nc = { v = 1 }\n[y]\nd = 1\n";
        assert_eq!(declared(manifest, "[workspace.dependencies]"), BTreeSet::from(["b".into(), "c".into()]));
        let document = "| crate | what |\n| --- | --- |\n| b, c | x |\ntext | d |\n";
        assert_eq!(documented(document), BTreeSet::from(["b".into(), "c".into()]));
        assert_eq!(packages(r#"{"devDependencies":{"e":"1"}}"#).unwrap(), BTreeSet::from(["e".into()]));
    }
}
