//! Makes an environment: first its state, so that whatever comes after it is known to it also after a crash, then its machines,
//! and then what runs in them, from the back to the front.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize};

use crate::environment::{Environment, Keeper, Phase, Profile, Role};
use crate::state::{State, check_name, since_boot};
use crate::topology::Topology;
use crate::{agent, destroy, door, fleet, health, server};

/// The longest life of an environment.
const LONGEST_SECS: u64 = 24 * 3_600;
/// The shortest: less is over before it is there.
const SHORTEST_SECS: u64 = 5;
/// Each has some ten namespaces and five processes.
const MOST: usize = 32;
/// For everything to answer. Ten may start at once on a small machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// What an agent's database may take.
const STATE_SIZE: &str = "size=64m,mode=700";

/// For the names of refused clients.
const DENIED_SIZE: &str = "size=64m,mode=755";

/// What somebody wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The id begins with it.
    #[serde(default = "default_name")]
    pub name: String,
    /// It is taken down after this many seconds.
    #[serde(default = "default_ttl")]
    pub ttl_secs: u64,
    /// How clients reach the server.
    #[serde(default = "default_profile")]
    pub profile: Profile,
    /// The folder with the operator's nginx.conf; without it nginx has a site of its own.
    #[serde(default)]
    pub nginx: Option<PathBuf>,
    /// The operator's log, for visitors to be replayed from.
    #[serde(default)]
    pub log: Option<PathBuf>,
    /// The operator's configuration of Shield; without it the defaults hold.
    #[serde(default)]
    pub config: Option<PathBuf>,
}

fn default_name() -> String {
    "lab".to_owned()
}

fn default_ttl() -> u64 {
    1_800
}

fn default_profile() -> Profile {
    Profile::Direct
}

impl Default for Request {
    fn default() -> Self {
        Self {
            name: default_name(),
            ttl_secs: default_ttl(),
            profile: default_profile(),
            nginx: None,
            log: None,
            config: None,
        }
    }
}

impl Request {
    /// Checks what can be checked before anything is made.
    ///
    /// # Errors
    /// Says which part is wrong and what it may be.
    pub fn check(&self) -> Result<()> {
        check_name(&self.name)?;
        ensure!(
            (SHORTEST_SECS..=LONGEST_SECS).contains(&self.ttl_secs),
            "could not use a life of {} s: it is at least {SHORTEST_SECS} s and at most 24 h",
            self.ttl_secs
        );
        let files = [("--nginx", &self.nginx), ("--log", &self.log), ("--config", &self.config)];
        for (option, path) in files {
            let Some(path) = path else { continue };
            ensure!(
                path.is_absolute() && path.exists(),
                "could not use {option} {}: it is not there, or not named from the root",
                path.display()
            );
        }
        Ok(())
    }
}

/// Makes an environment, and returns once a request from outside is answered and the agent judges.
///
/// # Errors
/// Fails without root, if a program is missing, or if something does not start. Nothing of it is left then but its logs in the
/// archive.
pub fn create(state: &State, request: &Request, keeper: Option<Keeper>) -> Result<Environment> {
    request.check()?;
    state.create()?;
    let count = state.ids()?.len();
    ensure!(count < MOST, "could not create an environment: there are {count} already, the most is {MOST}");
    let mut environment = reserve(state, request, keeper)?;
    match build(&mut environment, request, keeper) {
        Ok(()) => Ok(environment),
        Err(error) => {
            let cleaned = destroy::destroy(state, &environment.id);
            let error = error.context(format!("could not create the environment {}", environment.id));
            match cleaned {
                Ok(_) => Err(error),
                Err(more) => Err(error.context(format!("{more:#}"))),
            }
        }
    }
}

/// Takes an id that nobody has, and writes the state down.
fn reserve(state: &State, request: &Request, keeper: Option<Keeper>) -> Result<Environment> {
    let (id, folder) = reserve_folder(state, &request.name)?;
    let created = now();
    let ends = since_boot()? + Duration::from_secs(request.ttl_secs);
    let environment = Environment {
        machines: Topology::of(&id, request.profile).machines,
        id,
        created,
        ends: created + request.ttl_secs,
        ends_boot_ms: u64::try_from(ends.as_millis()).unwrap_or(u64::MAX),
        // Without a control service this process is the keeper until all is there.
        keeper: Some(keeper.map_or_else(Keeper::of_this_process, Ok)?),
        host: None,
        port: 80,
        log: request.log.clone(),
        profile: request.profile,
        phase: Phase::Creating,
        folder,
        processes: Vec::new(),
    };
    environment.write()?;
    Ok(environment)
}

