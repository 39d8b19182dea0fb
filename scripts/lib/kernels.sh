# shellcheck shell=bash
# Debian's kernels as guests and as the lab's host: find the newest package, download it, take it apart.
# Sourced by scripts/artifacts, scripts/lab, scripts/guest-initrd and scripts/guest-module, after common.sh. Nothing here
# needs root.

# shellcheck disable=SC2034  # for the scripts that source this
KERNEL_NAMES=(6.12-amd64 6.12-cloud 6.1-amd64 6.1-cloud)

# What a guest loads before its work starts, and what the lab's host loads.
GUEST_MODULES=(virtio_pci virtio_mmio virtio_blk virtio_console virtio-rng)
LAB_MODULES=(kvm-amd loop tun tap vhost_net vsock vsock_loopback vhost_vsock
    9pnet_virtio 9p overlay virtio-rng msr cpuid)

# Raise this when the same package would be prepared differently: it is part of every key. (Not this file's hash:
# clones of different age share the cache, and each would point the names to its own.)
KERNEL_RECIPE=2
HEADERS_RECIPE=1

# kernel_package NAME: prints the newest package of this flavour as NAME=VERSION.
kernel_package() {
    local meta pattern package version
    case $1 in
        6.12-amd64) meta=linux-image-6.12-amd64 pattern='^linux-image-6\.12\.[0-9.]+\+deb12-amd64$' ;;
        6.12-cloud) meta=linux-image-6.12-cloud-amd64 pattern='^linux-image-6\.12\.[0-9.]+\+deb12-cloud-amd64$' ;;
        6.1-amd64) meta=linux-image-amd64 pattern='^linux-image-6\.1\.0-[0-9]+-amd64$' ;;
        6.1-cloud) meta=linux-image-cloud-amd64 pattern='^linux-image-6\.1\.0-[0-9]+-cloud-amd64$' ;;
        *) die "no kernel is called $1: there are ${KERNEL_NAMES[*]}" ;;
    esac
    # The meta package may be missing, or follow another series (backports): then the newest name decides.
    package=$(apt-cache depends "$meta" 2>/dev/null | awk '$1 == "Depends:" { print $2 }' | grep -E "$pattern" |
        sort -V | tail -n 1) || true
    [ -n "$package" ] ||
        package=$(apt-cache pkgnames linux-image-6 | grep -E "$pattern" | sort -V | tail -n 1) || true
    [ -n "$package" ] || die "no package for kernel $1: run 'apt-get update', with bookworm-security among the sources"
    version=$(apt-cache show --no-all-versions "$package" | awk '$1 == "Version:" { print $2 }')
    printf '%s=%s\n' "$package" "$version"
}

