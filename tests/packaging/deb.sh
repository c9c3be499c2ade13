#!/bin/bash
# Installs, upgrades, removes and purges the Debian package in a root that is thrown away. Exits with an error where something is
# not as it should be.
#
#   unshare --mount --net deb.sh FOLDER PACKAGE
set -eu
. "$(dirname "$0")/root.sh"
cp "$2" "$root/mnt/shield.deb"
export DEBIAN_FRONTEND=noninteractive
quietly() { said=$(in_root "$@" 2>&1) || fail "$*: $said"; }

quietly dpkg --install /mnt/shield.deb
quietly dpkg --verify shield
[ -z "$said" ] || fail "installed otherwise than packaged: $said"
in_root getent group shield >/dev/null || fail "there is no group shield"
in_root shield-agent check --config /etc/shield/shield.toml || [ $? -eq 1 ] || fail "the example config was refused"

# A member of the group may check the config and verify the audit log.
group=$(in_root getent group shield | cut -d: -f3)
as_member() { chroot --userspec="65534:65534" --groups="$group" "$root" "$@" 2>&1 || true; }
said=$(as_member shield-agent check --config /etc/shield/shield.toml)
case $said in *"shield.toml: valid"*) ;; *) fail "a member cannot read the config: $said" ;; esac
echo '{}' >"$root/var/log/shield/audit.jsonl"
chgrp "$group" "$root/var/log/shield/audit.jsonl"
said=$(as_member shield-agent audit verify)
case $said in *audit.jsonl*ermission*) fail "a member cannot read the audit log: $said" ;; esac
case $said in *audit.jsonl*) ;; *) fail "the audit log was not looked at: $said" ;; esac

echo '# mine' >>"$root/etc/shield/shield.toml"
quietly dpkg --install /mnt/shield.deb
in_root grep -q '# mine' /etc/shield/shield.toml || fail "an upgrade overwrote my config"

quietly dpkg --remove shield
[ ! -e "$root/usr/bin/shield-agent" ] || fail "the agent is still there"
in_root grep -q '# mine' /etc/shield/shield.toml || fail "a removal took my config"
quietly dpkg --purge shield
[ -z "$(changes)" ] || fail "left behind: $(changes)"
