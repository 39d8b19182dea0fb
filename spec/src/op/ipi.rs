//! What an IPI call names (`[IPI-1]` to `[IPI-3]`).

use super::IpiArgs;
use crate::code::Status;

/// The lowest vector that an interrupt may have; those below are refused.
pub const FIRST_VECTOR: u8 = 16;

impl IpiArgs {
    /// Names one vCPU.
    pub const fn one(apic_id: u32, vector: u8) -> IpiArgs {
        IpiArgs {
            first_apic_id: apic_id,
            mask_low: 1,
            mask_high: 0,
            vector,
        }
    }

    /// Checks what does not need to know the vCPUs.
    pub const fn check(&self) -> Result<(), Status> {
        if self.vector < FIRST_VECTOR {
            return Err(Status::BAD_VECTOR);
        }
        let mask = self.mask_low as u128 | (self.mask_high as u128) << 64;
        let last = 127_u32.saturating_sub(mask.leading_zeros());
        if mask != 0 && self.first_apic_id.checked_add(last).is_none() {
            return Err(Status::BAD_TARGET);
        }
        Ok(())
    }

    /// The x2APIC ids in the mask, in order; at most 128. Those behind `u32::MAX` are left out,
    /// which [`IpiArgs::check`] refuses before.
    pub fn targets(&self) -> impl Iterator<Item = u32> {
        let first = self.first_apic_id;
        let (low, high) = (self.mask_low, self.mask_high);
        (0..128_u32)
            .filter(move |bit| {
                let word = if *bit < 64 { low } else { high };
                word >> (bit & 63) & 1 != 0
            })
            .filter_map(move |bit| first.checked_add(bit))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn ipi_1_a_mask_names_up_to_128_vcpus() {
        let all = IpiArgs {
            first_apic_id: 5,
            mask_low: u64::MAX,
            mask_high: u64::MAX,
            vector: 255,
        };
        assert_eq!(all.check(), Ok(()));
        assert_eq!(
            all.targets().collect::<Vec<_>>(),
            (5..133).collect::<Vec<_>>()
        );
        assert_eq!(IpiArgs::one(7, 32).targets().collect::<Vec<_>>(), [7]);
        let none = IpiArgs {
            mask_low: 0,
            ..IpiArgs::one(u32::MAX, 32)
        };
        assert_eq!((none.check(), none.targets().count()), (Ok(()), 0));
    }

    #[test]
    fn ipi_2_vectors_below_16_and_ids_that_wrap_are_refused() {
        for vector in 0..16 {
            assert_eq!(IpiArgs::one(0, vector).check(), Err(Status::BAD_VECTOR));
        }
        for vector in [16, 31, 32, 255] {
            assert_eq!(IpiArgs::one(0, vector).check(), Ok(()));
        }
        let wraps = IpiArgs {
            mask_low: 2,
            ..IpiArgs::one(u32::MAX, 32)
        };
        assert_eq!(wraps.check(), Err(Status::BAD_TARGET));
        assert_eq!(wraps.targets().count(), 0);
        assert_eq!(IpiArgs::one(u32::MAX, 32).check(), Ok(()));
    }
}
