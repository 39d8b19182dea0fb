//! The bus as a guest sees it: configuration, BARs that move, MSI-X, the access capability.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use super::rig::{Rig, BUFFERS, MMIO_BASE, MMIO_LEN};
use crate::bus::BusDevice;
use crate::irq::MsiMessage;
use crate::pci::{ConfigPorts, EcamWindow, PciError, PciLayout, PciRoot};
use crate::virtio::{attach, Host, Rng};

fn rig() -> Rig {
    Rig::new(Rng::new())
}

fn attach_another(rig: &Rig) -> Result<(), crate::virtio::AttachError> {
    let host = Host {
        ram: rig.ram.clone(),
        interrupts: rig.interrupts.clone(),
        doorbells: rig.doorbells.clone(),
        notifies: rig.notifies.clone(),
    };
    attach(&rig.root, Box::new(Rng::new()), &host).map(|_| ())
}

#[test]
fn ports_and_ecam_show_the_same_registers() {
    let rig = rig();
    let mut ports = ConfigPorts::new(rig.root.clone());
    let mut ecam = EcamWindow::new(rig.root.clone());
    for device in 0..3u8 {
        for register in (0..256u32).step_by(4) {
            let address = 0x8000_0000 | u32::from(device) << 11 | register;
            ports.write(0, &address.to_le_bytes());
            let [mut by_port, mut by_ecam] = [[0; 4]; 2];
            ports.read(4, &mut by_port);
            ecam.read(u64::from(device) << 15 | u64::from(register), &mut by_ecam);
            assert_eq!(by_port, by_ecam);
            let mut high = [0; 2];
            ports.read(6, &mut high);
            assert_eq!(high, by_port[2..]);
        }
    }
    let mut address = [0; 4];
    ports.read(0, &mut address);
    assert_eq!(u32::from_le_bytes(address), 0x8000_0000 | 2 << 11 | 0xfc);
}

#[test]
fn absent_functions_and_disabled_ports_read_all_ones() {
    let rig = rig();
    for (bus, device, function) in [(0, 2, 0), (0, 31, 0), (0, 1, 1), (1, 0, 0), (255, 31, 7)] {
        let mut data = [0; 4];
        rig.root.config_read(bus, device, function, 0, &mut data);
        assert_eq!(data, [0xff; 4]);
        rig.root.config_write(bus, device, function, 4, &[0xff; 4]);
    }
    let mut ports = ConfigPorts::new(rig.root.clone());
    let mut data = [0; 4];
    ports.read(4, &mut data);
    assert_eq!(data, [0xff; 4]);
}

#[test]
fn reset_control_port_asks_for_a_reset() {
    let resets = Arc::new(AtomicU32::new(0));
    let seen = resets.clone();
    let mut ports = ConfigPorts::new(rig().root).on_reset(move || {
        seen.fetch_add(1, Ordering::Relaxed);
    });
    ports.write(1, &[2]);
    assert_eq!(resets.load(Ordering::Relaxed), 0);
    ports.write(1, &[6]);
    assert_eq!(resets.load(Ordering::Relaxed), 1);
}

#[test]
fn function_has_no_interrupt_pin_and_decodes_its_bar_from_the_start() {
    let rig = rig();
    assert_eq!(rig.config::<1>(0x3d), [0]);
    assert_eq!(rig.bar, MMIO_BASE);
    assert_eq!(rig.root.name_at(MMIO_BASE).as_deref(), Some("virtio-rng"));
    assert_eq!(rig.root.name_at(MMIO_BASE + 0x8000), None);
    assert_eq!(rig.config::<4>(0x100), [0xff; 4]);
}

#[test]
fn bar_outside_of_the_window_is_not_decoded_and_comes_back() {
    let rig = rig();
    let end = (MMIO_BASE + MMIO_LEN) as u32;
    for base in [0, 0x8000, 0xffff_8000, end, MMIO_BASE as u32 - 0x8000] {
        rig.set_config(0x10, &base.to_le_bytes());
        for gpa in [u64::from(base), MMIO_BASE] {
            assert!(!rig.root.mmio_read(gpa, &mut [0; 4]), "{gpa:#x}");
        }
    }
    rig.set_config(0x10, &(end - 0x8000).to_le_bytes());
    assert_eq!(rig.read2(u64::from(end) - 0x8000 + 0x12), 1);
}

