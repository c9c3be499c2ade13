#!/bin/bash
# Boots a virtual machine with one of Debian's kernels and systemd, installs the package in it, and looks at what it does from
# outside. Prints a line for each thing that held; ends with an error, which names the step, at the first that did not.
#
#   run.sh FOLDER KERNEL PACKAGE [IMAGE]    FOLDER as make.sh has left it; KERNEL `here`: no virtual machine, but namespaces on
#                                           this kernel (here.sh), without what takes a machine: other devices, Docker, a
#                                           reboot; IMAGE as .ci/image has left it, for the compose file;
#                                           KEEP=SECONDS to look at the machine after a failure; PATIENCE=2 doubles all
#                                           time limits, for a busy host; PARTS="docker reboot" for these alone, of
#                                           alone devices docker restart firewalls reboot logrotate purge compose;
#                                           BOOT=ipv6.disable=1 for a machine without IPv6
set -Eeuo pipefail
folder=$1 kernel=$2 package=$(realpath "$3")
image=${4:+$(realpath "$4")}
here=$(dirname "$(realpath "$0")")
cd "$folder"
outside=shield-vm-$$ inside=shield-here-$$
attacker=203.0.113.66 prober=203.0.113.67 other=198.51.100.9 attacker6=2001:db8:bad::66
banned=("$attacker" "$attacker6")
# Where nobody comes by IPv6, there is nobody to drop.
case ${BOOT:-} in *ipv6.disable=1*) banned=("$attacker") ;; esac
began=$SECONDS
step="make the network"

fail() {
    trap - ERR
    echo "FAILED after $((SECONDS - began)) s, $step: $*" >&2
    in_vm 'systemctl status shield --no-pager; journalctl -u shield -n 40 --no-pager; shield-agent status; iptables-save' >&2 || true
    in_vm 'if systemctl is-active --quiet docker; then
        timeout 60 docker ps --all; journalctl -u docker -u containerd -n 60 --no-pager; ss -ltnp; uptime; ps -eo pid,etimes,stat,wchan:20,args | grep -v "\\["
    fi' >&2 || true
    if [ -n "${KEEP:-}" ]; then
        echo "The machine goes on for $KEEP s: ip netns exec $outside ssh ${ssh_options[*]} root@192.0.2.80" >&2
        sleep "$KEEP"
    fi
    exit 1
}
# Not in subshells: what ends there ends the command here.
trap '[ "$BASHPID" != $$ ] || fail "line $LINENO: $BASH_COMMAND"' ERR
wants() { [[ " ${PARTS:-alone devices docker restart firewalls reboot logrotate purge compose} " == *" $1 "* ]]; }
held() { printf '%4d s  %s: %s\n' $((SECONDS - began)) "$step" "$*"; }
out() { ip netns exec "$outside" "$@"; }
# One connection for all commands: an emulated processor takes seconds to agree on keys.
ssh_options=(-q -i id -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=30 -o ServerAliveInterval=10
    -o "ServerAliveCountMax=$((6 * ${PATIENCE:-1}))" -o ControlMaster=auto -o "ControlPath=/tmp/$outside.ssh" -o ControlPersist=yes)
