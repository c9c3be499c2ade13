//! The list of the crates that are linked into the agent (CycloneDX 1.5), which scanners compare with databases of known holes.
//!
//! Of what Cargo resolves for this platform: the agent's dependencies and theirs, without those of tests and build scripts. Nothing
//! in it depends on when or where it was made, so that two builds have the same.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::sh;

/// The document, as text.
pub(crate) fn document() -> Result<String> {
    let platform =
        sh::capture("rustc", &["--print", "host-tuple"]).context("could not get the platform from rustc")?;
    let mut cargo = sh::cargo();
    cargo.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", &platform]);
    let output = cargo.output().context("could not start cargo metadata")?;
    let metadata =
        serde_json::from_slice(&output.stdout).context("could not read cargo metadata's output")?;
    let lock =
        std::fs::read_to_string(sh::root_folder().join("Cargo.lock")).context("could not read Cargo.lock")?;
    let document = describe(&metadata, &checksums(&lock))?;
    let text = serde_json::to_string_pretty(&document).context("could not write the list of crates")?;
    Ok(text + "\n")
}

/// By `name version`, of the crates from a registry.
fn checksums(lock: &str) -> BTreeMap<String, String> {
    let packages = lock.split("[[package]]").skip(1);
    let read = |package: &str| {
        let value = |key: &str| {
            package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"'))
        };
        Some((format!("{} {}", value("name")?, value("version")?), value("checksum")?.to_owned()))
    };
    packages.filter_map(read).collect()
}

fn describe(metadata: &Value, checksums: &BTreeMap<String, String>) -> Result<Value> {
    let packages = by_id(&metadata["packages"]);
    let nodes = by_id(&metadata["resolve"]["nodes"]);
    let mut ids = packages.iter().filter(|(_, package)| package["name"] == "shield-agent").map(|(id, _)| *id);
    let agent = ids.next().context("could not find the agent in cargo metadata's output")?;
    let mut linked = BTreeSet::from([agent]);
    let mut new = vec![agent];
    while let Some(id) = new.pop() {
        new.extend(nodes.get(id).into_iter().flat_map(|node| needs(node)).filter(|id| linked.insert(id)));
    }
    let package = |id: &str| packages.get(id).with_context(|| format!("could not find the package {id}"));
    let mut components = Vec::new();
    let mut dependencies = Vec::new();
    for id in linked {
        let on: Result<Vec<String>> = nodes
            .get(id)
            .into_iter()
            .flat_map(|node| needs(node))
            .map(|id| Ok(name_of(package(id)?)))
            .collect();
        dependencies.push(json!({ "ref": name_of(package(id)?), "dependsOn": on? }));
        if id != agent {
            components.push(component(package(id)?, checksums));
        }
    }
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": {
            "type": "application",
            "bom-ref": name_of(package(agent)?),
            "name": "shield",
            "version": package(agent)?["version"],
        } },
        "components": components,
        "dependencies": dependencies,
    }))
}

fn by_id(list: &Value) -> BTreeMap<&str, &Value> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|item| Some((item["id"].as_str()?, item))).collect()
}

/// The packages that are linked into this one, sorted: neither those of its tests nor those of its build script.
fn needs(node: &Value) -> BTreeSet<&str> {
    let is_linked = |dependency: &&Value| {
        let kinds = dependency["dep_kinds"].as_array().into_iter().flatten();
        kinds.into_iter().any(|kind| kind["kind"].is_null())
    };
    let dependencies = node["deps"].as_array().into_iter().flatten().filter(is_linked);
    dependencies.filter_map(|dependency| dependency["pkg"].as_str()).collect()
}

fn component(package: &Value, checksums: &BTreeMap<String, String>) -> Value {
    let (name, version) = (text(package, "name"), text(package, "version"));
    let mut component = json!({
        "type": "library",
        "bom-ref": name_of(package),
        "name": name,
        "version": version,
    });
    if let Some(license) = package["license"].as_str() {
        // The slash is Cargo's old way to write it.
        component["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
    }
    if let Some(checksum) = checksums.get(&format!("{name} {version}")) {
        component["purl"] = name_of(package).into();
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

/// A package's name for scanners.
fn name_of(package: &Value) -> String {
    format!("pkg:cargo/{}@{}", text(package, "name"), text(package, "version"))
}

fn text<'a>(package: &'a Value, key: &str) -> &'a str {
    package[key].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_listed_and_what_only_builds_or_tests_is_not() {
        let package =
            |id: &str| json!({ "id": id, "name": id, "version": "1.0.0", "license": "MIT/Apache-2.0" });
        let on = |id: &str, kind: Value| json!({ "pkg": id, "dep_kinds": [{ "kind": kind }] });
        let packages = ["shield-agent", "a", "b", "built-with", "tested-with"].map(package);
        let metadata = json!({
            "packages": packages,
            "resolve": { "nodes": [
                { "id": "shield-agent", "deps": [on("a", Value::Null), on("tested-with", json!("dev"))] },
                { "id": "a", "deps": [on("b", Value::Null), on("built-with", json!("build"))] },
                { "id": "b", "deps": [] },
            ] },
        });
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"r\"\nchecksum = \"abc\"\n";
        let document = describe(&metadata, &checksums(lock)).unwrap();
        let components = document["components"].as_array().unwrap();
        let names: Vec<&str> = components.iter().map(|component| text(component, "name")).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(components[0]["hashes"][0]["content"], "abc");
        assert_eq!(components[0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert!(components[1]["hashes"].is_null(), "it is not from a registry");
        assert_eq!(
            document["dependencies"][0],
            json!({ "ref": "pkg:cargo/a@1.0.0", "dependsOn": ["pkg:cargo/b@1.0.0"] })
        );
        assert_eq!(document["metadata"]["component"]["name"], "shield");
    }

    #[test]
    fn of_this_workspace_every_crate_from_a_registry_has_its_checksum() {
        let document: Value = serde_json::from_str(&document().unwrap()).unwrap();
        let components = document["components"].as_array().unwrap();
        let without = components.iter().filter(|component| component["hashes"].is_null());
        let mut without: Vec<&str> = without.map(|component| text(component, "name")).collect();
        without.sort_unstable();
        assert_eq!(
            without,
            ["dashboard", "shield-common", "shield-engine", "shield-lab", "shield-logline"],
            "those of the workspace"
        );
        for needed in ["aya", "rusqlite", "tokio"] {
            assert!(components.iter().any(|component| component["name"] == needed), "{needed}");
        }
    }
}
