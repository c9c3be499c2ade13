//! One interface with Shield's program on it: attaching, taking over from an earlier agent, checking.
//!
//! Tries the driver first, then the network stack; where another program holds XDP, traffic control ingress. Never replaces
//! another's program. Attaches by pinned links only, so that the next agent finds whatever a killed one leaves.

use std::fs::remove_file;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use aya::Ebpf;
use aya_log::EbpfLogger;

use super::interfaces::{Attached, Interface};
use super::kernel::{self, Hook};
use super::object::{self, Loader};
use super::pins::Pins;
use super::settings::{Mode, Settings};

/// The hook that took the program, and why not a better one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum How {
    /// In the driver.
    Native,
    /// In the network stack, because of the driver's error or the setting.
    Generic { because: String },
    /// At traffic control ingress, because another program holds XDP.
    Tcx { because: String },
}

impl How {
    /// Returns `native`, `generic (reason)` or `TC ingress (reason)`, as the state shows it.
    pub(super) fn describe(&self) -> String {
        match self {
            How::Native => "native".to_owned(),
            How::Generic { because } => format!("generic ({because})"),
            How::Tcx { because } => format!("TC ingress ({because})"),
        }
    }
}

/// The program on one interface.
pub(super) struct Attachment {
    /// As it was when attached.
    pub interface: Interface,
    pub how: How,
    /// Index in the totals.
    pub slot: u32,
    link: OwnedFd,
    program_id: u32,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    /// Keeps the programs and their maps loaded.
    _ebpf: Ebpf,
}

impl Attachment {
    /// Guards `interface`: takes over the pinned link when there is one, else attaches anew and pins.
    ///
    /// # Errors
    /// When neither XDP nor traffic control takes the program, or the settings forbid the mode it would take.
    pub(super) fn make(
        interface: Interface,
        slot: u32,
        pins: &Pins,
        maps: &Path,
        settings: &Settings,
        loader: &mut Loader<'_>,
    ) -> Result<Attachment> {
        let name = interface.name.clone();
        Attachment::attach(interface, slot, pins, maps, settings, loader)
            .with_context(|| format!("could not attach the XDP program to {name}"))
    }

    fn attach(
        interface: Interface,
        slot: u32,
        pins: &Pins,
        maps: &Path,
        settings: &Settings,
        loader: &mut Loader<'_>,
    ) -> Result<Attachment> {
        let mut ebpf = loader.load(maps, slot)?;
        let pin = pins.link(interface.index);
        let old = PinnedLink::open(&pin, interface.index)?;
        let program = object::xdp(&mut ebpf)?.fd()?.as_fd().try_clone_to_owned()?;
        let xdp = match take_over_xdp(old.as_ref(), &program, &interface, settings)? {
            Some(how) => Ok((None, how)),
            None => attach_xdp(&program, &interface, settings)?.map(|(link, how)| (Some(link), how)),
        };
        let (link, how) = match xdp {
            Ok(attached) => attached,
            Err(taken) => attach_tcx(&mut ebpf, old.as_ref(), &interface, settings, taken)?,
        };
        let link = match (link, old) {
            // Taken over: the pin already names this link.
            (None, Some(old)) => old.link,
            (None, None) => {
                bail!("the XDP program was taken over from a link that does not exist; this is a bug")
            }
            (Some(link), old) => {
                if old.is_some() {
                    remove_file(&pin)
                        .with_context(|| format!("could not remove the old link {}", pin.display()))?;
                }
                kernel::pin(link.as_fd(), &pin)
                    .with_context(|| format!("could not pin the link at {}", pin.display()))?;
                link
            }
        };
        let info = kernel::link_info(link.as_fd()).context("could not read the link's state")?;
        let logger = settings.log_every.is_some().then(|| EbpfLogger::init(&mut ebpf)).transpose()?;
        Ok(Attachment { interface, how, slot, link, program_id: info.program_id, logger, _ebpf: ebpf })
    }

    /// Returns whether the link still runs this program on this interface, and is pinned.
    pub(super) fn is_intact(&self, pins: &Pins) -> Result<bool> {
        let info = kernel::link_info(self.link.as_fd())
            .with_context(|| format!("could not read the state of the link on {}", self.interface.name))?;
        let attached = info.interface_index == self.interface.index && info.program_id == self.program_id;
        Ok(attached && pins.link(self.interface.index).exists())
    }

    /// Pins the link again if its pin is gone, and returns whether it was.
    pub(super) fn repin(&self, pins: &Pins) -> Result<bool> {
        let pin = pins.link(self.interface.index);
        match kernel::pin(self.link.as_fd(), &pin) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("could not pin the link at {}", pin.display())),
        }
    }

    /// Returns whether the link still runs this program on this interface, pinned or not.
    pub(super) fn is_attached(&self) -> Result<bool> {
        let info = kernel::link_info(self.link.as_fd()).context("could not read the link's state")?;
        Ok(info.interface_index == self.interface.index && info.program_id == self.program_id)
    }

    /// Forwards the program's messages to the log.
    pub(super) fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }
}

