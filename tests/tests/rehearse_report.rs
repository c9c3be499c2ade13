//! `shield-agent rehearse` from its command line to its report, with a real nginx, agent and kernel.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs;
use std::process::Command;

use serde_json::Value;
use shield_tests::agent;

/// Runs a rehearsal with these arguments; its exit code and report.
fn rehearse(config: &str, arguments: &[&str]) -> (Option<i32>, Value, String) {
    let folder = tempfile::Builder::new().prefix("rehearse").tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path(), open).unwrap();
    fs::write(folder.path().join("shield.toml"), config).unwrap();
    let mut command = Command::new(agent::binary().unwrap());
    command.args(["rehearse", "--calm", "3s", "--config"]).arg(folder.path().join("shield.toml"));
    command.arg("--out").arg(folder.path()).arg("--state").arg(folder.path().join("state"));
    let output = command.args(arguments).output().unwrap();
    let said =
        format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let json = fs::read(folder.path().join("rehearsal.json")).unwrap_or_else(|_| panic!("{said}"));
    for ending in ["md", "html"] {
        assert!(fs::metadata(folder.path().join(format!("rehearsal.{ending}"))).unwrap().len() > 100);
    }
    let left = fs::read_dir(folder.path().join("state/labs")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "the environment was not taken down: {said}");
    (output.status.code(), serde_json::from_slice(&json).unwrap(), said)
}

#[test]
fn a_host_that_protects_passes_and_one_that_only_observes_does_not() {
    let attacks = ["--attack", "scan", "--attack", "flood", "--attack", "ipv6-hopping"];
    let (code, report, said) = rehearse("[ban]\nnetworks = \"ban\"\n", &attacks);
    assert_eq!(code, Some(0), "{said}");
    for attack in report["attacks"].as_array().unwrap() {
        assert_eq!(attack["verdict"], "stopped", "{said}");
        assert!(attack["banned_after_ms"].as_u64().unwrap() < 30_000, "{said}");
    }
    assert!(report["visitors"]["sent"].as_u64().unwrap() > 0, "{said}");

    let observes = "[detect]\nobserve = [\"flood\", \"probing\", \"error_surge\", \"behaviour\"]\n";
    let (code, report, said) = rehearse(observes, &["--attack", "flood"]);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(report["attacks"][0]["verdict"], "passed", "{said}");
    assert!(report["attacks"][0]["why"].as_str().is_some_and(|why| !why.is_empty()), "{said}");
    assert!(report["attacks"][0]["change"].as_str().unwrap().contains("flood"), "{said}");
}
