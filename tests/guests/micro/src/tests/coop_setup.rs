//! Finding the host, negotiating, and areas that come and go.

use coopvirt_spec::code::{BrokenReason, SetupStatus};
use coopvirt_spec::discover::{DEFAULT_BASE, HYPERVISOR_PRESENT};
use coopvirt_spec::doorbell::{ASYNC_PORT, SYNC_PORT};
use coopvirt_spec::mark::MARK_MSR;
use coopvirt_spec::op::EchoArgs;
use coopvirt_spec::page::{self, AreaLayout};
use coopvirt_spec::setup::SetupState;
use coopvirt_spec::version::{Features, Version};

use crate::boot_info;
use crate::coop::{self, Area, SetUp};
use crate::cpus;
use crate::report::value;
use crate::test::{guest_test, require, Ran};
use crate::x86::{cpuid, msr};

/// Where this machine has a device's window: the local APIC's page.
const DEVICE_WINDOW: u64 = 0xfee0_0000;

#[track_caller]
fn assert_status(state: SetupState, last: SetupStatus, is_registered: bool) {
    let broken = BrokenReason(0);
    let expected = SetupState {
        last,
        is_registered,
        broken,
    };
    assert_eq!(state, expected);
}

guest_test!(
    "coop_discovery",
    "[DISC-1] [DISC-2] [DISC-3] [DISC-5]",
    discovery
);
fn discovery() -> Ran {
    assert_ne!(cpuid::leaf(1, 0).ecx & HYPERVISOR_PRESENT, 0);
    // KVM's own block stays where it was.
    assert_eq!(
        cpuid::signature(cpuid::HYPERVISOR_LEAF),
        cpuid::KVM_SIGNATURE
    );
    let offer = coop::offer()?;
    assert_eq!(offer.base, DEFAULT_BASE);
    assert_eq!(offer.version, Version::CURRENT);
    assert_eq!(offer.msr_base, MARK_MSR);
    assert_eq!((offer.async_port, offer.sync_port), (ASYNC_PORT, SYNC_PORT));
    assert_eq!(offer.layout, AreaLayout::DEFAULT);
    assert_eq!(
        (offer.max_list_items, offer.max_step_bytes),
        (512, 128 << 20)
    );
    assert!(offer.features.contains(Features::RING));
    cpus::on_each(&|cpu| assert_eq!(coop::offer().ok(), Some(offer), "CPU {cpu}"));
    value("features", offer.features.0);
    Ok(())
}

guest_test!(
    "coop_negotiation",
    "[NEG-1] [NEG-3] [NEG-4] [REG-1] [REG-4]",
    negotiation
);
fn negotiation() -> Ran {
    let offer = coop::offer()?;
    let set_up = SetUp(offer);
    cpus::on_each(&|_| {
        assert_status(set_up.negotiate(Features::RING), SetupStatus::OK, false);
        for refused in [
            Features::RING | Features::COLD,
            Features(u64::MAX),
            offer.features.without(Features::RING),
            Features(1 << 40) | Features::RING,
        ] {
            let state = set_up.negotiate(refused);
            assert_status(state, SetupStatus::BAD_FEATURES, false);
            assert_eq!(set_up.features(), Features::RING, "{refused:?}");
        }
        assert_status(set_up.negotiate(Features::NONE), SetupStatus::OK, false);
        assert_eq!(set_up.features(), Features::NONE);
        // The status register takes writes without any effect.
        msr::write(offer.msr_base + 3, u64::MAX);
        assert_status(set_up.state(), SetupStatus::OK, false);
    });
    Ok(())
}

guest_test!(
    "coop_bad_registrations",
    "[REG-2] [REG-3] [REG-4] [PAGE-1] [TRUST-1]",
    bad_registrations
);
fn bad_registrations() -> Ran {
    let set_up = SetUp(coop::offer()?);
    let area = Area::new();
    set_up.negotiate(Features::NONE);
    let state = set_up.register(area.gpa());
    assert_status(state, SetupStatus::NOT_NEGOTIATED, false);
    set_up.negotiate(Features::RING);
    for unaligned in [area.gpa(), area.gpa() | 0x801, area.gpa() | 3, 2, u64::MAX] {
        let state = set_up.write_area(unaligned);
        assert_status(state, SetupStatus::RESERVED_BITS, false);
    }
    let end_of_ram = boot_info::usable().map(|range| range.end).max();
    let end_of_ram = end_of_ram.expect("there is RAM").next_multiple_of(4096);
    // What the map leaves out at the end of memory is RAM all the same: well behind it.
    let behind = end_of_ram + (64 << 20);
    for outside in [behind, DEVICE_WINDOW, 0xfec0_0000, 1 << 51, !0xfff] {
        let state = set_up.register(outside);
        assert_status(state, SetupStatus::BAD_ADDRESS, false);
        assert_eq!(set_up.area() & 1, 0, "{outside:#x}");
    }
    Ok(())
}