reach() {
    if [ "$kernel" = here ]; then
        nsenter --target "$first" --all env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 sh -c "cd; $*"
    else
        out ssh "${ssh_options[@]}" root@192.0.2.80 "$@"
    fi
}
in_vm() { reach "$@" </dev/null; }
hang_up() { out ssh "${ssh_options[@]}" -O exit root@192.0.2.80 2>/dev/null || true; }
# Runs something in the machine, quietly; what it said is in the error.
quietly() {
    local said
    said=$(in_vm "$@" 2>&1) || fail "$*: ended with $?: $said"
}
# Asks the agent; again where an emulated machine was too busy for an answer in time.
agent() { in_vm "for try in 1 2 3 4 5; do shield-agent $* && exit; code=\$?; sleep 2; done; exit \$code"; }
quietly_agent() {
    local said
    said=$(agent "$@" 2>&1) || fail "shield-agent $*: ended with $?: $said"
}
# wait_for SECONDS WHAT COMMAND...
wait_for() {
    local until=$((SECONDS + $1 * ${PATIENCE:-1})) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$until" ] || fail "waited in vain for $what"
        sleep 1
    done
}
# asks ADDRESS [PORT]: prints the status, 000 without an answer.
asks() {
    local url=http://192.0.2.80:${2:-80}/
    case $1 in *:*) url="http://[2001:db8:80::80]:${2:-80}/" ;; esac
    out curl -s -o /dev/null -m 5 -w '%{http_code}' --interface "$1" "$url" || true
}
is_served() { [ "$(asks "$@")" = 200 ]; }
is_dropped() { [ "$(asks "$@")" = 000 ]; }
# states IPTABLES XDP: whether the agent shows these states.
states() {
    local shown
    shown=$(in_vm 'shield-agent status' || true)
    grep -qE "^iptables +$1" <<<"$shown" && grep -qE "^xdp +$2" <<<"$shown"
}
is_protected() { states active active; }
shown() { in_vm 'shield-agent status' | grep -E '^(iptables|xdp) ' | tr -s ' ' | paste -sd';'; }
# dropped CLIENT: the packets of it that were dropped since its ban.
dropped() {
    agent bans --json | tr -d ' \n' | grep -oE "\"client\":\"$1[^{]*\"dropped\":\{[^}]*" | grep -oE '"packets":[0-9]+' | cut -d: -f2
}
# Since the agent's start, so after a restart for what is in force now.
has_counted() { in_vm 'shield-agent status || true' | grep -qE '^dropped +[1-9]'; }
counted() { in_vm 'shield-agent status || true' | grep -oE '^dropped +[0-9,]+ packets?' | sed 's/dropped *//'; }
# Whether the jump is the first rule of INPUT again, and the client's rule is behind it.
is_whole() { in_vm "iptables -S INPUT | sed -n 2p | grep -q -- '-j SHIELD' && iptables -C SHIELD -s $attacker -j DROP"; }
exposure() { in_vm 'systemd-analyze security shield --no-pager' | tail -1 | grep -oE '[Oo]verall.*[0-9]'; }
# configure XDP IPTABLES: restarts with these lines in the two sections; without any, with the package's file.
configure() {
    quietly "cp /root/shield.toml /etc/shield/shield.toml
        sed -i 's/^\[xdp\]\$/[xdp]\n${1:-}/; s/^\[iptables\]\$/[iptables]\n${2:-}/' /etc/shield/shield.toml
        systemctl restart shield"
}
# Asks without a pause, a banned client and another one in turn, until none_served. ask_on PORT...
ask_on() {
    touch "asking-$$"
    (
        trap - ERR
        served=0 asked=0 others=0 turns=0
        while [ -e "asking-$$" ]; do
            for port in "$@"; do
                # Eight at once: who is banned waits in vain.
                asked=$((asked + 8))
                codes=$(out curl -s -Z -o /dev/null -m 0.5 -w '%{http_code} ' --interface "$attacker" "http://192.0.2.80:$port/?[1-8]" 2>/dev/null || true)
                for code in $codes; do [ "$code" != 200 ] || served=$((served + 1)); done
                turns=$((turns + 1))
                code=$(out curl -s -o /dev/null -m 2 -w '%{http_code}' --interface "$other" "http://192.0.2.80:$port/" || true)
                [ "$code" != 200 ] || others=$((others + 1))
            done
        done
        echo "$served $asked $others $turns" >"answered-$$"
    ) &
    asker=$!
}
# none_served WHAT...: ends the asking.
none_served() {
    rm "asking-$$"
    wait "$asker"
    read -r served asked others turns <"answered-$$"
    [ "$served" = 0 ] || fail "nginx answered a banned client $served of $asked times"
    [ "$others" -gt 0 ] || fail "nobody was served meanwhile, of $turns requests"
    held "0 of $asked requests of the banned client answered, $others of $turns of another client${*:+; $*}"
}
# firewall-cmd gives up after 25 s; an emulated firewalld takes longer, and reloads all the same.
reload_firewalld() {
    local said
    said=$(in_vm 'firewall-cmd --reload' 2>&1) || case $said in
        *'Did not receive a reply'*) wait_for 120 "firewalld's answer after a reload" in_vm 'firewall-cmd --state' ;;
        *) fail "firewall-cmd --reload: $said" ;;
    esac
}
# probe ADDRESS: asks for what only scanners ask for.
probe() {
    local path urls=()
    for path in .env .git/config wp-login.php xmlrpc.php phpmyadmin/ .aws/credentials backup.sql .ssh/id_rsa vendor/.env cgi-bin/sh; do
        urls+=("http://192.0.2.80/$path" "http://192.0.2.80/old/$path")
    done
    for url in "${urls[@]}"; do out curl -s -o /dev/null -m 2 --interface "$1" "$url" || true; done
}

