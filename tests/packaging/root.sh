# Sourced by the scripts beside it: a root that is thrown away, this machine's own seen through an overlay in a mount and network
# namespace that end with the script. Makes it in FOLDER ($1), with the workspace's packaging and the agent in /mnt.
scratch=$1/scratch
mkdir "$scratch"
mount -t tmpfs shield-test "$scratch"
mkdir "$scratch/changed" "$scratch/work" "$scratch/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/changed,workdir=$scratch/work" "$scratch/root"
root=$scratch/root
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -t tmpfs shield-test "$root/run"
mount -t tmpfs shield-test "$root/mnt"

in_root() { chroot "$root" "$@"; }
# Everything that differs from before, but for the lists of groups, whose text changes and whose content is asked for, and for what
# dpkg writes for itself.
changes() {
    (cd "$scratch/changed" && find . ! -type d ! -path './etc/g*' ! -path ./etc/.pwd.lock ! -path './var/lib/dpkg/*' \
        ! -path './var/log/dpkg.log' ! -path './var/log/alternatives.log' ! -path './var/cache/*' ! -path './var/lib/systemd/*' | sort)
}
fail() {
    echo "$*" >&2
    exit 1
}
