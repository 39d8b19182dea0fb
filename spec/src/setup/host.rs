//! What the host answers to writes of one vCPU's set-up registers, as a pure state machine.
//!
//! The VMM's MSR handler owns one [`VcpuSetup`] per vCPU, asks it, and carries out the [`Effect`].
//! Nothing here touches guest memory; where an area may lie is asked of [`Places`].

use super::{AreaRequest, SetupState, AREA_OFFSET, FEATURES_OFFSET, STATUS_OFFSET};
use crate::code::{BrokenReason, SetupStatus};
use crate::page::AreaLayout;
use crate::version::{negotiate, Features};

/// What the machine knows about places in guest memory.
pub trait Places {
    /// Whether all these bytes are ordinary memory (not a hole, a device, or past the end).
    fn is_ram(&self, gpa: u64, len_bytes: u64) -> bool;
    /// Whether any of these bytes belongs to the registered area of another vCPU.
    fn overlaps_area(&self, gpa: u64, len_bytes: u64) -> bool;
}

/// What the host has to do for a write.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Write the header and begin to serve the area; [`VcpuSetup::fail`] if that is impossible.
    Register {
        /// Where the area starts.
        gpa: u64,
    },
    /// Stop touching the area before the write returns (`[LIFE-2]`).
    Unregister {
        /// Where the area started.
        gpa: u64,
    },
}

/// One vCPU's set-up registers.
#[derive(Clone, Debug)]
pub struct VcpuSetup {
    offered: Features,
    layout: AreaLayout,
    negotiated: Features,
    area_gpa: Option<u64>,
    last: SetupStatus,
    broken: BrokenReason,
}

impl VcpuSetup {
    /// A vCPU after reset, on a host that offers these features and this layout.
    pub const fn new(offered: Features, layout: AreaLayout) -> Self {
        Self {
            offered,
            layout,
            negotiated: Features::NONE,
            area_gpa: None,
            last: SetupState::RESET.last,
            broken: SetupState::RESET.broken,
        }
    }

    /// The negotiated features.
    pub const fn negotiated(&self) -> Features {
        self.negotiated
    }

    /// Where the registered area starts.
    pub const fn area_gpa(&self) -> Option<u64> {
        self.area_gpa
    }

    /// Answers a read of the register at this distance from the base; `None` if there is none.
    pub const fn read(&self, offset: u32) -> Option<u64> {
        match offset {
            FEATURES_OFFSET => Some(self.negotiated.0),
            AREA_OFFSET => Some(match self.area_gpa {
                Some(gpa) => gpa | super::AREA_ENABLE,
                None => 0,
            }),
            STATUS_OFFSET => Some(
                SetupState {
                    last: self.last,
                    is_registered: self.area_gpa.is_some(),
                    broken: self.broken,
                }
                .encode(),
            ),
            _ => None,
        }
    }

    /// Answers a write; `None` if there is no such register. A refused write changes nothing but
    /// the status (`[REG-4]`).
    pub fn write(&mut self, offset: u32, value: u64, places: &impl Places) -> Option<Effect> {
        let answer = match offset {
            FEATURES_OFFSET => self.write_features(Features(value)),
            AREA_OFFSET => self.write_area(value, places),
            STATUS_OFFSET => return Some(Effect::None),
            _ => return None,
        };
        self.last = answer.err().unwrap_or(SetupStatus::OK);
        Some(answer.unwrap_or(Effect::None))
    }

    /// The host could not do what the last write asked for.
    pub fn fail(&mut self, status: SetupStatus) {
        self.area_gpa = None;
        self.last = status;
    }

    /// The area was found broken; it stays registered until the guest lets go (`[LIFE-6]`).
    pub fn set_broken(&mut self, reason: BrokenReason) {
        self.broken = reason;
    }

    /// Reset of the vCPU (`[LIFE-1]`): forgets everything; says what was registered.
    pub fn reset(&mut self) -> Effect {
        let effect = self.unregister();
        *self = Self::new(self.offered, self.layout);
        effect
    }

    fn write_features(&mut self, wanted: Features) -> Result<Effect, SetupStatus> {
        if self.area_gpa.is_some() {
            return Err(SetupStatus::BUSY);
        }
        self.negotiated = negotiate(self.offered, wanted)?;
        Ok(Effect::None)
    }

    fn write_area(&mut self, value: u64, places: &impl Places) -> Result<Effect, SetupStatus> {
        let gpa = match AreaRequest::decode(value)? {
            AreaRequest::Unregister => return Ok(self.unregister()),
            AreaRequest::Register { gpa } => gpa,
        };
        if self.negotiated.is_empty() {
            return Err(SetupStatus::NOT_NEGOTIATED);
        }
        if self.area_gpa.is_some() {
            return Err(SetupStatus::ALREADY_REGISTERED);
        }
        let len_bytes = self.layout.area_bytes() as u64;
        if gpa.checked_add(len_bytes).is_none() || !places.is_ram(gpa, len_bytes) {
            return Err(SetupStatus::BAD_ADDRESS);
        }
        if places.overlaps_area(gpa, len_bytes) {
            return Err(SetupStatus::SHARED);
        }
        self.area_gpa = Some(gpa);
        self.broken = SetupState::RESET.broken;
        Ok(Effect::Register { gpa })
    }

