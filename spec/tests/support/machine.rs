//! A whole machine without hardware: guest memory, vCPUs, and the host of the specification.
//!
//! The host is written from the clauses with the crate's own parts, as the VMM is; here every step
//! is called by hand, so that tests can put anything between two of them. What the machine checks
//! about itself (budgets, promises kept) it asserts at once.
#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::atomic::AtomicU64;
use std::sync::Arc;

use coopvirt_spec::code::{BrokenReason, SetupStatus, Status};
use coopvirt_spec::discover::Offer;
use coopvirt_spec::entry::{Completion, Submission};
use coopvirt_spec::mem::{AtomicWords, Load, SharedMem};
use coopvirt_spec::op::{Answer, ExperimentalArgs, IpiArgs, LogArgs, Request};
use coopvirt_spec::page::{self, AreaLayout, DEFAULT_RING_ENTRIES};
use coopvirt_spec::range::{walk, Range, RangeList, RangeWork};
use coopvirt_spec::ring::HostRing;
use coopvirt_spec::setup::{Effect, Places, SetupState, VcpuSetup};
use coopvirt_spec::timer::{self, HostTimer, Look};
use coopvirt_spec::version::Features;
use coopvirt_spec::{lease, mark::Mark};

/// Pages of guest memory.
pub(crate) const NR_PAGES: u64 = 16;
/// vCPUs; their x2APIC ids count from zero.
pub(crate) const NR_VCPUS: usize = 3;
/// Submissions that one look takes at most.
pub(crate) const BUDGET: u32 = 20;
/// How long a lease lasts.
pub(crate) const LEASE_TSC: u64 = 1000;

/// One vCPU as the host sees it.
pub(crate) struct Vcpu {
    pub(crate) setup: VcpuSetup,
    pub(crate) ring: HostRing,
    /// Calls taken since the area was registered, counted here and not by the ring.
    taken: u32,
    pub(crate) timer: HostTimer,
    /// When the host's own timer for this vCPU fires; 0 if it is not set.
    pub(crate) timer_set: u64,
    /// Vectors of the interrupts raised here.
    pub(crate) interrupts: Vec<u8>,
}

/// The machine.
pub(crate) struct Machine {
    pub(crate) ram: Arc<[AtomicU64]>,
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) now: u64,
    /// Whether a host thread polls.
    pub(crate) is_polling: bool,
    pub(crate) offer: Offer,
    /// Page and count of every piece of work done on ranges.
    pub(crate) worked: Vec<(u64, u64)>,
    pub(crate) log_bytes: u64,
    pub(crate) marks: Vec<Mark>,
    pub(crate) submissions_taken: u64,
}

/// What a machine knows about places, for one vCPU.
struct Map {
    others: Vec<u64>,
}

impl Places for Map {
    fn is_ram(&self, gpa: u64, len_bytes: u64) -> bool {
        is_ram(gpa, len_bytes)
    }
    fn overlaps_area(&self, gpa: u64, len_bytes: u64) -> bool {
        overlaps(&self.others, gpa, len_bytes)
    }
}

fn is_ram(gpa: u64, len_bytes: u64) -> bool {
    let end = gpa.checked_add(len_bytes);
    end.is_some_and(|end| end <= NR_PAGES * 4096)
}

fn overlaps(areas: &[u64], gpa: u64, len_bytes: u64) -> bool {
    let hits = |area: &u64| gpa < area + 4096 && gpa.saturating_add(len_bytes) > *area;
    areas.iter().any(hits)
}

/// Guest memory and areas, for a walk.
struct Walker<'a> {
    ram: &'a [AtomicU64],
    areas: Vec<u64>,
    worked: &'a mut Vec<(u64, u64)>,
    left_bytes: u64,
}

impl RangeWork for Walker<'_> {
    fn fetch(&mut self, item_gpa: u64) -> Option<Range> {
        if !is_ram(item_gpa, 16) || overlaps(&self.areas, item_gpa, 16) {
            return None;
        }
        let mut words = [0; 2];
        AtomicWords(self.ram).read_words(usize::try_from(item_gpa).ok()?, &mut words);
        let [gpa, len_bytes] = words;
        Some(Range { gpa, len_bytes })
    }
    fn is_allowed(&mut self, gpa: u64, len_bytes: u64) -> bool {
        is_ram(gpa, len_bytes) && !overlaps(&self.areas, gpa, len_bytes)
    }
    fn allowance(&mut self) -> u64 {
        self.left_bytes
    }
    fn work(&mut self, gpa: u64, len_bytes: u64) -> Result<(), Status> {
        self.left_bytes = self.left_bytes.saturating_sub(len_bytes);
        assert!(
            is_ram(gpa, len_bytes) && len_bytes > 0,
            "work outside memory"
        );
        self.worked.push((gpa / 4096, len_bytes / 4096));
        Ok(())
    }
}

