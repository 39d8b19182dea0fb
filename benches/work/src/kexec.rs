//! The end of a kernel by kexec: another one takes the machine over, without a restart of its devices.
//!
//! The next kernel lies on the first disk and its initramfs on the second, each filled up to whole sectors, which neither
//! a bzImage nor an initramfs minds. Its command line is this one's, but that it ends by switching the machine off.

use crate::sys::boot::{self, Reboot};
use std::fs::{self, File};
use std::io;

const KERNEL: &str = "/dev/vda";
const INITRAMFS: &str = "/dev/vdb";
/// What ends this kernel, and what ends the next.
const END: [&str; 2] = ["coopvirt.end=kexec", "coopvirt.end=poweroff"];

/// Gives the machine to the next kernel; returns only if that fails.
pub(crate) fn start() -> io::Error {
    let loaded = load();
    loaded.map_or_else(|error| error, |()| boot::reboot(Reboot::Kexec))
}

fn load() -> io::Result<()> {
    let kernel = regular(KERNEL, "/tmp/kernel")?;
    let initramfs = regular(INITRAMFS, "/tmp/initramfs")?;
    let cmdline = next_cmdline(&fs::read_to_string("/proc/cmdline")?);
    boot::load_kernel(&kernel, &initramfs, &cmdline)
}

/// The kernel takes regular files only.
fn regular(device: &str, path: &str) -> io::Result<File> {
    io::copy(&mut File::open(device)?, &mut File::create(path)?)?;
    File::open(path)
}

fn next_cmdline(cmdline: &str) -> String {
    let [this, next] = END;
    cmdline.trim_end().replace(this, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_kernel_switches_the_machine_off() {
        assert_eq!(
            next_cmdline("quiet coopvirt.end=kexec coopvirt.works=pipe\n"),
            "quiet coopvirt.end=poweroff coopvirt.works=pipe"
        );
    }
}
