//! The interface of one machine: set-up registers and doorbells, as vCPU threads call them.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use coopvirt_spec::code::SetupStatus;
use coopvirt_spec::mark::MARK_MSR;
use coopvirt_spec::page::AreaLayout;
use coopvirt_spec::setup::{Effect, Places, VcpuSetup};
use coopvirt_spec::version::Features;
use vmm_sys_util::eventfd::EventFd;

use super::area::Area;
use super::areas::Areas;
use super::backed::Backed;
use super::budget::Budget;
use super::counters::{CoopCounts, Event, Totals};
use super::effects::Effects;
use super::pages;
use super::postbox::PostBox;
use super::seat::{Seat, Served, Timing};
use super::serve::{Prefault, Server, Shared};
use super::sidecore::{own_task, Alarm, Message, Promise, Queues};
use super::CoopOptions;
use crate::irq::Poster;
use crate::kvm::tsc::MSR_TSC;
use crate::mem::GuestRam;
use crate::virtio::PolledDevice;

/// What a vCPU's own thread can do for its vCPU.
pub trait OwnVcpu: Prefault {
    /// The vCPU's clock; a reason if it cannot be followed.
    fn timing(&self) -> Result<Timing, String>;
    /// Makes the vCPU's TSC read this value now.
    fn set_tsc(&self, value: u64) -> Result<(), String>;
    /// Sets the timer of the vCPU's local APIC as a write of its TSC-deadline MSR does; whether that worked.
    fn set_deadline(&self, deadline_tsc: u64) -> bool;
    /// Lets the vCPU wait, when it runs next, as behind HLT.
    fn halt(&self);
}

/// One vCPU's part.
pub(super) struct Station {
    setup: Mutex<VcpuSetup>,
    pub(super) seat: Seat,
    /// When a look at its area is promised, for the alarm.
    pub(super) promise: Promise,
    /// Held by the worker while it carries out one of this vCPU's calls outside the seat's lock.
    pub(super) in_hand: Mutex<()>,
    /// What the worker has backed, and this vCPU's own thread has not mapped.
    pub(super) backed: Backed,
    /// Whether a message to the worker about this vCPU's calls is on its way: there is one at most.
    pub(super) is_told: AtomicBool,
    /// The vCPU thread's folder in /proc, from its first registration on.
    pub(super) thread: OnceLock<String>,
}

/// The host half of a machine.
pub struct Coop {
    pub(super) shared: Shared,
    pub(super) stations: Vec<Station>,
    pub(super) options: CoopOptions,
    pub(super) wake: EventFd,
    pub(super) alarm: Alarm,
    pub(super) worker: OnceLock<Sender<Message>>,
    pub(super) queues: Queues,
    /// Name, CPU time and time spent waiting for a CPU of each thread that has ended.
    pub(super) thread_times: Mutex<Vec<(&'static str, [u64; 2])>>,
    pub(super) no_timing: OnceLock<String>,
    /// Whether the polling thread polls now, for whoever looks.
    pub(super) is_polling: AtomicBool,
}

impl Coop {
    /// The interface of a machine with this memory and so many vCPUs.
    pub fn new(
        options: CoopOptions,
        ram: &GuestRam,
        nr_vcpus: u8,
        effects: Box<dyn Effects>,
    ) -> std::io::Result<Self> {
        let station = |_| Station {
            setup: Mutex::new(VcpuSetup::new(options.offered(), AreaLayout::DEFAULT)),
            seat: Seat::default(),
            promise: Promise::default(),
            in_hand: Mutex::new(()),
            backed: Backed::default(),
            is_told: AtomicBool::new(false),
            thread: OnceLock::new(),
        };
        Ok(Self {
            shared: Shared {
                ram: GuestRam::clone(ram),
                nr_vcpus,
                areas: Areas::default(),
                totals: Totals::default(),
                io_in_flight: AtomicU32::new(0),
                post_boxes: (0..nr_vcpus).map(|_| PostBox::default()).collect(),
                log_limits: (0..nr_vcpus).map(|_| Mutex::default()).collect(),
                effects,
            },
            stations: (0..nr_vcpus).map(station).collect(),
            options,
            wake: EventFd::new(libc::EFD_NONBLOCK)?,
            alarm: Alarm::default(),
            worker: OnceLock::new(),
            queues: Queues::new(options.sidecore.policy),
            thread_times: Mutex::default(),
            no_timing: OnceLock::new(),
            is_polling: AtomicBool::new(false),
        })
    }

