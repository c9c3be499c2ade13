//! The priority of the API's threads: on a machine with few CPUs, requests must not slow detection down.

/// Added to the nice value of the API's threads.
const NICER: i32 = 10;

/// Lowers the priority of the calling thread below that of the threads that read, detect and ban. For the runtime's
/// `on_thread_start`; threads that it starts inherit it.
pub fn give_way() {
    // On Linux the nice value belongs to the thread. If the kernel refuses, the API works all the same.
    if let Err(error) = rustix::process::nice(NICER) {
        tracing::debug!(%error, "could not lower the priority of an API thread");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_calling_thread_is_lowered() {
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
