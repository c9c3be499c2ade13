//! Every nginx snippet of docs/behind-a-proxy.md is one that a real nginx takes, with the lines that the agent prints.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::path::Path;
use std::process::Command;

use shield_agent::test_support::enforce::nginx::{Settings, http, server};
use shield_tests::netns::Namespace;

const PAGE: &str = include_str!("../../docs/behind-a-proxy.md");

fn snippets() -> Vec<&'static str> {
    PAGE.split("```nginx\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// The configuration with a snippet where the page says that it stands.
fn configuration(folder: &Path, snippet: &str) -> String {
    let settings = Settings::default();
    let listens = snippet.lines().any(|line| line.starts_with("listen "));
    let (inside_http, inside_server) = if listens { ("", snippet) } else { (snippet, "listen 80;") };
    let log = if snippet.contains("log_format shield ") { "access_log access.log shield;" } else { "" };
    format!(
        "pid {0}/nginx.pid;\nerror_log {0}/error.log;\nevents {{}}\nhttp {{\n{1}\n{inside_http}\n{log}\nserver {{\n{inside_server}\n{2}\n\
         location / {{ return 200; }}\n}}\n}}\n",
        folder.display(),
        http(&settings),
        server(&settings, &[]),
    )
}

#[test]
fn nginx_takes_every_snippet() {
    let namespace = Namespace::create("docs").unwrap();
    let found = snippets();
    assert!(found.len() >= 6, "{found:?}");
    for snippet in found {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, configuration(folder.path(), snippet)).unwrap();
        let mut nginx = Command::new("nginx");
        nginx.arg("-t").arg("-p").arg(folder.path()).arg("-c").arg(&file);
        let tested = namespace.enter(|| nginx.output()).unwrap();
        let said = String::from_utf8_lossy(&tested.stderr);
        assert!(tested.status.success() && !said.contains("[warn]"), "{snippet}\n{said}");
    }
}

#[test]
fn every_recipe_says_what_is_dropped_where() {
    let recipes = PAGE.split("## Recipes").nth(1).unwrap();
    let sections: Vec<&str> = recipes.split("\n### ").skip(1).collect();
    assert!(sections.len() >= 5);
    for section in sections {
        assert!(section.contains("\nDropped: "), "{section}");
    }
}
