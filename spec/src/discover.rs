//! How a guest finds the interface: CPUID leaves (`[DISC-1]` to `[DISC-5]`).

use crate::doorbell;
use crate::mark::MARK_MSR;
use crate::page::{AreaLayout, DEFAULT_RING_ENTRIES};
use crate::version::{Features, Version};

/// Bit of leaf 1, ECX, that says that these leaves are a hypervisor's (`[DISC-1]`).
pub const HYPERVISOR_PRESENT: u32 = 1 << 31;
/// The first leaf that a guest tries.
pub const SCAN_FIRST: u32 = 0x4000_0000;
/// The leaf before which a guest stops.
pub const SCAN_END: u32 = 0x4001_0000;
/// The distance between tries.
pub const SCAN_STEP: u32 = 0x100;
/// Where our host puts its block; the kernel's own stays at [`SCAN_FIRST`].
pub const DEFAULT_BASE: u32 = 0x4000_0100;
/// What EBX, ECX and EDX of the base leaf spell.
pub const SIGNATURE: [u8; 12] = *b"CoopvirtHost";
/// Leaves behind the base leaf that version 1.0 has.
pub const LEAVES: u32 = 3;
/// Most range-list items that our host accepts.
pub const DEFAULT_LIST_ITEMS: u32 = 512;
/// Most bytes of memory that our host works on within one call; it backs much less, see `[MMU-4]`.
pub const DEFAULT_STEP_BYTES: u32 = 128 << 20;

/// The four registers that CPUID gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// What a host announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The leaf where the block starts.
    pub base: u32,
    /// The host's version.
    pub version: Version,
    /// The features it offers.
    pub features: Features,
    /// Size and layout of the area.
    pub layout: AreaLayout,
    /// Most items of a range list.
    pub max_list_items: u32,
    /// Most bytes of memory that one call works on before it comes back with a restart point.
    pub max_step_bytes: u32,
    /// The first of the set-up registers, the mark MSR.
    pub msr_base: u32,
    /// Port of the asynchronous doorbell.
    pub async_port: u16,
    /// Port of the synchronous doorbell.
    pub sync_port: u16,
}

impl Offer {
    /// What our host announces with these features.
    pub const fn new(features: Features) -> Offer {
        Offer {
            base: DEFAULT_BASE,
            version: Version::CURRENT,
            features,
            layout: AreaLayout::DEFAULT,
            max_list_items: DEFAULT_LIST_ITEMS,
            max_step_bytes: DEFAULT_STEP_BYTES,
            msr_base: MARK_MSR,
            async_port: doorbell::ASYNC_PORT,
            sync_port: doorbell::SYNC_PORT,
        }
    }

    /// The leaves that say so, for the host to put into its CPUID table (`[DISC-3]`).
    pub fn leaves(&self) -> [(u32, Registers); 4] {
        let [s0, s1, s2] = signature_words();
        let [f0, f1, f2, f3, f4, f5, f6, f7] = self.features.0.to_le_bytes();
        let identity = Registers {
            eax: self.base + LEAVES,
            ebx: s0,
            ecx: s1,
            edx: s2,
        };
        let version = Registers {
            eax: self.version.encode(),
            ebx: u32::from_le_bytes([f0, f1, f2, f3]),
            ecx: u32::from_le_bytes([f4, f5, f6, f7]),
            edx: 0,
        };
        let places = Registers {
            eax: self.msr_base,
            ebx: u32::from(self.async_port) | u32::from(self.sync_port) << 16,
            ecx: 0,
            edx: 0,
        };
        let limits = Registers {
            eax: self.layout.ring_entries(),
            ebx: self.max_list_items,
            ecx: self.max_step_bytes,
            edx: 0,
        };
        [
            (self.base, identity),
            (self.base + 1, version),
            (self.base + 2, places),
            (self.base + 3, limits),
        ]
    }

    /// Reads the block at `base`; `None` if there is none, or none that this version understands
    /// (`[DISC-4]`).
    pub fn read(base: u32, cpuid: &mut impl FnMut(u32) -> Registers) -> Option<Offer> {
        let identity = cpuid(base);
        let [s0, s1, s2] = signature_words();
        if [identity.ebx, identity.ecx, identity.edx] != [s0, s1, s2]
            || identity.eax < base.checked_add(LEAVES)?
        {
            return None;
        }
        let [version, places, limits] = [cpuid(base + 1), cpuid(base + 2), cpuid(base + 3)];
        let offered = Version::decode(version.eax);
        if !Version::CURRENT.understands(offered) {
            return None;
        }
        let [a0, a1, y0, y1] = places.ebx.to_le_bytes();
        Some(Offer {
            base,
            version: offered,
            features: Features(u64::from(version.ebx) | u64::from(version.ecx) << 32),
            layout: AreaLayout::new(limits.eax)?,
            max_list_items: limits.ebx,
            max_step_bytes: limits.ecx,
            msr_base: places.eax,
            async_port: u16::from_le_bytes([a0, a1]),
            sync_port: u16::from_le_bytes([y0, y1]),
        })
    }

