#!/bin/sh
# Undoes packaging/install.sh: stops the agent, takes everything of Shield out of the kernel, removes the files. What it
# has learned and written (/var/lib/shield, /var/log/shield) and your config stay, unless --purge is given.
#
#   sudo packaging/uninstall.sh [--purge]
set -eu
case "${1:-}" in
    "" | --purge) ;;
    *) echo "unknown option $1: only --purge is known" >&2; exit 2 ;;
esac

if [ -d /run/systemd/system ] && systemctl cat shield.service >/dev/null 2>&1; then
    echo "stop    shield.service"
    systemctl disable --now shield.service || echo "could not stop shield.service" >&2
fi
# An agent that was started by hand refuses the cleanup, and a broken one cannot do it: neither may prevent the removal.
is_clean=yes
if [ -x /usr/bin/shield-agent ]; then
    echo "clean   the kernel: chains, sets, XDP"
    /usr/bin/shield-agent cleanup || is_clean=no
fi
for place in /usr/bin/shield-agent /usr/lib/systemd/system/shield.service /usr/lib/sysusers.d/shield.conf \
    /usr/lib/tmpfiles.d/shield.conf /etc/logrotate.d/shield /usr/share/doc/shield /usr/share/man/man1/shield-agent*.1.gz \
    /usr/share/bash-completion/completions/shield-agent /usr/share/zsh/site-functions/_shield-agent \
    /usr/share/fish/vendor_completions.d/shield-agent.fish /run/shield; do
    if [ -e "$place" ]; then
        echo "remove  $place"
        rm -rf "$place"
    fi
done
if [ "${1:-}" = --purge ]; then
    echo "remove  /etc/shield /var/lib/shield /var/log/shield, group shield"
    rm -rf /etc/shield /var/lib/shield /var/log/shield
    if getent group shield >/dev/null; then groupdel shield; fi
fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
if [ "$is_clean" = no ]; then
    echo "could not take Shield's rules out of the kernel: they stay there until the next boot." >&2
    echo "Stop every shield-agent that still runs. To clean up, install Shield again, then:" >&2
    echo "  shield-agent cleanup" >&2
    exit 1
fi