machine='' first=''
clean_up() {
    trap - ERR
    rm -f "asking-$$" "answered-$$"
    hang_up
    if [ -n "$machine" ]; then
        # The first process of its namespace: all others end with it, and here.sh cleans up.
        if [ -n "$first" ]; then kill -KILL "$first"; else kill "$machine"; fi 2>/dev/null || true
        wait "$machine" 2>/dev/null || true
    fi
    for name in "$outside" "$inside"; do ip netns del "$name" 2>/dev/null || true; done
    rm -rf "run-$$.img" "next-$$" "here-$$"
}
trap clean_up EXIT

ip netns add "$outside"
out ip link set lo up
if [ "$kernel" = here ]; then
    ip netns add "$inside"
    out ip link add tap0 type veth peer name eth0 netns "$inside"
else
    out ip tuntap add dev tap0 mode tap vnet_hdr
fi
out ip addr add 192.0.2.1/24 dev tap0
out ip -6 addr add 2001:db8:80::1/64 dev tap0 nodad
out ip link set tap0 up
for address in "$attacker" "$prober" "$other" "$attacker6"; do out ip addr add "$address" dev lo; done

step=boot
if [ "$kernel" = here ]; then
    mkdir "here-$$"
    ip netns exec "$inside" "$here/here.sh" "$PWD/root" "$PWD/here-$$" &
    machine=$!
    is_up() {
        # The last of the processes that each wait for the next.
        local last=$machine next
        while [ "$(cat "/proc/$last/comm")" != systemd ] && next=$(pgrep --parent "$last"); do last=$next; done
        [ "$(cat "/proc/$last/comm")" = systemd ] || return 1
        first=$last
        in_vm 'systemctl is-system-running --wait | grep -E "running|degraded"'
    }
    wait_for 120 "systemd" is_up
else
    # Whether the processor can virtualise, not whether there is a /dev/kvm: one that only interprets is slower than emulation.
    speed="-accel tcg,thread=multi -cpu max"
    if grep -qE '\b(vmx|svm)\b' /proc/cpuinfo; then speed="-accel kvm -cpu host"; fi
    cp --sparse=always "boot/$kernel/image" "run-$$.img"
    # AppArmor off: Docker would want a package more for it.
    # shellcheck disable=SC2086  # several words
    ip netns exec "$outside" qemu-system-x86_64 -M q35 $speed -smp 2 -m 2048 -nodefaults -display none \
        -kernel "boot/$kernel/vmlinuz" -initrd "boot/$kernel/initrd" -append "console=ttyS0 net.ifnames=0 apparmor=0 systemd.default_timeout_start_sec=600 ${BOOT:-}" \
        -drive "file=run-$$.img,format=raw,if=virtio,cache=unsafe" -netdev tap,id=net,ifname=tap0,script=no,downscript=no \
        -device virtio-net-pci,netdev=net -device virtio-rng-pci -serial "file:console-$kernel.log" \
        ${image:+-drive "file=$image,format=raw,if=virtio,readonly=on"} &
    machine=$!
    wait_for 600 "ssh" in_vm true
fi
held "Linux $(in_vm uname -r), systemd $(in_vm systemctl --version | head -1 | cut -d' ' -f2)"

step=install
# put PLACE: writes its standard input there.
put() { reach "mkdir -p $(dirname "$1") && cat >$1"; }
# README's step 1: this log, in place of the one that Debian's nginx writes.
put /etc/nginx/conf.d/shield.conf <<'X'
log_format shield escape=json
    '{"source_ip":"$remote_addr","timestamp":"$time_iso8601","method":"$request_method",'
    '"path":"$request_uri","status":$status,"response_size":$body_bytes_sent}';
