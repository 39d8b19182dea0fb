//! A vCPU on the machine without hardware, whose host acts at the points that a test chooses.
//!
//! The machine is that of the specification's own tests. A test puts host actions into a script;
//! one is carried out at each full fence or doorbell of the guest, which are the points where the
//! two sides can overtake each other.
#![allow(dead_code, reason = "each test file uses its part")]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::Arc;

use coopvirt_spec::discover::{Registers, HYPERVISOR_PRESENT};
use coopvirt_spec::doorbell::{ASYNC_PORT, SYNC_PORT};
use coopvirt_spec::mark::MARK_MSR;
use coopvirt_spec::mem::{AtomicWords, Load, SharedMem, Store};
use coopvirt_spec::op::IpiArgs;
use coopvirt_spec::page::at;
use coopvirt_spec::version::Features;
use guest_shim::{Cpu, Options, Session, VectorSet};

use super::machine::Machine;

/// The vector of the timer.
pub(crate) const TIMER: u8 = 0xec;
/// A vector that may be elided.
pub(crate) const RESCHEDULE: u8 = 0xfd;
/// One that may not.
pub(crate) const OTHER: u8 = 0x40;

/// What the host does at a point of the script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Nothing.
    Wait,
    /// It looks at all areas and renews its leases.
    Poll,
    /// It goes to sleep.
    Sleep,
    /// It gives the area up.
    Break,
}

/// What the mock shares with its memory.
pub(crate) struct World {
    pub(crate) machine: RefCell<Machine>,
    pub(crate) script: RefCell<VecDeque<Act>>,
}

impl World {
    /// Carries out the next action of the script.
    pub(crate) fn act(&self) {
        let act = self.script.borrow_mut().pop_front().unwrap_or(Act::Wait);
        let mut machine = self.machine.borrow_mut();
        match act {
            Act::Wait => {}
            Act::Poll => machine.poll(),
            Act::Sleep => machine.sleep(),
            Act::Break => {
                // What a host does that gives up for a reason of its own.
                machine.sleep();
                if let Some(mem) = machine.area(0) {
                    coopvirt_spec::page::write_broken(
                        &mem,
                        coopvirt_spec::code::BrokenReason::HOST,
                    );
                }
                machine.vcpus[0].timer_set = 0;
                machine.vcpus[0].interrupts.push(TIMER);
            }
        }
    }
}

/// The memory of vCPU 0's area.
pub(crate) struct Area {
    ram: Arc<[AtomicU64]>,
    page: Cell<usize>,
    world: Rc<World>,
}

impl Area {
    fn words(&self) -> AtomicWords<'_> {
        let first = self.page.get() * 512;
        AtomicWords(&self.ram[first..first + 512])
    }
}

impl SharedMem for Area {
    fn load_u32(&self, offset: usize, order: Load) -> u32 {
        self.words().load_u32(offset, order)
    }
    fn store_u32(&self, offset: usize, value: u32, order: Store) {
        self.words().store_u32(offset, value, order);
    }
    fn load_u64(&self, offset: usize, order: Load) -> u64 {
        self.words().load_u64(offset, order)
    }
    fn store_u64(&self, offset: usize, value: u64, order: Store) {
        self.words().store_u64(offset, value, order);
    }
    fn fence_full(&self) {
        self.world.act();
        self.words().fence_full();
    }
}

/// vCPU 0 of the machine.
pub(crate) struct Mock {
    pub(crate) world: Rc<World>,
    area: Area,
    /// Whether CPUID shows a host, and whether its registers fault.
    pub(crate) has_host: bool,
    pub(crate) faults: bool,
    /// Stock writes of the deadline.
    pub(crate) stock_deadlines: RefCell<Vec<u64>>,
    /// What such a write takes.
    pub(crate) stock_write_tsc: Cell<u64>,
    /// Target and vector of what was sent by the stock path.
    pub(crate) stock_ipis: RefCell<Vec<(u32, u8)>>,
    /// Exits to the host that the shim made.
    pub(crate) bells: Cell<u32>,
}

