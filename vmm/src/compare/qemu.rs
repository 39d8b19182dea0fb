//! The command that runs a peer arm: QEMU's `microvm`, as lean and as fast as QEMU offers it.
//!
//! Everything that would cost a peer exits without need is off: option ROMs, PIT, PIC, the serial
//! port where the console is virtio. The RTC is on, because Linux looks for one and polls an absent
//! one 20,000 times. Kernel, initramfs, disk, random source and the number of queues are those of
//! our own arms. Pure; called by [`super::launch`].

use std::path::Path;

use super::args::Console;
use super::arm::Transport;
use super::launch::{Boot, VmCommand};

/// Builds the command; the console goes to the child's standard output.
pub fn command(program: &Path, transport: Transport, boot: &Boot) -> VmCommand {
    let mut args: Vec<String> = Vec::new();
    let mut option = |name: &str, value: String| args.extend([name.to_string(), value]);
    option("-name", "compared,debug-threads=on".into());
    option("-M", machine(transport, boot.console));
    option("-accel", "kvm".into());
    // All that the host's KVM offers, the invariant TSC and the paravirtual leaf included.
    option("-cpu", "host,migratable=off".into());
    option("-smp", boot.cpus.to_string());
    option("-m", format!("{}M", boot.memory_bytes >> 20));
    option("-kernel", boot.kernel.display().to_string());
    option("-initrd", boot.initrd.display().to_string());
    option("-append", boot.cmdline.clone());
    option("-chardev", "file,id=out,path=/dev/stdout".into());
    match boot.console {
        Console::Serial => option("-serial", "chardev:out".into()),
        Console::Virtio => {
            option(
                "-device",
                device("virtio-serial", transport, ",id=ports,max_ports=1"),
            );
            option("-device", "virtconsole,bus=ports.0,chardev=out".into());
        }
    }
    let disk = boot.disk.display().to_string().replace(',', ",,");
    option(
        "-drive",
        format!("if=none,id=disk,format=raw,readonly=on,file={disk}"),
    );
    option("-device", device("virtio-blk", transport, ",drive=disk"));
    option(
        "-object",
        "rng-random,id=random,filename=/dev/urandom".into(),
    );
    option("-device", device("virtio-rng", transport, ",rng=random"));
    if boot.has_balloon {
        let options = ",free-page-reporting=on";
        option("-device", device("virtio-balloon", transport, options));
    }
    if transport == Transport::Mmio {
        option("-global", "virtio-mmio.force-legacy=false".into());
    }
    // Without a user's or a distribution's additions; a reset ends it.
    for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        args.push(flag.into());
    }
    args.extend(["-display".into(), "none".into()]);
    VmCommand {
        program: program.to_path_buf(),
        args,
    }
}

fn machine(transport: Transport, console: Console) -> String {
    let pcie = match transport {
        Transport::Mmio => "off",
        Transport::Pci => "on",
    };
    let serial = match console {
        Console::Serial => "on",
        Console::Virtio => "off",
    };
    format!(
        "microvm,acpi=on,pcie={pcie},isa-serial={serial},x-option-roms=off,pit=off,pic=off,rtc=on"
    )
}

fn device(name: &str, transport: Transport, options: &str) -> String {
    let suffix = match transport {
        Transport::Mmio => "device",
        Transport::Pci => "pci",
    };
    format!("{name}-{suffix}{options}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::launch::tests::boot;

    fn line(transport: Transport, console: Console) -> String {
        let boot = Boot { console, ..boot() };
        command(Path::new("qemu-system-x86_64"), transport, &boot)
            .args
            .join(" ")
    }

    #[test]
    fn pci_arm_has_pci_devices_and_no_serial_port() {
        let line = line(Transport::Pci, Console::Virtio);
        for part in [
            "pcie=on,isa-serial=off",
            "virtio-blk-pci,drive=disk",
            "virtio-rng-pci",
            "virtio-serial-pci",
            "virtconsole",
            "-append quiet console=hvc0 ",
            "debug-threads=on",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert!(!line.contains("-device virtio-blk-device"));
    }

    #[test]
    fn mmio_arm_has_modern_mmio_devices() {
        let line = line(Transport::Mmio, Console::Serial);
        for part in [
            "pcie=off,isa-serial=on",
            "virtio-blk-device",
            "force-legacy=false",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert!(!line.contains("virtconsole"));
        assert!(line.contains("-serial chardev:out"));
    }

    #[test]
    fn a_balloon_is_there_only_to_report_free_pages() {
        let with = Boot {
            has_balloon: true,
            ..boot()
        };
        for (boot, is_there) in [(with, true), (boot(), false)] {
            let command = command(Path::new("q"), Transport::Pci, &boot);
            let balloon = "virtio-balloon-pci,free-page-reporting=on".to_string();
            assert_eq!(command.args.contains(&balloon), is_there);
        }
    }

    #[test]
    fn commas_in_the_disks_path_are_doubled() {
        let boot = Boot {
            disk: "/a,b".into(),
            ..boot()
        };
        let command = command(Path::new("q"), Transport::Pci, &boot);
        assert!(command.args.iter().any(|arg| arg.ends_with("file=/a,,b")));
    }
}
