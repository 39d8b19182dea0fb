# shellcheck shell=bash
# A disk with Debian's fio, iperf3 and e2fsprogs, their libraries and a busybox shell: guests boot from it, read-only,
# and run the scripts of tests/guests/tools. Sourced by scripts that run such guests, after common.sh. Needs no root.

GUEST_TOOLS_PACKAGES=(fio iperf3 e2fsprogs)
GUEST_TOOLS_PROGRAMS=(usr/bin/fio usr/bin/iperf3 sbin/mke2fs)
# Raise this when the same packages would be put together differently.
GUEST_TOOLS_RECIPE=1

# guest_tools_versions: the newest of each package, as NAME=VERSION. A library's update alone builds nothing again.
guest_tools_versions() {
    local versions
    versions=$(apt-cache show --no-all-versions "${GUEST_TOOLS_PACKAGES[@]}" 2>/dev/null |
        awk '$1 == "Package:" { name = $2 } $1 == "Version:" { print name "=" $2 }')
    [ "$(wc -l <<<"$versions")" = ${#GUEST_TOOLS_PACKAGES[@]} ] ||
        die "not all of ${GUEST_TOOLS_PACKAGES[*]} are known here: run 'apt-get update'"
    printf '%s\n' "$versions"
}

# guest_tools_closure: these packages and all libraries that they depend on, directly or not.
guest_tools_closure() {
    local -A seen=()
    local -a todo=("${GUEST_TOOLS_PACKAGES[@]}") next
    local name
    while [ ${#todo[@]} -gt 0 ]; do
        next=()
        for name in "${todo[@]}"; do seen[$name]=1; done
        while read -r name; do
            [ -n "${seen[$name]:-}" ] || next+=("$name")
            seen[$name]=1
        done < <(apt-cache depends --important "${todo[@]}" |
            awk '$1 ~ /^(Pre)?Depends:$/ && $2 ~ /^(lib|zlib1g)/ { print $2 }')
        todo=("${next[@]}")
    done
    printf '%s\n' "${!seen[@]}"
}

# guest_tools_build DIR: called by `cached`; DIR/root has the programs and exactly the libraries that they load.
guest_tools_build() {
    local dir=$1 tree=$1/root loader deb program list path
    local -a packages
    mapfile -t packages < <(guest_tools_closure)
    note "downloading ${GUEST_TOOLS_PACKAGES[*]} and $((${#packages[@]} - ${#GUEST_TOOLS_PACKAGES[@]})) libraries"
    mkdir -p "$dir/debs" "$dir/all" "$tree"/{dev,proc,sys,tmp,mnt,bin,etc,usr/bin,sbin,lib/x86_64-linux-gnu,lib64}
    # apt's own unprivileged download user cannot write here, and says so for each file: not news.
    if ! (cd "$dir/debs" && apt-get -q -o APT::Sandbox::User=root download "${packages[@]}" >"$dir/log" 2>&1); then
        tail -n 20 -- "$dir/log" >&2
        die "could not download ${GUEST_TOOLS_PACKAGES[*]}"
    fi
    for deb in "$dir"/debs/*.deb; do dpkg-deb -x "$deb" "$dir/all"; done
    loader=$dir/all/lib64/ld-linux-x86-64.so.2
    for program in "${GUEST_TOOLS_PROGRAMS[@]}"; do
        install -m 755 -- "$dir/all/$program" "$tree/$program"
        # The loader says what it would load, as NAME => PATH (ADDRESS).
        list=$("$loader" --library-path "$(guest_tools_path "$dir/all")" --list "$dir/all/$program")
        while read -r path; do
            cp -L -- "$path" "$tree/lib/x86_64-linux-gnu/"
        done < <(awk '$2 == "=>" { print $3 }' <<<"$list" | grep "^$dir/all/")
    done
    cp -L -- "$loader" "$tree/lib64/"
    cp -- "$dir/all/etc/mke2fs.conf" "$tree/etc/"
    cp -L -- "$(command -v busybox)" "$tree/bin/busybox"
    for program in $(busybox --list); do
        [ -e "$tree/bin/$program" ] || ln -s busybox "$tree/bin/$program"
    done
    rm -rf -- "$dir/all" "$dir/debs" "$dir/log"
}

# Debian's libraries of one subject lie in a folder of their own.
guest_tools_path() {
    local libs=x86_64-linux-gnu
    printf '%s' "$1/lib/$libs:$1/usr/lib/$libs:$1/usr/lib/$libs/ceph"
}

# guest_tools_image DIR ROOT: called by `cached`; DIR/disk.img, and DIR/root for who runs the programs on the host.
guest_tools_image() {
    local dir=$1 stage=$1/stage
    cp -a -- "$2" "$stage"
    mkdir "$stage/scripts"
    cp -- "$ROOT"/tests/guests/tools/* "$stage/scripts/"
    chmod 755 "$stage"/scripts/*
    truncate -s 192M "$dir/disk.img"
    mke2fs -q -t ext4 -b 4096 -O ^has_journal -E root_owner=0:0 -d "$stage" "$dir/disk.img"
    ln -s "../$(basename -- "$(dirname -- "$2")")/root" "$dir/root"
    rm -rf -- "$stage"
}

# guest_tools: prints the folder with disk.img and root.
guest_tools() {
    local tree key
    need busybox mke2fs dpkg-deb apt-get
    tree=$(cached guest-tools "$GUEST_TOOLS_RECIPE $(guest_tools_versions)" guest_tools_build)/root
    key=$(cd "$ROOT" && printf '%s\n' "$tree" && cat scripts/lib/guest-tools.sh tests/guests/tools/*)
    cached guest-tools-image "$key" guest_tools_image "$tree"
}