    /// What an asynchronous doorbell signals.
    pub fn doorbell(&self) -> &EventFd {
        &self.wake
    }

    /// Has the polling thread, once there is one, look at the queues of these devices too.
    pub fn poll_queues(&self, devices: Vec<PolledDevice>) -> std::io::Result<()> {
        self.queues.connect(devices, self.wake.try_clone()?);
        Ok(())
    }

    /// Answers a read of a set-up register; `None` if the MSR is none of them.
    pub fn read_register(&self, vcpu: u8, msr: u32) -> Option<u64> {
        let station = self.station(vcpu)?;
        let mut setup = lock(&station.setup);
        if let Some(reason) = station.seat.lock().as_ref().and_then(Served::broken) {
            setup.set_broken(reason);
        }
        setup.read(msr.checked_sub(MARK_MSR)?)
    }

    /// Whether writes of this MSR are for [`Coop::write_register`].
    pub fn has_register(&self, msr: u32) -> bool {
        let offset = msr.wrapping_sub(MARK_MSR);
        msr == MSR_TSC || (1..coopvirt_spec::setup::NR_MSRS).contains(&offset)
    }

    /// Answers a write of a set-up register, on the vCPU's own thread.
    pub fn write_register(&self, vcpu: u8, msr: u32, value: u64, own: &dyn OwnVcpu) {
        let Some(station) = self.station(vcpu) else {
            return;
        };
        if msr == MSR_TSC {
            self.write_tsc(vcpu, station, value, own);
            return;
        }
        let mut setup = lock(&station.setup);
        let effect = setup.write(msr.wrapping_sub(MARK_MSR), value, self);
        match effect {
            None | Some(Effect::None) => {}
            Some(Effect::Unregister { .. }) => self.unregister(vcpu, station),
            Some(Effect::Register { gpa }) => {
                if let Err(status) = self.register(vcpu, station, gpa, setup.negotiated(), own) {
                    setup.fail(status);
                }
            }
        }
    }

    /// Serves a synchronous doorbell on the vCPU's own thread (`[BELL-3]`).
    pub fn ring_sync(&self, vcpu: u8, own: &dyn OwnVcpu) {
        let Some(station) = self.station(vcpu) else {
            return;
        };
        self.shared.totals.event(Event::SyncBell, 1);
        // Waits for at most the one call that the worker has in hand, which the guest may be after.
        let _hand = lock(&station.in_hand);
        if let Some(served) = station.seat.lock().as_mut() {
            let mut budget = Budget::exit();
            let prefault = Prefaulter(own);
            let server = Server::Own(&prefault);
            for (gpa, len_bytes) in station.backed.take() {
                self.shared.map(&prefault, gpa, len_bytes);
            }
            served.drain_deferred(&self.shared, &mut budget, server);
            served.drain(&self.shared, &mut budget, server);
        }
    }

    /// Serves a halt by the synchronous doorbell on the vCPU's own thread (`[HALT-1]`).
    pub fn ring_halt(&self, vcpu: u8, own: &dyn OwnVcpu) {
        let Some(station) = self.station(vcpu) else {
            return;
        };
        self.shared.totals.event(Event::HaltBell, 1);
        let mut seat = station.seat.lock();
        let Some(served) = seat.as_mut().filter(|served| served.can_halt()) else {
            return;
        };
        let halted = served.halt(&self.shared, |deadline_tsc| own.set_deadline(deadline_tsc));
        station.promise.set(halted.next_host_tsc);
        drop(seat);
        self.alarm.changed(self.promises());
        if halted.waits {
            own.halt();
        }
    }

