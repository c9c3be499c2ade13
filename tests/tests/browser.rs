//! The page in Chromium: starts `tests/browser` under node and passes its verdict on. What is tested is written there;
//! what is needed is checked here, so that a missing tool is named instead of a stack trace.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The folder of the workspace.
fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a folder of the workspace")
}

/// Where a program is on `PATH`; fails naming it when it is nowhere.
fn tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: `cargo xtask setup` installs it"))
}

/// Fails naming what makes the file, when it is not there.
fn made(file: &str, by: &str) {
    assert!(workspace().join(file).exists(), "{file} is not there: `{by}` makes it");
}

/// Runs test files of `tests/browser` and fails with all that they printed when one of their tests fails.
fn node_tests(files: &[&str], environment: &[(&str, &str)]) {
    let node = tool("node");
    let chromium = tool("chromium");
    made("tests/browser/node_modules/playwright-core", "cargo xtask setup");
    made("tests/browser/node_modules/axe-core", "cargo xtask setup");
    made("dashboard/web/node_modules/esbuild", "cargo xtask setup");
    made("dashboard/web/dist/app.js", "cargo xtask build");
    let output = Command::new(node)
        .args(["--test", "--test-reporter=spec"])
        .args(files)
        .current_dir(workspace().join("tests/browser"))
        .env("SHIELD_CHROMIUM", chromium)
        .env("SHIELD_SCREENSHOTS", workspace().join("target/page-screenshots"))
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("node is there, so it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    println!("{said}");
}

#[test]
fn the_pages_logic_needs_no_browser() {
    node_tests(&["logic.test.mjs"], &[]);
}

#[test]
fn the_page_shows_and_does_what_it_should_in_chromium() {
    node_tests(&["page.test.mjs"], &[]);
}
