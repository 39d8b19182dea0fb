//! The cooperative interface as this guest has it: `guest_shim` over this machine's instructions.
//!
//! One [`Vcpu`] belongs to one CPU, as the shim asks for: nothing here may be called for another.

use coopvirt_spec::discover::{Offer, Registers};
use coopvirt_spec::entry::{Completion, Submission};
use coopvirt_spec::mem::{Load, SharedMem, Store};
use coopvirt_spec::op::IpiArgs;
use coopvirt_spec::page::AreaLayout;
use coopvirt_spec::setup::{AreaRequest, SetupState};
use coopvirt_spec::setup::{AREA_OFFSET, FEATURES_OFFSET, STATUS_OFFSET};
use coopvirt_spec::version::Features;
use guest_shim::{Cpu, Options, Session, VectorSet};

use crate::memory::{self, Pages, PAGE_BYTES};
use crate::test::{Ran, Skip};
use crate::x86::hypercall::SendIpi;
use crate::x86::{apic, cpuid, msr, port, tsc};

/// The timer's vector of sessions that say no other.
pub const TIMER: u8 = 0x61;

/// The host's offer, or the reason to skip a test.
pub fn offer() -> Result<Offer, Skip> {
    Offer::find(registers).ok_or(Skip("no host of the cooperative interface"))
}

/// Gives `Skip` unless all these features are offered.
pub fn require_offer(features: Features) -> Ran {
    let is_offered = offer()?.features.contains(features);
    crate::test::require(is_offered, "the host does not offer the feature")
}

/// A session of this CPU's, with fresh memory, not open yet.
pub fn session(wanted: Features) -> Session<Vcpu> {
    elidable_session(wanted, VectorSet::new())
}

/// The same, which may elide these vectors.
pub fn elidable_session(wanted: Features, elidable: VectorSet) -> Session<Vcpu> {
    let options = Options {
        wanted,
        timer_vector: TIMER,
        elidable,
    };
    Session::new(Vcpu::new(), options)
}

/// A session that is open, with all these features.
#[track_caller]
pub fn open(wanted: Features) -> Session<Vcpu> {
    let mut session = session(wanted);
    assert_eq!(session.open(), Ok(wanted));
    session
}

/// The answer to one call by the synchronous doorbell, whatever it is.
#[track_caller]
pub fn answer(session: &mut Session<Vcpu>, call: Submission) -> Completion {
    let unexpected = |other| panic!("another call's answer: {other:?}");
    match session.call(call, unexpected) {
        Ok(done) | Err(guest_shim::batch::BatchError::Refused(done)) => done,
        Err(error) => panic!("{error}"),
    }
}

fn registers(leaf: u32) -> Registers {
    let found = cpuid::leaf(leaf, 0);
    Registers {
        eax: found.eax,
        ebx: found.ebx,
        ecx: found.ecx,
        edx: found.edx,
    }
}

/// The set-up registers of the CPU that asks, as they are.
#[derive(Clone, Copy, Debug)]
pub struct SetUp(pub Offer);

impl SetUp {
    /// Writes the features register; the state after it.
    pub fn negotiate(self, features: Features) -> SetupState {
        msr::write(self.0.msr_base + FEATURES_OFFSET, features.0);
        self.state()
    }

    /// Writes the area register; the state after it.
    pub fn write_area(self, value: u64) -> SetupState {
        msr::write(self.0.msr_base + AREA_OFFSET, value);
        self.state()
    }

    /// Registers the area at this address; the state after it.
    pub fn register(self, gpa: u64) -> SetupState {
        let request = AreaRequest::Register { gpa }.encode();
        self.write_area(request.expect("a multiple of 4096"))
    }

    /// Reads the features register.
    pub fn features(self) -> Features {
        Features(msr::read(self.0.msr_base + FEATURES_OFFSET))
    }

    /// Reads the area register.
    pub fn area(self) -> u64 {
        msr::read(self.0.msr_base + AREA_OFFSET)
    }

    /// Reads the status register.
    pub fn state(self) -> SetupState {
        SetupState::decode(msr::read(self.0.msr_base + STATUS_OFFSET))
    }
}

/// An area's memory.
#[derive(Debug)]
pub struct Area(Pages);

impl Area {
    /// Fresh memory, long enough for the default layout.
    pub fn new() -> Self {
        let bytes = AreaLayout::DEFAULT.area_bytes() as u64;
        Self(memory::pages(bytes.div_ceil(PAGE_BYTES)))
    }

    /// The area at this address, for a CPU that is not its owner.
    pub fn of_another(gpa: u64) -> Self {
        let bytes = AreaLayout::DEFAULT.area_bytes() as u64;
        Self(memory::shared(gpa, bytes.div_ceil(PAGE_BYTES)))
    }

    /// Where it is.
    pub fn gpa(&self) -> u64 {
        self.0.start()
    }
}

impl SharedMem for Area {
    fn load_u32(&self, offset: usize, order: Load) -> u32 {
        self.0.halves()[offset / 4].load(order.ordering())
    }

    fn store_u32(&self, offset: usize, value: u32, order: Store) {
        self.0.halves()[offset / 4].store(value, order.ordering());
    }

    fn load_u64(&self, offset: usize, order: Load) -> u64 {
        self.0.words()[offset / 8].load(order.ordering())
    }

    fn store_u64(&self, offset: usize, value: u64, order: Store) {
        self.0.words()[offset / 8].store(value, order.ordering());
    }

    fn fence_full(&self) {
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    }
}

/// What the shim needs of the CPU that it runs on.
#[derive(Debug)]
pub struct Vcpu {
    area: Area,
    /// KVM's hypercall for an interrupt to many.
    to_many: Option<SendIpi>,
}

impl Vcpu {
    /// With memory of its own.
    fn new() -> Self {
        Self {
            area: Area::new(),
            to_many: SendIpi::find(),
        }
    }
}

impl Cpu for Vcpu {
    type Area = Area;

    fn cpuid(&self, leaf: u32) -> Registers {
        registers(leaf)
    }

    fn read_msr(&self, index: u32) -> Option<u64> {
        msr::try_read(index).ok()
    }

    fn write_msr(&self, index: u32, value: u64) -> bool {
        msr::try_write(index, value).is_ok()
    }

    fn read_tsc(&self) -> u64 {
        tsc::now()
    }

    fn write_port(&self, port: u16, value: u32) {
        port::write_u32(port, value);
    }

    fn area(&self) -> &Area {
        &self.area
    }

    fn area_gpa(&self) -> u64 {
        self.area.gpa()
    }

    fn area_bytes(&self) -> usize {
        self.area.0.words().len() * 8
    }

    fn write_stock_deadline(&self, deadline_tsc: u64) {
        apic::set_deadline(deadline_tsc);
    }

    /// As Linux under KVM: one by the local APIC, many by one hypercall.
    fn send_stock_ipi(&self, ipi: &IpiArgs) {
        let count = ipi.mask_low.count_ones() + ipi.mask_high.count_ones();
        if let (Some(to_many), true) = (self.to_many, count > 1) {
            let mask = [ipi.mask_low, ipi.mask_high];
            let sent = to_many.send(mask, ipi.first_apic_id, ipi.vector);
            assert_eq!(sent, i64::from(count), "KVM's hypercall reaches all");
            return;
        }
        for target in ipi.targets() {
            apic::send_to_id(target, ipi.vector);
        }
    }
}
