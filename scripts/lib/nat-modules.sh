# shellcheck shell=bash
# What scripts/tap --nat and a second network need of the lab's host: modules of its kernel, as modprobe finds them.
# Sourced by scripts/lib/lab-tests, after common.sh and kernels.sh. A host that is no lab has them.

NAT_MODULES=(nft_compat nft_chain_nat xt_MASQUERADE xt_comment xt_conntrack veth)
# Raise this when the same package would be taken apart differently.
NAT_MODULES_RECIPE=1

# nat_modules_build DIR PACKAGE=VERSION: called by `cached`; DIR/RELEASE is what belongs into /lib/modules.
nat_modules_build() {
    local dir=$1 deb tree=$1/tree release module verb path
    deb=$(kernel_download "$2")
    mkdir "$tree"
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$tree" ./lib/modules
    release=$(basename -- "$tree"/lib/modules/*)
    depmod -b "$tree" "$release"
    for module in "${NAT_MODULES[@]}"; do
        while read -r verb path _; do
            [ "$verb" = insmod ] || continue
            install -D -m 644 -- "$path" "$dir/lib/modules/$release/${path#"$tree/lib/modules/$release/"}"
        done < <(modprobe -d "$tree" -S "$release" --show-depends "$module")
    done
    cp -- "$tree/lib/modules/$release"/modules.{order,builtin,builtin.modinfo} "$dir/lib/modules/$release/"
    depmod -b "$dir" "$release"
    mv -- "$dir/lib/modules/$release" "$dir/$release"
    rm -rf -- "${dir:?}/lib" "$tree"
}

# nat_modules: prints the folder.
nat_modules() {
    local package
    package=$(cat "$CACHE/kernels/6.12-amd64/package")
    cached nat-modules "$NAT_MODULES_RECIPE ${NAT_MODULES[*]} $package" nat_modules_build "$package"
}

# load_nat_modules DIR: inside the lab, whose kernel finds no modprobe by itself.
load_nat_modules() {
    local release
    release=$(uname -r)
    [ -d "$1/$release" ] || die "there are no modules for the lab's kernel $release"
    mkdir -p /lib/modules
    ln -sfn -- "$1/$release" "/lib/modules/$release"
    modprobe -a "${NAT_MODULES[@]}"
}
