//! The agent's XDP program is detached, or its pins are gone, as after `bpftool` or a careless clean-up.
#![expect(unsafe_code, reason = "bpf(2) is a raw system call that takes a pointer to its argument")]

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::environment::Environment;
use crate::guard::{self, OwnFolder};

/// Commands of bpf(2).
const OBJ_GET: libc::c_long = 7;
const LINK_DETACH: libc::c_long = 34;

/// Detaches every pinned link of the agent's. The links themselves stay, attached to nothing.
pub(super) fn detach(environment: &Environment, server: &str) -> Result<String> {
    let folder = guard::folder(environment)?;
    let root = environment.pins(server);
    let is_link =
        |pin: &PathBuf| pin.file_name().is_some_and(|name| name.to_string_lossy().starts_with("link_"));
    let pins: Vec<PathBuf> = pins(&folder, &root)?.into_iter().filter(is_link).collect();
    ensure!(!pins.is_empty(), "could not find a link of the agent's in {}", root.display());
    for pin in &pins {
        let link = open(pin).with_context(|| format!("could not open the link {}", pin.display()))?;
        detach_link(&link).with_context(|| format!("could not detach the link {}", pin.display()))?;
    }
    Ok(format!("{} attachments of the agent's programs on {server} are gone", pins.len()))
}

/// Removes every pin of the agent's: its links and its tables of bans.
pub(super) fn unpin(environment: &Environment, server: &str) -> Result<String> {
    let folder = guard::folder(environment)?;
    let mut count = 0;
    for kind in folder.list(&environment.pins(server))? {
        let kind = environment.pins(server).join(kind);
        // What is no folder lies beside the folders of pins, and is a pin itself.
        let Ok(pins) = pins(&folder, &kind) else {
            count += usize::from(folder.remove(&kind)?);
            continue;
        };
        for pin in pins {
            count += usize::from(folder.remove(&pin)?);
        }
    }
    ensure!(count > 0, "could not find a pin of the agent's in {}", environment.pins(server).display());
    Ok(format!("{count} pins of the agent on {server} are gone"))
}

fn pins(folder: &OwnFolder, of: &Path) -> Result<Vec<PathBuf>> {
    Ok(folder.list(of)?.into_iter().map(|name| of.join(name)).collect())
}

/// Opens a pinned object. The guard has listed its folder without following a link, and a bpffs holds none but the agent's.
fn open(pin: &Path) -> Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = std::ffi::CString::new(pin.as_os_str().as_bytes()).context("could not use its name")?;
    let mut attr = Attr { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    let fd = bpf(OBJ_GET, &mut attr)?;
    // SAFETY: the kernel has just made this descriptor for us, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn detach_link(link: &OwnedFd) -> Result<()> {
    #[repr(C)]
    struct Attr {
        link: u32,
    }
    bpf(LINK_DETACH, &mut Attr { link: link.as_raw_fd() as u32 })?;
    Ok(())
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is a structure of linux/bpf.h cut after the last field used, of the size that is given; the kernel reads
    // no more of it, and what it points to outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>() as libc::c_long)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
