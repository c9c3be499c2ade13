#!/bin/bash
# Makes what a virtual machine boots from: a root file system of Debian 12 as an image, a kernel of Debian's, and an initrd. Keeps
# in FOLDER what it has made once. Needs root, debootstrap, mkfs.ext4, ssh-keygen and a mirror.
#
#   make.sh FOLDER KERNEL MIRROR        KERNEL is 5.10, 6.1 or 6.12, or `here` for the root file system alone
set -euo pipefail
script=$(realpath "$0")
folder=$1 kernel=$2 mirror=$3
case $kernel in
    5.10) suite=bullseye ;;
    6.1) suite=bookworm ;;
    6.12) suite=trixie ;;
    here) suite= ;;
    *) echo "unknown kernel $kernel: 5.10, 6.1, 6.12 and here are known" >&2; exit 2 ;;
esac
mkdir -p "$folder"
cd "$folder"

packages="nginx-light iptables ipset nftables ufw firewalld docker.io docker-compose prometheus"
# What was made from other packages, or by another version of this script, is made anew.
want="$packages $(sha256sum <"$script")"
if [ "$(cat root.done 2>/dev/null)" != "$want" ]; then
    rm -rf root boot
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,udev,kmod,iproute2,curl,procps,logrotate,openssh-server,libpam-systemd,netbase,ifupdown,busybox-static,ca-certificates \
        bookworm root "$mirror" >debootstrap.log
    printf '#!/bin/sh\nexit 101\n' >root/usr/sbin/policy-rc.d
    chmod +x root/usr/sbin/policy-rc.d
    cp /etc/resolv.conf root/etc/
    # shellcheck disable=SC2086  # several words
    DEBIAN_FRONTEND=noninteractive chroot root apt-get install -y -q --no-install-recommends $packages >apt.log 2>&1
    chroot root apt-get clean
    rm root/usr/sbin/policy-rc.d
    # Each of them is started when its turn comes.
    systemctl --root=root --quiet disable ufw firewalld docker.service docker.socket containerd prometheus
    chroot root firewall-offline-cmd --quiet --add-service=http --add-service=ssh
    echo 'nameserver 192.0.2.1' >root/etc/resolv.conf
    rm -f id id.pub
    ssh-keygen -q -t ed25519 -N '' -f id
    install -D -m 600 id.pub root/root/.ssh/authorized_keys
    echo web >root/etc/hostname
    printf '127.0.0.1 localhost web\n::1 localhost\n' >root/etc/hosts
    echo '/dev/vda / ext4 defaults,noatime 0 1' >root/etc/fstab
    cat >root/etc/network/interfaces <<'X'
auto lo
iface lo inet loopback
auto eth0
iface eth0 inet static
    address 192.0.2.80/24
    gateway 192.0.2.1
iface eth0 inet6 static
    address 2001:db8:80::80/64
    gateway 2001:db8:80::1
    dad-attempts 0
X
    for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer; do
        ln -sf /dev/null "root/etc/systemd/system/$unit"
    done
    echo "$want" >root.done
fi

[ -n "$suite" ] || exit 0
boot=boot/$kernel
[ ! -e "$boot/done" ] || exit 0
rm -rf "$boot" unpacked
mkdir -p "$boot" unpacked
# The newest kernel for clouds: small, and with the drivers of a virtual machine.
file=$(curl -fsS "$mirror/dists/$suite/main/binary-amd64/Packages.xz" | xz -dc | sed -n 's/^Filename: //p' |
    grep -E "/linux-image-${kernel}[.0-9]*[-+][^_]*cloud-amd64-unsigned_" | sort -V | tail -1)
curl -fsS -o kernel.deb "$mirror/$file"
dpkg-deb -x kernel.deb unpacked
modules=$(dirname "$(find unpacked -path '*/modules/*' -name modules.builtin)")
version=$(basename "$modules")
rm -rf root/lib/modules
mkdir -p root/lib/modules
cp -a "$modules" root/lib/modules/
chroot root depmod "$version"
cp "$(find unpacked -name 'vmlinuz*' | head -1)" "$boot/vmlinuz"

initrd=$(mktemp -d)
mkdir -p "$initrd"/{bin,proc,sys,dev,m,new}
cp root/bin/busybox "$initrd/bin/"
{
    echo '#!/bin/busybox sh'
    echo '/bin/busybox mount -t proc p /proc; /bin/busybox mount -t sysfs s /sys; /bin/busybox mount -t devtmpfs d /dev'
    for module in virtio_pci virtio_blk virtio_net ext4 crc32c_generic; do
        chroot root modprobe -S "$version" --show-depends "$module" 2>/dev/null || true
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r path; do
        name=$(basename "$path" .xz)
        case $path in *.xz) xz -dc "root$path" >"$initrd/m/$name" ;; *) cp "root$path" "$initrd/m/$name" ;; esac
        echo "/bin/busybox insmod /m/$name"
    done
    echo '/bin/busybox mount -o rw,noatime -t ext4 /dev/vda /new; /bin/busybox umount /proc /sys'
    echo 'exec /bin/busybox switch_root /new /sbin/init'
} >"$initrd/init"
chmod +x "$initrd/init"
(cd "$initrd" && find . | "$OLDPWD/root/bin/busybox" cpio -o -H newc 2>/dev/null | gzip -1) >"$boot/initrd"
rm -rf "$initrd" unpacked kernel.deb
truncate -s 4G "$boot/image"
mkfs.ext4 -q -F -d root "$boot/image"
touch "$boot/done"
