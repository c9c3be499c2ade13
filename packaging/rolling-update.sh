#!/bin/bash
# Updates several hosts, one after the other. A host that is not healthy with the new version gets the old one back, and those after it
# are not touched. Bans stay in the kernel meanwhile.
#
#   rolling-update.sh [--healthy-within SECS] [--soak SECS] NEW.deb OLD.deb HOST...
#
# NEW.deb is installed; OLD.deb, which is the version that the hosts have, is installed again where that fails. A host may take
# --healthy-within (60) to be healthy, and has to stay so for --soak (30) before the next one's turn.
#
# Hosts are reached with `ssh root@HOST COMMAND`; `VIA` names another program, which is called with HOST and COMMAND.
set -euo pipefail

healthy_within=60 soak=30
while [ $# -gt 0 ]; do
    case $1 in
        --healthy-within) healthy_within=$2; shift 2 ;;
        --soak) soak=$2; shift 2 ;;
        --*) echo "unknown option $1" >&2; exit 2 ;;
        *) break ;;
    esac
done
[ $# -ge 3 ] || { sed -n '2,/^$/{s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
new=$1 old=$2
shift 2

on() { # HOST COMMAND
    if [ -n "${VIA:-}" ]; then "$VIA" "$1" "$2"; else ssh -o BatchMode=yes "root@$1" "$2"; fi
}
say() { echo "$host: $*"; }
give_up() { echo "$host: $*" >&2; exit 1; }
version_of() { dpkg-deb --field "$1" Version; }
is_healthy() { on "$host" 'shield-agent health --only-critical' </dev/null; }
# The last answer is the reason.
becomes_healthy() {
    local until=$((SECONDS + healthy_within))
    until health=$(is_healthy 2>&1); do
        [ "$SECONDS" -lt "$until" ] || return 1
        sleep 1
    done
}
stays_healthy() {
    local until=$((SECONDS + soak))
    while [ "$SECONDS" -lt "$until" ]; do
        health=$(is_healthy 2>&1) || return 1
        sleep 1
    done
}
put() { on "$host" "install -d -m 0700 /run/shield-update && cat >/run/shield-update/$2.deb" <"$1"; }
install_() { on "$host" "DEBIAN_FRONTEND=noninteractive dpkg --force-confold --install /run/shield-update/$1.deb" </dev/null 2>&1; }

# Nothing is begun where something is wrong already: with a host that is down nobody could tell what the update did.
for host in "$@"; do
    is_healthy >/dev/null || give_up "is not healthy before the update; nothing was changed"
    has=$(on "$host" "dpkg-query --show --showformat '\${Version}' shield" </dev/null)
    [ "$has" = "$(version_of "$old")" ] || give_up "has version $has, and $old is $(version_of "$old"): it could not go back; nothing was changed"
done

for host in "$@"; do
    put "$new" new
    put "$old" old
    # What refuses the host's own configuration is not installed.
    said=$(on "$host" 'set -e; cd /run/shield-update; rm -rf tried; dpkg-deb --extract new.deb tried
        tried/usr/bin/shield-agent check --warn-only --config /etc/shield/shield.toml' </dev/null 2>&1) ||
        give_up "the new version refuses its configuration, and was not installed: $said"
    say "installs $(version_of "$new")"
    failed=
    if ! said=$(install_ new); then
        failed="could not be installed: $said"
    elif ! becomes_healthy; then
        failed="was not healthy within $healthy_within s: $health"
    elif ! stays_healthy; then
        failed="did not stay healthy: $health"
    fi
    if [ -n "$failed" ]; then
        echo "$host: the new version $failed" >&2
        # `restart`: where the new one has ended for good, an installation alone starts nothing.
        said=$(install_ old && on "$host" 'systemctl restart shield.service' </dev/null 2>&1) || echo "$host: $said" >&2
        becomes_healthy || give_up "has $(version_of "$old") again and is not healthy: $health"
        give_up "has $(version_of "$old") again and is healthy; the hosts after it were not touched"
    fi
    on "$host" 'rm -rf /run/shield-update' </dev/null
    say "healthy: $health"
done
echo "all hosts have $(version_of "$new")"
