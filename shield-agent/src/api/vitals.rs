//! CPU, memory and uptime of the process and of the machine, from /proc. CPU shares are of the time between two readings. A
//! failure shows as 0, and is logged once.

use procfs::process::{Process, Stat};
use procfs::{CpuTime, Current, CurrentSI, KernelStats, LoadAverage, Meminfo, Uptime, WithCurrentSystemInfo};

use super::types::{AgentVitals, HostVitals};
use shield_engine::time::Now;

/// The vitals that the API shows, and further values for the process metrics.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Vitals {
    pub agent: AgentVitals,
    pub host: HostVitals,
    /// CPU time of the process, seconds.
    pub cpu_secs: f64,
    /// Open file descriptors of the process.
    pub open_files: u64,
}

/// Reads the vitals; keeps the last reading, because CPU shares need two.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    last: Option<Ticks>,
    is_failure_logged: bool,
}

/// CPU time used, in clock ticks.
#[derive(Debug, Clone, Copy)]
struct Ticks {
    own: u64,
    busy: u64,
    all: u64,
}

impl Reader {
    pub(crate) fn read(&mut self, started_ms: i64, now: Now) -> Vitals {
        match self.try_read(started_ms, now) {
            Ok(vitals) => vitals,
            Err(error) => {
                if !std::mem::replace(&mut self.is_failure_logged, true) {
                    tracing::warn!(%error, "could not read the vitals of host and agent from /proc");
                }
                Vitals::default()
            }
        }
    }

    /// Has the next reading's CPU shares begin now.
    pub(crate) fn renew_base(&mut self) {
        // A failure is told of by the next reading.
        if let (Ok(stat), Ok(cpus)) = (Process::myself().and_then(|own| own.stat()), KernelStats::current()) {
            self.shares(ticks(&stat, &cpus));
        }
    }

    fn try_read(&mut self, started_ms: i64, now: Now) -> procfs::ProcResult<Vitals> {
        let process = Process::myself()?;
        let stat = process.stat()?;
        let cpus = KernelStats::current()?;
        let memory = Meminfo::current()?;
        let ticks = ticks(&stat, &cpus);
        let cores = cpus.cpu_time.len().max(1);
        let (own_share, host_share) = self.shares(ticks);
        let available = memory.mem_available.unwrap_or(memory.mem_free);
        Ok(Vitals {
            agent: AgentVitals {
                cpu_percent: own_share * 100.0 * cores as f64,
                memory_bytes: stat.rss_bytes().get(),
                uptime_secs: uptime_secs(started_ms, now),
                threads: threads(&stat),
            },
            host: HostVitals {
                name: hostname(),
                cpu_percent: host_share * 100.0,
                cores: cores as u64,
                load_1min: f64::from(LoadAverage::current()?.one),
                memory_used_bytes: memory.mem_total.saturating_sub(available),
                memory_total_bytes: memory.mem_total,
                uptime_secs: Uptime::current()?.uptime as u64,
            },
            cpu_secs: ticks.own as f64 / procfs::ticks_per_second() as f64,
            open_files: process.fd_count()? as u64,
        })
    }

    /// Returns the shares of this process and of all processes in the CPU time since the last reading, 0 to 1.
    fn shares(&mut self, ticks: Ticks) -> (f64, f64) {
        let last = self.last.replace(ticks);
        let Some(last) = last.filter(|last| last.all < ticks.all) else { return (0.0, 0.0) };
        let all = (ticks.all - last.all) as f64;
        let share = |now: u64, then: u64| (now.saturating_sub(then) as f64 / all).clamp(0.0, 1.0);
        (share(ticks.own, last.own), share(ticks.busy, last.busy))
    }
}

fn ticks(stat: &Stat, cpus: &KernelStats) -> Ticks {
    let busy = busy(&cpus.total);
    Ticks { own: stat.utime + stat.stime, busy, all: busy + idle(&cpus.total) }
}

fn busy(cpu: &CpuTime) -> u64 {
    // Guest time is already part of user and nice.
    let extra = [cpu.irq, cpu.softirq, cpu.steal].into_iter().flatten().sum::<u64>();
    cpu.user + cpu.nice + cpu.system + extra
}

fn idle(cpu: &CpuTime) -> u64 {
    cpu.idle + cpu.iowait.unwrap_or(0)
}

fn threads(stat: &Stat) -> u64 {
    u64::try_from(stat.num_threads).unwrap_or(0)
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// Seconds from `started_ms` to now; 0 if the clock was set back to before the start.
fn uptime_secs(started_ms: i64, now: Now) -> u64 {
    u64::try_from((now.wall_ms - started_ms) / 1000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_vitals() {
        let now = crate::clock::now();
        let vitals = Reader::default().read(now.wall_ms - 5_000, now);
        assert_eq!(vitals.agent.uptime_secs, 5);
        assert!(vitals.agent.memory_bytes > 100_000, "{vitals:?}");
        assert!(vitals.agent.threads >= 1 && vitals.host.cores >= 1 && vitals.open_files >= 3, "{vitals:?}");
        assert!(vitals.host.memory_used_bytes < vitals.host.memory_total_bytes, "{vitals:?}");
    }

    #[test]
    fn shares_are_of_the_time_between_two_readings() {
        let mut reader = Reader::default();
        assert_eq!(reader.shares(Ticks { own: 10, busy: 500, all: 1_000 }), (0.0, 0.0));
        assert_eq!(reader.shares(Ticks { own: 60, busy: 600, all: 1_200 }), (0.25, 0.5));
        assert_eq!(reader.shares(Ticks { own: 60, busy: 600, all: 1_200 }), (0.0, 0.0), "no time passed");
    }
}
