//! Where kernels, initramfs and the program are, and whether this machine can run guests at all.
//!
//! A test that cannot run here fails with what to do about it; it is never skipped in silence.

use std::env;
use std::path::{Path, PathBuf};

use coopvirt::account::backend::Backend;

const REMEDY: &str = "run ./scripts/test";

/// The kernels that guests are tested with, as `scripts/artifacts` names them.
pub const KERNELS: [&str; 4] = ["6.12-amd64", "6.12-cloud", "6.1-amd64", "6.1-cloud"];

/// The kernel that the guest's module is loaded into, with that module in its initramfs.
pub const MODULE_KERNEL: &str = "6.12-rust";

/// The kernel of tests that are not about kernels: the one that starts fastest.
pub const KERNEL: &str = "6.12-cloud";

/// What `scripts/test` has prepared.
#[derive(Clone, Debug)]
pub struct Lab {
    /// The `coopvirt` program.
    pub program: PathBuf,
    kernels: PathBuf,
    initrds: PathBuf,
}

impl Lab {
    /// Finds everything, or panics with the remedy.
    pub fn find() -> Self {
        require_kvm();
        Self {
            program: path_from("COOPVIRT_BIN"),
            kernels: path_from("COOPVIRT_KERNELS"),
            initrds: path_from("COOPVIRT_INITRDS"),
        }
    }

    /// A file of a kernel: "vmlinuz", "vmlinux", "release".
    pub fn kernel_file(&self, kernel: &str, name: &str) -> PathBuf {
        require(self.kernels.join(kernel).join(name))
    }

    /// What `uname -r` says in a guest with this kernel.
    pub fn release(&self, kernel: &str) -> String {
        let path = self.kernel_file(kernel, "release");
        let text = std::fs::read_to_string(path).expect("it has been found");
        text.trim().to_owned()
    }

    /// The initramfs with this kernel's modules and the work program.
    pub fn initrd(&self, kernel: &str) -> PathBuf {
        require(self.initrds.join(format!("{kernel}.cpio")))
    }
}

/// Panics where guests cannot run, or where what runs them is no hardware virtualization.
pub fn require_kvm() {
    let backend = Backend::probe();
    assert!(
        backend.hardware_assisted,
        "no hardware virtualization here ({}): {REMEDY}",
        backend.name
    );
    if let Err(error) = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
    {
        panic!("cannot open /dev/kvm ({error}): {REMEDY}");
    }
}

/// The file that this variable names, or a panic with the remedy.
pub fn path_from(variable: &str) -> PathBuf {
    match env::var_os(variable) {
        Some(value) if !value.is_empty() => require(PathBuf::from(value)),
        _ => panic!("{variable} is not set: {REMEDY}"),
    }
}

fn require(path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    assert!(path.exists(), "{} is missing: {REMEDY}", path.display());
    path.to_path_buf()
}
