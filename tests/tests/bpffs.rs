//! The harness's own BPF file system.

use shield_tests::bpffs::Bpffs;

#[test]
fn a_bpffs_is_mounted_while_it_lives_and_gone_after() {
    let bpffs = Bpffs::mount().unwrap();
    let path = bpffs.path().to_owned();
    let mounts = || std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(mounts().contains(&format!("{} bpf ", path.display())));
    drop(bpffs);
    assert!(!mounts().contains(path.to_str().unwrap()));
    assert!(!path.exists());
}
