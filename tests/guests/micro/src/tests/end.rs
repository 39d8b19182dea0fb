//! Ends that the host's test expects: with a code, by failures, and without a test.

use crate::params;
use crate::report;
use crate::test::{guest_test, Ran, Skip};

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
