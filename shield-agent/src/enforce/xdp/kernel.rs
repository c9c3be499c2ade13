//! The commands of bpf(2) that aya lacks, or has only with a fallback that Shield must not use.
//!
//! On EINVAL aya's `Xdp::attach` falls back to a netlink attachment, which nobody owns once the agent is killed; and aya has
//! no batch operations. Everything else goes through aya. Structures are those of `linux/bpf.h`, cut after the
//! last field used: the kernel takes missing fields as zero.
#![expect(unsafe_code, reason = "bpf(2) is a raw system call that takes a pointer to its argument")]

use std::cell::RefCell;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Once, OnceLock};

use aya::Pod;
use aya::util::KernelVersion;

use super::walk;

/// Command numbers of bpf(2).
#[derive(Clone, Copy)]
enum Command {
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ObjPin = 6,
    ObjGet = 7,
    ObjGetInfoByFd = 15,
    MapLookupBatch = 24,
    MapUpdateBatch = 26,
    MapDeleteBatch = 27,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkDetach = 34,
}

/// The place on an interface that a program is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// XDP in the driver.
    XdpNative,
    /// XDP in the network stack.
    XdpGeneric,
    /// Traffic control ingress, before every other program there.
    TcxIngress,
}

impl Hook {
    /// `enum bpf_attach_type`.
    fn attach_type(self) -> u32 {
        match self {
            Hook::XdpNative | Hook::XdpGeneric => 37,
            Hook::TcxIngress => 46,
        }
    }

    /// `XDP_FLAGS_DRV_MODE`, `XDP_FLAGS_SKB_MODE`, `BPF_F_BEFORE`.
    fn flags(self) -> u32 {
        match self {
            Hook::XdpNative => 1 << 2,
            Hook::XdpGeneric => 1 << 1,
            Hook::TcxIngress => 1 << 3,
        }
    }
}

/// The state of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkInfo {
    pub program_id: u32,
    /// 0 if the interface is gone or the link was detached.
    pub interface_index: u32,
    /// A TCX link otherwise.
    pub is_xdp: bool,
}

/// Attaches a program to an interface. The attachment ends with the last descriptor or pin of the link.
///
/// # Errors
/// EBUSY or EEXIST if another program is attached, else the driver's error.
pub(super) fn create_link(program: BorrowedFd<'_>, interface_index: u32, hook: Hook) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        program_fd: u32,
        interface_index: u32,
        attach_type: u32,
        flags: u32,
    }
    let mut attr = Attr {
        program_fd: raw(program),
        interface_index,
        attach_type: hook.attach_type(),
        flags: hook.flags(),
    };
    new_fd(Command::LinkCreate, &mut attr)
}

/// Replaces the program of a link atomically.
///
/// # Errors
/// ENOLINK if the interface is gone.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link_fd: u32,
        program_fd: u32,
        flags: u32,
        old_program_fd: u32,
    }
    let mut attr = Attr { link_fd: raw(link), program_fd: raw(program), flags: 0, old_program_fd: 0 };
    bpf(Command::LinkUpdate, &mut attr).map(drop)
}

/// Detaches a link's program. The link stays, attached to nothing.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link_fd: u32,
    }
    bpf(Command::LinkDetach, &mut Attr { link_fd: raw(link) }).map(drop)
}

/// Reads the interface and the program of a link.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    /// `struct bpf_link_info`. The parts of XDP and TCX both begin with the interface.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program_id: u32,
        padding: u32,
        interface_index: u32,
        rest: [u32; 11],
    }
    #[repr(C)]
    struct Attr {
        fd: u32,
        info_len: u32,
        info: u64,
    }
    /// `BPF_LINK_TYPE_XDP`.
    const KIND_XDP: u32 = 6;
    let mut info = Info::default();
    let mut attr = Attr { fd: raw(link), info_len: size_of::<Info>() as u32, info: (&raw mut info) as u64 };
    bpf(Command::ObjGetInfoByFd, &mut attr)?;
    Ok(LinkInfo {
        program_id: info.program_id,
        interface_index: info.interface_index,
        is_xdp: info.kind == KIND_XDP,
    })
}

/// Pins a map or link at a path of a bpffs.
///
/// # Errors
/// EEXIST if the path exists; EPERM if it is not on a bpffs.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = PinAttr { path: path.as_ptr() as u64, fd: raw(object), flags: 0 };
    bpf(Command::ObjPin, &mut attr).map(drop)
}

