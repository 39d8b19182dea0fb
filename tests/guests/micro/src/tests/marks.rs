//! Measurement marks, by port and by MSR. The host's test also looks for them in the exit report.

use coopvirt_spec::mark::{Mark, MarkKind, MARK_MSR, MARK_PORT};
use guest_shim::{Marker, Platform};

use crate::test::{guest_test, Ran};
use crate::x86::{msr, port};

/// Works of this guest's own choice, which no work has: one for each way.
const WORK_BY_PORT: u8 = 0xe0;
const WORK_BY_MSR: u8 = 0xe1;
/// What must not become a phase.
const WORK_NONE: u8 = 0xe2;

/// Makes marks at the port.
pub(super) struct Bare;

impl Platform for Bare {
    fn write_mark_port(&mut self, value: u32) {
        port::write_u32(MARK_PORT, value);
    }
}

guest_test!("machine_mark_port", "[MARK-1] [MARK-3] [MARK-4]", mark_port);
fn mark_port() -> Ran {
    let mut marker = Marker::new(Bare);
    marker.point(WORK_BY_PORT);
    assert_eq!(marker.phase(WORK_BY_PORT, || 7), 7);
    marker.phase(WORK_BY_PORT, || ());
    // No marks: other widths, another kind, a read.
    port::write_u16(MARK_PORT, u16::from(WORK_NONE));
    port::write_u8(MARK_PORT, WORK_NONE);
    port::write_u32(MARK_PORT, 9 << 24 | u32::from(WORK_NONE) << 16);
    assert_eq!(port::read_u32(MARK_PORT), u32::MAX);
    Ok(())
}

guest_test!("machine_mark_msr", "[MARK-2]", mark_msr);
fn mark_msr() -> Ran {
    for kind in [MarkKind::Begin, MarkKind::End] {
        let work = WORK_BY_MSR;
        let mark = Mark { kind, work, seq: 5 };
        assert_eq!(msr::try_write(MARK_MSR, mark.encode().into()), Ok(()));
        assert_eq!(msr::try_read(MARK_MSR), Ok(0));
    }
    for other in 1..8 {
        assert_eq!(msr::try_read(MARK_MSR + other), Err(msr::Fault));
        assert_eq!(msr::try_write(MARK_MSR + other, 0), Err(msr::Fault));
    }
    Ok(())
}
