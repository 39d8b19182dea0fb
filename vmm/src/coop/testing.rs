//! What the unit tests of this module share: memory without KVM, effects that only record, and a
//! guest made of the spec's own guest ring.

use std::sync::{Arc, Mutex};

use coopvirt_spec::code::SetupStatus;
use coopvirt_spec::entry::{Completion, Submission};
use coopvirt_spec::mark::Mark;
use coopvirt_spec::page::AreaLayout;
use coopvirt_spec::ring::GuestRing;
use coopvirt_spec::setup::{SetupState, AREA_MSR, FEATURES_MSR, STATUS_MSR};
use coopvirt_spec::version::Features;

use super::area::Area;
use super::clock::{GuestClock, Reading};
use super::effects::Effects;
use super::seat::Timing;
use super::serve::Prefault;
use super::{Coop, CoopOptions, OwnVcpu};
use crate::kvm::tsc;
use crate::mem::{ram, Backing, GuestRam, Sharing};

/// 4 MiB of guest memory.
pub(crate) fn ram() -> GuestRam {
    let backing = Backing {
        huge_pages: false,
        prefault: false,
        overcommit: true,
    };
    ram::allocate(4 << 20, backing, Sharing::Private).expect("4 MiB fit anywhere")
}

/// What was done to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    Raised(u32, u8),
    Marked(u8, Mark),
    Logged(String),
}

/// Records instead of doing.
#[derive(Default)]
pub(crate) struct Recorder(pub(crate) Mutex<Vec<Done>>);

impl Recorder {
    pub(crate) fn done(&self) -> Vec<Done> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Effects for Arc<Recorder> {
    fn raise(&self, apic_id: u32, vector: u8) -> bool {
        self.0.lock().unwrap().push(Done::Raised(apic_id, vector));
        true
    }
    fn mark(&self, vcpu: u8, mark: Mark) {
        self.0.lock().unwrap().push(Done::Marked(vcpu, mark));
    }
    fn log(&self, line: &str) {
        self.0.lock().unwrap().push(Done::Logged(line.to_owned()));
    }
}

/// A vCPU whose TSC is the host's.
pub(crate) struct FakeVcpu;

/// Frequency of its TSC, as good as any.
pub(crate) const KHZ: u32 = 1_000_000;
/// What its guests name as their timer's vector.
pub(crate) const TIMER_VECTOR: u8 = 0xec;

impl Prefault for FakeVcpu {
    fn prefault(&self, _gpa: u64, len_bytes: u64) -> u64 {
        len_bytes
    }
}

impl OwnVcpu for FakeVcpu {
    fn timing(&self) -> Result<Timing, String> {
        let now = tsc::read();
        let reading = Reading {
            host_before: now,
            guest: now,
            host_after: now,
        };
        Ok(Timing {
            clock: GuestClock::new(0, KHZ, reading).map_err(|error| error.to_string())?,
        })
    }
    fn set_tsc(&self, _value: u64) -> Result<(), String> {
        Ok(())
    }
    fn set_deadline(&self, _deadline_tsc: u64) -> bool {
        true
    }
    fn halt(&self) {}
}

/// A host half with two vCPUs, and what it did.
pub(crate) fn host() -> (Arc<Coop>, GuestRam, Arc<Recorder>) {
    host_with(CoopOptions::default())
}

/// The same, with these options.
pub(crate) fn host_with(options: CoopOptions) -> (Arc<Coop>, GuestRam, Arc<Recorder>) {
    let (ram, recorder) = (ram(), Arc::<Recorder>::default());
    let effects = Box::new(Arc::clone(&recorder));
    let coop = Coop::new(options, &ram, 2, effects).expect("an eventfd");
    (Arc::new(coop), ram, recorder)
}

/// One vCPU's guest.
pub(crate) struct Guest<'a> {
    pub(crate) coop: &'a Coop,
    pub(crate) vcpu: u8,
    pub(crate) area: Area,
    pub(crate) ring: GuestRing,
}

/// Where the area of a vCPU is.
pub(crate) fn area_gpa(vcpu: u8) -> u64 {
    0x10_0000 + u64::from(vcpu) * 0x1000
}

/// Writes a register and gives the status.
pub(crate) fn write(coop: &Coop, vcpu: u8, msr: u32, value: u64) -> SetupStatus {
    coop.write_register(vcpu, msr, value, &FakeVcpu);
    status(coop, vcpu).last
}

/// The status register.
pub(crate) fn status(coop: &Coop, vcpu: u8) -> SetupState {
    SetupState::decode(coop.read_register(vcpu, STATUS_MSR).expect("a register"))
}

impl<'a> Guest<'a> {
    /// Registers an area with these features.
    pub(crate) fn register(
        coop: &'a Coop,
        ram: &GuestRam,
        vcpu: u8,
        features: Features,
    ) -> Guest<'a> {
        let gpa = area_gpa(vcpu);
        assert_eq!(write(coop, vcpu, FEATURES_MSR, features.0), SetupStatus::OK);
        assert_eq!(write(coop, vcpu, AREA_MSR, gpa | 1), SetupStatus::OK);
        let area = Area::new(ram, gpa, 4096).expect("RAM");
        coopvirt_spec::timer::set_vector(&area, TIMER_VECTOR);
        Guest {
            coop,
            vcpu,
            area,
            ring: GuestRing::new(AreaLayout::DEFAULT),
        }
    }

    /// Publishes a call.
    pub(crate) fn publish(&mut self, call: &Submission) {
        self.ring.stage(&self.area, call).expect("room");
        self.ring.publish(&self.area);
    }

    /// Rings the synchronous doorbell.
    pub(crate) fn ring(&self) {
        self.coop.ring_sync(self.vcpu, &FakeVcpu);
    }

    /// The next completion.
    pub(crate) fn take(&mut self) -> Option<Completion> {
        self.ring.take(&self.area).expect("the host is honest")
    }

    /// Makes a call and waits for its answer by the synchronous doorbell.
    pub(crate) fn call(&mut self, call: &Submission) -> Completion {
        self.publish(call);
        self.ring();
        self.take().expect("a completion")
    }
}
