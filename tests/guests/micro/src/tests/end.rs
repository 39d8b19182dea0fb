//! Ends that the host's test expects: with a code, by failures, and without a test.

use coopvirt_spec::op::NopArgs;
use coopvirt_spec::version::Features;
use guest_shim::batch::Flush;

use crate::test::{guest_test, Ran, Skip};
use crate::x86::{port, tsc};
use crate::{coop, cpus, params, report};

guest_test!("end_with_a_code", "", with_a_code);
/// Parameter `code`: the code.
fn with_a_code() -> Ran {
    let code = params::number("code").expect("parameter code");
    report::end(u8::try_from(code).expect("one byte"))
}

guest_test!("end_by_a_failure", "", by_a_failure);
fn by_a_failure() -> Ran {
    let two = 2;
    assert_eq!(two, 3, "on purpose");
    Ok(())
}

guest_test!("end_by_a_fault", "", by_a_fault);
fn by_a_fault() -> Ran {
    #[expect(unsafe_code, reason = "UNSAFETY: an instruction that the CPU refuses")]
    // SAFETY: it does nothing but fault, and the fault handler ends the machine.
    unsafe {
        core::arch::asm!("ud2")
    };
    Ok(())
}

guest_test!("end_without_a_test", "", without_a_test);
fn without_a_test() -> Ran {
    Err(Skip("on purpose"))
}

guest_test!("end_by_a_reset_with_areas", "[LIFE-1]", by_a_reset);
/// With an area on each CPU and calls under way.
fn by_a_reset() -> Ran {
    /// The keyboard controller's command that pulls the reset line.
    const RESET: (u16, u8) = (0x64, 0xfe);
    let offered = coop::offer()?.features;
    let wanted = Features::RING | Features::SIDECORE | Features::TIMER;
    cpus::on_each(&|_| {
        let mut session = coop::open(offered.intersection(wanted));
        for _ in 0..16 {
            assert!(session.stage(NopArgs {}.submission(0)).is_ok());
        }
        // And nobody closes it.
        session.flush(Flush::Soon);
    });
    report::value("areas", cpus::count() as u64);
    port::write_u8(RESET.0, RESET.1);
    tsc::wait_us(tsc::LIMIT_US);
    panic!("the machine goes on after a reset")
}