impl Mock {
    /// A vCPU of a machine that offers these features; its area is page 4.
    pub(crate) fn new(offered: Features) -> Self {
        let machine = Machine::new(offered);
        let ram = machine.ram.clone();
        let world = Rc::new(World {
            machine: RefCell::new(machine),
            script: RefCell::default(),
        });
        Self {
            area: Area {
                ram,
                page: Cell::new(4),
                world: world.clone(),
            },
            world,
            has_host: true,
            faults: false,
            stock_deadlines: RefCell::default(),
            stock_write_tsc: Cell::new(0),
            stock_ipis: RefCell::default(),
            bells: Cell::new(0),
        }
    }
}

impl Cpu for Mock {
    type Area = Area;

    fn cpuid(&self, leaf: u32) -> Registers {
        if leaf == 1 {
            return Registers {
                ecx: HYPERVISOR_PRESENT,
                ..Registers::default()
            };
        }
        let leaves = self.world.machine.borrow().offer.leaves();
        let found = leaves.iter().find(|(at, _)| *at == leaf && self.has_host);
        found.map_or(Registers::default(), |(_, registers)| *registers)
    }
    fn read_msr(&self, msr: u32) -> Option<u64> {
        if self.faults {
            return None;
        }
        let machine = self.world.machine.borrow();
        machine.vcpus[0].setup.read(msr.checked_sub(MARK_MSR)?)
    }
    fn write_msr(&self, msr: u32, value: u64) -> bool {
        let offset = msr.checked_sub(MARK_MSR).expect("one of ours");
        let mut machine = self.world.machine.borrow_mut();
        !self.faults && machine.write_msr(0, offset, value).is_some()
    }
    fn read_tsc(&self) -> u64 {
        self.world.machine.borrow().now
    }
    fn write_port(&self, port: u16, value: u32) {
        assert_eq!(value, 0);
        self.bells.set(self.bells.get() + 1);
        self.world.act();
        let mut machine = self.world.machine.borrow_mut();
        match port {
            ASYNC_PORT => machine.poll(),
            SYNC_PORT => machine.sync_bell(0),
            other => panic!("port {other:#x} is none of ours"),
        }
    }
    fn area(&self) -> &Area {
        &self.area
    }
    fn area_gpa(&self) -> u64 {
        self.area.page.get() as u64 * 4096
    }
    fn area_bytes(&self) -> usize {
        4096
    }
    fn write_stock_deadline(&self, deadline_tsc: u64) {
        self.stock_deadlines.borrow_mut().push(deadline_tsc);
        let mut machine = self.world.machine.borrow_mut();
        machine.advance(self.stock_write_tsc.get());
    }
    fn send_stock_ipi(&self, ipi: &IpiArgs) {
        let mut sent = self.stock_ipis.borrow_mut();
        sent.push((ipi.first_apic_id, ipi.vector));
    }
}

/// What the tests want.
pub(crate) fn options() -> Options {
    Options {
        wanted: Features(u64::MAX).without(Features::EXPERIMENTAL),
        timer_vector: TIMER,
        elidable: VectorSet::new().with(RESCHEDULE).with(TIMER),
    }
}

/// Everything that the host of the tests can do.
pub(crate) const OFFERED: Features = Features(0x77f);

/// An open session.
pub(crate) fn session(offered: Features) -> Session<Mock> {
    let mut session = Session::new(Mock::new(offered), options());
    session.open().expect("a host that offers rings");
    session
}

/// Host actions before anything else.
pub(crate) fn host(session: &Session<Mock>, act: Act) {
    session.cpu().world.script.borrow_mut().push_front(act);
    session.cpu().world.act();
}

/// Host actions at the coming fences and doorbells.
pub(crate) fn script(session: &Session<Mock>, acts: &[Act]) {
    let mut script = session.cpu().world.script.borrow_mut();
    script.clear();
    script.extend(acts);
}

/// A word of the area.
pub(crate) fn word(session: &Session<Mock>, offset: usize) -> u64 {
    session.cpu().area().words().load_u64(offset, Load::Acquire)
}

/// Interrupts that the machine has raised at a vCPU.
pub(crate) fn interrupts(session: &Session<Mock>, cpu: usize) -> Vec<u8> {
    session.cpu().world.machine.borrow().vcpus[cpu]
        .interrupts
        .clone()
}

/// The submission tail.
pub(crate) fn tail(session: &Session<Mock>) -> u32 {
    session
        .cpu()
        .area()
        .load_u32(at::SUBMISSION_TAIL, Load::Acquire)
}
