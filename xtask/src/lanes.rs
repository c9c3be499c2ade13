//! Runs test binaries in lanes, several at a time: most of what the privileged ones take is waiting for a kernel or a timer.
//!
//! What a binary prints goes to a file, and from there to standard output in one piece when it ends. A pipe would be held open by a
//! program that a failed test left behind; and the file can be looked at while the binary runs. There is no time limit, as cargo
//! has none: whoever waits is told each minute for what.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::binaries::Binary;
use crate::sh;
use crate::totals::Totals;

/// After this time without a word, the output says what runs.
const SILENCE: Duration = Duration::from_secs(60);

/// More lanes than this gain nothing: each binary runs as many of its tests at once as there are cores.
const MOST: usize = 4;

/// Lines of a failed test's message that are repeated at the end, and characters of each.
const REPEATED: (usize, usize) = (3, 300);

/// Tests of a binary that run at once for each core, where they hardly use it.
const WAITING: usize = 4;

/// How binaries are run.
pub(crate) struct Lanes {
    /// Binaries that run at the same time.
    pub(crate) count: usize,
    /// What stands before each binary on its command line: nothing, or what makes it root.
    pub(crate) launcher: Vec<String>,
    /// What stands behind it.
    pub(crate) arguments: Vec<OsString>,
    /// Where its output goes.
    pub(crate) folder: PathBuf,
}

/// One more than there are cores, because the tests wait much.
pub(crate) fn count() -> usize {
    (cores() + 1).min(MOST)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What became of a binary.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) name: String,
    pub(crate) took: Duration,
    pub(crate) totals: Totals,
    pub(crate) failure: Option<Failure>,
}

/// Why a binary counts as failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Its exit code, the signal that ended it, or why it did not start.
    end: String,
    /// The tests that it named as failed.
    tests: Vec<FailedTest>,
}

#[derive(Debug, PartialEq, Eq)]
struct FailedTest {
    name: String,
    /// Where it panicked, and the message's first lines; empty if it printed none.
    message: Vec<String>,
}

/// What a lane says.
enum Event<'a> {
    Started(&'a Binary),
    /// With what is to be printed.
    Ended(&'a Binary, Ran, String),
}

impl Lanes {
    /// Runs all binaries, in this order, whichever fail: first those that may run beside others, then each of the rest alone.
    /// `print` gets the output of each, whole.
    ///
    /// # Errors
    /// Fails if there can be no folder for the output.
    pub(crate) fn run(&self, binaries: &[Binary], print: &mut dyn FnMut(&str)) -> Result<Vec<Ran>> {
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("could not create {}", self.folder.display()))?;
        let (alone, together): (Vec<&Binary>, Vec<&Binary>) =
            binaries.iter().partition(|binary| binary.alone.is_some());
        let mut ran = self.run_in(self.count, &together, print);
        ran.extend(self.run_in(1, &alone, print));
        Ok(ran)
    }

    fn run_in(&self, lanes: usize, binaries: &[&Binary], print: &mut dyn FnMut(&str)) -> Vec<Ran> {
        let waiting = Mutex::new(binaries.iter());
        let next = || waiting.lock().expect("no thread panics while it holds the lock").next().copied();
        let (sender, events) = channel();
        std::thread::scope(|scope| {
            for _ in 0..lanes.min(binaries.len()) {
                let sender = sender.clone();
                scope.spawn(move || {
                    while let Some(binary) = next() {
                        self.run_one(binary, &sender);
                    }
                });
            }
            drop(sender);
            collect(&events, print)
        })
    }

    fn run_one<'a>(&self, binary: &'a Binary, events: &Sender<Event<'a>>) {
        const HEARD: &str = "the events are read until every lane has ended";
        events.send(Event::Started(binary)).expect(HEARD);
        let began = Instant::now();
        let (end, output) = self.output_of(binary);
        let took = began.elapsed();
        let totals = output.lines().filter_map(Totals::parse).sum();
        let mut ran = Ran { name: binary.name.clone(), took, totals, failure: failure(&end, &output) };
        // One that was killed counted nothing.
        if ran.failure.is_some() && ran.totals.failed == 0 {
            ran.totals.failed = 1;
        }
        let how = ran.failure.as_ref().map_or_else(String::new, |failure| {
            format!("\nerror: {} failed: {}\n", binary.name, failure.end)
        });
        let printed = format!("{}\n{output}{how}", binary.heading());
        events.send(Event::Ended(binary, ran, printed)).expect(HEARD);
    }

    /// Runs it to its end and returns what it printed, on both streams.
    fn output_of(&self, binary: &Binary) -> (Result<ExitStatus>, String) {
        let path = self.folder.join(log_name(binary));
        let end = empty_log(&path).and_then(|log| sh::status(&mut self.command(binary, log)?));
        let output = fs::read(&path).unwrap_or_default();
        (end, String::from_utf8_lossy(&output).into_owned())
    }

    /// As cargo runs it, of whose variables about the package no test reads more than these.
    fn command(&self, binary: &Binary, log: File) -> Result<Command> {
        let mut words = self.launcher.iter().map(OsString::from).chain([binary.executable.clone().into()]);
        let mut command = Command::new(words.next().expect("the binary is always there"));
        sh::forget_own_package(&mut command);
        command.args(words).args(&self.arguments).current_dir(&binary.folder);
        if binary.waits {
            command.arg(format!("--test-threads={}", WAITING * cores()));
        }
        command.env("CARGO", sh::cargo().get_program()).env("CARGO_MANIFEST_DIR", &binary.folder);
        let errors = log.try_clone().context("could not duplicate the output's file")?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        Ok(command)
    }
}

