//! The thread that waits for the disk, so that no commit has to: it syncs the write-ahead log, which makes commits survive
//! a power failure, and checkpoints it.
//!
//! The writer decides when. The thread starts with the first task.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rusqlite::{Connection, OpenFlags};

use super::{Error, files};
use crate::beat::Beat;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Waits until the write-ahead log is on the disk.
    Sync,
    /// Does the same and moves the log into the database, as far as no reader still needs it.
    Checkpoint,
}

type Finished = (Task, Result<(), Error>);

/// The thread and its queues. Dropping it waits for the task under way.
#[derive(Debug)]
pub(super) struct DiskSync {
    file: PathBuf,
    thread: Option<Thread>,
    is_busy: bool,
    /// Says how long the disk has been waited for.
    beat: Option<Beat>,
}

#[derive(Debug)]
struct Thread {
    tasks: Sender<Task>,
    finished: Receiver<Finished>,
    handle: JoinHandle<()>,
}

impl DiskSync {
    pub(super) fn new(file: PathBuf) -> DiskSync {
        DiskSync { file, thread: None, is_busy: false, beat: None }
    }

    /// Before the first task.
    pub(super) fn watched(&mut self, beat: Beat) {
        beat.waiting();
        self.beat = Some(beat);
    }

    /// Returns whether a task runs or its result has not been read.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Starts a task. Only while none runs.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start(&mut self, task: Task) -> Result<(), Error> {
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => Thread::start(self.file.clone(), self.beat.clone())?,
        };
        // Cannot fail: the thread runs until its channel is closed.
        self.is_busy = thread.tasks.send(task).is_ok();
        self.thread = Some(thread);
        Ok(())
    }

    /// Returns the result of the task that finished, if there is one. Does not wait. A thread that panicked is a failed task, and
    /// the next one starts another thread.
    pub(super) fn try_result(&mut self) -> Option<Finished> {
        let finished = match self.thread.as_ref()?.finished.try_recv() {
            Ok(finished) => finished,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => {
                self.thread = None;
                let error = anyhow::anyhow!("could not sync the database: the thread store-disk panicked");
                (Task::Sync, Err(error.into()))
            }
        };
        self.is_busy = false;
        Some(finished)
    }

    /// Waits for the task under way and ends the thread.
    pub(super) fn stop(&mut self) {
        let Some(Thread { tasks, finished, handle }) = self.thread.take() else { return };
        drop(tasks);
        // A panic was logged where it happened, and the next start recovers the log.
        let _ = handle.join();
        drop(finished);
        self.is_busy = false;
    }
}

impl Drop for DiskSync {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Thread {
    fn start(file: PathBuf, beat: Option<Beat>) -> Result<Thread> {
        let (tasks, tasks_in) = channel();
        let (results, finished) = channel();
        let work = move || {
            let waits = Waits(beat);
            let mut connection = None;
            for task in tasks_in {
                if let Some(beat) = &waits.0 {
                    beat.working();
                }
                let result = perform(task, &file, &mut connection);
                if result.is_err() {
                    connection = None;
                }
                // Fails when the writer has stopped.
                let _ = results.send((task, result.map_err(Error::from)));
                waits.say();
            }
        };
        let thread = std::thread::Builder::new().name("store-disk".to_owned());
        let handle = thread.spawn(work).context("could not start the thread store-disk")?;
        Ok(Thread { tasks, finished, handle })
    }
}

/// Says at the thread's end, by a panic too, that nothing is under way.
struct Waits(Option<Beat>);

impl Waits {
    fn say(&self) {
        if let Some(beat) = &self.0 {
            beat.waiting();
        }
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.say();
    }
}

fn perform(task: Task, file: &Path, connection: &mut Option<Connection>) -> Result<()> {
    match task {
        Task::Sync => sync(&files::log_of(file)).context("could not sync the write-ahead log"),
        Task::Checkpoint => {
            let connection = match connection {
                Some(connection) => connection,
                None => {
                    connection.insert(connect(file).context("could not open the database a second time")?)
                }
            };
            super::checkpoint(connection)
        }
    }
}

fn sync(log: &Path) -> Result<()> {
    // SQLite holds no locks on this file; closing a second descriptor would release them.
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