    /// What the host has promised, for each area.
    pub(super) fn promises(&self) -> impl Iterator<Item = &Promise> {
        self.stations.iter().map(|station| &station.promise)
    }

    /// Serves an asynchronous doorbell that came as an exit.
    pub fn ring_async(&self) {
        // Fails only when the counter is full, and then the thread is awake.
        let _ = self.wake.write(1);
    }

    /// A device has taken a request.
    pub fn io_begins(&self) {
        self.shared.io_in_flight.fetch_add(1, Ordering::Relaxed);
        self.hint_io();
    }

    /// A device is about to answer a request.
    pub fn io_ends(&self) {
        self.shared.io_in_flight.fetch_sub(1, Ordering::Relaxed);
        self.hint_io();
    }

    /// Who holds a seat meanwhile sees to it when it looks next; a hint may be stale.
    fn hint_io(&self) {
        for station in &self.stations {
            if let Some(served) = station
                .seat
                .try_lock()
                .as_mut()
                .and_then(|seat| seat.as_mut())
            {
                served.hint_io(&self.shared);
            }
        }
    }

    /// The machine is reset, or ends (`[LIFE-1]`): no area is registered any more, nothing negotiated.
    pub fn reset(&self) {
        for (vcpu, station) in (0..).zip(&self.stations) {
            let mut setup = lock(&station.setup);
            self.unregister(vcpu, station);
            *setup = VcpuSetup::new(self.options.offered(), AreaLayout::DEFAULT);
        }
    }

    /// All counters; those of areas that are still registered are read now.
    pub fn counts(&self) -> CoopCounts {
        for station in &self.stations {
            if let Some(served) = station.seat.lock().take() {
                served.collect(&self.shared);
            }
        }
        let times = lock(&self.thread_times);
        let nanos = |which: usize| {
            let each = times.iter();
            each.map(|(name, times)| ((*name).into(), times[which]))
                .collect()
        };
        CoopCounts {
            thread_cpu_ns: nanos(0),
            thread_wait_ns: nanos(1),
            no_timing: self.no_timing.get().cloned(),
            ..self.shared.totals.snapshot()
        }
    }

    /// Whether this holds for any area; one that is busy is taken to be one.
    pub(super) fn any(&self, holds: impl Fn(&Served) -> bool) -> bool {
        self.stations.iter().any(|station| {
            let seat = station.seat.try_lock();
            seat.is_none_or(|seat| seat.as_ref().is_some_and(&holds))
        })
    }

    /// Leaves a vCPU's calls to the worker.
    pub(super) fn leave_calls(&self, vcpu: u8) {
        // Pairs with the worker, which clears it before it looks for calls: what was left before this is found.
        let is_new = |station: &Station| !station.is_told.swap(true, Ordering::AcqRel);
        if self.worker.get().is_some() && self.station(vcpu).is_some_and(is_new) {
            self.tell_worker(Message::Calls(vcpu));
        }
    }

    /// Tells the worker.
    pub(super) fn tell_worker(&self, message: Message) {
        if let Some(worker) = self.worker.get() {
            // It only goes away when the machine ends.
            let _ = worker.send(message);
        }
    }

    fn station(&self, vcpu: u8) -> Option<&Station> {
        self.stations.get(usize::from(vcpu))
    }

