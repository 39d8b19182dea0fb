# shellcheck shell=bash
# A Debian 12 root file system and the disk made of it. Sourced by scripts/guest-image, after common.sh. Nothing is
# mounted and nothing outside the given folder is changed.

DEBIAN_SUITE=bookworm
DEBIAN_PACKAGES=(systemd-sysv udev dbus openssh-server iproute2 iputils-ping kmod e2fsprogs ca-certificates less)

# What a guest has no use for, and what takes long where hardware is emulated.
DEBIAN_MASKED=(apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service
    fstrim.timer systemd-pstore.service systemd-hwdb-update.service systemd-journal-catalog-update.service
    systemd-update-utmp-runlevel.service sys-fs-fuse-connections.mount sys-kernel-config.mount dev-hugepages.mount
    proc-sys-fs-binfmt_misc.automount getty@tty1.service modprobe@drm.service modprobe@efi_pstore.service
    modprobe@fuse.service modprobe@configfs.service modprobe@dm_mod.service modprobe@loop.service)

# debian_sources: the lines for the guest's sources.list: where this machine's apt has Debian 12 from.
debian_sources() {
    local sources
    # shellcheck disable=SC2016  # apt's variables
    sources=$(apt-get indextargets --format 'deb $(REPO_URI) $(CODENAME) $(COMPONENT)' \
        'Created-By: Packages' 'Origin: Debian' | grep -E " $DEBIAN_SUITE(-updates|-security)? main\$" | sort -u)
    grep -q " $DEBIAN_SUITE main\$" <<<"$sources" ||
        die "this machine's apt knows no Debian 12 ($DEBIAN_SUITE main): add it to its sources and run 'apt-get update'"
    printf '%s\n' "$sources"
}

# debian_packages MORE: the packages beside the essential ones and apt, with commas.
debian_packages() {
    local IFS=,
    printf '%s\n' "${DEBIAN_PACKAGES[*]}${1:+,$1}"
}

# Those of this machine that can be reached from elsewhere.
debian_nameservers() { awk '$1 == "nameserver" && $2 !~ /^(127\.|::1)/' /etc/resolv.conf; }

# debian_root DIR SOURCES MORE-PACKAGES: called by `cached`; DIR/root.tar, with keys of no host yet.
debian_root() {
    local dir=$1 log=$1/log
    note "installing Debian 12 into a folder: some minutes"
    # No documentation and no translations: half of the files. dpkg's syncs are of no use before there is a disk.
    # shellcheck disable=SC2016  # for the hook's shell
    if ! mmdebstrap --mode=root --variant=apt --format=tar --include="$(debian_packages "$3")" \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --aptopt='Apt::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
        --customize-hook='rm -f "$1"/etc/ssh/ssh_host_*' \
        "$DEBIAN_SUITE" "$dir/root.tar" - <<<"$2" >"$log" 2>&1; then
        tail -n 20 -- "$log" >&2
        die "could not install Debian 12"
    fi
}

# debian_image DIR ROOT-TAR SIZE MODULE SSH-KEY: called by `cached`; DIR/disk.img, key, key.pub, known_hosts.
debian_image() {
    local dir=$1 stage=$1/stage size=$3 module=$4 ssh_key=$5
    note "filling the disk"
    mkdir "$stage"
    tar -x --numeric-owner -C "$stage" -f "$2"
    cp -rT --no-preserve=ownership -- "$ROOT/scripts/lib/debian-files" "$stage"
    chmod 755 "$stage/usr/local/sbin/guest-address"
    debian_units "$stage"

    ssh-keygen -q -t ed25519 -N '' -C guest -f "$dir/key"
    ssh-keygen -q -t ed25519 -N '' -C guest -f "$stage/etc/ssh/ssh_host_ed25519_key"
    # Of every host: the address is the user's choice.
    { printf '* ' && cut -d ' ' -f 1,2 "$stage/etc/ssh/ssh_host_ed25519_key.pub"; } >"$dir/known_hosts"
    install -d -m 700 "$stage/root/.ssh"
    cat -- "$dir/key.pub" ${ssh_key:+"$ssh_key"} >"$stage/root/.ssh/authorized_keys"
    chmod 600 "$stage/root/.ssh/authorized_keys"

    printf 'guest\n' >"$stage/etc/hostname"
    printf '127.0.0.1 localhost guest\n' >"$stage/etc/hosts"
    printf '/dev/vda / ext4 errors=remount-ro 0 1\n' >"$stage/etc/fstab"
    # Empty: each copy makes up its own at its first boot.
    : >"$stage/etc/machine-id"
    debian_nameservers >"$stage/etc/resolv.conf"
    [ -z "$module" ] || debian_module "$stage" "$module"

    truncate -s "$size" "$dir/disk.img"
    mke2fs -q -t ext4 -L guest -E lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0 -d "$stage" "$dir/disk.img" ||
        die "Debian does not fit in $size"
    rm -rf -- "$stage"
}

debian_units() {
    local stage=$1 unit
    for unit in "${DEBIAN_MASKED[@]}"; do
        ln -sfn /dev/null "$stage/etc/systemd/system/$unit"
    done
    ln -sfn /usr/lib/systemd/system/multi-user.target "$stage/etc/systemd/system/default.target"
    mkdir -p "$stage/etc/systemd/system/multi-user.target.wants"
    ln -sfn ../guest-address.service "$stage/etc/systemd/system/multi-user.target.wants/guest-address.service"
    # The interface keeps the kernel's name.
    mkdir -p "$stage/etc/systemd/network"
    ln -sfn /dev/null "$stage/etc/systemd/network/99-default.link"
}

# debian_module STAGE FILE: where modprobe finds it, for the kernel that it was built for.
debian_module() {
    local release
    release=$(modinfo -F vermagic -- "$2" | cut -d ' ' -f 1)
    install -D -m 644 -- "$2" "$1/usr/lib/modules/$release/extra/coopvirt.ko"
    : >"$1/usr/lib/modules/$release/modules.order"
    : >"$1/usr/lib/modules/$release/modules.builtin"
    : >"$1/usr/lib/modules/$release/modules.builtin.modinfo"
    depmod -b "$1" "$release"
}
