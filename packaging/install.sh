#!/bin/sh
# Installs what `cargo xtask build` has built, on a machine without dpkg. Says each step first; a second run changes
# nothing that is as it should be, and never touches a config file that is there. Undo: packaging/uninstall.sh.
#
#   sudo packaging/install.sh [PREFIX]      PREFIX is put before every path, for building images; default: none
set -eu
here=$(cd "$(dirname "$0")" && pwd)
prefix=${1:-}
agent=$here/../target/release/shield-agent

if [ ! -x "$agent" ]; then
    echo "$agent is not there: run \`cargo xtask build\` first" >&2
    exit 1
fi

put() { # MODE SOURCE PLACE
    if cmp -s "$2" "$prefix$3"; then
        return
    fi
    echo "install $3"
    install -D -m "$1" "$2" "$prefix$3"
}

put 0755 "$agent" /usr/bin/shield-agent
put 0644 "$here/shield.service" /usr/lib/systemd/system/shield.service
put 0644 "$here/sysusers.conf" /usr/lib/sysusers.d/shield.conf
put 0644 "$here/tmpfiles.conf" /usr/lib/tmpfiles.d/shield.conf
put 0644 "$here/../README.md" /usr/share/doc/shield/README.md
# What the agent makes of its own command line: manual pages, and completions where each shell looks for them.
described=$(mktemp -d)
trap 'rm -rf "$described"' EXIT
mkdir "$described/manual"
"$agent" manual "$described/manual" >/dev/null
gzip -9n "$described/manual"/*
for page in "$described/manual"/*; do
    put 0644 "$page" "/usr/share/man/man1/${page##*/}"
done
for pair in bash:bash-completion/completions/shield-agent zsh:zsh/site-functions/_shield-agent fish:fish/vendor_completions.d/shield-agent.fish; do
    "$agent" completions "${pair%%:*}" >"$described/completions"
    put 0644 "$described/completions" "/usr/share/${pair#*:}"
done
for pair in shield.toml:/etc/shield/shield.toml logrotate:/etc/logrotate.d/shield; do
    place=${pair#*:}
    if [ -e "$prefix$place" ]; then
        cmp -s "$here/${pair%%:*}" "$prefix$place" || echo "keep    $place (yours)"
    else
        put 0640 "$here/${pair%%:*}" "$place"
    fi
done
for rules in "$here"/policy/*.rego; do
    place=/etc/shield/policy/${rules##*/}
    if [ -e "$prefix$place" ]; then
        cmp -s "$rules" "$prefix$place" || echo "keep    $place (yours)"
    else
        put 0640 "$rules" "$place"
    fi
done
chmod 0644 "$prefix/etc/logrotate.d/shield"

if [ -n "$prefix" ]; then
    exit 0
fi
if ! getent group shield >/dev/null; then
    echo "create  group shield (may use the control socket)"
    groupadd --system shield
fi
# Members may read the config, for `shield-agent check`. A group that an operator chose stays.
if [ "$(stat -c %G /etc/shield/shield.toml)" = root ]; then
    chgrp shield /etc/shield/shield.toml
fi
if command -v systemd-tmpfiles >/dev/null; then
    systemd-tmpfiles --create shield.conf
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl try-restart shield.service
fi
echo "done. Look at /etc/shield/shield.toml, then: systemctl enable --now shield"
