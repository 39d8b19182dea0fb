//! Memory that the host backs ahead, and takes back (`[MMU-1]` to `[MMU-4]`): what only the host
//! sees of it.
//!
//! The guest's half is `guests/micro/src/tests/coop_memory.rs`. Its memory is of 4 KiB pages, so
//! that a first touch is an exit for each. The plain touch of as much memory, in the same run, is
//! what the others are measured by; the kernel's tracepoint counts.

use coopvirt_spec::discover::DEFAULT_STEP_BYTES;
use coopvirt_tests::exits::{phase, reason, run_with_report};
use coopvirt_tests::micro::MicroRun;
use coopvirt_tests::MicroGuest;

/// What one exit backs at most, in bytes.
const MOST_BACKED: u64 = 2 << 20;

/// Works of the guest's test.
const WORK_TOUCH_PLAIN: u8 = 0xe5;
const WORK_POPULATE: u8 = 0xe6;
const WORK_TOUCH_POPULATED: u8 = 0xe7;

/// How much memory is populated, and released, in MiB.
const BATCH_MIB: u64 = 256;
/// For the guest itself.
const SPARE_MIB: u64 = 64;

fn guest(memory_mib: u64) -> MicroGuest {
    MicroGuest::new()
        .memory_mib(memory_mib)
        .param("batch_mib", BATCH_MIB)
        .arguments(["--mode", "coop", "--sidecore", "off", "--no-huge-pages"])
}

/// No call may do more than so many bytes, and says so; its time is only shown, because
/// the bound of 1 ms is for hardware. The time includes the exit.
#[track_caller]
fn check_calls(run: &MicroRun, test: &str, most_bytes: u64) {
    let value = |name| run.value(test, name);
    let largest = value("largest_call_bytes");
    let calls = value("calls");
    eprintln!(
        "{test}: {calls} calls, at most {largest} bytes each, the longest took {} us{}",
        value("longest_call_ns") / 1_000,
        if std::env::var_os("COOPVIRT_LAB").is_some_and(|lab| !lab.is_empty()) {
            " (where all code is emulated)"
        } else {
            ""
        },
    );
    assert!(largest <= most_bytes, "{largest} bytes");
    assert!(calls >= (BATCH_MIB << 20).div_ceil(most_bytes));
}

#[test]
fn populated_memory_is_touched_without_exits() {
    let guest = guest(2 * BATCH_MIB + SPARE_MIB);
    let (run, report) = run_with_report(guest, "coop_populate_*");
    let test = "coop_populate_spares_first_touches";
    let pages = run.value(test, "pages");
    assert_eq!(pages, BATCH_MIB << 20 >> 12);
    let [plain, batch, touch] = [WORK_TOUCH_PLAIN, WORK_POPULATE, WORK_TOUCH_POPULATED]
        .map(|work| &phase(&report, work).counts);
    let faults = |counts| reason(counts, "NPF") + reason(counts, "EPT_VIOLATION");
    eprintln!(
        "{pages} pages: {} faults as they are, {} after populate, which took {} exits",
        faults(plain),
        faults(touch),
        batch.total,
    );
    assert!(faults(plain) >= pages, "{plain:?}");
    assert!(faults(touch) <= faults(plain) / 100, "{touch:?}");
    // Nor has the batch itself cost so many: it ends at least once for each 2 MiB, or 1 ms.
    assert!(batch.total < pages / 10, "{batch:?}");
    check_calls(&run, test, MOST_BACKED);
}

#[test]
fn released_memory_is_the_hosts_again() {
    let mut running = guest(BATCH_MIB + SPARE_MIB).start("coop_release_*");
    running.wait_for("in_use");
    let in_use = running.resident_kib();
    running.wait_for("released");
    let released = running.resident_kib();
    let run = MicroRun::new(running.finish());
    run.assert_passed();
    eprintln!("{in_use} KiB in use, {released} KiB after {BATCH_MIB} MiB were released");
    let given_back = in_use.saturating_sub(released);
    assert!(
        given_back >= (BATCH_MIB << 10) * 99 / 100,
        "{given_back} KiB"
    );
    let most = DEFAULT_STEP_BYTES.into();
    check_calls(&run, "coop_release_gives_memory_back", most);
}
