//! Waits for the disk, on a thread of its own, so that no commit has to: makes what was committed last through a power
//! loss, and moves the write-ahead log into the database.
//!
//! When is the writer's business. The thread begins with the first chore and ends with the keeper.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rusqlite::{Connection, OpenFlags};

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chore {
    /// What is in the write-ahead log lasts from now on.
    Sync,
    /// The same, and it is moved into the database where no reader is in the way.
    Checkpoint,
}

/// A chore that is over, and how it went.
pub(super) type Done = (Chore, Result<()>);

/// See the module.
#[derive(Debug)]
pub(super) struct Keeper {
    file: PathBuf,
    thread: Option<Thread>,
    is_busy: bool,
}

#[derive(Debug)]
struct Thread {
    chores: Sender<Chore>,
    done: Receiver<Done>,
    handle: JoinHandle<()>,
}

impl Keeper {
    /// Of the database in `file`; does nothing yet.
    pub(super) fn new(file: PathBuf) -> Keeper {
        Keeper { file, thread: None, is_busy: false }
    }

    /// Whether a chore is under way, or its end was not asked for.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Begins a chore. Only while none is under way.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub(super) fn begin(&mut self, chore: Chore) -> Result<()> {
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => Thread::start(self.file.clone())?,
        };
        // The thread ends only after its channel.
        self.is_busy = thread.chores.send(chore).is_ok();
        self.thread = Some(thread);
        Ok(())
    }

    /// The end of the chore under way, when it has come. Does not wait.
    pub(super) fn done(&mut self) -> Option<Done> {
        let done = self.thread.as_ref()?.done.try_recv().ok()?;
        self.is_busy = false;
        Some(done)
    }

    /// Waits for the chore under way and ends the thread.
    pub(super) fn stop(&mut self) {
        let Some(Thread { chores, done, handle }) = self.thread.take() else { return };
        drop(chores);
        // A panic was printed where it happened; what was not done is done at the next start.
        let _ = handle.join();
        drop(done);
        self.is_busy = false;
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Thread {
    fn start(file: PathBuf) -> Result<Thread> {
        let (chores, to_do) = channel();
        let (tell, done) = channel();
        let work = move || {
            let mut connection = None;
            for chore in to_do {
                let done = carry_out(chore, &file, &mut connection);
                if done.is_err() {
                    connection = None;
                }
                // Nobody asks any more when the keeper has stopped.
                let _ = tell.send((chore, done));
            }
        };
        let thread = std::thread::Builder::new().name("store-disk".to_owned());
        let handle = thread.spawn(work).context("cannot start the thread that waits for the disk")?;
        Ok(Thread { chores, done, handle })
    }
}

fn carry_out(chore: Chore, file: &Path, connection: &mut Option<Connection>) -> Result<()> {
    match chore {
        Chore::Sync => sync(&log_of(file)).context("waiting for the write-ahead log to be on the disk"),
        Chore::Checkpoint => {
            let connection = match connection {
                Some(connection) => connection,
                None => connection.insert(connect(file).context("opening the database a second time")?),
            };
            super::checkpoint(connection)
        }
    }
}

/// SQLite's name for it. It holds no locks on this file, so that closing it here takes none away.
fn log_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn sync(log: &Path) -> Result<()> {
    match File::open(log) {
        Ok(log) => Ok(log.sync_data()?),
        // Nothing was committed since the database was opened.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn connect(file: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(Duration::from_secs(2))?;
    connection.pragma_update(None, "synchronous", "normal")?;
    Ok(connection)
}