/// A link that an earlier agent left for this interface.
struct PinnedLink {
    link: OwnedFd,
    is_xdp: bool,
}

impl PinnedLink {
    /// Opens the link. Unpins one whose interface is gone, which ends it.
    fn open(pin: &Path, interface_index: u32) -> Result<Option<PinnedLink>> {
        let link = match kernel::open_pinned(pin) {
            Ok(link) => link,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("could not open the link {}", pin.display()));
            }
        };
        let info = kernel::link_info(link.as_fd())
            .with_context(|| format!("could not read the link {}", pin.display()))?;
        if info.interface_index != interface_index {
            remove_file(pin).with_context(|| format!("could not remove the dead link {}", pin.display()))?;
            return Ok(None);
        }
        Ok(Some(PinnedLink { link, is_xdp: info.is_xdp }))
    }
}

/// Replaces the program in an earlier agent's link atomically, if the settings allow the link's mode.
fn take_over_xdp(
    old: Option<&PinnedLink>,
    program: &OwnedFd,
    interface: &Interface,
    settings: &Settings,
) -> Result<Option<How>> {
    let Some(old) = old.filter(|old| old.is_xdp) else { return Ok(None) };
    let how = match interface.xdp {
        Attached::Native(_) => How::Native,
        _ => How::Generic { because: "as attached by an earlier run".to_owned() },
    };
    let is_wanted = match settings.mode {
        Mode::Auto => true,
        Mode::Native => how == How::Native,
        Mode::Generic => how != How::Native,
    };
    if !is_wanted {
        // The one change that cannot be made without a gap: a link cannot change its mode. An operator configured it.
        return detach(&old.link).map(|()| None);
    }
    kernel::update_link(old.link.as_fd(), program.as_fd())
        .context("could not replace the program in the pinned link")?;
    Ok(Some(how))
}

/// Attaches to XDP in the first mode that works. The inner error names the holder of the hook.
fn attach_xdp(
    program: &OwnedFd,
    interface: &Interface,
    settings: &Settings,
) -> Result<Result<(OwnedFd, How), String>> {
    let mut because = "as configured".to_owned();
    if settings.mode != Mode::Generic {
        match kernel::create_link(program.as_fd(), interface.index, Hook::XdpNative) {
            Ok(link) => return Ok(Ok((link, How::Native))),
            Err(error) if is_taken(&error) => return Ok(Err(holder(interface))),
            Err(error) if settings.mode == Mode::Auto && is_driver_refusal(&error) => {
                because = format!("the driver refused native mode: {error}");
            }
            Err(error) => return Err(error).context("could not attach in native mode"),
        }
    }
    match kernel::create_link(program.as_fd(), interface.index, Hook::XdpGeneric) {
        Ok(link) => Ok(Ok((link, How::Generic { because }))),
        Err(error) if is_taken(&error) => Ok(Err(holder(interface))),
        Err(error) => Err(error).context(format!("could not attach in generic mode ({because})")),
    }
}

/// Attaches to traffic control ingress instead of XDP.
fn attach_tcx(
    ebpf: &mut Ebpf,
    old: Option<&PinnedLink>,
    interface: &Interface,
    settings: &Settings,
    because: String,
) -> Result<(Option<OwnedFd>, How)> {
    if settings.mode == Mode::Native {
        bail!("{because}, and native mode is required; it is left alone");
    }
    let program = object::classifier(ebpf)?.fd()?.as_fd().try_clone_to_owned()?;
    let how = How::Tcx { because: because.clone() };
    if let Some(old) = old.filter(|old| !old.is_xdp) {
        kernel::update_link(old.link.as_fd(), program.as_fd())
            .context("could not replace the program in the TCX link")?;
        return Ok((None, how));
    }
    let link = kernel::create_link(program.as_fd(), interface.index, Hook::TcxIngress).with_context(|| {
        format!(
            "could not attach at traffic control ingress (which needs Linux 6.6); {because}, which is left alone"
        )
    })?;
    Ok((Some(link), how))
}

fn detach(link: &OwnedFd) -> Result<()> {
    kernel::detach_link(link.as_fd())
        .with_context(|| format!("could not detach the link (descriptor {})", link.as_raw_fd()))
}

/// Another program is attached, in this mode (EBUSY) or the other (EEXIST).
fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

/// The driver cannot: no XDP, an MTU too large, or no queues left.
fn is_driver_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE | libc::ENOMEM))
}

fn holder(interface: &Interface) -> String {
    match interface.xdp {
        Attached::Native(id) | Attached::Generic(id) => {
            format!("another XDP program (id {id}) holds {}", interface.name)
        }
        Attached::Nothing | Attached::Other => format!("another XDP program holds {}", interface.name),
    }
}