/// An empty file to append to: a program that opens /dev/stderr by its name must not write over what others wrote.
fn empty_log(path: &Path) -> Result<File> {
    if path.exists() {
        fs::remove_file(path).with_context(|| format!("could not remove {}", path.display()))?;
    }
    let file = File::options().create(true).append(true).open(path);
    file.with_context(|| format!("could not create {}", path.display()))
}

/// A file's name for the output of a binary.
fn log_name(binary: &Binary) -> String {
    format!("{}.log", binary.name.replace(std::path::is_separator, "-"))
}

/// Prints what the lanes say until all have ended.
fn collect(events: &Receiver<Event<'_>>, print: &mut dyn FnMut(&str)) -> Vec<Ran> {
    let mut running: Vec<(&str, Instant)> = Vec::new();
    let mut all = Vec::new();
    loop {
        match events.recv_timeout(SILENCE) {
            Ok(Event::Started(binary)) => running.push((&binary.name, Instant::now())),
            Ok(Event::Ended(binary, ran, printed)) => {
                running.retain(|(name, _)| *name != binary.name);
                print(&printed);
                all.push(ran);
            }
            Err(RecvTimeoutError::Timeout) => print(&under_way(&running, Instant::now())),
            Err(RecvTimeoutError::Disconnected) => return all,
        }
    }
}

fn under_way(running: &[(&str, Instant)], now: Instant) -> String {
    let named = running.iter().map(|(name, since)| {
        let secs = now.duration_since(*since).as_secs();
        format!("{name} for {secs} s")
    });
    format!("still running: {}\n", named.collect::<Vec<_>>().join(", "))
}

fn failure(end: &Result<ExitStatus>, output: &str) -> Option<Failure> {
    let end = match end {
        Ok(status) if status.success() => return None,
        Ok(status) => status.to_string(),
        Err(error) => format!("{error:#}"),
    };
    Some(Failure { end, tests: failed_tests(output) })
}

/// The tests in the list that libtest prints last.
fn failed_tests(output: &str) -> Vec<FailedTest> {
    let (printed, list) = output.rsplit_once("\nfailures:\n").unwrap_or_default();
    let names = list.lines().map_while(|line| line.strip_prefix("    "));
    names.map(|name| FailedTest { name: name.to_owned(), message: message_of(printed, name) }).collect()
}

/// From what libtest repeats of a failed test's output: the end of the whole may be all that somebody has.
fn message_of(printed: &str, test: &str) -> Vec<String> {
    let Some((_, own)) = printed.split_once(&format!("\n---- {test} stdout ----\n")) else {
        return Vec::new();
    };
    let own = own.split_once("\n---- ").map_or(own, |(own, _)| own);
    // Its own thread's, where others panicked too.
    let own = own.split_once(&format!("thread '{test}'")).map_or(own, |(_, rest)| rest);
    let Some((_, panic)) = own.split_once(" panicked at ") else { return Vec::new() };
    let (lines, characters) = REPEATED;
    let message = panic.lines().take_while(|line| *line != "stack backtrace:" && !line.starts_with("note: "));
    let kept = message.filter(|line| !line.trim().is_empty());
    kept.take(1 + lines).map(|line| line.chars().take(characters).collect()).collect()
}

