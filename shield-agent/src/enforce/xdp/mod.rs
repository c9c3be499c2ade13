//! The XDP enforcer: drops banned clients' packets at the network card, before the kernel spends anything on them.
//!
//! Owns the program's life in the kernel (`object`, `attach`, `pins`), the maps (`bans`, `table`, `filter`,
//! `exempt`), and the clock that ends are compared with (`clock`). It acts in the network namespace of the thread
//! that calls it. The kernel's side is the crate `shield-ebpf`; `kernel` is the only file that makes raw bpf calls.

mod attach;
mod bans;
mod clock;
mod exempt;
mod filter;
pub(crate) mod interfaces;
mod kernel;
pub(crate) mod object;
mod pins;
mod table;
mod takeover;
mod urgent;

use std::num::NonZeroU32;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::programs::Xdp;
use ipnet::IpNet;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use shield_common::{SLOTS, program_name};

use crate::enforce::reconcile::Planner;
use crate::news::News;
use shield_engine::client::Client;
use shield_engine::event::{EnforcerName, PartState, Repair};
use shield_engine::time::{Ends, Now};

use super::{Ban, Desired, Drops, Enforcer, Failure, NothingUrgent, Urgent};
use attach::Attachment;
use bans::{Bans, Known};
use clock::KernelClock;
use interfaces::Refused;
use pins::Pins;
use urgent::Pauses;

pub(crate) use interfaces::Selection;

/// How far an end in the kernel may be from the ledger's before it is written again, in milliseconds.
const END_TOLERANCE_MS: u64 = 1_000;
/// Up to this many bans, the cheap check counts them; beyond it, it compares the memory that the kernel accounts for.
const COUNTED_BANS: usize = 20_000;

/// The filters are read whole in one reconcile of so many (every 10 min): that takes 0.2 s, mostly for bits that nobody
/// needs any more. What the bans need is looked up each time, and so are the bans where the kernel's account says that
/// there are no others ...
const FILTERS_READ_EVERY: u32 = 20;
/// ... up to this many bans; beyond it reading all is as quick.
const FILTER_LOOKUPS: usize = 10_000;

/// Bans handled at a time when many are missing: bounds the memory of a restore.
const BANS_AT_A_TIME: usize = 16_384;

/// In which mode the program may be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// In the driver; where the driver cannot, in the network stack, and the reason is said.
    #[default]
    Auto,
    /// In the driver, or not at all (`require_native`).
    Native,
    /// In the network stack.
    Generic,
}

/// What the XDP enforcer is configured with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Which interfaces are guarded.
    pub interfaces: Selection,
    /// In which mode.
    pub mode: Mode,
    /// Most banned IPv4 addresses at a time (at least 1). Memory is taken as bans are made, about 100 bytes each.
    pub max_bans_v4: u32,
    /// Most banned IPv6 clients at a time (at least 1).
    pub max_bans_v6: u32,
    /// Most banned networks of each family at a time (at least 1).
    pub max_networks: u32,
    /// Length of the prefix that makes an IPv6 client, 1..=128.
    pub ipv6_prefix: u8,
    /// Folder in a bpffs where maps and links outlive the agent. A bpffs is mounted when there is none.
    pub pin_folder: PathBuf,
    /// One dropped packet in how many is logged at debug level (rounded up to a power of two); `None` logs none and
    /// costs nothing.
    pub log_every: Option<NonZeroU32>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            interfaces: Selection::default(),
            mode: Mode::default(),
            max_bans_v4: shield_common::MAX_BANS_V4,
            max_bans_v6: shield_common::MAX_BANS_V6,
            max_networks: shield_common::MAX_NETWORKS,
            ipv6_prefix: 64,
            pin_folder: PathBuf::from("/sys/fs/bpf/shield"),
            log_every: None,
        }
    }
}

/// The enforcer.
pub struct XdpEnforcer {
    settings: Settings,
    pins: Pins,
    running: Option<Running>,
}

/// What there is between `start` and `cleanup`.
struct Running {
    attachments: Vec<Attachment>,
    refused: Vec<Refused>,
    bans: Bans,
    clock: KernelClock,
    /// Holds the program that reads the kernel's clock.
    clock_object: Ebpf,
    /// The last error of a ban that the kernel had no room for.
    full: Option<String>,
    next_slot: u32,
    /// From which slot on no program of ours counts, and what earlier ones counted there.
    unused: Option<(u32, Drops)>,
    /// Reconciles since the filters were last read whole.
    filters_unread: u32,
    /// Changes of the network, and whether every interface to be guarded was known at the last one.
    news: News,
    all_known: bool,
    /// The memory of the maps of bans at the last listing, and how many bans there were.
    counted: Option<([u64; 4], usize)>,
}

