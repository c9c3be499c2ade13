#!/bin/bash
# Runs packaging/install.sh and uninstall.sh in a root that is thrown away. Exits with an error where something is not as it
# should be.
#
#   unshare --mount --net throw-away-root.sh FOLDER WORKSPACE AGENT
set -eu
workspace=$2 agent=$3
. "$(dirname "$0")/root.sh"
mkdir -p "$root/mnt/target/release"
cp -r "$workspace/packaging" "$workspace/README.md" "$root/mnt/"
cp "$agent" "$root/mnt/target/release/shield-agent"

in_root sh /mnt/packaging/install.sh
in_root shield-agent check --config /etc/shield/shield.toml || [ $? -eq 1 ] || fail "the example config was refused"
said=$(in_root systemd-analyze verify --man=no /usr/lib/systemd/system/shield.service 2>&1) || fail "the unit: $said"
case $said in *shield*) fail "the unit: $said" ;; esac
[ "$(in_root stat -c '%a %U:%G' /etc/shield/shield.toml /etc/logrotate.d/shield /usr/bin/shield-agent | tr '\n' ' ')" = \
    "640 root:shield 644 root:root 755 root:root " ] || fail "modes: $(in_root stat -c '%n %a %U:%G' /etc/shield/* /etc/logrotate.d/shield)"
in_root getent group shield >/dev/null || fail "there is no group shield"
for place in man/man1/shield-agent.1.gz man/man1/shield-agent-ban.1.gz bash-completion/completions/shield-agent \
    zsh/site-functions/_shield-agent fish/vendor_completions.d/shield-agent.fish; do
    [ -s "$root/usr/share/$place" ] || fail "/usr/share/$place is not there"
done
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

# An agent that cannot clean up, as beside one that was started by hand: the rest goes all the same, and it is said.
in_root sh /mnt/packaging/install.sh
printf '#!/bin/sh\necho "another shield-agent is running" >&2\nexit 1\n' >"$root/usr/bin/shield-agent"
if said=$(in_root sh /mnt/packaging/uninstall.sh --purge 2>&1); then fail "a failed cleanup was no failure: $said"; fi
case $said in *"could not take Shield's rules out of the kernel"*"shield-agent cleanup"*) ;; *) fail "nothing was said: $said" ;; esac
[ -z "$(changes)" ] || fail "left behind after a failed cleanup: $(changes)"
