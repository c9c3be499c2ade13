//! That the sandbox in which the other tests run the agent refuses what the unit's refuses.

use std::process::Command;

use shield_tests::agent::Home;
use shield_tests::unit;

/// Prints `name: error` for what is refused, and `name: done` for what is not.
const TRIES: &str = r#"
import ctypes, mmap, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}[os.uname().machine]
def call(function, *arguments):
    if getattr(libc, function)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), function)
def attempt(name, action):
    try:
        action()
        print(name + ": done")
    except OSError as error:
        print(name + ": " + os.strerror(error.errno))
home = sys.argv[1]
attempt("a file of the unit's", lambda: open(home + "/own", "w"))
attempt("a file elsewhere", lambda: open("/etc/shield-sandbox", "w"))
attempt("another's /tmp", lambda: open(sys.argv[2]))
attempt("an own /tmp", lambda: open("/tmp/own", "w"))
attempt("a file at home", lambda: open(sys.argv[3]))
attempt("a home", lambda: os.mkdir("/root/own"))
attempt("a device of all", lambda: open("/dev/null", "w"))
attempt("IPv4", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
attempt("raw packets", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("code that is written", lambda: mmap.mmap(-1, 4096, prot=7))
attempt("set-user-id", lambda: os.chmod(home + "/own", 0o4755))
attempt("real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
attempt("a lower priority", lambda: os.nice(10))
attempt("another owner", lambda: os.chown(home + "/own", 0, 1))
attempt("a namespace", lambda: call("unshare", 0x40000000))
attempt("a mount", lambda: call("mount", b"a", b"/mnt", b"tmpfs", 0, None))
attempt("another process", lambda: call("ptrace", 16, 1, 0, 0))
attempt("the kernel's log", lambda: call("klogctl", 10, 0, 0))
attempt("a kernel setting", lambda: open("/proc/sys/kernel/hostname", "w"))
attempt("a device's setting", lambda: open("/sys/class/net/lo/mtu", "w"))
attempt("counters of the processor", lambda: call("syscall", PERF_EVENT_OPEN, 0, 0, -1, -1, 0))
print("homes: %d" % (len(os.listdir("/home")) + len(os.listdir("/root"))))
print("devices: " + " ".join(sorted(name for name in os.listdir("/dev"))))
print("umask: %o" % os.umask(0))
print("filters: " + [line for line in open("/proc/self/status") if line.startswith("Seccomp:")][0].split()[1])
"#;

#[test]
fn the_sandbox_refuses_what_the_unit_refuses() {
    let home = Home::create().unwrap();
    let launcher = unit::launcher(&home, &[]).unwrap();
    let tmp = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    let at_home = tempfile::NamedTempFile::new_in("/root").unwrap();
    let tries = Command::new(&launcher[0])
        .args(&launcher[1..])
        .args(["python3", "-c", TRIES])
        .arg(home.folder())
        .args([tmp.path(), at_home.path()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&tries.stdout).into_owned();
    assert!(tries.status.success(), "{said}{}", String::from_utf8_lossy(&tries.stderr));
    let expected = "\
a file of the unit's: done
a file elsewhere: Read-only file system
another's /tmp: No such file or directory
an own /tmp: done
a file at home: No such file or directory
a home: Read-only file system
a device of all: done
IPv4: done
netlink: done
raw packets: Address family not supported by protocol
code that is written: Operation not permitted
set-user-id: Operation not permitted
real time: Operation not permitted
a lower priority: Operation not permitted
another owner: Operation not permitted
a namespace: Operation not permitted
a mount: Operation not permitted
another process: Operation not permitted
the kernel's log: Operation not permitted
a kernel setting: Read-only file system
a device's setting: Read-only file system
counters of the processor: Operation not permitted
homes: 0
devices: fd full null ptmx pts random shm stderr stdin stdout tty urandom zero
umask: 27
filters: 2
";
    assert_eq!(said, expected);
}
