//! What a vCPU's own thread can do for the cooperative interface, on its KVM descriptor.

use std::fs;

use kvm_bindings::{kvm_mp_state, KVM_MP_STATE_HALTED};
use kvm_ioctls::VcpuFd;

use crate::coop::clock::{GuestClock, Reading};
use crate::coop::seat::Timing;
use crate::coop::serve::Prefault;
use crate::coop::OwnVcpu;
use crate::kvm::{prefault, tsc};

const CLOCKSOURCES: &str = "/sys/devices/system/clocksource/clocksource0/available_clocksource";

/// A vCPU, outside `KVM_RUN`, on its own thread.
pub(super) struct OwnFd<'a>(pub(super) &'a VcpuFd);

impl Prefault for OwnFd<'_> {
    fn prefault(&self, gpa: u64, len_bytes: u64) -> u64 {
        prefault::prefault(self.0, gpa, len_bytes)
    }
}

impl OwnVcpu for OwnFd<'_> {
    fn timing(&self) -> Result<Timing, String> {
        // The kernel takes an unstable TSC off this list, and KVM then rewrites offsets at will.
        let sources = fs::read_to_string(CLOCKSOURCES);
        let sources = sources.map_err(|error| format!("could not read {CLOCKSOURCES}: {error}"))?;
        if !sources.split_whitespace().any(|name| name == "tsc") {
            return Err("the host does not trust its TSC".into());
        }
        let failed = |error: std::io::Error| format!("could not read the guest's TSC: {error}");
        let offset = tsc::offset(self.0).map_err(failed)?;
        let khz = self.0.get_tsc_khz().unwrap_or(0);
        let host_before = tsc::read();
        let guest = tsc::read_guest(self.0).map_err(failed)?;
        let reading = Reading {
            host_before,
            guest,
            host_after: tsc::read(),
        };
        Ok(Timing {
            clock: GuestClock::new(offset, khz, reading).map_err(|error| error.to_string())?,
        })
    }

    fn set_tsc(&self, value: u64) -> Result<(), String> {
        let offset = value.wrapping_sub(tsc::read());
        tsc::set_offset(self.0, offset)
            .map_err(|error| format!("could not set the guest's TSC: {error}"))
    }

    fn set_deadline(&self, deadline_tsc: u64) -> bool {
        tsc::set_deadline(self.0, deadline_tsc).is_ok()
    }

    fn halt(&self) {
        // If KVM would not have it, the guest's write returns at once, and it comes again.
        let _ = self.0.set_mp_state(kvm_mp_state {
            mp_state: KVM_MP_STATE_HALTED,
        });
    }
}