    fn register(
        &self,
        vcpu: u8,
        station: &Station,
        gpa: u64,
        features: Features,
        own: &dyn OwnVcpu,
    ) -> Result<(), SetupStatus> {
        let len_bytes = AreaLayout::DEFAULT.area_bytes();
        let area = || Area::new(&self.shared.ram, gpa, len_bytes).ok_or(SetupStatus::BAD_ADDRESS);
        let (area, posts_to) = (area()?, area()?);
        if !self.shared.areas.enter(vcpu, gpa, len_bytes as u64) {
            return Err(SetupStatus::SHARED);
        }
        if let (true, Some(post_box)) = (
            features.contains(Features::POLL_DELIVERY),
            self.shared.post_boxes.get(usize::from(vcpu)),
        ) {
            post_box.open(posts_to);
        }
        let timing = self.timing(own);
        *station.seat.lock() = Some(Served::new(vcpu, area, features, timing));
        self.shared.totals.event(Event::Registered, 1);
        if features.contains(Features::HINTS) {
            if let Some(task) = own_task() {
                let _ = station.thread.set(task);
            }
        }
        self.tell_worker(Message::Registered);
        // A thread that sleeps has not looked at this area yet.
        self.ring_async();
        Ok(())
    }

    /// When this returns, nobody touches the area any more (`[LIFE-2]`): whoever served it held the
    /// seat's lock, and what the worker has in hand is over.
    fn unregister(&self, vcpu: u8, station: &Station) {
        let mut seat = station.seat.lock();
        let served = seat.take();
        station.promise.set(None);
        drop(seat);
        drop(lock(&station.in_hand));
        let _ = station.backed.take();
        if let Some(post_box) = self.shared.post_boxes.get(usize::from(vcpu)) {
            post_box.close();
        }
        if let Some(served) = served {
            served.collect(&self.shared);
            self.shared.totals.event(Event::Unregistered, 1);
        }
        self.shared.areas.leave(vcpu);
    }

    /// The guest rewrites its TSC: leases end before it takes effect (`[LEASE-7]`, `[TIMER-9]`).
    fn write_tsc(&self, vcpu: u8, station: &Station, value: u64, own: &dyn OwnVcpu) {
        self.shared.totals.event(Event::TscWrites, 1);
        let mut seat = station.seat.lock();
        let mut has_deferred = false;
        if let Some(served) = seat.as_mut() {
            has_deferred |= served.retire(&self.shared).has_deferred;
        }
        if let Err(reason) = own.set_tsc(value) {
            self.note_no_timing(reason);
        }
        if let Some(served) = seat.as_mut() {
            let timing = self.timing(own);
            has_deferred |= served.reclock(&self.shared, timing).has_deferred;
        }
        drop(seat);
        if has_deferred {
            self.leave_calls(vcpu);
        }
        // It has to arm for deadlines that are not due.
        self.ring_async();
    }

    /// The vCPU's timing. Without any the area gets no lease and its deadlines are not served, so
    /// the guest takes its stock path.
    fn timing(&self, own: &dyn OwnVcpu) -> Option<Timing> {
        match own.timing() {
            Ok(timing) => Some(timing),
            Err(reason) => {
                self.note_no_timing(reason);
                None
            }
        }
    }

    fn note_no_timing(&self, reason: String) {
        self.no_timing.get_or_init(|| reason);
    }
}

impl Poster for Coop {
    fn post(&self, apic_id: u32, vector: u8) -> bool {
        self.shared.post(apic_id, vector)
    }
}

impl Places for Coop {
    fn is_ram(&self, gpa: u64, len_bytes: u64) -> bool {
        pages::is_ram(&self.shared.ram, gpa, len_bytes)
    }

    fn overlaps_area(&self, gpa: u64, len_bytes: u64) -> bool {
        self.shared.areas.overlaps(gpa, len_bytes)
    }
}

struct Prefaulter<'a>(&'a dyn OwnVcpu);

impl Prefault for Prefaulter<'_> {
    fn prefault(&self, gpa: u64, len_bytes: u64) -> u64 {
        self.0.prefault(gpa, len_bytes)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod halt_tests;
#[cfg(test)]
mod tests;
