//! Brings sets to exactly what is wanted. Listing a million elements takes a second, so that runs on a thread of its own,
//! changes are made in pieces, and urgent bans are put in between.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use hashbrown::HashSet;

use super::findings::Findings;
use super::programs::Programs;
use super::sets::{Element, SetStore, Version, all_failed};
use crate::enforce::ban::Ban;
use crate::enforce::desired::{Desired, LOOKED_UP_AT_ONCE};
use crate::enforce::enforcer::Urgent;
use crate::enforce::reconcile::{Planner, Wanted as _};
use shield_engine::client::Client;
use shield_engine::time::Now;

/// Elements changed at once; takes some 15 ms.
const PIECE: usize = 8_000;
/// Elements that the listing hands over at once.
const LISTED_AT_ONCE: usize = 1_024;
/// The longest that urgent bans wait while a listing is read.
const PAUSE: Duration = Duration::from_millis(5);

/// See the module.
pub(super) struct Refill<'a> {
    pub(super) programs: &'a mut dyn Programs,
    pub(super) store: &'a dyn SetStore,
    /// The IP versions that can be filtered.
    pub(super) versions: Vec<Version>,
    pub(super) desired: &'a Desired,
    /// The time at `began`.
    pub(super) now: Now,
    began: Instant,
    /// `None` while what is put into the sets is not dropped yet.
    pub(super) urgent: Option<&'a mut dyn Urgent>,
    /// Urgent bans made meanwhile. They are not in `desired`, and must not be removed as surplus.
    urgent_clients: HashSet<Client>,
}