impl Machine {
    /// A machine after reset that offers these features.
    pub(crate) fn new(features: Features) -> Self {
        let layout = AreaLayout::DEFAULT;
        let vcpu = |_| Vcpu {
            setup: VcpuSetup::new(features, layout),
            ring: HostRing::new(layout),
            taken: 0,
            timer: HostTimer::new(),
            timer_set: 0,
            interrupts: Vec::new(),
        };
        let mut offer = Offer::new(features);
        offer.max_list_items = 8;
        offer.max_step_bytes = 8192;
        Self {
            ram: (0..NR_PAGES * 512).map(|_| AtomicU64::new(0)).collect(),
            vcpus: (0..NR_VCPUS).map(vcpu).collect(),
            now: 1,
            is_polling: false,
            offer,
            worked: Vec::new(),
            log_bytes: 0,
            marks: Vec::new(),
            submissions_taken: 0,
        }
    }

    /// A vCPU's registered area as shared memory.
    pub(crate) fn area(&self, cpu: usize) -> Option<AtomicWords<'_>> {
        let first = usize::try_from(self.vcpus[cpu].setup.area_gpa()? / 8).ok()?;
        self.ram.get(first..first + 512).map(AtomicWords)
    }

    /// All of guest memory as shared memory.
    pub(crate) fn memory(&self) -> AtomicWords<'_> {
        AtomicWords(&self.ram)
    }

    fn areas(&self) -> Vec<u64> {
        let area = |vcpu: &Vcpu| vcpu.setup.area_gpa();
        self.vcpus.iter().filter_map(area).collect()
    }

    /// The status register of a vCPU.
    pub(crate) fn status(&self, cpu: usize) -> SetupState {
        let offset = coopvirt_spec::setup::STATUS_OFFSET;
        SetupState::decode(self.vcpus[cpu].setup.read(offset).expect("a register"))
    }

    /// A guest's write to a set-up register.
    pub(crate) fn write_msr(&mut self, cpu: usize, offset: u32, value: u64) -> Option<SetupStatus> {
        let others = (0..NR_VCPUS).filter(|other| *other != cpu);
        let area = |other: usize| self.vcpus[other].setup.area_gpa();
        let map = Map {
            others: others.filter_map(area).collect(),
        };
        match self.vcpus[cpu].setup.write(offset, value, &map)? {
            Effect::None => {}
            Effect::Register { .. } => self.begin(cpu),
            Effect::Unregister { .. } => self.end(cpu),
        }
        Some(self.status(cpu).last)
    }

    /// Negotiates everything offered and registers page `page`.
    pub(crate) fn register(&mut self, cpu: usize, page: u64) {
        let features = self.offer.features.0;
        assert_eq!(self.write_msr(cpu, 1, features), Some(SetupStatus::OK));
        let answer = self.write_msr(cpu, 2, (page * 4096) | 1);
        assert_eq!(answer, Some(SetupStatus::OK));
    }

    fn begin(&mut self, cpu: usize) {
        let (layout, features) = (AreaLayout::DEFAULT, self.vcpus[cpu].setup.negotiated());
        self.vcpus[cpu].ring = HostRing::new(layout);
        self.vcpus[cpu].taken = 0;
        self.vcpus[cpu].timer = HostTimer::new();
        let apic_id = u32::try_from(cpu).expect("few vCPUs");
        let mem = self.area(cpu).expect("it was registered");
        page::write_header(&mem, layout, features, apic_id);
    }

    fn end(&mut self, cpu: usize) {
        self.vcpus[cpu].timer_set = 0;
    }

    /// Reset of one vCPU.
    pub(crate) fn reset(&mut self, cpu: usize) {
        match self.vcpus[cpu].setup.reset() {
            Effect::Unregister { .. } => self.end(cpu),
            Effect::None | Effect::Register { .. } => {}
        }
    }

    /// The synchronous doorbell: this vCPU's thread looks.
    pub(crate) fn sync_bell(&mut self, cpu: usize) {
        self.look_at_ring(cpu);
    }

    /// The asynchronous doorbell, or one turn of the polling thread.
    pub(crate) fn poll(&mut self) {
        self.is_polling = true;
        for cpu in 0..NR_VCPUS {
            if let Some(mem) = self.usable(cpu) {
                lease::renew(&mem, self.now, LEASE_TSC);
            }
            self.look_at_ring(cpu);
            self.look_at_timer(cpu);
        }
    }

    /// The polling thread goes to sleep, or is found stuck and its leases are revoked.
    pub(crate) fn sleep(&mut self) {
        self.is_polling = false;
        for cpu in 0..NR_VCPUS {
            let Some(mem) = self.usable(cpu) else {
                continue;
            };
            lease::revoke(&mem).take(|| ());
            self.look_at_ring(cpu);
            self.disarm(cpu);
        }
    }

    /// Time passes; the host's own timers fire.
    pub(crate) fn advance(&mut self, by: u64) {
        self.now = self.now.saturating_add(by);
        for cpu in 0..NR_VCPUS {
            if self.vcpus[cpu].timer_set != 0 && self.vcpus[cpu].timer_set <= self.now {
                self.vcpus[cpu].timer_set = 0;
                self.disarm(cpu);
            }
        }
    }

    /// The guest rewrites IA32_TSC of all its vCPUs.
    pub(crate) fn rewrite_tsc(&mut self, now: u64) {
        for cpu in 0..NR_VCPUS {
            if let Some(mem) = self.usable(cpu) {
                lease::revoke(&mem).take(|| ());
            }
        }
        self.is_polling = false;
        self.now = now;
        for cpu in 0..NR_VCPUS {
            self.with_timer(cpu, |timer, mem, now| timer.reset(mem, now));
        }
    }

    fn usable(&self, cpu: usize) -> Option<AtomicWords<'_>> {
        let is_broken = self.vcpus[cpu].ring.broken().is_some();
        self.area(cpu).filter(|_| !is_broken)
    }

    fn look_at_timer(&mut self, cpu: usize) {
        if self.vcpus[cpu].setup.negotiated().contains(Features::TIMER) {
            self.with_timer(cpu, |timer, mem, now| timer.look(mem, now));
        }
    }

    fn disarm(&mut self, cpu: usize) {
        if self.vcpus[cpu].setup.negotiated().contains(Features::TIMER) {
            self.with_timer(cpu, |timer, mem, now| timer.disarm(mem, now));
        }
    }

    fn with_timer(
        &mut self,
        cpu: usize,
        look: impl FnOnce(&mut HostTimer, &AtomicWords<'_>, u64) -> Look,
    ) {
        if self.usable(cpu).is_none() {
            return;
        }
        let Self {
            ram, vcpus, now, ..
        } = self;
        let vcpu = &mut vcpus[cpu];
        let gpa = vcpu.setup.area_gpa().expect("usable");
        let first = usize::try_from(gpa / 8).expect("in memory");
        let mem = AtomicWords(&ram[first..first + 512]);
        match look(&mut vcpu.timer, &mem, *now) {
            Look::Idle => {}
            Look::Due { .. } => vcpu.interrupts.extend(timer::vector(&mem)),
            Look::Later { deadline_tsc } => {
                let is_sooner = vcpu.timer_set == 0 || deadline_tsc < vcpu.timer_set;
                if is_sooner {
                    vcpu.timer_set = deadline_tsc;
                    vcpu.timer.arm(&mem, deadline_tsc);
                }
            }
        }
    }

    /// One look at a ring, with a budget.
    fn look_at_ring(&mut self, cpu: usize) {
        let Some(gpa) = self.vcpus[cpu].setup.area_gpa() else {
            return;
        };
        // What serves a call needs the machine, and what drains the ring the memory.
        let ram = Arc::clone(&self.ram);
        let first = usize::try_from(gpa / 8).expect("in memory");
        let mem = AtomicWords(&ram[first..first + 512]);
        // Nobody writes while the host looks, so this is the tail that it fetches (`[RING-5]`).
        let tail = mem.load_u32(page::at::SUBMISSION_TAIL, Load::Relaxed);
        let offered = tail.wrapping_sub(self.vcpus[cpu].taken);
        let allowed = if offered > DEFAULT_RING_ENTRIES {
            0
        } else {
            offered
        };
        let mut taken = 0;
        let mut ring = self.vcpus[cpu].ring.clone();
        let mut turn = ring.turn(&mem);
        for _ in 0..BUDGET {
            let Some(call) = turn.take() else {
                break;
            };
            taken += 1;
            assert!(taken <= allowed, "taken {taken} of {allowed} calls");
            let done = self.serve(cpu, &call);
            turn.finish(&call, done);
        }
        drop(turn);
        assert_ne!(ring.broken(), Some(BrokenReason::HOST), "no room was kept");
        let broken = ring.broken();
        self.vcpus[cpu].ring = ring;
        self.vcpus[cpu].taken = self.vcpus[cpu].taken.wrapping_add(taken);
        if let Some(reason) = broken {
            self.is_broken(cpu, reason);
        }
    }

    /// Remembers the reason; the first time, wakes a guest that sleeps until its deadline.
    fn is_broken(&mut self, cpu: usize, reason: BrokenReason) {
        let vcpu = &mut self.vcpus[cpu];
        let is_new = SetupState::decode(vcpu.setup.read(3).expect("a register")).broken != reason;
        vcpu.setup.set_broken(reason);
        if is_new && vcpu.setup.negotiated().contains(Features::TIMER) {
            let vector = self.area(cpu).and_then(|mem| timer::vector(&mem));
            self.vcpus[cpu].interrupts.extend(vector);
        }
    }

    fn serve(&mut self, cpu: usize, call: &Submission) -> Completion {
        self.submissions_taken += 1;
        let features = self.vcpus[cpu].setup.negotiated();
        match Request::decode(call, features) {
            Ok(request) => self.carry_out(request, call.tag),
            Err(status) => Completion::new(call.tag, status, 0),
        }
    }

    fn carry_out(&mut self, request: Request, tag: u64) -> Completion {
        let answer = match request {
            Request::Nop(_) => Ok(0),
            Request::Echo(args) => Ok(args.value),
            Request::Populate(args) => return self.ranges(&args.into(), tag),
            Request::Release(args) => return self.ranges(&args.into(), tag),
            Request::Ipi(args) => self.ipi(&args),
            Request::YieldTo(args) => match self.vcpus.get(args.apic_id as usize) {
                Some(_) => Ok(0),
                None => Err(Status::BAD_TARGET),
            },
            Request::Log(args) => self.log(&args),
            Request::Mark(args) => match Mark::decode(args.value) {
                Some(mark) => {
                    self.marks.push(mark);
                    Ok(0)
                }
                None => Err(Status::BAD_ARGUMENT),
            },
            Request::Experimental(ExperimentalArgs { .. }) => Err(Status::UNKNOWN_OPCODE),
            _ => Err(Status::UNSUPPORTED),
        };
        match answer {
            Ok(result) => Completion::new(tag, Status::OK, result),
            Err(status) => Completion::new(tag, status, 0),
        }
    }

    fn ranges(&mut self, list: &RangeList, tag: u64) -> Completion {
        let max_bytes = u64::from(self.offer.max_step_bytes);
        let before = self.worked.len();
        let mut walker = Walker {
            areas: self.areas(),
            ram: &self.ram,
            worked: &mut self.worked,
            left_bytes: max_bytes,
        };
        let done = walk(list, self.offer.max_list_items, &mut walker);
        let done = Answer::completion(Ok(done), tag);
        let pages: u64 = self.worked[before..].iter().map(|(_, pages)| pages).sum();
        assert!(pages * 4096 <= max_bytes, "more work than a call may cost");
        assert!(
            done.items_done <= list.nr_items,
            "more items than there are"
        );
        done
    }

    fn ipi(&mut self, args: &IpiArgs) -> Result<u64, Status> {
        args.check()?;
        if args.targets().any(|id| id as usize >= NR_VCPUS) {
            return Err(Status::BAD_TARGET);
        }
        let mut sent = 0;
        for id in args.targets() {
            self.vcpus[id as usize].interrupts.push(args.vector);
            sent += 1;
        }
        Ok(sent)
    }

    fn log(&mut self, args: &LogArgs) -> Result<u64, Status> {
        if args.len_bytes == 0 || args.len_bytes > 1024 || args.level > 7 {
            return Err(Status::BAD_ARGUMENT);
        }
        if !is_ram(args.text_gpa, args.len_bytes.into()) {
            return Err(Status::BAD_ADDRESS);
        }
        self.log_bytes += u64::from(args.len_bytes);
        Ok(args.len_bytes.into())
    }

    /// Loads a word of guest memory.
    pub(crate) fn load(&self, gpa: usize) -> u64 {
        self.memory().load_u64(gpa, Load::Acquire)
    }
}
