//! The guard of rehearsals against what it must refuse on a real machine: the host's own services, its first process, the control
//! service, the root namespace, a process id that is used again. Each is put into an environment's file as if it were a part.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use shield_lab::environment::{
    Environment, MARKER, NAMESPACE_PREFIX, Part, Process, carries_marker, started,
};
use shield_lab::outage::{self, Mode};
use shield_lab::{command, guard};

/// An environment of one machine, made by hand, and a process of it.
struct Made {
    environment: Environment,
    namespace: String,
    agent: Child,
    _folder: tempfile::TempDir,
}

impl Made {
    fn new(label: &str) -> Made {
        let folder = tempfile::tempdir().unwrap();
        let id = format!("guard-{label}-{}", std::process::id());
        let namespace = format!("{NAMESPACE_PREFIX}{id}-server");
        command::run(&["ip", "netns", "add", &namespace]).unwrap();
        let agent = sleeper(&["ip", "netns", "exec", &namespace], Some(&id));
        let environment: Environment = serde_json::from_value(serde_json::json!({
            "id": id, "created": 0, "ends": 0, "profile": "direct", "phase": "ready", "folder": folder.path(),
            "machines": [{ "name": "server", "role": "server", "namespace": namespace, "addresses": [] }],
            "processes": [],
        }))
        .unwrap();
        environment.write().unwrap();
        let mut made = Made { environment, namespace, agent, _folder: folder };
        made.environment.processes = vec![made.process(made.agent.id())];
        made
    }

    fn process(&self, pid: u32) -> Process {
        let started = started(pid).unwrap();
        Process { part: Part::Agent, machine: "server".to_owned(), pid, started }
    }

    fn refuses(&mut self, process: Process, why: &str) {
        let error = format!("{:#}", guard::process(&self.environment, &process).unwrap_err());
        assert!(error.contains(why), "{error:?} does not say {why:?}");
        // And so does each outage that would hit it.
        self.environment.processes = vec![process];
        for mode in [Mode::Crash, Mode::Pause] {
            outage::start(&mut self.environment, mode).unwrap_err();
        }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        let _ = command::run(&["ip", "netns", "delete", &self.namespace]);
    }
}

/// A process that only sleeps, once it is the program that sleeps.
fn sleeper(under: &[&str], marker: Option<&str>) -> Child {
    let words = [under, &["sleep", "300"]].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env_remove(MARKER);
    if let Some(id) = marker {
        command.env(MARKER, id);
    }
    let child = command.spawn().unwrap();
    shield_tests::wait::until("the sleeper", std::time::Duration::from_secs(20), || {
        let name = fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap_or_default();
        Ok((name.trim() == "sleep").then_some(()))
    })
    .unwrap();
    child
}

fn state(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

#[test]
fn a_process_of_the_environment_is_paused_goes_on_and_is_killed() {
    let mut made = Made::new("own");
    assert!(carries_marker(made.agent.id(), &made.environment.id));
    outage::start(&mut made.environment, Mode::Pause).unwrap();
    assert_eq!(state(made.agent.id()), 'T');
    let process = made.environment.processes[0].clone();
    guard::process(&made.environment, &process).unwrap().signal(rustix::process::Signal::CONT).unwrap();
    shield_tests::wait::until("it to go on", std::time::Duration::from_secs(20), || {
        Ok((state(made.agent.id()) != 'T').then_some(()))
    })
    .unwrap();
    outage::start(&mut made.environment, Mode::Crash).unwrap();
    assert!(!made.agent.wait().unwrap().success());
}

#[test]
fn what_the_environment_did_not_start_is_refused_and_lives() {
    let mut made = Made::new("foreign");
    let first = made.process(1);
    made.refuses(first, "first process");
    let own = made.process(std::process::id());
    made.refuses(own, "this program itself");
    // A service of the host: on its network, without the marker.
    let mut service = sleeper(&["env"], None);
    let of_host = made.process(service.id());
    made.refuses(of_host, "marker");
    // The control service, started by somebody who had the marker in the surroundings: still on the host's network.
    let mut platform = sleeper(&["env"], Some(&made.environment.id));
    let of_platform = made.process(platform.id());
    made.refuses(of_platform, "does not run on the machine server");
    // A part of another environment.
    let other = Made::new("other");
    let of_other = made.process(other.agent.id());
    made.refuses(of_other, "could not use process");
    // The id of a part that has ended, which another process has now.
    let mut reused = made.process(made.agent.id());
    reused.started -= 1;
    made.refuses(reused, "another process has its id");
    // The kernel's own threads.
    let thread =
        (2..100).find(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.is_empty()));
    if let Some(thread) = thread {
        let of_kernel = made.process(thread);
        made.refuses(of_kernel, "could not use process");
    }
    for child in [&mut service, &mut platform] {
        assert!(child.try_wait().unwrap().is_none(), "it was killed");
        assert_ne!(state(child.id()), 'T', "it was stopped");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(made.agent.try_wait().unwrap().is_none());
}

#[test]
fn the_machines_own_network_is_refused_under_whatever_name() {
    let mut made = Made::new("net");
    let name = format!("{NAMESPACE_PREFIX}{}-root", made.environment.id);
    let path = Path::new("/run/netns").join(&name);
    made.environment.machines[0].name = "root".to_owned();
    made.environment.machines[0].namespace = name.clone();
    let refused = |environment: &mut Environment, why: &str| {
        let error = format!("{:#}", guard::namespace(environment, "root").unwrap_err());
        assert!(error.contains(why), "{error:?} does not say {why:?}");
        outage::start(environment, Mode::FlushFirewall).unwrap_err();
    };
    std::os::unix::fs::symlink("/proc/1/ns/net", &path).unwrap();
    refused(&mut made.environment, "could not open");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    refused(&mut made.environment, "no namespace");
    command::run(&["mount", "--bind", "/proc/self/ns/net", path.to_str().unwrap()]).unwrap();
    refused(&mut made.environment, "own");
    command::run(&["umount", path.to_str().unwrap()]).unwrap();
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_full_disk_is_made_only_of_a_disk_of_its_own() {
    let mut made = Made::new("disk");
    let server = made.environment.state("server");
    fs::create_dir_all(&server).unwrap();
    let error = format!("{:#}", outage::start(&mut made.environment, Mode::DiskFull).unwrap_err());
    assert!(error.contains("its state has none of its own"), "{error}");
    let size = fs::metadata(server.join("ballast")).map_or(0, |about| about.len());
    assert_eq!(size, 0, "it filled the host's disk");
}
