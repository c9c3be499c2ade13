//! The program on all guarded interfaces: which are guarded, which refused, and which came or went.

use std::path::Path;

use anyhow::Result;
use shield_common::SLOTS;

use crate::network_monitor::NetworkMonitor;

use super::attach::Attachment;
use super::interfaces::{Chosen, Refused, Selection};
use super::object::{Globals, Loader};
use super::pins::{self, Pins};
use super::settings::Settings;

pub(super) struct Links {
    attachments: Vec<Attachment>,
    refused: Vec<Refused>,
    next_slot: u32,
    network: NetworkMonitor,
    /// Whether every chosen interface was guarded or refused at the last change of the network.
    all_known: bool,
}

impl Links {
    pub(super) fn none() -> Links {
        Links {
            attachments: Vec::new(),
            refused: Vec::new(),
            next_slot: 0,
            network: NetworkMonitor::new(),
            all_known: false,
        }
    }

    /// Attaches to every chosen interface that is not guarded yet.
    ///
    /// # Errors
    /// Only when no interface is guarded in the end and one refused: a refusal beside a guarded one is a state.
    pub(super) fn attach_all(
        &mut self,
        pins: &Pins,
        settings: &Settings,
        maps: &Path,
        loader: &mut Loader<'_>,
    ) -> Result<()> {
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
            if self.is_guarded(interface.index) {
                continue;
            }
            let (name, index) = (interface.name.clone(), Some(interface.index));
            match Attachment::make(interface, self.next_slot, pins, maps, settings, loader) {
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

    fn is_guarded(&self, index: u32) -> bool {
        self.attachments.iter().any(|attachment| attachment.interface.index == index)
    }

    /// Removes the links that an earlier agent left on interfaces that are not guarded any more.
    pub(super) fn drop_stale(&self, pins: &Pins) -> Result<()> {
        for index in pins.links()? {
            if !self.is_guarded(index) {
                pins::remove_link(&pins.link(index))?;
            }
        }
        Ok(())
    }

    /// Returns whether every link is attached and pinned, and no chosen interface is new.
    pub(super) fn are_intact(&mut self, pins: &Pins, interfaces: &Selection) -> Result<bool> {
        for attachment in &self.attachments {
            if !attachment.is_intact(pins)? {
                return Ok(false);
            }
        }
        Ok(!self.has_new_interface(interfaces)?)
    }

    /// Returns whether a chosen interface is neither guarded nor refused. Reads the interfaces only when the network has
    /// changed, or one was new at the last reading.
    fn has_new_interface(&mut self, interfaces: &Selection) -> Result<bool> {
        if !self.network.changed() && self.all_known {
            return Ok(false);
        }
        self.all_known = false;
        let is_known = |chosen: &Chosen| match chosen {
            Ok(interface) => {
                self.is_guarded(interface.index)
                    || self.refused.iter().any(|refused| refused.index == Some(interface.index))
            }
            Err(_) => true,
        };
        let all_known = interfaces.choose()?.iter().all(is_known);
        self.all_known = all_known;
        Ok(!all_known)
    }

    /// Brings attachments and their pins back. Returns what was wrong.
    pub(super) fn repair(&mut self, pins: &Pins, settings: &Settings) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut kept = Vec::new();
        for attachment in self.attachments.drain(..) {
            let name = &attachment.interface.name;
            if !attachment.is_attached()? {
                found.push(format!("the program was not attached to {name} any more"));
                pins::remove_link(&pins.link(attachment.interface.index))?;
                continue;
            }
            if attachment.repin(pins)? {
                found.push(format!("the link on {name} was not pinned any more"));
            }
            kept.push(attachment);
        }
        self.attachments = kept;
        let globals = Globals::of(settings);
        self.attach_all(pins, settings, &pins.maps(), &mut Loader::new(&globals))?;
        Ok(found)
    }

    pub(super) fn flush_logs(&mut self) {
        self.attachments.iter_mut().for_each(Attachment::flush_log);
    }

    /// The number of slots of the totals that programs count in.
    pub(super) fn slots(&self) -> u32 {
        self.attachments.iter().map(|attachment| attachment.slot + 1).max().unwrap_or(0)
    }

    /// Describes the guarded interfaces, such as `native on eth0`.
    pub(super) fn guarded(&self) -> Vec<String> {
        let describe = |attachment: &Attachment| {
            format!("{} on {}", attachment.how.describe(), attachment.interface.name)
        };
        self.attachments.iter().map(describe).collect()
    }

    /// Describes why interfaces are not guarded.
    pub(super) fn problems(&self) -> Vec<String> {
        if self.attachments.is_empty() && self.refused.is_empty() {
            return vec!["there is no interface to guard (no default route?)".to_owned()];
        }
        self.refused.iter().map(|refused| format!("{}: {}", refused.name, refused.reason)).collect()
    }

    #[cfg(any(test, feature = "test-support"))]
    pub(super) fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }
}