#[test]
fn overlapping_bars_leave_the_first_one_alone() {
    let rig = rig();
    attach_another(&rig).unwrap();
    let second = MMIO_BASE + 0x8000;
    assert!(rig.root.mmio_read(second, &mut [0; 4]));
    rig.root
        .config_write(0, 2, 0, 0x10, &(MMIO_BASE as u32).to_le_bytes());
    assert!(!rig.root.mmio_read(second, &mut [0; 4]));
    rig.set_status(1);
    assert_eq!(rig.status(), 1);
    // The first one leaves, and the second takes over.
    rig.set_config(0x10, &(second as u32).to_le_bytes());
    assert!(rig.root.mmio_read(second, &mut [0; 4]));
    assert_eq!(rig.status(), 0);
}

#[test]
fn accesses_across_the_end_of_a_bar_are_unclaimed() {
    let rig = rig();
    let mut data = [0; 8];
    assert!(!rig.root.mmio_read(MMIO_BASE + 0x7ffc, &mut data));
    assert_eq!(data, [0xff; 8]);
    assert!(!rig.root.mmio_write(MMIO_BASE + 0x7ffc, &data));
    assert!(!rig.root.mmio_read(MMIO_BASE - 1, &mut data));
    assert!(!rig.root.mmio_read(u64::MAX, &mut data));
}

#[test]
fn full_bus_and_full_window_are_refused() {
    let full_bus = rig();
    for _ in 0..30 {
        attach_another(&full_bus).unwrap();
    }
    let says = attach_another(&full_bus).unwrap_err().to_string();
    assert!(says.contains("no pci slot left") && says.contains("--disk, --net"));

    let layout = |mmio_base, mmio_len_bytes| PciLayout {
        ecam_base: 0,
        ecam_len_bytes: 0,
        mmio_base,
        mmio_len_bytes,
    };
    for (base, len) in [(0xc000_0000, 0), (0xffff_0000, 0x2_0000), (u64::MAX, 2)] {
        assert!(matches!(
            PciRoot::new(layout(base, len)),
            Err(PciError::Window { .. })
        ));
    }
    let mut small = rig();
    small.root = Arc::new(PciRoot::new(layout(0xc000_0000, 0x8000)).unwrap());
    attach_another(&small).unwrap();
    assert!(attach_another(&small)
        .unwrap_err()
        .to_string()
        .contains("no room"));
}

#[test]
fn masked_vector_is_pending_until_unmasked() {
    for by_function_mask in [false, true] {
        let mut rig = rig();
        rig.start(0, 16);
        let entry = rig.msix_table + 16;
        let control = rig.msix_cap + 3;
        let set_mask = |rig: &Rig, masked: bool| {
            if by_function_mask {
                rig.set_config(control, &[if masked { 0xc0 } else { 0x80 }]);
            } else {
                rig.write(entry + 12, &u32::from(masked).to_le_bytes());
            }
        };
        set_mask(&rig, true);
        rig.add(0, &[(BUFFERS, 16, true)]);
        rig.notify(0);
        assert_eq!(rig.interrupts.take(1), 0);
        assert_eq!(rig.read::<1>(rig.msix_pending), [0b10]);
        set_mask(&rig, false);
        assert_eq!(rig.interrupts.take(1), 1);
        assert_eq!(rig.read::<1>(rig.msix_pending), [0]);
    }
}

