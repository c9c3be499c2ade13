//! The client commands as they are typed: their help against golden text, their requests and exit codes against a
//! real listener.

#[expect(clippy::unwrap_used, reason = "a helper of tests: what fails here fails the test that called it")]
#[expect(dead_code, reason = "every test file compiles it anew and uses a part")]
mod support;

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use shield_agent::Exit;
use shield_agent::test_support::cli::{ClientCommand, Connection};
use shield_engine::backoff::Term;
use shield_engine::event::Command;
use support::Setup;

/// As `main` composes it.
#[derive(Debug, Parser)]
#[command(name = "shield-agent", after_help = shield_agent::test_support::cli::EXIT_CODES_HELP)]
struct CommandLine {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: ClientCommand,
}

/// The help of every command. `UPDATE_GOLDEN=1 cargo test -p shield-agent --test cli` writes it anew.
#[test]
fn help_is_as_reviewed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help");
    let mut whole = CommandLine::command().term_width(100);
    whole.build();
    let mut wrong = Vec::new();
    for command in whole.get_subcommands().filter(|command| command.get_name() != "help") {
        let help = command.clone().term_width(100).render_long_help().to_string();
        let path = folder.join(format!("{}.txt", command.get_name()));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(&folder).expect("the folder can be made");
            std::fs::write(&path, &help).expect("the golden file can be written");
        }
        if std::fs::read_to_string(&path).unwrap_or_default() != help {
            wrong.push(format!("{} differs from\n{help}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn run(socket: &Path, arguments: &[&str]) -> Result<Exit, Exit> {
    let socket = socket.to_str().expect("the path is UTF-8");
    let line = ["shield-agent", "--socket", socket].into_iter().chain(arguments.iter().copied());
    let parsed = CommandLine::try_parse_from(line).map_err(|_| Exit::Usage)?;
    parsed.command.run(&parsed.connection).await.map_err(|error| Exit::of(&error))
}

#[tokio::test]
async fn commands_end_as_documented() {
    let running = Setup::default().start().await;
    let socket = running.socket();
    for arguments in [&["status"][..], &["status", "--json"]] {
        assert_eq!(run(socket, arguments).await, Ok(Exit::Degraded), "XDP has no driver support");
    }
    for arguments in [
        &["bans"][..],
        &["bans", "192.0.2.", "--sort", "ends", "--limit", "2", "--offset", "1", "--json"],
        &["bans", "--all"],
        &["bans", "--site", "shop.example.org"],
        &["allow"],
        &["allow", "--list", "--json"],
        &["events", "-n", "3"],
        &["explain", "192.0.2.1"],
        &["explain", "2001:db8::/64", "--at", "2026-05-11T22:07:33Z", "--json"],
        &["export", "--format", "plain"],
        &["ban", "192.0.2.7", "--for", "2h", "--reason", "scraping"],
        &["unban", "192.0.2.7", "--keep-offences"],
        &["unban", "--all", "--yes", "--rule", "flood"],
        &["resume", "--reason", "attackers"],
        &["page", "--json"],
        &["allow", "192.0.2.7"],
        &["allow", "192.0.2.7", "--remove"],
    ] {
        assert_eq!(run(socket, arguments).await, Ok(Exit::Done), "{arguments:?}");
    }
    for arguments in [
        &["ban"][..],
        &["ban", "nobody"],
        &["ban", "192.0.2.7", "--for", "5"],
        &["bans", "--limit", "0"],
        &["bans", "nonsense"],
        &["unban"],
        &["unban", "--yes", "192.0.2.7"],
        &["unban", "--all", "192.0.2.7"],
        &["pause"],
        &["pause", "8d"],
        &["pause", "0s"],
        &["bans", "--rule", "nonsense"],
        &["bans", "--all", "--offset", "3"],
        &["allow", "--remove"],
        &["allow", "--list", "192.0.2.7"],
        &["explain", "192.0.2.7", "--at", "yesterday"],
        &["events", "--kind", "nonsense"],
        &["top"],
    ] {
        assert_eq!(run(socket, arguments).await, Err(Exit::Usage), "{arguments:?}");
    }
    assert_eq!(run(Path::new("/nonexistent/control.sock"), &["status"]).await, Err(Exit::NotRunning));
}

#[tokio::test]
async fn all_bans_are_lifted_when_that_is_confirmed() {
    let running = Setup::default().start().await;
    assert!(run(running.socket(), &["unban", "--all", "--yes"]).await.is_ok());
    let lifted: usize = (running.backend.commands().iter())
        .map(|command| match command {
            Command::Unban { clients, forget: true, .. } => clients.len(),
            other => panic!("{other:?}"),
        })
        .sum();
    assert!(lifted > 0);
}

#[tokio::test]
async fn a_pause_is_asked_for_in_seconds() {
    let running = Setup::default().start().await;
    let _ = run(running.socket(), &["pause", "30m", "--reason", "load test"]).await;
    let expected = Command::Pause { secs: 1_800, reason: Some("load test".into()) };
    assert_eq!(running.backend.commands(), [expected]);
}

#[tokio::test]
async fn a_refused_client_fails_the_command() {
    let running = Setup::default().start().await;
    assert_eq!(run(running.socket(), &["ban", "127.0.0.1", "192.0.2.7"]).await, Ok(Exit::Failed));
}

fn list_in(folder: &Path, content: &str) -> PathBuf {
    let path = folder.join("list.txt");
    std::fs::write(&path, content).expect("the list can be written");
    path
}

#[tokio::test]
async fn a_long_list_is_imported_in_batches_and_a_wrong_one_not_at_all() {
    let running = Setup::default().start().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let long: String = (0..5_000).map(|at| format!("198.51.{}.{}\n", at / 256, at % 256)).collect();
    let list = list_in(folder.path(), &long);
    let list = list.to_str().expect("the path is UTF-8");
    assert_eq!(run(running.socket(), &["import", list, "--dry-run"]).await, Ok(Exit::Done));
    assert!(running.backend.commands().is_empty(), "a dry run changes nothing");
    assert_eq!(
        run(running.socket(), &["import", list, "--for", "1h", "--reason", "list"]).await,
        Ok(Exit::Done)
    );
    let commands = running.backend.commands();
    let batches = commands.iter().map(|command| match command {
        Command::Import { bans, .. } => bans,
        other => panic!("{other:?}"),
    });
    let all: Vec<_> = batches.flatten().collect();
    assert_eq!((commands.len(), all.len()), (3, 5_000));
    assert!(
        all.iter().all(|ban| ban.term == Some(Term::Secs(3_600)) && ban.reason.as_deref() == Some("list"))
    );

    let wrong = list_in(folder.path(), "192.0.2.7\nnonsense\n");
    let wrong = wrong.to_str().expect("the path is UTF-8");
    assert_eq!(run(running.socket(), &["import", wrong]).await, Ok(Exit::Failed));
    assert_eq!(running.backend.commands().len(), 3);
    assert_eq!(run(running.socket(), &["import", wrong, "--skip-wrong"]).await, Ok(Exit::Done));
    assert_eq!(running.backend.commands().len(), 4);
    assert_eq!(run(running.socket(), &["import", "/nonexistent"]).await, Err(Exit::Failed));

    // A reason that the agent refuses used to end the import in the middle.
    let comment = format!("192.0.2.7 # {}\n192.0.2.8\n", "x".repeat(5_000));
    let long_reason = list_in(folder.path(), &comment);
    let long_reason = long_reason.to_str().expect("the path is UTF-8");
    assert_eq!(run(running.socket(), &["import", long_reason]).await, Ok(Exit::Done));
    assert_eq!(running.backend.commands().len(), 5);
}

#[tokio::test]
async fn networks_that_are_very_wide_are_banned_only_with_force() {
    let running = Setup::default().start().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let list = list_in(folder.path(), "192.0.2.7\n32.0.0.0/3\n2000::/3\n");
    let list = list.to_str().expect("the path is UTF-8");
    assert_eq!(run(running.socket(), &["import", list]).await, Ok(Exit::Failed));
    assert_eq!(run(running.socket(), &["ban", "32.0.0.0/3"]).await, Err(Exit::Failed));
    assert!(running.backend.commands().is_empty(), "nothing is banned before it is asked for twice");
    assert_eq!(run(running.socket(), &["import", list, "--skip-wrong"]).await, Ok(Exit::Done));
    assert_eq!(run(running.socket(), &["import", list, "--force"]).await, Ok(Exit::Done));
    assert_eq!(run(running.socket(), &["ban", "32.0.0.0/3", "--force"]).await, Ok(Exit::Done));
    let banned = running
        .backend
        .commands()
        .iter()
        .map(|command| match command {
            Command::Import { bans, .. } => bans.len(),
            Command::Ban { clients, .. } => clients.len(),
            other => panic!("{other:?}"),
        })
        .collect::<Vec<_>>();
    assert_eq!(banned, [1, 3, 1]);
}
