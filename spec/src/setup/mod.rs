//! The set-up registers (`[REG-1]` to `[REG-8]`): MSRs that follow the mark MSR.
//!
//! They are used when an area comes and goes, never on a hot path: each access is an exit to
//! userspace.

mod host;

pub use host::{Effect, Places, VcpuSetup};

use crate::code::{BrokenReason, SetupStatus};
use crate::mark::MARK_MSR;

/// Distance of the features register from the MSR base.
pub const FEATURES_OFFSET: u32 = 1;
/// Distance of the area register from the MSR base.
pub const AREA_OFFSET: u32 = 2;
/// Distance of the status register from the MSR base.
pub const STATUS_OFFSET: u32 = 3;
/// Registers from the MSR base on, the mark MSR among them.
pub const NR_MSRS: u32 = 4;

/// The features register of our host: a write negotiates, a read gives what is negotiated.
pub const FEATURES_MSR: u32 = MARK_MSR + FEATURES_OFFSET;
/// The area register of our host: address and enable bit.
pub const AREA_MSR: u32 = MARK_MSR + AREA_OFFSET;
/// The status register of our host; read-only.
pub const STATUS_MSR: u32 = MARK_MSR + STATUS_OFFSET;

/// Bit 0 of the area register: registered.
pub const AREA_ENABLE: u64 = 1;

/// What a write to the area register asks for (`[REG-3]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AreaRequest {
    /// Register the area at this guest-physical address, a multiple of 4096.
    Register {
        /// Where it starts.
        gpa: u64,
    },
    /// Unregister whatever is registered.
    Unregister,
}

impl AreaRequest {
    /// Decodes a value written. Zero unregisters; anything else needs bit 0 and no bit of 1 to 11.
    pub const fn decode(value: u64) -> Result<AreaRequest, SetupStatus> {
        match value & 0xfff {
            AREA_ENABLE => Ok(AreaRequest::Register {
                gpa: value & !0xfff,
            }),
            0 if value == 0 => Ok(AreaRequest::Unregister),
            _ => Err(SetupStatus::RESERVED_BITS),
        }
    }

    /// The value to write; `None` for an address that is not a multiple of 4096.
    pub const fn encode(self) -> Option<u64> {
        match self {
            AreaRequest::Register { gpa } if gpa & 0xfff == 0 => Some(gpa | AREA_ENABLE),
            AreaRequest::Register { .. } => None,
            AreaRequest::Unregister => Some(0),
        }
    }
}

/// What the status register holds (`[REG-4]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetupState {
    /// How the last write to a set-up register of this vCPU ended; zero before the first.
    pub last: SetupStatus,
    /// Whether an area is registered.
    pub is_registered: bool,
    /// Why the area is broken; zero if it is not.
    pub broken: BrokenReason,
}

impl SetupState {
    /// A vCPU after reset.
    pub const RESET: SetupState = SetupState {
        last: SetupStatus(0),
        is_registered: false,
        broken: BrokenReason(0),
    };

    /// The register's value: status in bits 15-0, registered in bit 16, reason in bits 63-32.
    pub const fn encode(self) -> u64 {
        self.last.0 as u64 | (self.is_registered as u64) << 16 | (self.broken.0 as u64) << 32
    }

    /// Reads the register; bits 31-17 mean nothing.
    pub const fn decode(value: u64) -> SetupState {
        let [s0, s1, flags, _, b0, b1, b2, b3] = value.to_le_bytes();
        SetupState {
            last: SetupStatus(u16::from_le_bytes([s0, s1])),
            is_registered: flags & 1 != 0,
            broken: BrokenReason(u32::from_le_bytes([b0, b1, b2, b3])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reg_3_the_area_register_holds_a_page_address_and_one_bit() {
        let request = AreaRequest::Register { gpa: 0x1234_5000 };
        assert_eq!(request.encode(), Some(0x1234_5001));
        assert_eq!(AreaRequest::decode(0x1234_5001), Ok(request));
        assert_eq!(AreaRequest::decode(0), Ok(AreaRequest::Unregister));
        assert_eq!(AreaRequest::Register { gpa: 0x800 }.encode(), None);
        for value in [0x1234_5000, 0x1234_5003, 0x1234_5801, 2, 0x800, u64::MAX] {
            assert_eq!(AreaRequest::decode(value), Err(SetupStatus::RESERVED_BITS));
        }
    }

    #[test]
    fn reg_4_the_status_register_survives_a_round_trip() {
        let state = SetupState {
            last: SetupStatus::SHARED,
            is_registered: true,
            broken: BrokenReason::SUBMISSION_TAIL,
        };
        assert_eq!(state.encode(), 0x0000_0001_0001_0006);
        assert_eq!(SetupState::decode(state.encode()), state);
        assert_eq!(SetupState::decode(0), SetupState::RESET);
    }
}
