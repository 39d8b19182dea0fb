# shellcheck shell=bash
# The lab's own initramfs: busybox, lab-init and the modules of the lab's kernel. Sourced by scripts/lab.

# lab_image: prints the folder with initrd; built once for each kernel, busybox and lab-init.
lab_image() {
    local key
    need busybox cpio
    key=$(cd "$ROOT/scripts/lib" && cat lab-init lab-image.sh "$(command -v busybox)" \
        "$CACHE/kernels/6.12-amd64/lab-modules.cpio" | sha256sum)
    cached lab "$key" lab_image_build
}

lab_image_build() {
    local dir=$1 stage=$1/stage
    mkdir -p "$stage/bin"
    cp -L -- "$(command -v busybox)" "$stage/bin/busybox"
    cp -- "$ROOT/scripts/lib/lab-init" "$stage/init"
    chmod 755 "$stage/init" "$stage/bin/busybox"
    pack_cpio "$stage" "$dir/own.cpio"
    # The kernel unpacks archives that follow each other.
    cat -- "$CACHE/kernels/6.12-amd64/lab-modules.cpio" "$dir/own.cpio" >"$dir/initrd"
    rm -rf -- "$stage" "$dir/own.cpio"
}
