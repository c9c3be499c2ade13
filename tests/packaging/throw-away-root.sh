#!/bin/bash
# Runs packaging/install.sh and uninstall.sh in a root that is thrown away: this machine's own, seen through an overlay in
# a mount and network namespace that end with this script. Exits with an error where something is not as it should be.
#
#   unshare --mount --net throw-away-root.sh FOLDER WORKSPACE AGENT
set -eu
scratch=$1/scratch workspace=$2 agent=$3
mkdir "$scratch"
mount -t tmpfs shield-test "$scratch"
mkdir "$scratch/changed" "$scratch/work" "$scratch/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/changed,workdir=$scratch/work" "$scratch/root"
root=$scratch/root
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -t tmpfs shield-test "$root/run"
mount -t tmpfs shield-test "$root/mnt"
mkdir -p "$root/mnt/target/release"
cp -r "$workspace/packaging" "$workspace/README.md" "$root/mnt/"
cp "$agent" "$root/mnt/target/release/shield-agent"

in_root() { chroot "$root" "$@"; }
# Everything that differs from before, but for the lists of groups, whose text changes and whose content is asked for.
changes() { (cd "$scratch/changed" && find . ! -type d ! -path './etc/g*' ! -path ./etc/.pwd.lock | sort); }
fail() {
    echo "$*" >&2
    exit 1
}

in_root sh /mnt/packaging/install.sh
in_root shield-agent check --config /etc/shield/shield.toml || [ $? -eq 1 ] || fail "the example config was refused"
said=$(in_root systemd-analyze verify --man=no /usr/lib/systemd/system/shield.service 2>&1) || fail "the unit: $said"
case $said in *shield*) fail "the unit: $said" ;; esac
[ "$(in_root stat -c '%a %U:%G' /etc/shield/shield.toml /etc/logrotate.d/shield /usr/bin/shield-agent | tr '\n' ' ')" = \
    "640 root:root 644 root:root 755 root:root " ] || fail "modes: $(in_root stat -c '%n %a %U:%G' /etc/shield/* /etc/logrotate.d/shield)"
in_root getent group shield >/dev/null || fail "there is no group shield"
installed=$(changes)

echo '# mine' >>"$root/etc/shield/shield.toml"
second=$(in_root sh /mnt/packaging/install.sh)
case $second in *install\ *) fail "a second run installs again: $second" ;; esac
case $second in *"keep    /etc/shield/shield.toml (yours)"*) ;; *) fail "a second run says nothing of my config: $second" ;; esac
in_root grep -q '# mine' /etc/shield/shield.toml || fail "a second run overwrote my config"
[ "$(changes)" = "$installed" ] || fail "a second run changed something: $(changes)"

in_root sh /mnt/packaging/uninstall.sh
in_root grep -q '# mine' /etc/shield/shield.toml || fail "uninstalling took my config without --purge"
in_root sh /mnt/packaging/uninstall.sh --purge
if in_root getent group shield >/dev/null; then fail "the group is still there"; fi
[ -z "$(changes)" ] || fail "left behind: $(changes)"