fn reserve_folder(state: &State, name: &str) -> Result<(String, PathBuf)> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let id = format!("{name}-{}", stamp(now()));
        let folder = state.folder_of(&id)?;
        match fs::create_dir(&folder) {
            Ok(()) => {
                // Whatever the umask: nginx's workers look in, and nobody else writes.
                fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))
                    .with_context(|| format!("could not set the mode of {}", folder.display()))?;
                return Ok((id, folder));
            }
            // Of one name there is one a second.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(50));
            }
            Err(error) => {
                return Err(error).with_context(|| format!("could not create {}", folder.display()));
            }
        }
    }
}

fn build(environment: &mut Environment, request: &Request, keeper: Option<Keeper>) -> Result<()> {
    let topology = Topology::of(&environment.id, environment.profile);
    topology.make()?;
    for machine in environment.machines.clone() {
        let folder = environment.machine_folder(&machine.name);
        fs::create_dir_all(folder.join("log"))
            .with_context(|| format!("could not create {}", folder.display()))?;
    }
    let servers: Vec<String> = environment
        .machines
        .iter()
        .filter(|machine| machine.role == Role::Server)
        .map(|machine| machine.name.clone())
        .collect();
    for name in &servers {
        mount_file_systems(environment, name)?;
    }
    if environment.profile == Profile::Fleet {
        fleet::start(environment, &servers)?;
    }
    agent::configure(environment, request.config.as_deref(), &servers)?;
    server::start(environment, request, &servers)?;
    agent::start(environment, &servers)?;
    door::start(environment)?;
    await_health(environment)?;
    environment.phase = Phase::Ready;
    environment.keeper = keeper;
    environment.write()
}

/// A small disk for the agent's database, and a place for its pins.
fn mount_file_systems(environment: &Environment, machine: &str) -> Result<()> {
    let mount_at = |kind: &str, folder: &Path, options: Option<&str>| -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;
        mount(Some(kind), folder, Some(kind), MsFlags::empty(), options)
            .with_context(|| format!("could not mount a {kind} on {} (needs root)", folder.display()))
    };
    mount_at("tmpfs", &environment.state(machine), Some(STATE_SIZE))?;
    mount_at("tmpfs", &environment.denied(machine), Some(DENIED_SIZE))?;
    mount_at("bpf", &environment.bpffs(machine), None)
}

fn await_health(environment: &Environment) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let sample = health::look(environment);
        if sample.is_good() {
            return Ok(());
        }
        let ended = environment.processes.iter().find(|process| !process.is_alive(&environment.id));
        if let Some(process) = ended {
            bail!("{} ended on the machine {}", process.part.name(), process.machine);
        }
        if Instant::now() >= deadline {
            bail!("it does not answer after {} s: {}", PATIENCE.as_secs(), sample.error.unwrap_or_default());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A moment in UTC, as a part of an id.
fn stamp(secs: u64) -> String {
    let secs = i64::try_from(secs).unwrap_or_default();
    let time = jiff::Timestamp::from_second(secs).unwrap_or_default();
    time.strftime("%Y%m%d-%H%M%S").to_string()
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_the_time_in_utc() {
        assert_eq!(stamp(1_796_004_904), "20261130-021504");
    }

    #[test]
    fn a_request_is_refused_before_anything_is_made() {
        let check = |request: Request, expected: &str| {
            let error = format!("{:#}", request.check().unwrap_err());
            assert!(error.contains(expected), "{error}");
        };
        Request::default().check().unwrap();
        check(Request { name: "../x".to_owned(), ..Request::default() }, "../x");
        check(Request { ttl_secs: 0, ..Request::default() }, "0 s");
        check(Request { ttl_secs: 90_000, ..Request::default() }, "24 h");
        check(Request { nginx: Some("/nowhere/at/all".into()), ..Request::default() }, "--nginx /nowhere");
        check(Request { log: Some("Cargo.toml".into()), ..Request::default() }, "--log Cargo.toml");
    }
}
