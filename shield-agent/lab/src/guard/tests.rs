//! What needs no privileges: paths and processes. `tests/tests/rehearse_guard.rs` tries the machine's own services and namespaces.

use std::os::unix::fs::symlink;

use super::*;
use crate::environment::{MARKER, Part};

const ID: &str = "guard-20261130-021504";

fn example(folder: &Path) -> Environment {
    let environment = Environment::example(ID, folder);
    environment.write().unwrap();
    environment
}

fn refused<T: std::fmt::Debug>(result: Result<T>, why: &str) {
    let error = format!("{:#}", result.unwrap_err());
    assert!(error.starts_with("could not"), "{error}");
    assert!(error.contains(why), "{error:?} does not say {why:?}");
}

#[test]
fn files_of_the_environment_are_changed_and_no_others() {
    let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let environment = example(inside.path());
    let folder = super::folder(&environment).unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let own = inside.path().join("log");
    fs::write(&own, "line").unwrap();
    folder.open(&own).unwrap().truncate().unwrap();
    assert_eq!(fs::read_to_string(&own).unwrap(), "");

    assert_eq!(folder.read(&own).unwrap(), b"");
    refused(folder.read(&victim), "is not in");
    refused(folder.open(&victim), "is not in");
    refused(folder.open(&inside.path().join("../victim")), "is not in");
    refused(folder.remove(Path::new("/etc/passwd")), "is not in");
    refused(folder.rename(&own, "../log"), "no name");
    refused(folder.open(inside.path()), "could not open");
    symlink(&victim, inside.path().join("link")).unwrap();
    symlink(outside.path(), inside.path().join("folder")).unwrap();
    refused(folder.open(&inside.path().join("link")), "symbolic link");
    refused(folder.read(&inside.path().join("link")), "symbolic link");
    refused(folder.create(&inside.path().join("folder/new")), "symbolic link");
    refused(folder.remove(&inside.path().join("folder/victim")), "symbolic link");
    refused(folder.rename(&inside.path().join("folder/victim"), "gone"), "symbolic link");
    refused(folder.list(&inside.path().join("folder")), "symbolic link");
    fs::hard_link(&victim, inside.path().join("second")).unwrap_or_else(|_| {
        // The two temporary folders may lie on different file systems.
        fs::hard_link(&own, inside.path().join("second")).unwrap();
    });
    refused(folder.open(&inside.path().join("second")), "second name");
    nix::unistd::mkfifo(&inside.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _reader = fs::File::options().read(true).write(true).open(inside.path().join("pipe")).unwrap();
    refused(folder.open(&inside.path().join("pipe")), "no file");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert!(!outside.path().join("new").exists());

    // A symbolic link itself is removed, and not what it leads to.
    assert!(folder.remove(&inside.path().join("link")).unwrap());
    assert!(victim.exists());
}

#[test]
fn a_folder_that_is_not_the_environments_own_is_refused() {
    let (inside, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let environment = example(inside.path());
    let elsewhere = |folder: PathBuf| Environment { folder, ..environment.clone() };
    refused(folder(&elsewhere(PathBuf::from("/etc"))), "could not read the environment");
    let link = other.path().join("link");
    symlink(inside.path(), &link).unwrap();
    refused(folder(&elsewhere(link)), "could not open it as a folder");
    refused(folder(&Environment { id: "another".to_owned(), ..environment.clone() }), "it holds");
    for id in ["", "..", "a/b", "-\n"] {
        refused(folder(&Environment { id: id.to_owned(), ..environment.clone() }), "id");
    }
    let open_to_all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(inside.path(), open_to_all).unwrap();
    refused(folder(&environment), "others may write");
}

#[test]
fn a_namespace_is_used_only_under_the_environments_name() {
    let inside = tempfile::tempdir().unwrap();
    let mut environment = example(inside.path());
    refused(namespace(&environment, "nobody"), "could not find a machine");
    refused(namespace(&environment, "server"), "could not open");
    for foreign in ["host", "shl-other-20261130-021504-server", "../../proc/1/ns/net", ""] {
        environment.machines[0].namespace = foreign.to_owned();
        refused(namespace(&environment, "server"), "its name is none of");
    }
}

#[test]
fn a_process_without_a_machine_of_the_environment_is_refused() {
    let inside = tempfile::tempdir().unwrap();
    let environment = example(inside.path());
    let of = |pid, started| Process { part: Part::Agent, machine: "server".to_owned(), pid, started };
    refused(process(&environment, &of(0, 0)), "first process");
    refused(process(&environment, &of(1, started(1).unwrap_or(0))), "first process");
    let own = std::process::id();
    refused(process(&environment, &of(own, started(own).unwrap())), "this program itself");
    // It has the marker, and still runs on this machine's own network.
    let mut marked = std::process::Command::new("sleep").arg("60").env(MARKER, ID).spawn().unwrap();
    let result = process(&environment, &of(marked.id(), started(marked.id()).unwrap()));
    marked.kill().unwrap();
    marked.wait().unwrap();
    refused(result, "could not use the namespace");
}
