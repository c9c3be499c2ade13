#!/bin/bash
# Boots a root file system's systemd in namespaces of its own on this kernel, where run.sh has no virtual machine: the same systemd, unit,
# package and firewalls, at full speed. Run in the network namespace that it is to have; goes on until it is killed.
#
#   ip netns exec NAME here.sh ROOT SCRATCH     SCRATCH: an empty folder, for what changes; ROOT stays as it is
#
# PREPARE names a script that is run in the new root before it is booted; TARGET a unit to boot instead of the default one.
set -euo pipefail
# shellcheck disable=SC2016  # the inner shells expand it
if [ "${3:-}" != inside ]; then
    # A cgroup of its own, which is the root of what it sees, and goes with it.
    name=shield-vm-$$
    mkdir "$2/cgroup"
    unshare --mount --propagation private bash -c '
        mount -t cgroup2 cgroup2 "$2/cgroup" && mkdir "$2/cgroup/$3" && echo $$ >"$2/cgroup/$3/cgroup.procs" &&
        exec unshare --mount --uts --ipc --cgroup --pid --fork --kill-child "$0" "$1" "$2" inside' "$0" "$1" "$2" "$name" || true
    unshare --mount --propagation private bash -c '
        mount -t cgroup2 cgroup2 "$0" && find "$0/$1" -depth -type d -exec rmdir {} +' "$2/cgroup" "$name"
    exit
fi
mount -t tmpfs shield-vm "$2"
mkdir "$2"/{changed,work,root}
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/changed,workdir=$2/work" "$2/root"
cd "$2/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tmpfs -o mode=755 shield-vm run
mount -t tmpfs -o mode=755 shield-vm dev
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs shield-vm dev/shm
rm -f etc/fstab
# The devices are this machine's.
ln -sf /dev/null etc/systemd/system/systemd-udevd.service
ln -sf /dev/null etc/systemd/system/systemd-udev-trigger.service
if [ -n "${PREPARE:-}" ]; then "$PREPARE"; fi
# Its root is the root of its mount namespace, as systemd expects of one.
pivot_root . mnt
# shellcheck disable=SC2016  # the inner shell expands it
exec chroot . env -i container=shield TARGET="${TARGET:-default.target}" /bin/sh -c \
    'umount -l /mnt && exec /lib/systemd/systemd --log-target=journal --unit="$TARGET"' </dev/null >/dev/null 2>&1
