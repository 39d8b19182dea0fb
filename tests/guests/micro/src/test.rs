//! What a test is, and how the tests that the command line names are run.
//!
//! `guest_test!` puts a test into a link section; the parameter `tests` chooses: names separated by
//! commas, `name*` for all that begin so. Each begins with no callback set, no count, no armed timer.
#![expect(unsafe_code)]
// UNSAFETY: a link section is read as a slice.

use micro_protocol::{Record, EXIT_DONE};

use crate::x86::{apic, interrupts};
use crate::{cpus, params, report};

/// A test cannot run on this machine, for this reason.
#[derive(Clone, Copy, Debug)]
pub struct Skip(pub &'static str);

/// What a test gives. It fails by a panic, as `assert!` makes one, on any CPU.
pub type Ran = Result<(), Skip>;

/// A registered test.
#[repr(C)]
#[derive(Debug)]
pub struct GuestTest {
    /// By which the host asks for it.
    pub name: &'static str,
    /// The clauses of the specification that it shows: "[MARK-1] [MARK-3]", or nothing.
    pub clauses: &'static str,
    /// The test.
    pub run: fn() -> Ran,
}

/// Registers a function as a test: name, clauses, function.
macro_rules! guest_test {
    ($name:literal, $clauses:literal, $run:path) => {
        const _: () = {
            #[used]
            #[unsafe(link_section = ".guest_tests")]
            #[expect(
                unsafe_code,
                reason = "UNSAFETY: the linker script gathers the section"
            )]
            static TEST: $crate::test::GuestTest = $crate::test::GuestTest {
                name: $name,
                clauses: $clauses,
                run: $run,
            };
        };
    };
}
pub(crate) use guest_test;

unsafe extern "C" {
    safe static guest_tests_start: [u64; 0];
    safe static guest_tests_end: [u64; 0];
}

/// Gives `Skip` with this reason unless the condition holds.
pub fn require(condition: bool, reason: &'static str) -> Ran {
    condition.then_some(()).ok_or(Skip(reason))
}

/// Runs the tests that are asked for, and ends the machine.
pub fn run_all() -> ! {
    let wanted = params::text("tests").expect("parameter tests says what to run");
    let mut count = 0;
    for pattern in wanted.split(',') {
        let before = count;
        for test in all().iter().filter(|test| matches(pattern, test.name)) {
            run(test);
            count += 1;
        }
        assert!(count > before, "no test is called {pattern}");
    }
    report::send(&Record::Done { count });
    report::end(EXIT_DONE)
}

fn all() -> &'static [GuestTest] {
    let first: *const GuestTest = (&raw const guest_tests_start).cast();
    let end: *const GuestTest = (&raw const guest_tests_end).cast();
    let count = (end.addr() - first.addr()) / size_of::<GuestTest>();
    // SAFETY: the linker script puts both symbols around the tests, which are all of this type and
    // need no padding between them.
    unsafe { core::slice::from_raw_parts(first, count) }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

fn run(test: &GuestTest) {
    interrupts::reset();
    let GuestTest { name, clauses, run } = *test;
    report::send(&Record::Begin { name, clauses });
    let ran = run();
    cpus::on_each(&|_| apic::mask_timer());
    report::send(&match ran {
        Ok(()) => Record::Pass,
        Err(Skip(reason)) => Record::Skip { reason },
    });
}