/// The binaries that failed and their tests, for the end of the output; `None` if all is well.
pub(crate) fn failures<'a>(ran: impl IntoIterator<Item = &'a Ran>) -> Option<String> {
    let mut text = String::from("failed:");
    let before = text.len();
    for Ran { name, failure, .. } in ran {
        let Some(Failure { end, tests }) = failure else { continue };
        text.push_str(&format!("\n    {name} ({end})"));
        for FailedTest { name, message } in tests {
            text.push_str(&format!("\n        {name}"));
            message.iter().for_each(|line| text.push_str(&format!("\n            {line}")));
        }
    }
    (text.len() > before).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    /// Shell scripts that stand for test binaries. They are read by a shell instead of executed, because another test's child
    /// that was just forked may still have them open for writing.
    struct Scripts {
        folder: PathBuf,
        binaries: Vec<Binary>,
    }

    impl Scripts {
        fn new(name: &str) -> Scripts {
            let folder = std::env::temp_dir().join(format!("shield-lanes-{}-{name}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Scripts { folder, binaries: Vec::new() }
        }

        fn add(&mut self, name: &str, alone: Option<&str>, text: &str) {
            let executable = self.folder.join(name);
            fs::write(&executable, text).unwrap();
            let (name, alone) = (name.to_owned(), alone.map(str::to_owned));
            self.binaries.push(Binary { name, executable, folder: self.folder.clone(), alone, waits: false });
        }

        /// Runs them, and returns what became of them and what was printed.
        fn run(&self, count: usize) -> (Vec<Ran>, Vec<String>) {
            let lanes = Lanes {
                count,
                // A rendezvous that never comes is an error and no hang.
                launcher: ["timeout", "60", "sh"].map(str::to_owned).to_vec(),
                arguments: vec![OsString::from_vec(b"filter".to_vec())],
                folder: self.folder.join("output"),
            };
            let mut printed = Vec::new();
            let ran = lanes.run(&self.binaries, &mut |text| printed.push(text.to_owned())).unwrap();
            (ran, printed)
        }
    }

    impl Drop for Scripts {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    fn ran<'a>(all: &'a [Ran], name: &str) -> &'a Ran {
        all.iter().find(|ran| ran.name == name).unwrap()
    }

    /// Each of the two waits for the other in the middle of its output.
    #[test]
    fn two_run_at_once_and_their_outputs_do_not_mix() {
        let mut scripts = Scripts::new("mix");
        let fifos = ["to-a", "to-b"].map(|name| scripts.folder.join(name));
        fifos.iter().for_each(|path| {
            nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        });
        scripts.add("a", None, "echo a1; echo go >to-b; read go <to-a; echo a2 >&2; echo go >to-b\n");
        scripts.add("b", None, "read go <to-b; echo b1; echo go >to-a; read go <to-b; echo b2 >&2\n");
        let (all, printed) = scripts.run(2);
        assert!(all.iter().all(|ran| ran.failure.is_none()), "{all:?}\n{printed:?}");
        for (name, text) in [("a", "a1\na2\n"), ("b", "b1\nb2\n")] {
            let expected = format!("     Running {name} ({})\n{text}", scripts.folder.join(name).display());
            assert!(printed.contains(&expected), "{expected} is not among {printed:?}");
        }
        assert_eq!(failures(&all), None);
    }

    #[test]
    fn a_binary_that_must_be_alone_runs_when_no_other_does() {
        let mut scripts = Scripts::new("alone");
        let noted = "echo start $$ >>trace; echo end $$ >>trace\n";
        for (name, alone) in
            [("only", Some("counts mounts")), ("a", None), ("b", None), ("last", Some("too")), ("c", None)]
        {
            let text = if alone.is_some() { noted.replace("start", "alone") } else { noted.to_owned() };
            scripts.add(name, alone, &text);
        }
        let (all, printed) = scripts.run(3);
        assert_eq!(all.len(), 5);
        let trace = fs::read_to_string(scripts.folder.join("trace")).unwrap();
        let lines: Vec<&str> = trace.lines().collect();
        let first = lines.iter().position(|line| line.starts_with("alone")).unwrap();
        assert_eq!((first, lines.len()), (6, 10), "{trace}");
        for pair in lines[first..].chunks(2) {
            assert_eq!(pair[0].replace("alone", "end"), pair[1], "{trace}");
        }
        assert!(printed[3].contains("), alone: counts mounts\n"), "{printed:?}");
    }

    #[test]
    fn more_tests_of_a_binary_that_waits_run_at_once() {
        let mut scripts = Scripts::new("waits");
        scripts.add("waits", None, "echo \"$@\"\n");
        scripts.add("works", None, "echo \"$@\"\n");
        scripts.binaries[0].waits = true;
        let (_, printed) = scripts.run(1);
        let threads = format!("\nfilter --test-threads={}\n", 4 * cores());
        assert!(printed[0].contains(&threads) && printed[1].contains("\nfilter\n"), "{printed:?}");
    }

    #[test]
    fn one_lane_keeps_the_order() {
        let mut scripts = Scripts::new("order");
        ["long", "shorter", "b", "a"].iter().for_each(|name| scripts.add(name, None, "true\n"));
        let (all, _) = scripts.run(1);
        let names: Vec<&str> = all.iter().map(|ran| ran.name.as_str()).collect();
        assert_eq!(names, ["long", "shorter", "b", "a"]);
    }

    const RESULT: &str = "echo; echo failures:; echo; echo '---- walks::far stdout ----'; echo '    quoted'; echo\n\
                          echo \"thread 'helper' (8) panicked at src/y.rs:1:1:\"; echo 'an aside'\n\
                          echo \"thread 'walks::far' (7) panicked at src/x.rs:3:9:\"; echo 'left: 1'; echo ' right: 2'; echo\n\
                          echo 'stack backtrace:'; echo '   0: a_frame'; echo 'note: run with more'; echo; echo '---- talks stdout ----'; echo 'no panic'; echo; echo\n\
                          echo failures:; echo '    walks::far'; echo '    talks'; echo\n\
                          echo 'test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.1s'\n";

    #[test]
    fn what_failed_is_named_and_stops_no_other() {
        let mut scripts = Scripts::new("failed");
        scripts.add("fails", None, &format!("{RESULT}exit 101\n"));
        scripts.add("killed", None, "echo begun; kill -KILL $$\n");
        scripts.add(
            "passes",
            None,
            "echo \"test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s\"\n",
        );
        let mut absent = scripts.binaries[0].clone();
        (absent.name, absent.folder) = ("absent".to_owned(), scripts.folder.join("gone"));
        scripts.binaries.push(absent);
        let (all, printed) = scripts.run(2);
        let counts = |name: &str| (ran(&all, name).totals.passed, ran(&all, name).totals.failed);
        assert_eq!([counts("fails"), counts("killed"), counts("passes")], [(3, 2), (0, 1), (4, 0)]);
        assert_eq!(counts("absent"), (0, 1));
        assert_eq!(
            ran(&all, "fails").failure.as_ref().unwrap().tests,
            [
                FailedTest {
                    name: "walks::far".to_owned(),
                    message: ["src/x.rs:3:9:", "left: 1", " right: 2"].map(str::to_owned).to_vec(),
                },
                FailedTest { name: "talks".to_owned(), message: Vec::new() },
            ]
        );
        assert!(
            printed.iter().any(|text| text.contains("begun\n") && text.contains("error: killed failed: ")),
            "{printed:?}"
        );
        let text = failures(&all).unwrap();
        assert!(text.starts_with("failed:\n    "), "{text}");
        let named = "\n    fails (exit status: 101)\n        walks::far\n            src/x.rs:3:9:\n            left: 1\n             \
                     right: 2\n        talks";
        assert!(text.contains(named), "{text}");
        assert!(
            text.contains("\n    killed (") && text.contains("could not start") && !text.contains("passes"),
            "{text}"
        );
    }

    #[test]
    fn a_signal_is_a_failure_and_named() {
        let mut command = Command::new("sh");
        let end = command.args(["-c", "kill -SEGV $$"]).status().map_err(anyhow::Error::new);
        let failure = failure(&end, "test a ... ok\n").unwrap();
        assert!(failure.end.starts_with("signal: 11 (SIGSEGV)"), "{failure:?}");
        assert_eq!(failure.tests, []);
    }

    #[test]
    fn a_binary_runs_in_its_packages_folder_with_the_filter_and_cargos_variables() {
        let mut scripts = Scripts::new("environment");
        scripts.add(
            "shows",
            None,
            "pwd; echo \"$CARGO_MANIFEST_DIR $1 ${CARGO_PKG_NAME-none}\"; test -n \"$CARGO\"\n",
        );
        let (all, printed) = scripts.run(1);
        assert!(all[0].failure.is_none(), "{printed:?}");
        let folder = scripts.folder.display();
        assert!(printed[0].ends_with(&format!("\n{folder}\n{folder} filter none\n")), "{printed:?}");
    }

    #[test]
    fn whoever_waits_is_told_for_what() {
        let now = Instant::now();
        let since = |secs| now.checked_sub(Duration::from_secs(secs)).unwrap();
        let line =
            under_way(&[("tests/tests/upgrade.rs", since(75)), ("tests/tests/lab.rs", since(60))], now);
        assert_eq!(line, "still running: tests/tests/upgrade.rs for 75 s, tests/tests/lab.rs for 60 s\n");
    }
}