/// What evening out found and did.
#[derive(Default)]
struct Difference {
    found: Option<String>,
    restored: u64,
    removed: u64,
}

/// What one interface's program did since its maps were made.
#[cfg(any(test, feature = "test-support"))]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceTotals {
    /// The interface.
    pub interface: String,
    /// `native`, `generic (why)`, `TC ingress (why)`.
    pub how: String,
    /// Packets by what became of them.
    pub totals: shield_common::Totals,
}

impl XdpEnforcer {
    /// An enforcer that has not touched the kernel yet.
    pub fn new(settings: Settings) -> XdpEnforcer {
        let pins = Pins::new(&settings.pin_folder);
        XdpEnforcer { settings, pins, running: None }
    }

    /// Totals by interface and reason. Interfaces beyond the 31st share one row's counters.
    ///
    /// # Errors
    /// Before `start`, or when the kernel cannot be asked.
    #[cfg(any(test, feature = "test-support"))]
    pub fn totals(&self) -> Result<Vec<InterfaceTotals>> {
        let running = self.running.as_ref().context("the XDP enforcer is not started")?;
        let row = |attachment: &Attachment| {
            Ok(InterfaceTotals {
                interface: attachment.interface.name.clone(),
                how: attachment.how.describe(),
                totals: running.bans.totals(attachment.slot)?,
            })
        };
        running.attachments.iter().map(row).collect()
    }

    fn running(&mut self) -> Result<&mut Running> {
        self.running.as_mut().context("the XDP enforcer is not started")
    }

    fn set_up(&mut self, exempt: &[IpNet], now: Now) -> Result<()> {
        object::check(&self.settings)?;
        ensure!(object::is_embedded(), object::NOT_EMBEDDED);
        lift_memory_lock();
        self.pins.prepare()?;
        self.pins.recover()?;
        let prepared = takeover::maps(&self.pins, &self.settings, now)?;
        let mut running = Running::new(prepared)?;
        running.bans.ensure_exempt(exempt)?;
        running.attach_all(&self.pins, &self.settings, &self.maps_in_use())?;
        if self.pins.new_maps().exists() {
            self.pins.promote()?;
        }
        running.drop_stale_links(&self.pins)?;
        self.running = Some(running);
        Ok(())
    }

    /// Where the maps in use are pinned: until every link runs on new ones, those beside the old.
    fn maps_in_use(&self) -> PathBuf {
        let new = self.pins.new_maps();
        if new.exists() { new } else { self.pins.maps() }
    }
}

impl Running {
    fn new(prepared: takeover::Prepared) -> Result<Running> {
        let takeover::Prepared { bans, clock, clock_object } = prepared;
        Ok(Running {
            attachments: Vec::new(),
            refused: Vec::new(),
            bans,
            clock,
            clock_object,
            full: None,
            next_slot: 0,
            unused: None,
            filters_unread: FILTERS_READ_EVERY,
            news: News::of_network(),
            all_known: false,
            counted: None,
        })
    }

    /// Attaches to every chosen interface that is not guarded yet. Fails only when none is guarded in the end and
    /// one refused.
    fn attach_all(&mut self, pins: &Pins, settings: &Settings, maps: &std::path::Path) -> Result<()> {
        self.refused.clear();
        self.all_known = false;
        let mut failures = Vec::new();
        for chosen in settings.interfaces.choose()? {
            let interface = match chosen {
                Ok(interface) => interface,
                Err(refused) => {
                    self.refused.push(refused);
                    continue;
                }
            };
            if self.attachments.iter().any(|attachment| attachment.interface.index == interface.index) {
                continue;
            }
            let (name, index) = (interface.name.clone(), Some(interface.index));
            match Attachment::make(interface, self.next_slot, pins, maps, settings) {
                Ok(attachment) => {
                    self.next_slot = (self.next_slot + 1).min(SLOTS - 1);
                    self.attachments.push(attachment);
                }
                Err(error) => {
                    self.refused.push(Refused { name, index, reason: format!("{error:#}") });
                    failures.push(error);
                }
            }
        }
        match failures.into_iter().next() {
            Some(error) if self.attachments.is_empty() => Err(error),
            _ => Ok(()),
        }
    }

    /// Ends links that an earlier agent left on interfaces that are not guarded any more.
    fn drop_stale_links(&self, pins: &Pins) -> Result<()> {
        for index in pins.links()? {
            if !self.attachments.iter().any(|attachment| attachment.interface.index == index) {
                pins::remove_link(&pins.link(index))?;
            }
        }
        Ok(())
    }