#[test]
fn message_is_routed_once_and_followed_when_it_changes() {
    let mut rig = rig();
    rig.start(0, 16);
    let message = |data| {
        Some(MsiMessage {
            address: 0xfee0_0000,
            data,
        })
    };
    assert_eq!(rig.interrupts.message(1), message(1));
    let before = rig.interrupts.nr_updates();
    let entry = rig.msix_table + 16;
    for masked in [1u32, 0, 1, 0] {
        rig.write(entry + 12, &masked.to_le_bytes());
    }
    assert_eq!(rig.interrupts.nr_updates(), before);
    rig.write(entry + 12, &1u32.to_le_bytes());
    rig.write(entry + 8, &0x55u32.to_le_bytes());
    assert_eq!(rig.interrupts.message(1), message(1));
    rig.write(entry + 12, &0u32.to_le_bytes());
    assert_eq!(rig.interrupts.message(1), message(0x55));
}

#[test]
fn message_that_the_host_refuses_costs_only_its_vector() {
    let mut rig = rig();
    rig.start(0, 16);
    rig.write(rig.msix_table + 16, &0xff_fee0_0000u64.to_le_bytes());
    rig.add(0, &[(BUFFERS, 16, true)]);
    rig.notify(0);
    assert!(rig.take_used(0).is_some());
    assert_eq!(rig.interrupts.take(1), 0);
    rig.write(rig.msix_table + 16, &0xfee0_0000u64.to_le_bytes());
    rig.add(0, &[(BUFFERS, 16, true)]);
    rig.notify(0);
    assert_eq!(rig.interrupts.take(1), 1);
}

#[test]
fn disabled_msix_sends_nothing() {
    let mut rig = rig();
    rig.start(0, 16);
    rig.set_config(rig.msix_cap + 3, &[0]);
    rig.add(0, &[(BUFFERS, 16, true)]);
    rig.notify(0);
    assert!(rig.take_used(0).is_some());
    rig.set_config(rig.msix_cap + 3, &[0x80]);
    assert_eq!(rig.interrupts.take(1), 0);
}

#[test]
fn table_takes_aligned_words_only() {
    let rig = rig();
    let entry = rig.msix_table;
    rig.write(entry, &0x1122_3344_5566_7788u64.to_le_bytes());
    rig.write(entry, &[0xff]);
    rig.write(entry + 2, &[0xff; 2]);
    rig.write(entry + 4, &[0xff; 8]);
    rig.write(entry + 1, &[0xff; 4]);
    assert_eq!(rig.read(entry), 0x1122_3344_5566_7788u64.to_le_bytes());
    rig.write(entry + 8, &[0xff; 8]);
    assert_eq!(rig.read4(entry + 12), 1, "only the mask bit is there");
    rig.write(entry + 32, &[0xff; 4]);
    assert_eq!(rig.read4(entry + 32), 0, "past the last vector");
}

#[test]
fn access_capability_reaches_the_bar() {
    let rig = rig();
    let select = |bar: u8, offset: u32, len: u32| {
        rig.set_config(rig.access_cap + 4, &[bar]);
        rig.set_config(rig.access_cap + 8, &offset.to_le_bytes());
        rig.set_config(rig.access_cap + 12, &len.to_le_bytes());
    };
    let data = rig.access_cap + 16;
    select(0, 0x14, 1);
    rig.set_config(data, &[1]);
    assert_eq!(rig.status(), 1);
    assert_eq!(rig.config::<1>(data), [1]);
    rig.set_status(3);
    // With memory decoding off as well.
    rig.set_config(4, &[0, 0]);
    assert_eq!(rig.config::<1>(data), [3]);
    for (bar, offset, len) in [
        (1, 0x14, 1),
        (0, 0x8000, 4),
        (0, u32::MAX, 1),
        (0, 2, 4),
        (0, 0, 8),
    ] {
        select(bar, offset, len);
        rig.set_config(data, &[0; 4]);
        rig.config::<4>(data);
    }
    rig.set_config(4, &[2, 0]);
    assert_eq!(rig.status(), 3);
}

#[test]
fn removed_device_leaves_nothing_bound() {
    let mut rig = rig();
    rig.start(0, 16);
    let (interrupts, doorbells) = (rig.interrupts.clone(), rig.doorbells.clone());
    assert_eq!((interrupts.nr_bound(), doorbells.addresses().len()), (2, 1));
    drop(rig);
    assert_eq!((interrupts.nr_bound(), doorbells.addresses().len()), (0, 0));
}