    /// Scans for the block (`[DISC-2]`), if there is a hypervisor at all (`[DISC-1]`).
    pub fn find(mut cpuid: impl FnMut(u32) -> Registers) -> Option<Offer> {
        // On bare hardware these leaves may give the registers of some other leaf.
        if cpuid(1).ecx & HYPERVISOR_PRESENT == 0 {
            return None;
        }
        let mut base = SCAN_FIRST;
        while base < SCAN_END {
            if let Some(offer) = Offer::read(base, &mut cpuid) {
                return Some(offer);
            }
            base += SCAN_STEP;
        }
        None
    }
}

/// The layout of a host that announces nothing unusual.
const _: () = assert!(AreaLayout::DEFAULT.ring_entries() == DEFAULT_RING_ENTRIES);

fn signature_words() -> [u32; 3] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = SIGNATURE;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIRTUAL: Registers = Registers {
        eax: 0,
        ebx: 0,
        ecx: HYPERVISOR_PRESENT,
        edx: 0,
    };

    fn find_in(leaves: &[(u32, Registers)]) -> Option<Offer> {
        Offer::find(|leaf| {
            if leaf == 1 {
                return VIRTUAL;
            }
            let found = leaves.iter().find(|(at, _)| *at == leaf);
            found.map_or(Registers::default(), |(_, registers)| *registers)
        })
    }

    #[test]
    fn disc_3_what_a_host_announces_is_what_a_guest_reads() {
        let mut offer = Offer::new(Features::RING | Features::EXPERIMENTAL);
        assert_eq!(find_in(&offer.leaves()), Some(offer));
        offer.base = 0x4000_ff00;
        offer.version.minor = 9;
        assert_eq!(find_in(&offer.leaves()), Some(offer));
    }

    #[test]
    fn disc_2_the_scan_steps_over_other_blocks_and_ends() {
        let mut calls = 0;
        let nothing = Offer::find(|leaf| {
            calls += 1;
            if leaf == 1 {
                return VIRTUAL;
            }
            Registers::default()
        });
        assert_eq!((nothing, calls), (None, 1 + 256));
        let mut offer = Offer::new(Features::RING);
        offer.base = SCAN_END;
        assert_eq!(find_in(&offer.leaves()), None);
    }

    #[test]
    fn disc_1_without_a_hypervisor_nothing_is_looked_for() {
        let leaves = Offer::new(Features::RING).leaves();
        let mut calls = 0;
        let found = Offer::find(|leaf| {
            calls += 1;
            let found = leaves.iter().find(|(at, _)| *at == leaf);
            found.map_or(Registers::default(), |(_, registers)| *registers)
        });
        assert_eq!((found, calls), (None, 1));
    }

    #[test]
    fn disc_5_our_host_announces_the_numbers_of_the_specification() {
        let offer = Offer::new(Features::RING);
        assert_eq!((offer.msr_base, offer.base), (0x4356_0000, 0x4000_0100));
        assert_eq!((offer.async_port, offer.sync_port), (0x0d10, 0x0d14));
        assert_eq!(offer.layout.ring_entries(), 32);
        assert_eq!(
            (offer.max_list_items, offer.max_step_bytes),
            (512, 128 << 20)
        );
    }

    #[test]
    fn disc_4_a_block_that_is_not_understood_is_absent() {
        let offer = Offer::new(Features::RING);
        type Leaves = [(u32, Registers); 4];
        let changes: [fn(&mut Leaves); 4] = [
            |leaves| leaves[0].1.ecx ^= 1,
            |leaves| leaves[0].1.eax = DEFAULT_BASE + 2,
            |leaves| leaves[1].1.eax = 0x0002_0000,
            |leaves| leaves[3].1.eax = 33,
        ];
        for change in changes {
            let mut leaves = offer.leaves();
            change(&mut leaves);
            assert_eq!(find_in(&leaves), None);
        }
    }
}