impl<'a> Refill<'a> {
    pub(super) fn new(
        programs: &'a mut dyn Programs,
        store: &'a dyn SetStore,
        versions: Vec<Version>,
        desired: &'a Desired,
        now: Now,
    ) -> Refill<'a> {
        let urgent_clients = HashSet::new();
        Refill {
            programs,
            store,
            versions,
            desired,
            now,
            began: Instant::now(),
            urgent: None,
            urgent_clients,
        }
    }

    /// Lists, adds what is missing, then removes what is not wanted: additions first, so that no repair opens a gap.
    pub(super) fn run(mut self, findings: &mut Findings) -> Result<()> {
        let mut planner = Planner::new(self.desired);
        for version in self.versions.clone() {
            self.list(version, &mut planner)?;
        }
        self.add_missing(&planner, findings);
        self.remove_surplus(planner.surplus(), findings);
        Ok(())
    }

    fn list(&mut self, version: Version, planner: &mut Planner<'_, Desired>) -> Result<()> {
        let (store, now, began) = (self.store, self.now, self.began);
        let mut programs = self.programs.another();
        let (sender, receiver) = sync_channel::<Vec<Element>>(8);
        std::thread::scope(|scope| {
            let listing = scope.spawn(move || -> Result<()> {
                let mut batch = Vec::with_capacity(LISTED_AT_ONCE);
                // A send fails only when the receiver is gone, and then the rest is not wanted.
                store.list(&mut *programs, version, &mut |element| {
                    batch.push(element);
                    if batch.len() == LISTED_AT_ONCE {
                        let _ =
                            sender.send(std::mem::replace(&mut batch, Vec::with_capacity(LISTED_AT_ONCE)));
                    }
                })?;
                let _ = sender.send(batch);
                Ok(())
            });
            let mut paused = Instant::now();
            loop {
                match receiver.recv_timeout(PAUSE) {
                    Ok(batch) => {
                        let now = time_at(now, began);
                        for some in batch.chunks(LOOKED_UP_AT_ONCE) {
                            some.iter().for_each(|e| self.desired.prefetch(&e.client));
                            some.iter()
                                .for_each(|e| planner.see(e.client, |ban| e.is_right_for(ban.ends, now)));
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                if paused.elapsed() >= PAUSE {
                    self.add_urgent();
                    paused = Instant::now();
                }
            }
            listing.join().unwrap_or_else(|_| {
                Err(anyhow!("could not list the {} set: the listing panicked", version.name()))
            })
        })
    }

    fn add_missing(&mut self, planner: &Planner<'_, Desired>, findings: &mut Findings) {
        for version in self.versions.clone() {
            let mut piece: Vec<Element> = Vec::new();
            let mut now = time_at(self.now, self.began);
            for slot in planner.missing() {
                let (client, ban) = self.desired.entry(slot);
                let is_over = ban.ends.is_past(self.now) || self.urgent_clients.contains(&client);
                if Version::of(&client) != version || is_over {
                    continue;
                }
                // Wrong ends are corrected but not counted as restored: after a suspend all of them are wrong.
                findings.restored += usize::from(!planner.was_seen(slot));
                piece.push(Element::new(client, ban.ends, now));
                if piece.len() == PIECE {
                    self.add(version, &mut piece, findings);
                    now = time_at(self.now, self.began);
                }
            }
            self.add(version, &mut piece, findings);
        }
    }

    fn add(&mut self, version: Version, piece: &mut Vec<Element>, findings: &mut Findings) {
        if !piece.is_empty() {
            findings.fail_each(self.store.add(self.programs, version, piece));
            piece.clear();
            self.add_urgent();
        }
    }

    fn remove_surplus(&mut self, surplus: &[Client], findings: &mut Findings) {
        for version in Version::ALL {
            let unwanted: Vec<Client> = surplus
                .iter()
                .copied()
                .filter(|client| Version::of(client) == version && !self.urgent_clients.contains(client))
                .collect();
            for piece in unwanted.chunks(PIECE) {
                findings.removed += piece.len();
                findings.fail_each(self.store.remove(self.programs, version, piece));
                self.add_urgent();
            }
        }
    }

    fn add_urgent(&mut self) {
        let Some(urgent) = self.urgent.as_deref_mut() else { return };
        let bans = urgent.take();
        if bans.is_empty() {
            return;
        }
        let mut failures = Vec::new();
        let now = time_at(self.now, self.began);
        for version in Version::ALL {
            let elements: Vec<Element> = bans
                .iter()
                .map(|Ban { client, ends }| Element::new(client.client(), *ends, now))
                .filter(|element| Version::of(&element.client) == version)
                .collect();
            if elements.is_empty() {
                continue;
            }
            if self.versions.contains(&version) {
                failures.extend(self.store.add(self.programs, version, &elements));
            } else {
                let error = anyhow!("{} cannot be filtered here", version.name());
                failures.extend(all_failed(elements.iter().map(|e| e.client), &error));
            }
        }
        self.urgent_clients.extend(bans.iter().map(|ban| ban.client.client()));
        urgent.done(&bans, failures);
    }
}

/// The time now, when it was `then` at `began`. A refill of a million bans takes longer than the difference at which two
/// ends still count as the same.
fn time_at(then: Now, began: Instant) -> Now {
    then.plus_ms(began.elapsed().as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::super::ipset::Ipset;
    use super::super::programs::act;
    use super::*;
    use crate::enforce::simulator::SimulatedHost;
    use shield_engine::allowlist::Allowlist;
    use shield_engine::time::Ends;

    const BEGAN: Now = Now { wall_ms: 1_700_000_000_000, boot_ms: 5_000_000 };

    /// A listing of a million took 5 s on a busy machine: by its end all ends seemed wrong, and were written again.
    #[test]
    fn ends_are_right_when_they_are_read_and_written_late() {
        let (host, store) = (SimulatedHost::new(), Ipset { max_entries: [10, 10] });
        let mut programs: Box<dyn Programs> = Box::new(host.clone());
        store.ensure(&mut *programs, Version::V4, 1).unwrap();
        act(&mut *programs, &["ipset", "restore"], "add shield4 192.0.2.1 timeout 596\n").unwrap();
        let mut desired = Desired::default();
        for (client, serial) in [("192.0.2.1", 1), ("192.0.2.2", 2)] {
            let client = Allowlist::default().admit(client.parse().unwrap(), 64).unwrap();
            desired.insert(Ban { client, ends: Ends::after(BEGAN, 600_000) }, serial);
        }
        let mut refill = Refill::new(&mut *programs, &store, vec![Version::V4], &desired, BEGAN);
        refill.began = Instant::now().checked_sub(Duration::from_secs(5)).unwrap();
        let mut findings = Findings::default();
        refill.run(&mut findings).unwrap();

        assert_eq!(findings.restored, 1);
        let mut timeouts = Vec::new();
        store.list(&mut *programs, Version::V4, &mut |element| timeouts.push(element.timeout_secs)).unwrap();
        assert_eq!(timeouts, [596, 596]);
    }
}