    /// Whether an interface that should be guarded is not, and was not refused before.
    fn has_new_interface(&mut self, interfaces: &Selection) -> Result<bool> {
        if !self.news.came() && self.all_known {
            return Ok(false);
        }
        self.all_known = false;
        let is_known = |chosen: &interfaces::Chosen| match chosen {
            Ok(interface) => {
                self.attachments.iter().any(|attachment| attachment.interface.index == interface.index)
                    || self.refused.iter().any(|refused| refused.index == Some(interface.index))
            }
            Err(_) => true,
        };
        let all_known = interfaces.choose()?.iter().all(is_known);
        self.all_known = all_known;
        Ok(!all_known)
    }

    /// What the programs in these slots dropped.
    fn drops_in(&self, slots: std::ops::Range<u32>) -> Result<Drops> {
        let mut sum = Drops::default();
        for slot in slots {
            let totals = self.bans.totals(slot)?;
            sum.packets += totals.dropped_v4 + totals.dropped_v6;
            sum.bytes += totals.dropped_bytes;
        }
        Ok(sum)
    }

    fn sync_clock(&mut self) -> Result<()> {
        let program =
            self.clock_object.program(program_name::CLOCK).context("looked for the clock program")?;
        let program: &Xdp = program.try_into()?;
        self.clock.sync(program)
    }

    fn ensure(&mut self, bans: &[Ban], known: Known) -> Vec<Failure> {
        if let Err(error) = self.sync_clock() {
            tracing::warn!(%error, "could not compare the kernel's clock; going on with the last comparison");
        }
        let ends: Vec<_> =
            bans.iter().map(|ban| (ban.client.client(), self.clock.ticks_at(ban.ends))).collect();
        let failed = self.bans.ensure(&ends, known);
        if let Some((_, error)) = failed.iter().find(|(_, error)| error.is::<table::Full>()) {
            self.full = Some(error.to_string());
        }
        failed.into_iter().map(|(at, error)| Failure { client: ends[at].0, error }).collect()
    }

    /// How many bans the kernel holds. Listed only when somebody else changed them since they were counted.
    fn count(&mut self, memory: Option<[u64; 4]>) -> Result<usize> {
        if let (Some(memory), Some((counted_at, count))) = (memory, self.counted)
            && memory == counted_at
        {
            return Ok(count);
        }
        let count = self.bans.count()?;
        self.counted = memory.map(|memory| (memory, count));
        Ok(count)
    }

    /// Makes the filters right after bans were evened out, of which `changed` were wrong.
    fn check_filters(&mut self, desired: &Desired, changed: u64, pauses: &Pauses<'_>) -> Result<()> {
        let wanted = || desired.iter().map(|ban| ban.client.client()).chain(pauses.clients());
        self.filters_unread += 1;
        let may_look_up =
            changed == 0 && desired.len() <= FILTER_LOOKUPS && self.filters_unread < FILTERS_READ_EVERY;
        if may_look_up && self.bans.filters_hold(wanted())? {
            return Ok(());
        }
        self.filters_unread = 0;
        self.bans.rebuild_filters(wanted())
    }

    /// Whether the kernel holds the few bans that are wanted, and by its account of the maps' memory no others. A listing
    /// would walk the empty places of a map made for a million. `false` when that cannot be told this way, and once in so
    /// many reconciles, together with the filters.
    fn holds_exactly(&self, desired: &Desired, now: Now) -> Result<bool> {
        let (Some(memory), Some((counted_at, count))) = (self.bans.memory(), self.counted) else {
            return Ok(false);
        };
        let is_listed = self.filters_unread + 1 >= FILTERS_READ_EVERY;
        if is_listed || memory != counted_at || count != desired.len() || count > FILTER_LOOKUPS {
            return Ok(false);
        }
        let clients: Vec<Client> = desired.iter().map(|ban| ban.client.client()).collect();
        let held = self.bans.get_all(&clients)?;
        let is_right = |(held, wanted): (Option<_>, Ban)| {
            held.is_some_and(|held: shield_common::Ban| {
                is_same_end(wanted.ends, self.clock.ends_at(held.ends, now))
            })
        };
        Ok(held.into_iter().zip(desired.iter()).all(is_right))
    }