access_log /var/log/nginx/access.log shield;
X
quietly "sed -i '/^[[:space:]]*access_log /d' /etc/nginx/nginx.conf"
# Debian's nginx does not start without IPv6: its own site listens there as well.
[ ${#banned[@]} -gt 1 ] || quietly "sed -i '/listen \[::\]/d' /etc/nginx/sites-enabled/default"
quietly 'nginx -t && systemctl restart nginx'
# Emulated, what takes seconds elsewhere takes minutes.
put /etc/systemd/system.conf.d/slow.conf <<'X'
[Manager]
DefaultTimeoutStartSec=600s
X
quietly 'systemctl daemon-reexec'
wait_for 60 "nginx" is_served "$attacker"
put /root/shield.deb <"$package"
quietly 'cd /root && DEBIAN_FRONTEND=noninteractive apt install --yes ./shield.deb && cp /etc/shield/shield.toml /root/'
quietly 'systemctl enable --now shield'
wait_for 300 "both enforcers" is_protected
held "$(shown)"
# Not what a busy machine adds: that it takes long, and that this is over.
lines=$(in_vm 'journalctl -u shield -o cat --no-pager' | grep -vE ' (WARN told systemd|WARN degraded|INFO recovered) ')
[ "$(wc -l <<<"$lines")" -le 12 ] || fail "a start wrote $(wc -l <<<"$lines") lines into the journal: $lines"
access=$(in_vm 'stat -c "%U:%G %a" /var/log/shield/audit.jsonl')
[ "$access" = "root:shield 640" ] || fail "the group cannot read the audit log: $access"
quietly 'systemd-analyze security --no-pager --threshold=23 shield'
# Of /sys the service writes to its own folder alone, whatever systemd makes of the unit.
# shellcheck disable=SC2016  # the shell in the machine expands it
seen=$(in_vm 'pid=$(systemctl show -P MainPID shield); cd /; for place in /sys/* /sys/fs/bpf /sys/fs/cgroup /sys/fs/bpf/shield; do
    nsenter --mount --target $pid findmnt -n -o OPTIONS -T $place | tail -1 | cut -c1-2 | sed "s|\$|$place|"; done' | grep '^rw')
[ "$seen" = rw/sys/fs/bpf/shield ] || fail "the service can write to $seen"
held "$(wc -l <<<"$lines") lines in the journal, audit log $access, $(exposure)"
said=$(in_vm 'shield-agent doctor' 2>&1) || fail "the doctor: $said"
quietly 'journalctl -u shield -n 20 --no-pager'
if [ "$kernel" != here ]; then
    out ssh "${ssh_options[@]}" -O forward -L 8080:127.0.0.1:8080 root@192.0.2.80
    [ "$(out curl -s -o /dev/null -m 30 -w '%{http_code}' http://127.0.0.1:8080/)" = 200 ] || fail "the page does not come through ssh -L"
fi
held "doctor: $(head -1 <<<"$said"); health: $(in_vm 'shield-agent health' | cut -d'|' -f1 || true)"

step="bans"
quietly_agent "ban --for 1d $attacker ${attacker6%66}/64 203.0.113.128/25"
# The command ends when the ban is recorded; the kernel has it a moment later.
for client in "${banned[@]}"; do wait_for 10 "the end of $client's answers" is_dropped "$client"; done
is_served "$other" || fail "$other is not served"
wait_for 60 "the counter of dropped packets" has_counted
held "$([ ${#banned[@]} = 1 ] || echo 'IPv6, ')IPv4, a network: no answers; $(counted) counted, $(dropped "$attacker") of them of $attacker; another client is served"
quietly_agent "ban --for 8s $other"
wait_for 5 "the end of $other's answers" is_dropped "$other"
wait_for 60 "the end of a ban of 8 s" is_served "$other"
held "a ban of 8 s ended"
probe "$prober"
wait_for 30 "a ban of who probes" is_dropped "$prober"
held "who asked for /.env and the like: $(agent bans | grep -F "$prober" | tr -s ' ')"
quietly_agent "unban $prober"
if [ ${#banned[@]} = 1 ]; then
    step="no IPv6"
    # Whoever is banned there stays recorded; nothing is missing, and nobody is alarmed by that.
    said=$(in_vm 'shield-agent status')
    # By nftables there is a table for it all the same; iptables-legacy asks through a socket that there is not.
    grep -qE '^iptables .*no IPv6' <<<"$said" || in_vm 'ip6tables -S INPUT' >/dev/null || fail "the state does not mention it: $said"
    said=$(in_vm 'shield-agent status --json' | tr -d ' \n')
    case $said in *'"state":"degraded"'*) fail "degraded: $said" ;; esac
    said=$(in_vm 'shield-agent health' 2>&1) || fail "not healthy: $said"
    said=$(in_vm 'journalctl -u shield -o cat --no-pager' | grep -iE 'ipv6|ip6tables' | grep -E ' (WARN|ERROR) ' || true)
    [ -z "$said" ] || fail "alarmed: $said"
    held "$(shown); $(in_vm 'shield-agent health' | cut -d'|' -f1)"
fi

if wants alone; then
    # Each enforcer alone: the other one would hide what it does not do.
    for mode in native generic; do
        step="XDP alone, $mode"
        configure "attach = \"$mode\"" 'mode = "off"'
        wait_for 300 "XDP in mode $mode" states off "active +$mode"
        for client in "${banned[@]}"; do is_dropped "$client" || fail "$client is served"; done
        is_served "$other" || fail "$other is not served"
        wait_for 60 "the counter of dropped packets" has_counted
        quietly_agent "ban --for 8s $other"
        wait_for 5 "the end of $other's answers" is_dropped "$other"
        wait_for 60 "the end of a ban of 8 s" is_served "$other"
        held "$(shown); no answers, $(counted) dropped; a ban of 8 s ended"
    done
    step="iptables alone"
    configure 'mode = "off"' 'mode = "on"'
    wait_for 300 "iptables" states active off
    for client in "${banned[@]}"; do is_dropped "$client" || fail "$client is served"; done
    is_served "$other" || fail "$other is not served"
    wait_for 60 "the counter of dropped packets" has_counted
    held "$(shown); no answers, $(counted) dropped"

    # docs/kernels.md has it.
    step="without CAP_DAC_READ_SEARCH"
    # shellcheck disable=SC2016  # for sed
    put /etc/systemd/system/shield.service.d/log.conf < <(sed -n '/^```ini$/,/^```$/{/^```/d;p}' "$here/../../docs/kernels.md")
    quietly 'systemctl daemon-reload'
    # Less than without it: the document may have moved.
    quietly 'systemd-analyze security --no-pager --threshold=20 shield'
    configure
    wait_for 300 "both enforcers" is_protected
    probe "$prober"
    wait_for 30 "a ban of who probes" is_dropped "$prober"
    held "$(exposure); a ban from nginx's log"
    quietly_agent "unban $prober"
    quietly 'rm -r /etc/systemd/system/shield.service.d && systemctl daemon-reload'
fi

if [ "$kernel" != here ] && wants devices; then
    # What else a server's uplink can be, over a veth pair to a namespace inside the machine: the kernel outside may know none of them.
    # on_device KIND DEVICE COMMANDS: these make `up0` over eth1; DEVICE is what the other side has.
    quietly 'modprobe -a veth 8021q bonding bridge macvlan && ip netns add peer && ip link add eth1 type veth peer name peer0 netns peer &&
        ip -n peer link add link peer0 name peer5 type vlan id 5 && ip -n peer link set peer0 up && ip -n peer link set peer5 up'
    on_device() {
        step="XDP on a $1"
        quietly "$3 && ip link set eth1 up && ip link set up0 up && ip addr add 198.18.0.80/24 dev up0
            for host in 1 66 67; do ip -n peer addr add 198.18.0.\$host/24 dev $2; done"
        gets() { [ "$(in_vm "ip netns exec peer curl -s -o /dev/null -m 5 -w '%{http_code}' --interface 198.18.0.$1 http://198.18.0.80/" || true)" = "$2" ]; }
        wait_for 60 "an answer before the ban" gets 66 200
        configure 'interfaces = ["up0"]' 'mode = "off"'
        wait_for 300 "XDP on it" states off active
        quietly_agent 'ban --for 1d 198.18.0.66'
        wait_for 30 "an end of the answers" gets 66 000
        gets 67 200 || fail "198.18.0.67 is not served"
        held "$(shown); no answers; another client is served"
        quietly_agent 'unban 198.18.0.66'
        quietly "ip link del up0; ip -n peer addr flush dev $2"
    }
    on_device VLAN peer5 'ip link add link eth1 name up0 type vlan id 5'
    on_device bridge peer0 'ip link add up0 type bridge && ip link set eth1 master up0'
    on_device macvlan peer0 'ip link add link eth1 name up0 type macvlan mode bridge'
    on_device bond peer0 'ip link add up0 type bond mode active-backup miimon 100 && ip link set eth1 down && ip link set eth1 master up0'
    quietly 'ip netns del peer'
    # What carries no Ethernet frames is refused with words, and iptables goes on.
    refused_on() {
        step="XDP on $1"
        quietly "$2 && ip link set up0 up"
        configure 'interfaces = ["up0"]'
        wait_for 300 "iptables alone" states active degraded
        said=$(in_vm 'shield-agent status | grep "^xdp " -A 2' | tr -s ' \n' ' ')
        case $said in *'up0: it carries no Ethernet frames'*) ;; *) fail "the state does not say why: $said" ;; esac
        is_dropped "$attacker" || fail "$attacker is served"
        held "${said:0:120}"
        quietly 'ip link del up0'
    }
    refused_on WireGuard 'modprobe wireguard && ip link add up0 type wireguard'
    refused_on 'a tunnel (GRE)' 'modprobe ip_gre && ip link add up0 type gre local 192.0.2.80 remote 192.0.2.1'
    refused_on 'a tun device' 'modprobe tun && ip tuntap add dev up0 mode tun'
fi

if [ "$kernel" != here ] && wants docker; then
    # What passes FORWARD is iptables' own to drop.
    configure 'mode = "off"'
    wait_for 120 "iptables alone" states active off

    step="Docker"
    # An image without a registry: busybox and nothing else.
    quietly 'mkdir -p /root/web/bin && cp /bin/busybox /root/web/bin/ && echo hello >/root/web/index.html &&
        systemctl enable --now docker && tar -C /root/web -c . | docker import - web &&
        docker run --detach --restart always --publish 8081:80 --name web web /bin/busybox httpd -f -p 80 -h /'
    wait_for 120 "the container" is_served "$other" 8081
    wait_for 60 "an end of the container's answers" is_dropped "$attacker" 8081
    held "published port: $(shown)"
    ask_on 8081
    quietly 'systemctl restart docker'
    wait_for 120 "the container after the restart" is_served "$other" 8081
    none_served "systemctl restart docker, with iptables alone"
    published=8081
fi

configure
wait_for 300 "both enforcers" is_protected

if wants restart; then
    step="systemctl restart"
    ask_on 80
    quietly 'systemctl restart shield'
    wait_for 300 "both enforcers" is_protected
    none_served
    step="kill -9"
    ask_on 80
    quietly 'systemctl kill --signal=KILL shield'
    wait_for 300 "both enforcers" is_protected
    none_served
    step="upgrade"
    dpkg-deb --raw-extract "$package" "next-$$"
    sed -i 's/^Version: .*/&+next/' "next-$$/DEBIAN/control"
    dpkg-deb --root-owner-group -Zgzip -z1 --build "next-$$" "next-$$/next.deb" >/dev/null
    put /root/next.deb <"next-$$/next.deb"
    ask_on 80
    quietly 'DEBIAN_FRONTEND=noninteractive dpkg --install /root/next.deb'
    wait_for 300 "both enforcers" is_protected
    none_served "now $(in_vm "dpkg-query -W -f '\${Version}' shield")"
fi

if wants firewalls; then
    step="ufw"
    ask_on 80
    quietly 'ufw allow 22/tcp && ufw allow 80/tcp && ufw --force enable'
    since=$SECONDS
    wait_for 90 "iptables after ufw enable" is_whole
    quietly 'ufw reload'
    wait_for 90 "iptables after ufw reload" is_whole
    quietly 'ufw disable'
    wait_for 90 "iptables after ufw disable" is_whole
    none_served "enable, reload, disable: the jump is first again ($((SECONDS - since)) s for all)"
    step="firewalld"
    ask_on 80
    for backend in nftables iptables; do
        quietly "sed -i 's/^FirewallBackend=.*/FirewallBackend=$backend/' /etc/firewalld/firewalld.conf && systemctl restart firewalld"
        wait_for 90 "iptables after the start of firewalld" is_whole
        reload_firewalld
        wait_for 90 "iptables after firewall-cmd --reload" is_whole
        held "$backend: started, reloaded; the jump is first again"
    done
    quietly 'systemctl stop firewalld'
    wait_for 90 "iptables after the end of firewalld" is_whole
    none_served "both backends"
    step="nft flush ruleset"
    ask_on 80
    quietly 'nft flush ruleset'
    since=$SECONDS
    wait_for 90 "iptables" is_whole
    none_served "whole again after $((SECONDS - since)) s"
fi

if [ "$kernel" != here ] && wants reboot; then
    step="reboot"
    boot=$(in_vm cat /proc/sys/kernel/random/boot_id)
    # The rules of the ruleset that was flushed are Docker's too: it makes them anew at its start.
    # shellcheck disable=SC2086  # several ports
    ask_on 80 ${published:-}
    in_vm 'systemctl reboot' || true
    hang_up
    is_booted() {
        local now
        now=$(in_vm cat /proc/sys/kernel/random/boot_id) && [ -n "$now" ] && [ "$now" != "$boot" ]
    }
    sleep 5
    wait_for 600 "another boot" is_booted
    wait_for 300 "nginx for another client" is_served "$other"
    [ -z "${published:-}" ] || wait_for 300 "the container for another client" is_served "$other" "$published"
    wait_for 300 "both enforcers" is_protected
    none_served "of nginx${published:+ and of the container}"
fi

if wants logrotate; then
    step="logrotate"
    quietly 'logrotate --force /etc/logrotate.d/shield; logrotate --force /etc/logrotate.d/nginx'
    quietly_agent "ban --for 1h 203.0.113.68"
    files=$(in_vm 'ls /var/log/shield')
    [ "$(grep -c '^audit.jsonl' <<<"$files")" = 2 ] || fail "of the audit log there is $files"
    quietly 'test -s /var/log/shield/audit.jsonl'
    quietly_agent 'audit verify'
    access=$(in_vm 'stat -c "%U:%G %a" /var/log/shield/audit.jsonl')
    [ "$access" = "root:shield 640" ] || fail "the group cannot read the new audit log: $access"
    quietly 'nginx -s reopen'
    probe "$prober"
    wait_for 60 "a ban of who probes, read from nginx's new log" is_dropped "$prober"
    held "$(paste -sd' ' <<<"$files"); the record verifies; a ban from nginx's new log"
fi

if wants purge; then
    step="remove and purge"
    quietly 'systemctl stop shield'
    is_dropped "$attacker" || fail "$attacker is served by a stop"
    quietly 'shield-agent cleanup'
    is_served "$attacker" || fail "$attacker is not served after the cleanup"
    quietly 'systemctl start shield'
    wait_for 300 "both enforcers" is_protected
    is_dropped "$attacker" || fail "$attacker is served after a cleanup and a start"
    quietly 'DEBIAN_FRONTEND=noninteractive apt remove --yes shield'
    is_served "$attacker" || fail "$attacker is not served after the removal"
    quietly 'test -e /etc/shield/shield.toml && test -e /var/lib/shield'
    quietly 'DEBIAN_FRONTEND=noninteractive apt purge --yes shield'
    left=$(in_vm 'ls -d /etc/shield /var/lib/shield /var/log/shield /run/shield /sys/fs/bpf/shield /usr/bin/shield-agent 2>/dev/null; iptables-save | grep -i shield; ip6tables-save | grep -i shield; ip -d link | grep xdp; ipset list -n | grep -i shield' || true)
    [ -z "$left" ] || fail "left behind: $left"
    is_served "$attacker" || fail "$attacker is not served"
    held "nothing is left, and who was banned is served"
fi

if [ -n "$image" ] && wants compose; then
    step="compose"
    put /root/packaging.tar < <(tar -C "$here/../.." -c packaging)
    # The image is the second disk. In place of nginx's and Prometheus's, which would come from a registry: Debian's programs, as
    # each of the two images starts its own.
    put /root/images.sh <<'X'
set -e
tar -xf /root/packaging.tar
systemctl stop nginx
systemctl start docker
# image NAME CHANGE FILE...: of these files and the libraries of the programs among them.
image() {
    name=$1 change=$2
    shift 2
    rm -rf /root/image
    for file in "$@" $(ldd "$@" 2>/dev/null | grep -oE '/[^ :]+ ' | sort -u); do install -D "$file" "/root/image$file"; done
    mkdir -p /root/image/tmp /root/image/var/lib/nginx /root/image/var/log/nginx /root/image/run /root/image/etc/nginx/conf.d /root/image/prometheus
    printf 'worker_processes 1;\nevents {}\nhttp { include mime.types; include conf.d/*.conf; }\n' >/root/image/etc/nginx/nginx.conf
    tar -C /root/image -c . | docker import --change "$change" - "$name"
}
image nginx:stable 'CMD ["nginx", "-g", "daemon off;"]' /usr/sbin/nginx /etc/nginx/mime.types /etc/passwd /etc/group /usr/share/nginx/html/index.html
image prom/prometheus:latest 'ENTRYPOINT ["/usr/bin/prometheus"]' /usr/bin/prometheus
docker load --quiet --input /dev/vdb | sed 's/^Loaded image[^:]*: *//' | tail -1 >/root/image.name
cat >/usr/local/bin/compose <<'Y'
#!/bin/sh
# Debian 12's Docker does not know the two.
export SHIELD_IMAGE=$(cat /root/image.name) SHIELD_BPF=SYS_ADMIN SHIELD_PERFMON=CAP_SYS_ADMIN COMPOSE_HTTP_TIMEOUT=600
exec docker-compose --file /root/packaging/container/compose.yaml --project-name shield "$@"
Y
chmod +x /usr/local/bin/compose
X
    quietly 'bash /root/images.sh && compose config --quiet && compose up --detach'
    wait_for 120 "nginx in its container" is_served "$other"
    held "up: $(in_vm 'compose exec -T shield shield-agent health | cut -d"|" -f1'), and then nginx; root in the container has $(in_vm 'compose exec -T shield grep CapEff /proc/self/status')"
    quietly "compose exec -T shield shield-agent ban --for 1d $attacker ${attacker6%66}/64"
    for client in "${banned[@]}"; do wait_for 30 "the end of $client's answers" is_dropped "$client"; done
    is_served "$other" || fail "$other is not served"
    probe "$prober"
    wait_for 60 "a ban of who probes, read from nginx's container" is_dropped "$prober"
    said=$(in_vm 'touch /x; compose exec -T shield touch /x' 2>&1) && fail "the root file system of the container can be written"
    case $said in *ead-only*) ;; *) fail "written: $said" ;; esac
    up=$(in_vm "for try in \$(seq 60); do curl -s 'http://127.0.0.1:9090/api/v1/query?query=up' | grep -o '\"1\"' && exit; sleep 1; done; exit 1")
    held "banned by hand and by the log: no answers; the root is read-only; Prometheus's \`up\` is $up"
    ask_on 80
    quietly 'compose restart shield'
    wait_for 300 "the agent" in_vm 'compose exec -T shield shield-agent health --only-critical'
    none_served "compose restart shield"
    quietly 'compose stop shield'
    quietly 'compose run --rm shield cleanup'
    is_served "$attacker" || fail "$attacker is not served"
    quietly 'compose down --volumes'
    left=$(in_vm 'ls -d /sys/fs/bpf/shield 2>/dev/null; iptables-save | grep -i shield; ip6tables-save | grep -i shield; ip -d link | grep xdp' || true)
    [ -z "$left" ] || fail "left behind: $left"
    held "cleanup and down: nothing is left, and who was banned is served"
fi
echo "Linux $kernel: all held, $((SECONDS - began)) s"
