# shellcheck shell=bash
# Debian's cyclictest and hackbench as they go into an initramfs: the programs with the libraries they are linked to.
# Sourced by scripts/guest-initrd, after common.sh and kernels.sh. Nothing here needs root.

RT_TESTS_PACKAGES=(rt-tests libnuma1 libc6)
RT_TESTS_PROGRAMS=(cyclictest hackbench)
# Raise this when the same packages would be put together differently.
RT_TESTS_RECIPE=1

# rt_tests_packages: the newest ones, as NAME=VERSION.
rt_tests_packages() {
    local name version
    for name in "${RT_TESTS_PACKAGES[@]}"; do
        version=$(apt-cache show --no-all-versions "$name" 2>/dev/null | awk '$1 == "Version:" { print $2; exit }')
        [ -n "$version" ] || die "no package $name: run 'apt-get update'"
        printf '%s=%s\n' "$name" "$version"
    done
}

# rt_tests_build DIR PACKAGE=VERSION...: fills DIR/root, called by `cached`.
rt_tests_build() {
    local dir=$1 package deb name
    shift
    mkdir -p "$dir/all" "$dir/root"/usr/bin "$dir/root"/lib/x86_64-linux-gnu "$dir/root"/lib64
    for package; do
        deb=$(kernel_download "$package")
        dpkg-deb -x "$deb" "$dir/all"
    done
    for name in "${RT_TESTS_PROGRAMS[@]}"; do
        install -m 755 -- "$dir/all/usr/bin/$name" "$dir/root/usr/bin/$name"
    done
    for name in libc.so.6 libpthread.so.0 librt.so.1 libnuma.so.1; do
        cp -L -- "$(find "$dir/all" -name "$name" | head -n 1)" "$dir/root/lib/x86_64-linux-gnu/$name"
    done
    cp -- "$dir/all/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" "$dir/root/lib64/ld-linux-x86-64.so.2"
    rm -rf -- "$dir/all"
}

# rt_tests: prints the folder whose content goes into the initramfs.
rt_tests() {
    local -a packages
    mapfile -t packages < <(rt_tests_packages)
    [ ${#packages[@]} = ${#RT_TESTS_PACKAGES[@]} ] || die "not all packages of rt-tests are known"
    printf '%s/root\n' "$(cached rt-tests "$RT_TESTS_RECIPE ${packages[*]}" rt_tests_build "${packages[@]}")"
}