    fn unregister(&mut self) -> Effect {
        self.broken = SetupState::RESET.broken;
        match self.area_gpa.take() {
            Some(gpa) => Effect::Unregister { gpa },
            None => Effect::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 16 MiB of memory, another vCPU's area at 1 MiB.
    struct Machine;

    impl Places for Machine {
        fn is_ram(&self, gpa: u64, len_bytes: u64) -> bool {
            gpa.checked_add(len_bytes)
                .is_some_and(|end| end <= 16 << 20)
        }
        fn overlaps_area(&self, gpa: u64, len_bytes: u64) -> bool {
            gpa < (1 << 20) + 4096 && gpa + len_bytes > 1 << 20
        }
    }

    const OFFERED: Features = Features(0b1011);

    fn vcpu() -> VcpuSetup {
        VcpuSetup::new(OFFERED, AreaLayout::DEFAULT)
    }

    fn negotiated() -> VcpuSetup {
        let mut setup = vcpu();
        assert_eq!(setup.write(1, 0b11, &Machine), Some(Effect::None));
        assert_eq!(setup.read(3), Some(1));
        setup
    }

    fn refusal(setup: &mut VcpuSetup, offset: u32, value: u64) -> SetupStatus {
        let before = (setup.negotiated(), setup.area_gpa());
        assert_eq!(setup.write(offset, value, &Machine), Some(Effect::None));
        assert_eq!((setup.negotiated(), setup.area_gpa()), before);
        SetupState::decode(setup.read(3).unwrap()).last
    }

    #[test]
    fn reg_2_features_come_before_the_area_and_stay_while_it_is_there() {
        let mut setup = vcpu();
        assert_eq!(refusal(&mut setup, 2, 0x5001), SetupStatus::NOT_NEGOTIATED);
        assert_eq!(refusal(&mut setup, 1, 0b10), SetupStatus::BAD_FEATURES);
        assert_eq!(refusal(&mut setup, 1, 0b101), SetupStatus::BAD_FEATURES);
        let mut setup = negotiated();
        assert_eq!(setup.read(1), Some(0b11));
        let registered = setup.write(2, 0x5001, &Machine);
        assert_eq!(registered, Some(Effect::Register { gpa: 0x5000 }));
        assert_eq!(refusal(&mut setup, 1, 1), SetupStatus::BUSY);
        assert_eq!(
            (setup.read(2), setup.read(3)),
            (Some(0x5001), Some(0x1_0008))
        );
    }

    #[test]
    fn trust_1_an_area_that_cannot_be_is_refused() {
        let mut setup = negotiated();
        for (value, status) in [
            (0x5000, SetupStatus::RESERVED_BITS),
            (0x5801, SetupStatus::RESERVED_BITS),
            (0x0100_0001, SetupStatus::BAD_ADDRESS),
            (0xfee0_0001, SetupStatus::BAD_ADDRESS),
            (!0xfff | 1, SetupStatus::BAD_ADDRESS),
            (0x0010_0001, SetupStatus::SHARED),
        ] {
            assert_eq!(refusal(&mut setup, 2, value), status, "{value:#x}");
        }
        let registered = setup.write(2, 0x5001, &Machine);
        assert_eq!(registered, Some(Effect::Register { gpa: 0x5000 }));
        for again in [0x5001, 0x6001] {
            assert_eq!(
                refusal(&mut setup, 2, again),
                SetupStatus::ALREADY_REGISTERED
            );
        }
    }

    #[test]
    fn life_1_reset_and_unregistering_name_what_has_to_be_left() {
        let mut setup = negotiated();
        assert_eq!(setup.write(2, 0, &Machine), Some(Effect::None));
        assert_eq!(refusal(&mut setup, 2, 0), SetupStatus::OK);
        let _ = setup.write(2, 0x5001, &Machine);
        setup.set_broken(BrokenReason::SUBMISSION_TAIL);
        assert_eq!(setup.read(3), Some(0x0000_0001_0001_0001));
        let left = Effect::Unregister { gpa: 0x5000 };
        assert_eq!(setup.write(2, 0, &Machine), Some(left));
        assert_eq!((setup.read(2), setup.read(3)), (Some(0), Some(1)));
        // The negotiated features outlive the area, but no reset.
        assert_eq!(setup.read(1), Some(0b11));
        let _ = setup.write(2, 0x5001, &Machine);
        assert_eq!(setup.reset(), left);
        assert_eq!([1, 2, 3].map(|offset| setup.read(offset)), [Some(0); 3]);
    }

    #[test]
    fn reg_1_there_are_no_other_registers_and_the_status_is_read_only() {
        let mut setup = negotiated();
        assert_eq!(setup.write(3, u64::MAX, &Machine), Some(Effect::None));
        assert_eq!(setup.read(3), Some(1));
        for offset in [0, 4, u32::MAX] {
            assert_eq!(setup.write(offset, 1, &Machine), None);
            assert_eq!(setup.read(offset), None);
        }
    }

    #[test]
    fn reg_6_a_host_that_fails_says_so_and_registers_nothing() {
        let mut setup = negotiated();
        let _ = setup.write(2, 0x5001, &Machine);
        setup.fail(SetupStatus::HOST_FAILED);
        assert_eq!((setup.read(2), setup.read(3)), (Some(0), Some(9)));
    }
}
