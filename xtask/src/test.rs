//! `cargo xtask test`: installs missing tools, builds everything, runs every test, and ends with what failed, what was slow and one line
//! that sums up the results in libtest's format.
//!
//! Cargo builds the test binaries and would run one after the other; [`crate::lanes`] runs several at a time.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::background::Background;
use crate::binaries::Binary;
use crate::build::{self, Profile};
use crate::lanes::{self, Lanes, Ran};
use crate::order::Times;
use crate::requirements::Purpose;
use crate::slow::Slow;
use crate::totals::Totals;
use crate::{build_ebpf, build_page, fuzz, setup, sh, vm};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Run only the tests whose name contains this
    filter: Option<String>,
    /// Instead of the tests: try the Debian package in a virtual machine with this kernel of Debian's, or with systemd `here`
    #[arg(long, value_name = "KERNEL", value_parser = crate::vm::KERNELS, conflicts_with = "filter")]
    vm: Option<String>,
}

/// Runs all tests, even after a failure.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(kernel) = &arguments.vm {
        return vm::run(kernel);
    }
    let started = Instant::now();
    let mut slow = Slow::default();
    slow.time("install what is missing", || setup::ensure(Purpose::Test))?;
    let object = Background::start(build_ebpf::verify);
    slow.time("verify the page's bundle", build_page::verify)?;
    let built = slow.time("build the agent and the page", || build::everything(Profile::Dev));
    slow.time("await the comparison of the XDP object", || object.wait())?;
    built?;
    let filter = arguments.filter.as_deref();
    let mut results = Results { times: Times::read(), slow, ..Results::default() };
    Group::plain().run(filter, &mut results)?;
    // They run beside the privileged tests, which wait for a kernel or a clock now and then.
    let gate = results.slow.time("build the fuzz targets", || fuzz::start(filter));
    Group::privileged()?.run(filter, &mut results)?;
    let (passed, failed) = results.slow.time("await the fuzz targets", || fuzz::finish(gate));
    results.totals += Totals { passed, failed, ..Totals::default() };
    // A run of some tests says nothing about how long their binaries take.
    if filter.is_none() {
        results.times.write();
    }
    let is_good = results.troubles.is_empty() && results.totals.failed == 0;
    if let Some(failures) = lanes::failures(&results.ran) {
        println!("\n{failures}");
    }
    results.troubles.iter().for_each(|trouble| println!("failed: {trouble}"));
    println!("\n{}", results.slow.report());
    println!("\n{}", results.totals.line(is_good, started.elapsed().as_secs_f64()));
    if !is_good {
        bail!("tests failed");
    }
    Ok(())
}

/// What the tests had as results, and how long they took.
#[derive(Default)]
struct Results {
    totals: Totals,
    ran: Vec<Ran>,
    /// What failed besides test binaries.
    troubles: Vec<String>,
    slow: Slow,
    times: Times,
}

/// Packages whose tests are built together.
struct Group {
    name: &'static str,
    /// Cargo's arguments that select the packages.
    which: &'static [&'static str],
    /// What stands before each binary.
    launcher: &'static [&'static str],
    /// A cargo that runs doc-tests the same way.
    cargo: fn() -> Result<Command>,
}

impl Group {
    fn plain() -> Group {
        Group { name: "tests", which: &[], launcher: &[], cargo: || Ok(sh::cargo()) }
    }

    fn privileged() -> Result<Group> {
        let (which, launcher) = (&["--package", "shield-tests"], sh::root_launcher()?);
        Ok(Group { name: "privileged tests", which, launcher, cargo: || sh::cargo_as_root(&[]) })
    }

    /// Builds the tests, runs them, and adds to `results`.
    fn run(&self, filter: Option<&str>, results: &mut Results) -> Result<()> {
        let built = results.slow.time(&format!("build the {}", self.name), || self.build())?;
        let Some(mut binaries) = built else {
            results.troubles.push(format!("could not build the {}", self.name));
            return Ok(());
        };
        results.times.sort(&mut binaries);
        let lanes = Lanes {
            count: lanes::count(),
            launcher: self.launcher.iter().map(|word| (*word).to_owned()).collect(),
            arguments: libtest_arguments(filter),
            folder: sh::root_folder().join(build::target_folder()).join("test-output"),
        };
        eprintln!(
            "running {} test binaries, up to {} at a time; what they print until then is in {}",
            binaries.len(),
            lanes.count,
            lanes.folder.display()
        );
        let ran = lanes.run(&binaries, &mut |text| print!("{text}"))?;
        for Ran { name, took, totals, .. } in &ran {
            results.totals += *totals;
            results.times.note(name, took.as_secs_f64());
            results.slow.note(name, *took);
        }
        results.ran.extend(ran);
        let began = Instant::now();
        self.doc_tests(filter, results)?;
        results.slow.note(&format!("doc-tests of the {}", self.name), began.elapsed());
        Ok(())
    }

    /// Returns the test binaries; `None` if they do not compile, which cargo has explained by then.
    fn build(&self) -> Result<Option<Vec<Binary>>> {
        let mut cargo = sh::cargo();
        cargo.args(["test", "--no-run", "--message-format=json-render-diagnostics"]).args(self.which);
        let mut child = cargo.stdout(Stdio::piped()).spawn().context("could not start cargo test")?;
        let output = child.stdout.take().expect("standard output is piped above");
        let mut binaries = Vec::new();
        for line in BufReader::new(output).lines() {
            binaries.extend(Binary::from_message(&line.context("could not read the output of cargo test")?));
        }
        let status = child.wait().context("could not wait for cargo test")?;
        Ok(status.success().then_some(binaries))
    }

    /// Runs the doc-tests, which have no binary: rustdoc compiles and runs them itself.
    fn doc_tests(&self, filter: Option<&str>, results: &mut Results) -> Result<()> {
        let mut cargo = (self.cargo)()?;
        cargo.args(["test", "--doc", "--no-fail-fast"]).args(self.which);
        cargo.arg("--").args(libtest_arguments(filter));
        let mut child = cargo.stdout(Stdio::piped()).spawn().context("could not start cargo test --doc")?;
        let output = child.stdout.take().expect("standard output is piped above");
        for line in BufReader::new(output).split(b'\n') {
            let line = line.context("could not read the output of cargo test --doc")?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            results.totals += Totals::parse(&line).unwrap_or_default();
        }
        let status = child.wait().context("could not wait for cargo test --doc")?;
        if !status.success() {
            results.troubles.push(format!("doc-tests of the {}", self.name));
        }
        Ok(())
    }
}

/// What each test binary gets.
fn libtest_arguments(filter: Option<&str>) -> Vec<OsString> {
    // Where it goes to a file or a pipe, it would have no colours.
    let colour = std::io::stdout().is_terminal().then_some(["--color", "always"]);
    filter.into_iter().chain(colour.into_iter().flatten()).map(OsString::from).collect()
}
