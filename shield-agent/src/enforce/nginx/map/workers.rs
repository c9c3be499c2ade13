//! nginx's workers: those that serve, and the generations of old ones that a reload left behind with connections of their own.
//! Pure.

use std::collections::BTreeSet;

/// nginx's titles of its processes.
const TITLE: &str = "nginx: ";
const WORKER: &str = "worker process";
const ENDS: &str = "is shutting down";

/// The workers at one moment, by process id.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Workers {
    serving: BTreeSet<u32>,
    ending: BTreeSet<u32>,
}

impl Workers {
    /// Reads the lines that have a worker's title with the process id before it, as those of `ps -o pid,args`, `docker top … -o pid,args`
    /// and `systemctl status`. `None` where there is none.
    pub(super) fn parse(text: &str) -> Option<Workers> {
        let mut workers = Workers::default();
        for line in text.lines() {
            let Some((before, title)) = line.split_once(TITLE) else { continue };
            let Some(rest) = title.strip_prefix(WORKER) else { continue };
            let before = before.trim_end_matches(|char: char| char.is_whitespace() || "'\"".contains(char));
            let digits = before.len() - before.bytes().rev().take_while(u8::is_ascii_digit).count();
            let Ok(id) = before[digits..].parse() else { continue };
            let set =
                if rest.trim_start().starts_with(ENDS) { &mut workers.ending } else { &mut workers.serving };
            set.insert(id);
        }
        (!workers.serving.is_empty() || !workers.ending.is_empty()).then_some(workers)
    }

    /// Whether new ones alone take connections. For a moment after a reload the old ones do too.
    pub(super) fn have_replaced(&self, before: &Workers) -> bool {
        !self.serving.is_empty() && self.serving.is_disjoint(&before.serving)
    }
}

/// The generations of workers that were seen, oldest first. Of those that began and ended between two looks nothing is known.
#[derive(Debug, Default)]
pub(super) struct Generations(Vec<BTreeSet<u32>>);

impl Generations {
    /// Takes a look into account.
    pub(super) fn see(&mut self, workers: &Workers) {
        let lives = |id: &u32| workers.serving.contains(id) || workers.ending.contains(id);
        for generation in &mut self.0 {
            generation.retain(lives);
        }
        // A worker that died is replaced by one of the same generation.
        match self.0.last_mut() {
            Some(last) if !last.is_disjoint(&workers.serving) => last.extend(&workers.serving),
            _ => self.0.push(workers.serving.clone()),
        }
        self.0.retain(|generation| !generation.is_empty());
    }

    /// How many generations are shutting down. Where they were not seen serving they are as few as they can be.
    pub(super) fn ending(&self, workers: &Workers) -> usize {
        let known = self.0.iter().filter(|generation| !generation.is_disjoint(&workers.ending)).count();
        let is_known = |id: &&u32| self.0.iter().any(|generation| generation.contains(*id));
        let unknown = workers.ending.iter().filter(|id| !is_known(id)).count();
        known + unknown.div_ceil(workers.serving.len().max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers(serving: &[u32], ending: &[u32]) -> Workers {
        Workers { serving: serving.iter().copied().collect(), ending: ending.iter().copied().collect() }
    }

    #[test]
    fn workers_are_found_in_what_programs_print() {
        let systemctl = "● nginx.service - A high performance web server\n     Loaded: loaded (/lib/systemd/system/nginx.service)\n   \
                         Main PID: 600 (nginx)\n     CGroup: /system.slice/nginx.service\n             \
                         ├─600 \"nginx: master process /usr/sbin/nginx -g daemon on; master_process on;\"\n             \
                         ├─711 \"nginx: worker process\" \"\" \"\"\n             \
                         ├─712 \"nginx: worker process is shutting down\"\n             └─713 nginx: worker process\n";
        assert_eq!(Workers::parse(systemctl), Some(workers(&[711, 713], &[712])));
        let ps = "    PID COMMAND\n    600 nginx: master process nginx\n  40711 nginx: worker process\n    714 nginx: cache manager process\n";
        assert_eq!(Workers::parse(ps), Some(workers(&[40711], &[])));
        for text in
            ["", "nginx: worker process", "x nginx: worker process", "600 nginx: master process nginx"]
        {
            assert_eq!(Workers::parse(text), None, "{text}");
        }
    }

    #[test]
    fn generations_are_counted_as_they_end() {
        let mut seen = Generations::default();
        let mut check = |serving: &[u32], ending: &[u32], expected: usize| {
            let workers = workers(serving, ending);
            seen.see(&workers);
            assert_eq!(seen.ending(&workers), expected, "{serving:?} {ending:?}");
        };
        check(&[1, 2], &[], 0);
        check(&[3, 4], &[1, 2], 1);
        // One of them crashed, and was replaced: no new generation.
        check(&[3, 5], &[1, 2], 1);
        check(&[6, 7], &[1, 3, 5], 2);
        check(&[8, 9], &[1, 5, 6], 3);
        check(&[8, 9], &[5, 6], 2);
        check(&[8, 9], &[], 0);
        // Somebody else's reloads since: at least two more.
        check(&[20, 21], &[9, 14, 15, 16], 3);
    }

    #[test]
    fn a_reload_brings_new_workers() {
        let before = workers(&[1, 2], &[9]);
        assert!(workers(&[3, 4], &[1, 2, 9]).have_replaced(&before));
        assert!(workers(&[3, 4], &[]).have_replaced(&before));
        assert!(!workers(&[1, 2, 3, 4], &[]).have_replaced(&before));
        assert!(!workers(&[1, 2], &[]).have_replaced(&before));
        assert!(!Workers::default().have_replaced(&before));
    }
}
