//! What a virtio function looks like on the bus: its configuration space and the pages of its BAR.

use super::device::VirtioDevice;
use super::transport::COMMON_CONFIG_LEN;
use crate::pci::{Bar, ConfigHeader, ConfigSpace};

const VENDOR_VIRTIO: u16 = 0x1af4;
const DEVICE_ID_BASE: u16 = 0x1040;

// The BAR: one page for each structure, so that none shares a page with the doorbells.
pub(super) const BAR_INDEX: usize = 0;
pub(super) const BAR_BYTES: u32 = 0x8000;
pub(super) const PAGE_BYTES: u32 = 0x1000;
pub(super) const PAGE_COMMON: u32 = 0;
pub(super) const PAGE_ISR: u32 = 1;
pub(super) const PAGE_DEVICE: u32 = 2;
pub(super) const PAGE_NOTIFY: u32 = 3;
pub(super) const PAGE_MSIX_TABLE: u32 = 4;
pub(super) const PAGE_MSIX_PENDING: u32 = 5;
pub(super) const NOTIFY_STRIDE_BYTES: u32 = 4;

const CAP_VENDOR: u8 = 0x09;
const CAP_MSIX: u8 = 0x11;
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_ISR: u8 = 3;
const CFG_DEVICE: u8 = 4;
const CFG_PCI: u8 = 5;

// Within the access capability (type 5).
pub(super) const ACCESS_BAR: usize = 4;
pub(super) const ACCESS_OFFSET: usize = 8;
pub(super) const ACCESS_LENGTH: usize = 12;
pub(super) const ACCESS_DATA: usize = 16;

/// Builds the configuration space. Returns it with the places of the MSI-X and access capabilities.
pub(super) fn config_space(
    device: &dyn VirtioDevice,
    nr_vectors: u16,
) -> (ConfigSpace, usize, usize) {
    let mut config = ConfigSpace::new(&ConfigHeader {
        vendor: VENDOR_VIRTIO,
        device: DEVICE_ID_BASE + device.device_type(),
        // Virtio 1.x: no legacy interface.
        revision: 1,
        class: device.pci_class(),
        subsystem_vendor: VENDOR_VIRTIO,
        subsystem: DEVICE_ID_BASE + device.device_type(),
    });
    config.add_bar(Bar {
        index: BAR_INDEX,
        size_bytes: BAR_BYTES,
    });
    let common_len = u32::try_from(COMMON_CONFIG_LEN).expect("small constant");
    for (cfg_type, page, len) in [
        (CFG_COMMON, PAGE_COMMON, common_len),
        (CFG_ISR, PAGE_ISR, 4),
        (CFG_DEVICE, PAGE_DEVICE, PAGE_BYTES),
    ] {
        config.add_capability(CAP_VENDOR, &virtio_cap(16, cfg_type, page, len), &[]);
    }
    let mut notify = virtio_cap(20, CFG_NOTIFY, PAGE_NOTIFY, PAGE_BYTES).to_vec();
    notify.extend(NOTIFY_STRIDE_BYTES.to_le_bytes());
    config.add_capability(CAP_VENDOR, &notify, &[]);

    let mut access = virtio_cap(20, CFG_PCI, 0, 0).to_vec();
    access.extend([0; 4]);
    let mut writable = [0; ACCESS_DATA + 2];
    // The body starts two bytes into the capability.
    writable[ACCESS_BAR - 2] = 0xff;
    writable[ACCESS_OFFSET - 2..].fill(0xff);
    let access_cap = config.add_capability(CAP_VENDOR, &access, &writable);

    let mut msix = (nr_vectors - 1).to_le_bytes().to_vec();
    msix.extend((PAGE_MSIX_TABLE * PAGE_BYTES).to_le_bytes());
    msix.extend((PAGE_MSIX_PENDING * PAGE_BYTES).to_le_bytes());
    let msix_cap = config.add_capability(CAP_MSIX, &msix, &[0, 0xc0]);
    (config, msix_cap, access_cap)
}

/// A virtio capability after its ID and link.
fn virtio_cap(cap_len: u8, cfg_type: u8, page: u32, len: u32) -> [u8; 14] {
    let [o0, o1, o2, o3] = (page * PAGE_BYTES).to_le_bytes();
    let [l0, l1, l2, l3] = len.to_le_bytes();
    let bar = u8::try_from(BAR_INDEX).expect("small constant");
    [
        cap_len, cfg_type, bar, 0, 0, 0, o0, o1, o2, o3, l0, l1, l2, l3,
    ]
}