/// Opens a pinned map or link.
///
/// # Errors
/// ENOENT if nothing is pinned there.
pub(super) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = PinAttr { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    new_fd(Command::ObjGet, &mut attr)
}

#[repr(C)]
struct PinAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Looks up a key.
pub(super) fn lookup<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = zeroed::<V>();
    let mut attr = ElementAttr::new(map, key);
    attr.value = (&raw mut value) as u64;
    match bpf(Command::MapLookup, &mut attr) {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes one element.
///
/// # Errors
/// EEXIST for [`Update::Insert`] of an existing key; E2BIG (hash) or ENOSPC (trie) if the map is full.
pub(super) fn update<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &V,
    update: Update,
) -> io::Result<()> {
    let mut attr = ElementAttr::new(map, key);
    attr.value = std::ptr::from_ref(value) as u64;
    attr.flags = update as u64;
    bpf(Command::MapUpdate, &mut attr).map(drop)
}

/// Deletes one element and returns whether it existed.
pub(super) fn delete<K: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    match bpf(Command::MapDelete, &mut ElementAttr::new(map, key)) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl ElementAttr {
    fn new<K>(map: BorrowedFd<'_>, key: &K) -> ElementAttr {
        ElementAttr { map_fd: raw(map), padding: 0, key: std::ptr::from_ref(key) as u64, value: 0, flags: 0 }
    }
}

/// The treatment of existing keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Update {
    /// Inserts or replaces.
    Any = 0,
    /// Only inserts; EEXIST for an existing key.
    Insert = 1,
}

/// Inserts or replaces elements in one system call. Returns how many were written; the kernel refused the next one, and
/// returns the reason only when that one is written alone.
pub(super) fn update_batch<K: Pod, V: Pod>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> usize {
    assert_eq!(keys.len(), values.len(), "every key has its value");
    let mut attr = BatchAttr::new(map, keys.len());
    attr.keys = keys.as_ptr() as u64;
    attr.values = values.as_ptr() as u64;
    run_batch(Command::MapUpdateBatch, &mut attr)
}

/// Deletes elements in one system call. Returns how many were deleted; the next one was absent or refused.
pub(super) fn delete_batch<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> usize {
    let mut attr = BatchAttr::new(map, keys.len());
    attr.keys = keys.as_ptr() as u64;
    run_batch(Command::MapDeleteBatch, &mut attr)
}

fn run_batch(command: Command, attr: &mut BatchAttr) -> usize {
    let wanted = attr.count;
    match bpf(command, attr) {
        Ok(_) => wanted as usize,
        // A kernel that fails before the first element leaves the count as it was.
        Err(_) if attr.count < wanted => attr.count as usize,
        Err(_) => 0,
    }
}

/// The first Linux that accounts for the existing elements of a map, not for the maximum.
const ACCOUNTS_FOR_ELEMENTS: KernelVersion = KernelVersion::new(6, 4, 0);

/// The fdinfo file of a map, kept open because it is read every two seconds.
#[derive(Debug, Default)]
pub(super) struct Account(RefCell<Option<File>>);

impl Account {
    /// Reads how many bytes the elements of `map` take, which must not be preallocated. `None` on kernels that do not account
    /// for it.
    pub(super) fn memory(&self, map: BorrowedFd<'_>) -> Option<u64> {
        static IS_ACCOUNTED: OnceLock<bool> = OnceLock::new();
        let knows = || KernelVersion::current().is_ok_and(|version| version >= ACCOUNTS_FOR_ELEMENTS);
        if !IS_ACCOUNTED.get_or_init(knows) {
            return None;
        }
        let mut file = self.0.borrow_mut();
        if let Some(memory) = file.as_ref().and_then(read_memory) {
            return Some(memory);
        }
        // Not opened yet, or opened by a thread that has ended: the file is that thread's.
        *file = File::open(format!("/proc/thread-self/fdinfo/{}", map.as_raw_fd())).ok();
        file.as_ref().and_then(read_memory)
    }
}

fn read_memory(account: &File) -> Option<u64> {
    let mut buffer = [0; 1024];
    let length = account.read_at(&mut buffer, 0).ok()?;
    let text = std::str::from_utf8(&buffer[..length]).ok()?;
    text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
}