# kernel_download PACKAGE=VERSION: prints the path of the .deb, which stays in the cache.
kernel_download() {
    local package=${1%%=*} deb tmp
    deb=$CACHE/debs/${1//[=:]/_}.deb
    if [ ! -f "$deb" ]; then
        note "downloading $package"
        mkdir -p "$CACHE/debs"
        tmp=$(mktemp -d "$CACHE/debs/.getting.XXXXXX")
        # apt's own unprivileged download user cannot write here, and says so for each file: not news.
        if ! (cd "$tmp" && apt-get -q -o APT::Sandbox::User=root download "$1" >log 2>&1); then
            cat "$tmp/log" >&2
            rm -rf -- "$tmp"
            die "could not download $1"
        fi
        mv -- "$tmp"/*.deb "$deb"
        rm -rf -- "$tmp"
    fi
    printf '%s\n' "$deb"
}

# le32 FILE OFFSET: a little-endian 32-bit number, as the boot protocol's header holds them.
le32() { od -An -tu4 --endian=little -j "$2" -N 4 -- "$1" | tr -d ' '; }

# extract_vmlinux BZIMAGE OUT: the ELF file inside a bzImage. The setup header says where the payload lies; the
# kernel's build appends the unpacked size in 4 bytes to every payload but gzip's.
extract_vmlinux() {
    local image=$1 out=$2 sectors start length magic size
    sectors=$(od -An -tu1 -j $((0x1f1)) -N 1 -- "$image" | tr -d ' ')
    start=$(((sectors + 1) * 512 + $(le32 "$image" $((0x248)))))
    length=$(le32 "$image" $((0x24c)))
    magic=$(od -An -tx1 -j "$start" -N 4 -- "$image" | tr -d ' ')
    size=$(le32 "$image" $((start + length - 4)))
    local unpack
    case $magic in
        28b52ffd) unpack=(zstd -dcq) ;;
        fd377a58) unpack=(xz -dcq) ;;
        02214c18) unpack=(lz4 -dcq) ;;
        1f8b*) unpack=(gzip -dcq) length=$((length + 4)) ;;
        *) die "the payload of $image has an unknown packing ($magic)" ;;
    esac
    head -c $((start + length - 4)) -- "$image" | tail -c +$((start + 1)) | "${unpack[@]}" >"$out"
    [ "$(stat -c %s -- "$out")" = "$size" ] || die "$image unpacks to $(stat -c %s -- "$out") bytes, not $size"
    [ "$(od -An -tx1 -N 4 -- "$out" | tr -d ' ')" = 7f454c46 ] || die "$image does not hold an ELF file"
}

# module_archive TREE RELEASE OUT MODULE...: an uncompressed cpio of /lib/coopvirt/modules/NN-name.ko, NN giving the
# order for insmod. Modules that this kernel has built in, or does not have, are left out.
module_archive() {
    local tree=$1 release=$2 out=$3 stage module verb path name number=10
    local -A seen=()
    shift 3
    stage=$(mktemp -d "$tree/.stage.XXXXXX")
    mkdir -p "$stage/lib/coopvirt/modules"
    for module; do
        while read -r verb path _; do
            [ "$verb" = insmod ] || continue
            name=$(basename -- "${path%.xz}")
            [ -z "${seen[$name]:-}" ] || continue
            seen[$name]=1
            case $path in
                *.xz) xz -dc -- "$path" ;;
                *) cat -- "$path" ;;
            esac >"$stage/lib/coopvirt/modules/$number-$name"
            number=$((number + 1))
        done < <(modprobe -d "$tree" -S "$release" --show-depends "$module" 2>/dev/null || true)
    done
    pack_cpio "$stage" "$out"
    rm -rf -- "$stage"
}

# pack_cpio FOLDER OUT: the same bytes for the same content (owner, times and inode numbers do not count).
pack_cpio() {
    find "$1" -exec touch -h -d @0 {} +
    (cd "$1" && find . -mindepth 1 -print0 | LC_ALL=C sort -z |
        cpio --quiet -0 -o -H newc -R +0:+0 --reproducible) >"$2"
}

# kernel_build DIR NAME PACKAGE=VERSION: fills DIR, called by `cached`.
kernel_build() {
    local dir=$1 name=$2 package=$3 deb release tree
    deb=$(kernel_download "$package")
    note "preparing kernel $name from $package"
    tree=$dir/tree
    mkdir "$tree"
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$tree" ./boot ./lib/modules
    release=$(basename -- "$tree"/lib/modules/*)
    printf '%s\n' "$release" >"$dir/release"
    cp -- "$tree/boot/vmlinuz-$release" "$dir/vmlinuz"
    cp -- "$tree/boot/config-$release" "$dir/config"
    extract_vmlinux "$dir/vmlinuz" "$dir/vmlinux"
    depmod -b "$tree" "$release"
    module_archive "$tree" "$release" "$dir/modules.cpio" "${GUEST_MODULES[@]}"
    [ "$name" != 6.12-amd64 ] ||
        module_archive "$tree" "$release" "$dir/lab-modules.cpio" "${LAB_MODULES[@]}"
    printf '%s\n' "$KERNEL_RECIPE" >"$dir/recipe"
    printf '%s\n' "$package" >"$dir/package"
    rm -rf -- "$tree"
}

# kernel_prepare NAME: makes $CACHE/kernels/NAME point at the newest kernel of its flavour.
kernel_prepare() {
    local package dir
    package=$(kernel_package "$1")
    dir=$(cached kernel "$KERNEL_RECIPE $1 $package" kernel_build "$1" "$package")
    mkdir -p "$CACHE/kernels"
    ln -sfnT -- "../store/$(basename -- "$dir")" "$CACHE/kernels/.$1.$$"
    mv -T -- "$CACHE/kernels/.$1.$$" "$CACHE/kernels/$1"
}

# kernel_ready NAME: a kernel that this recipe made is there, whatever its version.
kernel_ready() { [ "$(cat "$CACHE/kernels/$1/recipe" 2>/dev/null)" = "$KERNEL_RECIPE" ]; }

# kernel_headers_build DIR HEADERS=VERSION: fills DIR, called by `cached`.
kernel_headers_build() {
    local dir=$1 headers=${2%%=*} version=${2#*=} series package deb
    series=${headers#linux-headers-}
    series=${series%%-*}
    for package in "$headers" "linux-headers-$series-common" "linux-kbuild-$series"; do
        deb=$(kernel_download "$package=$version")
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$dir" ./usr
    done
    # Where it is installed it is found by its path; here beside it.
    # shellcheck disable=SC2016  # make's variable
    sed -i 's|^include /usr/src/|include $(dir $(lastword $(MAKEFILE_LIST)))../|' "$dir/usr/src/$headers/Makefile"
    # Types of the kernel, for a module's BTF: that would need pahole, and nobody looks at it here.
    rm -f -- "$dir/usr/src/$headers/vmlinux"
}

# kernel_headers NAME: prints the tree that modules for this kernel are built against: Debian's linux-headers of the very
# version that is there.
kernel_headers() {
    local image headers dir
    case $1 in
        6.12-*) ;;
        *) die "the module is for Linux 6.12, not for $1" ;;
    esac
    image=$(cat "$CACHE/kernels/$1/package")
    headers=${image/#linux-image-/linux-headers-}
    dir=$(cached headers "$HEADERS_RECIPE $headers" kernel_headers_build "$headers")
    printf '%s\n' "$dir/usr/src/${headers%%=*}"
}
