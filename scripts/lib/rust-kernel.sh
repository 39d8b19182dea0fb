# shellcheck shell=bash
# The guest kernel with CONFIG_RUST, from Debian's source package, and the tree its modules are built against.
# Sourced by scripts/guest-kernel and scripts/guest-module, after common.sh. Building needs no root.

# shellcheck source=scripts/lib/kernels.sh
. "$ROOT/scripts/lib/kernels.sh"

# shellcheck disable=SC2034  # for scripts/setup
RUST_KERNEL_PACKAGES=(make flex bison bc libelf-dev libssl-dev libclang1-19 rustc-web rust-web-src)
BINDGEN_VERSION=0.72.1

# Raise this when the same source and configuration would be built differently.
RUST_KERNEL_RECIPE=1

# Debian's compiler by its path: its library source has to be of the very same version, and rustup's comes first on
# many a PATH.
RUST_KERNEL_RUSTC=/usr/bin/rustc

# Whether that compiler is there, and its library's source beside it.
rust_library_ready() {
    [ -x "$RUST_KERNEL_RUSTC" ] &&
        [ -f "$("$RUST_KERNEL_RUSTC" --print sysroot)/lib/rustlib/src/rust/library/core/src/lib.rs" ]
}

# The newest source package of the 6.12 series, as NAME=VERSION.
rust_kernel_source() {
    local version
    version=$(apt-cache show --no-all-versions linux-source-6.12 2>/dev/null | awk '$1 == "Version:" { print $2 }')
    [ -n "$version" ] || die "no package linux-source-6.12: run 'apt-get update', with bookworm-security among the sources"
    printf 'linux-source-6.12=%s\n' "$version"
}

# The options alone; the reasons stay in the repository and are no reason to build again.
rust_kernel_fragment() { sed -n 's/^\(CONFIG_[A-Z0-9_]*=[^ ]*\).*/\1/p' "$ROOT/guest-kmod/kernel.config"; }

# bindgen_build DIR: called by `cached`. A debug build: it runs a dozen times, and takes 40 s to compile, not 180.
bindgen_build() {
    note "compiling bindgen $BINDGEN_VERSION"
    if ! CARGO_TARGET_DIR=$1/target cargo install bindgen-cli --version "$BINDGEN_VERSION" --locked --debug --quiet \
        --root "$1" >"$1/log" 2>&1; then
        cat "$1/log" >&2
        die "could not compile bindgen"
    fi
    rm -rf -- "$1/target"
}

# The variables that every make call for this kernel and its modules needs.
rust_kernel_make_vars() {
    local bindgen
    bindgen=$(cached bindgen "$BINDGEN_VERSION" bindgen_build)
    printf '%s\n' "RUSTC=$RUST_KERNEL_RUSTC" "HOSTRUSTC=$RUST_KERNEL_RUSTC" "RUSTDOC=${RUST_KERNEL_RUSTC%rustc}rustdoc" \
        "BINDGEN=$bindgen/bin/bindgen"
}

# rust_kernel_build DIR PACKAGE=VERSION: fills DIR, called by `cached`. The tree is built inside its source, so that
# every path in it is relative and it can be moved.
rust_kernel_build() {
    local dir=$1 deb tree line
    local -a vars
    deb=$(kernel_download "$2")
    mapfile -t vars < <(rust_kernel_make_vars)
    note "unpacking $2"
    dpkg-deb --fsys-tarfile "$deb" | tar -x -O --wildcards './usr/src/linux-source-6.12.tar.xz' | tar -x -J -C "$dir"
    tree=$dir/build
    mv -- "$dir/linux-source-6.12" "$tree"
    rust_kernel_fragment >"$dir/fragment"
    make -C "$tree" "${vars[@]}" rustavailable >"$dir/log" 2>&1 || { cat "$dir/log" >&2; die "no Rust for the kernel"; }
    make -C "$tree" "${vars[@]}" KCONFIG_ALLCONFIG="$dir/fragment" allnoconfig >"$dir/log" 2>&1
    while read -r line; do
        grep -qxF -- "$line" "$tree/.config" || die "guest-kmod/kernel.config: the kernel does not take $line"
    done <"$dir/fragment"
    note "compiling the kernel: about 1,900 files, 7 to 12 minutes on two cores"
    watched "$dir/log" make -C "$tree" -j"$(nproc)" "${vars[@]}" all
    cp -- "$tree/arch/x86/boot/bzImage" "$dir/vmlinuz"
    cp -- "$tree/.config" "$dir/config"
    cp -- "$tree/System.map" "$dir/System.map"
    cp -- "$tree/include/config/kernel.release" "$dir/release"
    strip -o "$dir/vmlinux" "$tree/vmlinux"
    rust_kernel_prune "$tree"
    # Its drivers are built in.
    mkdir -p "$dir/stage/lib/coopvirt/modules"
    pack_cpio "$dir/stage" "$dir/modules.cpio"
    rm -rf -- "$dir/stage"
    printf '%s\n' "$RUST_KERNEL_RECIPE" >"$dir/recipe"
    printf '%s\n' "$2" >"$dir/package"
}

# Leaves what building a module needs: headers, makefiles, scripts, objtool and the Rust metadata.
rust_kernel_prune() {
    local tree=$1 folder
    for folder in "$tree"/arch/*; do
        [ "$(basename -- "$folder")" = x86 ] || [ ! -d "$folder" ] || rm -rf -- "$folder"
    done
    find "$tree" -mindepth 1 -maxdepth 1 -type d ! -name arch ! -name include ! -name scripts ! -name rust ! -name tools \
        -exec rm -rf -- {} +
    find "$tree/tools" -mindepth 1 -maxdepth 1 ! -name objtool ! -name include ! -name build ! -name scripts \
        -exec rm -rf -- {} +
    find "$tree" -path "$tree/scripts" -prune -o \( -name '*.o' -o -name '*.c' -o -name '*.a' -o -name '*.cmd' \) \
        -type f -exec rm -f -- {} +
    rm -f -- "$tree"/vmlinux "$tree"/vmlinux.unstripped "$tree"/.tmp_vmlinux*
}

# Whether a kernel is there that has everything kernel.config asks for, whatever its version.
rust_kernel_ready() {
    local config=$CACHE/kernels/6.12-rust/config
    [ -f "$config" ] && ! rust_kernel_fragment | grep -qvxFf "$config"
}

rust_kernel_prepare() {
    local package dir
    package=$(rust_kernel_source)
    dir=$(cached rust-kernel "$RUST_KERNEL_RECIPE $package $("$RUST_KERNEL_RUSTC" -V) $(rust_kernel_fragment)" \
        rust_kernel_build "$package")
    mkdir -p "$CACHE/kernels"
    ln -sfnT -- "../store/$(basename -- "$dir")" "$CACHE/kernels/.6.12-rust.$$"
    mv -T -- "$CACHE/kernels/.6.12-rust.$$" "$CACHE/kernels/6.12-rust"
}
