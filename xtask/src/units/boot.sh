#!/bin/sh
# Boots a system of its own on top of this host's files: its own processes, mounts, cgroups and network, and systemd as its first process.
# What it writes is in memory and gone with it. Needs root.
#
# usage: boot.sh PROGRAMS UNITS HOST SCRATCH
#   PROGRAMS  a directory with the programs
#   UNITS     a directory with the units
#   HOST      what the system is called
#   SCRATCH   an empty directory, over which the system's files are mounted where only the system sees them
set -eu

# The hierarchies, as in /proc/self/cgroup, that the units' limits need.
hierarchies() {
    cut -d: -f2- /proc/self/cgroup | grep -E '^(|name=systemd|memory|pids|devices):'
}

# Where the hierarchy of "$1", controllers as in /proc/self/cgroup, is mounted.
hierarchy() {
    case "$1" in
    "") if [ -e /sys/fs/cgroup/cgroup.controllers ]; then echo /sys/fs/cgroup; else echo /sys/fs/cgroup/unified; fi ;;
    name=*) echo "/sys/fs/cgroup/${1#name=}" ;;
    *) echo "/sys/fs/cgroup/$1" ;;
    esac
}

# The new root of cgroups is the one that this process is in: one below the host's, so that systemd leaves those alone.
enter_cgroups() {
    hierarchies | while IFS=: read -r controllers path; do
        cgroup="$(hierarchy "$controllers")$path/picket-units.$$"
        mkdir "$cgroup"
        echo $$ >"$cgroup/cgroup.procs"
    done
}

mount_cgroups() {
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        mount -t cgroup2 cgroup2 "$1"
        return
    fi
    mount -t tmpfs -o mode=755 tmpfs "$1"
    hierarchies | while IFS=: read -r controllers _; do
        at="$1/$(basename "$(hierarchy "$controllers")")"
        mkdir "$at"
        case "$controllers" in
        "") mount -t cgroup2 cgroup2 "$at" ;;
        name=*) mount -t cgroup -o "none,$controllers" cgroup "$at" ;;
        *) mount -t cgroup -o "$controllers" cgroup "$at" ;;
        esac
    done
}

mount_files() {
    mount --make-rprivate /
    mount -t tmpfs -o mode=755 tmpfs "$scratch"
    mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
    mount -t overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$root"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t tmpfs -o mode=755 tmpfs "$root/dev"
    mkdir "$root/dev/pts" "$root/dev/shm"
    for device in null zero full random urandom tty; do
        touch "$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
    done
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
}

# Nothing of what the host would start, mount or set: only a journal and the two services.
write_configuration() {
    local etc="$root/etc" units="$root/etc/systemd/system"
    mkdir -p "$units/picket-agent.service.d" "$units/picket-server.service.d"
    for unit in "$root"/lib/systemd/system/*.target.wants/* "$root"/etc/systemd/system/*.target.wants/*; do
        case "${unit##*/}" in
        systemd-journald* | "*") ;;
        *) ln -sf /dev/null "$units/${unit##*/}" ;;
        esac
    done
    : >"$etc/fstab"
    echo "$host" >"$etc/hostname"
    rm -rf "$etc/picket" "$root/var/log/journal"
    mkdir "$etc/picket"
    cp "$unit_files"/picket-*.service "$units"
    # What is waited for is as in the units, but sooner.
    printf '[Service]\nRestartSec=1s\nWatchdogSec=10s\n' >"$units/picket-agent.service.d/sooner.conf"
    printf '[Service]\nRestartSec=1s\n' >"$units/picket-server.service.d/sooner.conf"
    printf '[Unit]\nWants=systemd-journald.service picket-server.service picket-agent.service\n' >"$units/picket.target"
    for program in picket picket-agent picket-server; do
        : >"$root/usr/bin/$program"
        mount --bind "$programs/$program" "$root/usr/bin/$program"
    done
}

if [ "$1" != inside ]; then
    enter_cgroups
    # Ended with whoever started it, however that ends: unshare itself does not listen to SIGTERM.
    exec setpriv --pdeathsig KILL unshare --mount --pid --cgroup --uts --ipc --net --fork --kill-child sh "$0" inside "$@"
fi

programs=$2 unit_files=$3 host=$4 scratch=$5
root=$scratch/root
mount_files
mount_cgroups "$root/sys/fs/cgroup"
write_configuration
mkdir "$root/run/host"
cd "$root"
pivot_root . run/host
umount -l run/host
# systemd puts what LoadCredential= gives into mounts that it makes elsewhere, and takes it that they come here too.
mount --make-rshared /
exec env -i container=picket PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . /lib/systemd/systemd --system --unit=picket.target --log-target=journal --show-status=no
