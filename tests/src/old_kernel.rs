//! A kernel without batches of bpf(2), as Linux 5.10 is for tries: a filter of system calls refuses them as that kernel does.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

/// `bpf` in the kernel's table of system calls.
#[cfg(target_arch = "x86_64")]
const SYS_BPF: i64 = 321;
#[cfg(not(target_arch = "x86_64"))]
const SYS_BPF: i64 = 280;
/// BPF_MAP_LOOKUP_BATCH to BPF_MAP_DELETE_BATCH.
const BATCHES: std::ops::RangeInclusive<u64> = 24..=27;
/// What the kernel answers, from `linux/errno.h`.
const ENOTSUPP: u32 = 524;

/// Refuses batches to this thread, to those that it starts and to their programs, for ever.
///
/// # Errors
/// Fails where the kernel has no seccomp.
pub fn refuse_batches() -> Result<()> {
    let rules: Result<Vec<SeccompRule>, _> = BATCHES
        .map(|command| {
            let is_command = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, command)?;
            SeccompRule::new(vec![is_command])
        })
        .collect();
    let filter = SeccompFilter::new(
        BTreeMap::from([(SYS_BPF, rules.context("could not make the rules of a filter of system calls")?)]),
        SeccompAction::Allow,
        SeccompAction::Errno(ENOTSUPP),
        TargetArch::try_from(std::env::consts::ARCH)
            .context("could not filter this processor's system calls")?,
    );
    let program: BpfProgram =
        filter.and_then(TryInto::try_into).context("could not make a filter of system calls")?;
    apply_filter(&program).context("could not filter this thread's system calls")
}