/// Reads a whole map: `chunk` elements in one system call, or one by one where the kernel has no batches for its kind.
///
/// # Errors
/// When the map cannot be read, or others change it faster than it is read.
pub(super) fn lookup_all<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    chunk: usize,
    mut each: impl FnMut(K, V),
) -> io::Result<()> {
    match lookup_batches(map, chunk, &mut each) {
        Err(error) if lacks_batches(&error) => {
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                tracing::info!(
                    "this kernel lists networks one by one: it has no batches for them (Linux 6.1 has)"
                );
            });
            lookup_singly(map, each)
        }
        result => result,
    }
}

/// Returns `true` for the error of a kind of map without batches. The kernel returns it before the first element.
fn lacks_batches(error: &io::Error) -> bool {
    /// Of the kernel's inside (`linux/errno.h`), which libc does not know.
    const ENOTSUPP: i32 = 524;
    matches!(error.raw_os_error(), Some(ENOTSUPP | libc::EOPNOTSUPP))
}

/// All elements are read before the first is passed on: who takes them may change the map.
fn lookup_singly<K: Pod, V: Pod>(map: BorrowedFd<'_>, mut each: impl FnMut(K, V)) -> io::Result<()> {
    let mut elements = Vec::new();
    for key in walk::keys(|key| next_key(map, key, size_of::<K>()))? {
        // SAFETY: the buffer has the size of `K`, and `Pod` promises that any bytes are a value.
        let key = unsafe { key.as_ptr().cast::<K>().read_unaligned() };
        if let Some(value) = lookup(map, &key)? {
            elements.push((key, value));
        }
    }
    elements.into_iter().for_each(|(key, value)| each(key, value));
    Ok(())
}

/// Returns the key after `key`, or the first one; `None` after the last one.
fn next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, size: usize) -> io::Result<Option<Box<[u8]>>> {
    let mut next = vec![0; size].into_boxed_slice();
    let mut attr = ElementAttr {
        map_fd: raw(map),
        padding: 0,
        key: key.map_or(0, |key| key.as_ptr() as u64),
        value: next.as_mut_ptr() as u64,
        flags: 0,
    };
    match bpf(Command::MapNextKey, &mut attr) {
        Ok(_) => Ok(Some(next)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn lookup_batches<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    chunk: usize,
    each: &mut impl FnMut(K, V),
) -> io::Result<()> {
    let mut keys = vec![zeroed::<K>(); chunk];
    let mut values = vec![zeroed::<V>(); chunk];
    // The kernel's cursor: a bucket number for hash maps, a key for arrays and tries.
    let mut place = [0u64; 4];
    let mut begun = false;
    loop {
        let mut attr = BatchAttr::new(map, chunk);
        attr.in_place = if begun { place.as_ptr() as u64 } else { 0 };
        attr.out_place = place.as_mut_ptr() as u64;
        attr.keys = keys.as_mut_ptr() as u64;
        attr.values = values.as_mut_ptr() as u64;
        let end = match bpf(Command::MapLookupBatch, &mut attr) {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        let count = (attr.count as usize).min(chunk);
        keys.iter().zip(&values).take(count).for_each(|(key, value)| each(*key, *value));
        if end {
            return Ok(());
        }
        begun = true;
    }
}

#[repr(C)]
struct BatchAttr {
    in_place: u64,
    out_place: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

impl BatchAttr {
    fn new(map: BorrowedFd<'_>, count: usize) -> BatchAttr {
        BatchAttr {
            in_place: 0,
            out_place: 0,
            keys: 0,
            values: 0,
            count: u32::try_from(count).unwrap_or(u32::MAX),
            map_fd: raw(map),
            element_flags: 0,
            flags: 0,
        }
    }
}

fn zeroed<T: Pod>() -> T {
    // SAFETY: `Pod` promises that any bytes are a value.
    unsafe { std::mem::zeroed() }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).expect("an open descriptor is not negative")
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a path with a zero byte"))
}

fn new_fd<T>(command: Command, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: these commands return a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

fn bpf<T>(command: Command, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is the command's argument structure, alive and exclusively borrowed, with its true size; every
    // pointer in it was made from a live buffer of at least the length given beside it.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, std::ptr::from_mut(attr), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