    /// Makes the kernel hold what is wanted, additions first. Bans that have ended are not put in any more; taking them
    /// out is the engine's order to give.
    ///
    /// New bans get in between the pieces of it. They are not in `desired`, which must not make them surplus, nor put
    /// back an end that they moved.
    fn even_out(&mut self, desired: &Desired, now: Now, pauses: &mut Pauses<'_>) -> Result<Difference> {
        self.full = None;
        self.sync_clock()?;
        if self.holds_exactly(desired, now)? {
            self.check_filters(desired, 0, pauses)?;
            return Ok(Difference::default());
        }
        let mut planner = Planner::new(desired);
        let clock = self.clock;
        self.bans.listing()?.for_each(|client, held| {
            planner.see(client, |wanted: Ban| is_same_end(wanted.ends, clock.ends_at(held.ends, now)));
            pauses.after_one(self);
        })?;
        let mut difference = Difference::default();
        let mut failures = Vec::new();
        for known in [Known::Absent, Known::Nothing] {
            let mut missing = planner
                .missing()
                .filter(|slot| planner.was_seen(*slot) == (known == Known::Nothing))
                .map(|slot| desired.ban(slot))
                .filter(|ban| !ban.ends.is_past(now));
            loop {
                let mut some: Vec<Ban> = missing.by_ref().take(BANS_AT_A_TIME).collect();
                if some.is_empty() {
                    break;
                }
                some.retain(|ban| !pauses.let_in(ban.client.client()));
                difference.restored += some.len() as u64;
                let failed = self.ensure(&some, known);
                failures.extend(failed.into_iter().map(|failure| (failure.client, failure.error)));
                pauses.now(self);
            }
        }
        for piece in planner.surplus().chunks(BANS_AT_A_TIME) {
            let piece: Vec<Client> = piece.iter().copied().filter(|client| !pauses.let_in(*client)).collect();
            difference.removed += piece.len() as u64;
            failures.extend(self.bans.remove(&piece).into_iter().map(|(at, error)| (piece[at], error)));
            pauses.now(self);
        }
        self.bans.remember();
        self.check_filters(desired, difference.restored + difference.removed, pauses)?;
        let count = failures.len();
        if let Some((client, error)) = failures.into_iter().next() {
            return Err(error.context(format!("put {client} right ({count} clients could not be)")));
        }
        if difference.restored + difference.removed > 0 {
            difference.found = Some("the kernel's bans differed from the ledger's".to_owned());
        }
        Ok(difference)
    }

    /// Brings attachments and pins back; says what was wrong.
    fn heal(&mut self, pins: &Pins, settings: &Settings) -> Result<Vec<String>> {
        let mut found = Vec::new();
        pins.prepare()?;
        if self.bans.repin(&pins.maps())? {
            found.push("maps were not pinned any more".to_owned());
        }
        let mut kept = Vec::new();
        for attachment in self.attachments.drain(..) {
            if !attachment.is_attached()? {
                found.push(format!("the program was not attached to {} any more", attachment.interface.name));
                pins::remove_link(&pins.link(attachment.interface.index))?;
                continue;
            }
            if attachment.repin(pins)? {
                found.push(format!("the link on {} was not pinned any more", attachment.interface.name));
            }
            kept.push(attachment);
        }
        self.attachments = kept;
        self.attach_all(pins, settings, &pins.maps())?;
        Ok(found)
    }

    fn state(&self) -> PartState {
        let guarded: Vec<String> = self
            .attachments
            .iter()
            .map(|attachment| format!("{} on {}", attachment.how.describe(), attachment.interface.name))
            .collect();
        let mut problems: Vec<String> =
            self.refused.iter().map(|refused| format!("{}: {}", refused.name, refused.reason)).collect();
        if guarded.is_empty() && problems.is_empty() {
            problems.push("there is no interface to guard (no default route?)".to_owned());
        }
        problems.extend(self.full.clone());
        if problems.is_empty() {
            return PartState::Active { detail: guarded.join("; ") };
        }
        let also =
            if guarded.is_empty() { String::new() } else { format!(" (in force: {})", guarded.join("; ")) };
        PartState::Degraded { reason: format!("{}{also}", problems.join("; ")) }
    }
}

impl Enforcer for XdpEnforcer {
    fn name(&self) -> EnforcerName {
        EnforcerName::Xdp
    }

    fn start(&mut self, exempt: &[IpNet], now: Now) -> Result<()> {
        let result = self.set_up(exempt, now);
        if result.is_err() {
            // Nothing is in force: what was made on the way there must not stay.
            self.running = None;
            if let Err(error) = self.pins.remove() {
                tracing::warn!(%error, "could not remove what a failed start left");
            }
        }
        result
    }

    fn state(&self) -> PartState {
        match &self.running {
            Some(running) => running.state(),
            None => PartState::Off { reason: "not started".to_owned() },
        }
    }

