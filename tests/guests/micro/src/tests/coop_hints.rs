//! What the host tells of itself, and what it reads of the guest, beside calls and deadlines.

use coopvirt_spec::mem::{Load, SharedMem, Store};
use coopvirt_spec::page::at;
use coopvirt_spec::version::Features;
use guest_shim::Cpu;

use crate::coop;
use crate::cpus::{self, interrupts_of};
use crate::params;
use crate::report::value;
use crate::test::{guest_test, Ran};
use crate::x86::{apic, interrupts, tsc};

guest_test!("coop_hints_contention", "", contention);
/// Parameter `seconds`: how long it runs busily, and notes what it is told.
fn contention() -> Ran {
    let wanted = Features::RING | Features::HINTS;
    coop::require_offer(wanted)?;
    let seconds = params::number("seconds").unwrap_or(5);
    let mut session = coop::open(wanted);
    let (mut most, mut last) = (0, 0);
    for _ in 0..seconds * 100 {
        tsc::wait_us(10_000);
        last = session.cpu().area().load_u32(at::CONTENTION, Load::Relaxed);
        assert!(last <= 1_000, "{last}");
        most = most.max(last);
    }
    value("most_permille", most.into());
    value("last_permille", last.into());
    session.close();
    Ok(())
}

guest_test!("coop_hints_idle_word", "[PAGE-5]", idle_word);
/// All its values, known and unknown, for a host that polls.
fn idle_word() -> Ran {
    let wanted = Features::RING | Features::SIDECORE | Features::IDLE;
    coop::require_offer(wanted)?;
    let mut session = coop::open(wanted);
    for _ in 0..10 {
        for idle in [0, 1, 2, 3, u32::MAX] {
            let area = session.cpu().area();
            area.store_u32(at::IDLE, idle, Store::Relaxed);
            tsc::wait_us(5_000);
        }
    }
    session.close();
    Ok(())
}

guest_test!("coop_hints_quiet", "[LEASE-4]", quiet);
/// Parameter `seconds`: for so long it halts, with an area registered and nothing to do.
fn quiet() -> Ran {
    let wanted = coop::offer()?.features;
    let mut session = coop::open(wanted.without(Features::EXPERIMENTAL));
    let seconds = params::number("seconds").unwrap_or(10);
    value("quiet", seconds);
    // By the stock timer: the host is not even asked for that.
    apic::use_tsc_deadline(coop::TIMER);
    apic::set_deadline(tsc::now() + tsc::ticks(seconds * 1_000_000));
    interrupts::halt_until(|| interrupts_of(cpus::this(), coop::TIMER) > 0);
    value("over", seconds);
    // For whoever looks at the host's threads now, before they end with the machine.
    tsc::wait_us(1_000_000);
    session.close();
    Ok(())
}
