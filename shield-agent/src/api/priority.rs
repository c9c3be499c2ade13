//! Keeps whoever asks the API from slowing detection down: on a machine with few CPUs both want the same ones.

/// How much nicer than the engine's threads those are that serve.
const NICER: i32 = 10;

/// Makes the calling thread give way to the threads that read, detect and ban. For the runtime's `on_thread_start`;
/// threads that it starts inherit it.
pub fn give_way() {
    // On Linux this is a property of the one thread. A kernel that refuses it only costs the courtesy.
    if let Err(error) = rustix::process::nice(NICER) {
        tracing::debug!(%error, "could not lower the priority of an API thread");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_thread_that_asked_gives_way() {
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let before = niceness();
        let inside = std::thread::spawn(move || {
            give_way();
            niceness()
        });
        assert_eq!(inside.join().unwrap(), (before + NICER).min(19));
        assert_eq!(niceness(), before);
    }
}