    fn ensure_banned(&mut self, bans: &[Ban], _now: Now) -> Vec<Failure> {
        match self.running() {
            Ok(running) => running.ensure(bans, Known::Nothing),
            Err(error) => bans
                .iter()
                .map(|ban| Failure { client: ban.client.client(), error: anyhow::anyhow!("{error:#}") })
                .collect(),
        }
    }

    fn ensure_lifted(&mut self, clients: &[Client]) -> Vec<Failure> {
        // Where nothing was started, nothing is dropped.
        let Ok(running) = self.running() else { return Vec::new() };
        let failed = running.bans.remove(clients);
        running.full = None;
        failed.into_iter().map(|(at, error)| Failure { client: clients[at], error }).collect()
    }

    fn ensure_exempt(&mut self, networks: &[IpNet]) -> Result<()> {
        self.running()?.bans.ensure_exempt(networks)
    }

    #[cfg(any(test, feature = "test-support"))]
    fn observe(&mut self, now: Now) -> Result<Vec<(Client, Option<Ends>)>> {
        let running = self.running()?;
        running.sync_clock()?;
        let mut observed = Vec::new();
        let clock = running.clock;
        running.bans.listing()?.for_each(|client, ban| {
            observed.push((client, Some(clock.ends_at(ban.ends, now))));
        })?;
        Ok(observed)
    }

    fn is_intact(&mut self, desired: usize) -> Result<bool> {
        let pins = self.pins.clone();
        let settings = self.settings.interfaces.clone();
        let running = self.running()?;
        running.attachments.iter_mut().for_each(Attachment::flush_log);
        for attachment in &running.attachments {
            if !attachment.is_intact(&pins)? {
                return Ok(false);
            }
        }
        if !running.bans.is_pinned(&pins.maps()) || running.has_new_interface(&settings)? {
            return Ok(false);
        }
        let memory = running.bans.memory();
        if memory.and_then(|memory| running.bans.is_left_at(memory)) == Some(false) {
            return Ok(false);
        }
        Ok(desired > COUNTED_BANS || running.count(memory)? == desired)
    }

    fn reconcile(&mut self, desired: &Desired, exempt: &[IpNet], now: Now) -> Result<Option<Repair>> {
        self.reconcile_yielding(desired, exempt, now, &mut NothingUrgent)
    }

    fn reconcile_yielding(
        &mut self,
        desired: &Desired,
        exempt: &[IpNet],
        now: Now,
        urgent: &mut dyn Urgent,
    ) -> Result<Option<Repair>> {
        let (pins, settings) = (self.pins.clone(), self.settings.clone());
        let running = self.running()?;
        let mut found = running.heal(&pins, &settings)?;
        running.bans.mark()?;
        running.bans.ensure_exempt(exempt)?;
        let difference = running.even_out(desired, now, &mut Pauses::new(urgent))?;
        found.extend(difference.found);
        Ok((!found.is_empty()).then(|| Repair {
            found: found.join("; "),
            restored: difference.restored,
            removed: difference.removed,
        }))
    }

    fn drops(&mut self, clients: &[Client]) -> Result<Vec<Option<Drops>>> {
        let bans = self.running()?.bans.get_all(clients)?;
        Ok(bans
            .into_iter()
            .map(|ban| ban.map(|ban| Drops { packets: ban.packets, bytes: ban.bytes }))
            .collect())
    }

    fn total_drops(&mut self) -> Result<Drops> {
        let running = self.running()?;
        let used = running.attachments.iter().map(|attachment| attachment.slot + 1).max().unwrap_or(0);
        let unused = match running.unused {
            Some((from, drops)) if from == used => drops,
            _ => running.drops_in(used..SLOTS)?,
        };
        running.unused = Some((used, unused));
        let drops = running.drops_in(0..used)?;
        Ok(Drops { packets: drops.packets + unused.packets, bytes: drops.bytes + unused.bytes })
    }

    fn cleanup(&mut self) -> Result<Vec<String>> {
        self.running = None;
        self.pins.remove()
    }
}

/// Before Linux 5.11 maps count against the locked memory of the process; without the right to raise it, the kernel
/// says so when the maps are made.
fn lift_memory_lock() {
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
}

fn is_same_end(wanted: Ends, held: Ends) -> bool {
    match (wanted, held) {
        (Ends::Never, Ends::Never) => true,
        (Ends::At { boot_ms: wanted, .. }, Ends::At { boot_ms: held, .. }) => {
            wanted.abs_diff(held) <= END_TOLERANCE_MS
        }
        _ => false,
    }
}
