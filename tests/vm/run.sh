#!/bin/bash
# Boots a virtual machine with one of Debian's kernels and systemd, installs the package in it, and looks at what it does from
# outside. Prints a line for each thing that held; ends with an error at the first that did not.
#
#   run.sh FOLDER KERNEL PACKAGE        FOLDER as make.sh has left it
set -euo pipefail
folder=$1 kernel=$2 package=$3
cd "$folder"
outside=shield-vm-$$
attacker=203.0.113.66 other=198.51.100.9 attacker6=2001:db8:bad::66
began=$SECONDS

fail() {
    echo "FAILED after $((SECONDS - began)) s: $*" >&2
    in_vm 'systemctl status shield --no-pager; journalctl -u shield -n 40 --no-pager; shield-agent status' >&2 || true
    exit 1
}
held() { printf '%4d s  %s\n' $((SECONDS - began)) "$*"; }
out() { ip netns exec "$outside" "$@"; }
in_vm() {
    out ssh -q -i id -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=5 root@192.0.2.80 "$@"
}
# wait_for SECONDS WHAT COMMAND...
wait_for() {
    local until=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$until" ] || fail "waited in vain for $what"
        sleep 1
    done
}
# asks ADDRESS: prints the status, 000 without an answer.
asks() {
    local url=http://192.0.2.80/
    case $1 in *:*) url='http://[2001:db8:80::80]/' ;; esac
    out curl -s -o /dev/null -m 3 -w '%{http_code}' --interface "$1" "$url" || true
}
is_served() { [ "$(asks "$1")" = 200 ]; }
is_dropped() { [ "$(asks "$1")" = 000 ]; }
state_is() { in_vm "shield-agent status" | grep -qE "^$1 +$2"; }
is_protected() { state_is iptables active && state_is xdp active; }
# Asks without a pause for as long as the file is there, and writes how often nginx answered.
ask_on() {
    touch asking
    (
        served=0 asked=0
        while [ -e asking ]; do
            asked=$((asked + 1))
            code=$(out curl -s -o /dev/null -m 0.5 -w '%{http_code}' --interface "$attacker" http://192.0.2.80/) || true
            [ "$code" != 200 ] || served=$((served + 1))
        done
        echo "$served $asked" >answered
    ) &
    asker=$!
}
# none_served WHAT
none_served() {
    rm asking
    wait "$asker"
    read -r served asked <answered
    [ "$served" = 0 ] || fail "$1: nginx answered a banned client $served of $asked times"
    held "$1: 0 of $asked requests of the banned client answered"
}

machine=
clean_up() {
    rm -f asking
    [ -z "$machine" ] || kill "$machine" 2>/dev/null || true
    ip netns del "$outside" 2>/dev/null || true
    rm -f "run-$$.img"
}
trap clean_up EXIT

ip netns add "$outside"
out ip link set lo up
out ip tuntap add dev tap0 mode tap vnet_hdr
out ip addr add 192.0.2.1/24 dev tap0
out ip -6 addr add 2001:db8:80::1/64 dev tap0 nodad
out ip link set tap0 up
for address in "$attacker" "$other" "$attacker6"; do out ip addr add "$address" dev lo; done

# Whether the processor can virtualise, not whether there is a /dev/kvm: one that only interprets is slower than emulation.
speed="-accel tcg,thread=multi -cpu max"
if grep -qE '\b(vmx|svm)\b' /proc/cpuinfo; then speed="-accel kvm -cpu host"; fi
cp --sparse=always "boot/$kernel/image" "run-$$.img"
# shellcheck disable=SC2086  # several words
ip netns exec "$outside" qemu-system-x86_64 -M q35 $speed -smp 2 -m 1536 -nodefaults -display none \
    -kernel "boot/$kernel/vmlinuz" -initrd "boot/$kernel/initrd" -append "console=ttyS0 net.ifnames=0" \
    -drive "file=run-$$.img,format=raw,if=virtio,cache=unsafe" -netdev tap,id=net,ifname=tap0,script=no,downscript=no \
    -device virtio-net-pci,netdev=net -device virtio-rng-pci -serial "file:console-$kernel.log" &
machine=$!
wait_for 400 "ssh" in_vm true
held "Linux $(in_vm uname -r), systemd $(in_vm systemctl --version | head -1 | cut -d' ' -f2)"
wait_for 60 "nginx" is_served "$attacker"

out scp -q -i id -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "$package" root@192.0.2.80:/root/shield.deb
in_vm 'DEBIAN_FRONTEND=noninteractive dpkg --install /root/shield.deb' >/dev/null || fail "the package does not install"
in_vm 'systemctl enable --now shield' 2>/dev/null || fail "the unit does not start"
wait_for 120 "both enforcers" is_protected
held "installed and started: $(in_vm shield-agent status | grep -E '^(iptables|xdp) ' | tr -s ' ' | paste -sd';')"
lines=$(in_vm 'journalctl -u shield -o cat --no-pager' | wc -l)
[ "$lines" -le 12 ] || fail "a start wrote $lines lines into the journal"
held "lines in the journal at a start: $lines"
in_vm 'stat -c "%U:%G %a" /var/log/shield/audit.jsonl' | grep -q '^root:shield 640' || fail "the group cannot read the audit log"

in_vm "shield-agent ban --for 15m $attacker ${attacker6%66}/64 203.0.113.128/25" >/dev/null
for client in "$attacker" "$attacker6"; do is_dropped "$client" || fail "$client is served"; done
is_served "$other" || fail "$other is not served"
held "banned, IPv4, IPv6 and a network: no answers; another client is served"
in_vm "shield-agent ban --for 5s $other" >/dev/null
is_dropped "$other" || fail "$other is served"
wait_for 30 "the end of a ban of 5 s" is_served "$other"
held "a ban of 5 s ended"

ask_on
in_vm 'systemctl restart shield'
wait_for 120 "both enforcers after a restart" is_protected
none_served "systemctl restart"
ask_on
in_vm 'systemctl kill --signal=KILL shield'
wait_for 120 "both enforcers after kill -9" is_protected
none_served "kill -9"
ask_on
in_vm 'DEBIAN_FRONTEND=noninteractive dpkg --install /root/shield.deb' >/dev/null
wait_for 120 "both enforcers after an upgrade" is_protected
none_served "upgrade of the package"

ask_on
in_vm 'systemctl reboot' || true
sleep 5
wait_for 400 "another client after the reboot" is_served "$other"
wait_for 120 "both enforcers after the reboot" is_protected
none_served "reboot"

in_vm 'DEBIAN_FRONTEND=noninteractive dpkg --purge shield' >/dev/null
left=$(in_vm 'ls -d /etc/shield /var/lib/shield /var/log/shield /run/shield /sys/fs/bpf/shield /usr/bin/shield-agent 2>/dev/null; iptables-save | grep -i shield; ip -d link | grep xdp' || true)
[ -z "$left" ] || fail "purged, and left behind: $left"
is_served "$attacker" || fail "purged, and $attacker is not served"
held "purged: nothing is left, and the client is served"