guest_test!(
    "coop_register_and_reuse",
    "[REG-2] [REG-3] [REG-5] [PAGE-3] [RING-3] [LIFE-2]",
    register_and_reuse
);
fn register_and_reuse() -> Ran {
    let offer = coop::offer()?;
    let set_up = SetUp(offer);
    // Nothing registered: that is no failure.
    assert_status(set_up.write_area(0), SetupStatus::OK, false);
    let mut session = coop::session(Features::RING);
    let gpa = guest_shim::Cpu::area_gpa(session.cpu());
    for round in 0..3 {
        assert_eq!(session.open(), Ok(Features::RING));
        assert_status(set_up.state(), SetupStatus::OK, true);
        assert_eq!(set_up.area(), gpa | 1);
        let header = page::read_header(guest_shim::Cpu::area(session.cpu()));
        let header = header.expect("a header of this version");
        assert_eq!((header.apic_id, header.features), (0, Features::RING.0));
        // A second area: refused, and the first stays.
        let other = Area::new();
        for second in [gpa, other.gpa()] {
            let state = set_up.register(second);
            assert_status(state, SetupStatus::ALREADY_REGISTERED, true);
            assert_eq!(set_up.area(), gpa | 1);
        }
        let state = set_up.negotiate(offer.features);
        assert_status(state, SetupStatus::BUSY, true);
        assert_eq!(set_up.features(), Features::RING);
        let done = coop::answer(&mut session, EchoArgs { value: round }.submission(0));
        assert_eq!(done.result, round);
        session.close();
        assert_status(set_up.state(), SetupStatus::OK, false);
        assert_eq!(set_up.area() & 1, 0);
        // The page is this guest's again: the host leaves it alone, also at a doorbell.
        let mem = guest_shim::Cpu::area(session.cpu());
        fill(mem, u64::MAX);
        crate::x86::port::write_u32(offer.sync_port, 0);
        crate::x86::port::write_u32(offer.async_port, 0);
        crate::x86::tsc::wait_us(2_000);
        assert_filled(mem, u64::MAX);
    }
    Ok(())
}

fn fill(area: &Area, with: u64) {
    use coopvirt_spec::mem::{SharedMem, Store};
    for offset in (0..4096).step_by(8) {
        area.store_u64(offset, with, Store::Relaxed);
    }
}

fn assert_filled(area: &Area, with: u64) {
    use coopvirt_spec::mem::{Load, SharedMem};
    for offset in (0..4096).step_by(8) {
        assert_eq!(area.load_u64(offset, Load::Relaxed), with, "byte {offset}");
    }
}

guest_test!(
    "coop_smp_shared_area",
    "[REG-1] [REG-4] [NEG-4]",
    shared_area
);
fn shared_area() -> Ran {
    require(cpus::count() > 1, "one CPU")?;
    let set_up = SetUp(coop::offer()?);
    let mut session = coop::open(Features::RING);
    let gpa = guest_shim::Cpu::area_gpa(session.cpu());
    cpus::on(1, &|_| {
        // A set of its own.
        assert_status(set_up.negotiate(Features::NONE), SetupStatus::OK, false);
        assert_status(set_up.negotiate(Features::RING), SetupStatus::OK, false);
        assert_status(set_up.register(gpa), SetupStatus::SHARED, false);
        assert_eq!(set_up.area() & 1, 0);
        // Unregistering here takes nothing from the other CPU.
        assert_status(set_up.write_area(0), SetupStatus::OK, false);
    });
    let done = coop::answer(&mut session, EchoArgs { value: 9 }.submission(0));
    assert_eq!(done.result, 9);
    session.close();
    cpus::on(1, &|_| {
        // Free now.
        assert_status(set_up.register(gpa), SetupStatus::OK, true);
        assert_status(set_up.write_area(0), SetupStatus::OK, false);
    });
    Ok(())
}

guest_test!(
    "coop_smp_all_at_once",
    "[REG-1] [BELL-3] [TRUST-6]",
    all_at_once
);
fn all_at_once() -> Ran {
    coop::offer()?;
    cpus::on_each(&|cpu| {
        let mut session = coop::open(Features::RING);
        for round in 0..200 {
            let value = round << 8 | cpu as u64;
            let done = coop::answer(&mut session, EchoArgs { value }.submission(0));
            assert_eq!(done.result, value);
        }
        session.close();
    });
    Ok(())
}
