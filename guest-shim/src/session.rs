//! One vCPU's session: find, negotiate, register, use, unregister (`[LIFE-2]` to `[LIFE-6]`).
//!
//! A session is always usable: without a host, or with a broken area, every call takes the stock
//! path. [`Session::open`] says why there is no area; the caller may go on all the same.

use core::fmt;

use coopvirt_spec::code::SetupStatus;
use coopvirt_spec::counter::GuestCounter;
use coopvirt_spec::delivery::GuestPost;
use coopvirt_spec::discover::Offer;
use coopvirt_spec::mem::{SharedMem, Store};
use coopvirt_spec::page;
use coopvirt_spec::ring::GuestRing;
use coopvirt_spec::setup::{AreaRequest, SetupState, AREA_OFFSET, FEATURES_OFFSET, STATUS_OFFSET};
use coopvirt_spec::version::Features;

use crate::asking::Asking;
use crate::counters::Counters;
use crate::platform::Cpu;
use crate::timer::{StockRow, StockTimer};

/// What a guest wants.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The features to use, as far as they are offered.
    pub wanted: Features,
    /// The vector of this vCPU's timer interrupt.
    pub timer_vector: u8,
    /// The vectors that may be elided: those that do no harm when they come twice (`[LEASE-5]`).
    pub elidable: VectorSet,
}

/// A set of interrupt vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VectorSet([u64; 4]);

impl VectorSet {
    /// No vector.
    pub const fn new() -> Self {
        Self([0; 4])
    }

    /// The set with one more vector.
    #[must_use]
    pub const fn with(mut self, vector: u8) -> Self {
        self.0[(vector >> 6) as usize] |= 1 << (vector & 63);
        self
    }

    /// Whether the vector is in the set.
    pub const fn contains(self, vector: u8) -> bool {
        self.0[(vector >> 6) as usize] >> (vector & 63) & 1 != 0
    }
}

/// Why there is no area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// No host of this major version is there.
    NotFound,
    /// The host offers nothing that is wanted, or not the rings.
    NothingOffered,
    /// The area's memory is shorter than the host asks for.
    TooShort {
        /// What the host asks for.
        needed_bytes: usize,
    },
    /// A set-up register faulted, although it was announced.
    Fault,
    /// The host refused.
    Refused(SetupStatus),
    /// The host's header is not what this version expects.
    BadHeader,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::NotFound => f.write_str("no host of this interface found"),
            OpenError::NothingOffered => f.write_str("host offers nothing that is wanted"),
            OpenError::TooShort { needed_bytes } => {
                write!(f, "area is too short, host asks for {needed_bytes} bytes")
            }
            OpenError::Fault => f.write_str("announced set-up register faults"),
            OpenError::Refused(status) => write!(f, "host refuses set-up: {status}"),
            OpenError::BadHeader => f.write_str("host wrote a header of another layout"),
        }
    }
}

impl core::error::Error for OpenError {}

/// An area in use.
#[derive(Clone, Debug)]
pub(crate) struct Active {
    pub(crate) offer: Offer,
    pub(crate) features: Features,
    pub(crate) ring: GuestRing,
}

/// One vCPU's session.
#[derive(Debug)]
pub struct Session<C> {
    pub(crate) cpu: C,
    pub(crate) options: Options,
    pub(crate) active: Option<Active>,
    pub(crate) counters: Counters,
    /// The deadline that is wanted, zero if none.
    pub(crate) deadline_tsc: u64,
    /// By how much the one that the host was told is later, until somebody has found it due.
    pub(crate) grace_tsc: u64,
    pub(crate) stock_row: StockRow,
    pub(crate) stock_timer: StockTimer,
    /// Whether this vCPU's halts ask [`Session::halt_port`].
    pub(crate) halts_by_doorbell: bool,
    /// Whether a stock write of before, which comes first, is all that the deadline has.
    pub(crate) rests_on_stock: bool,
    pub(crate) next_tag: u64,
    pub(crate) asking: Asking,
    pub(crate) posts: GuestPost,
    /// Whether interrupts may be posted now, and one that was taken and not handed out.
    pub(crate) is_accepting: bool,
    pub(crate) left_over: Option<u8>,
}

impl<C: Cpu> Session<C> {
    /// A session without an area: everything takes the stock path.
    pub const fn new(cpu: C, options: Options) -> Self {
        Self {
            cpu,
            options,
            active: None,
            counters: Counters::new(),
            deadline_tsc: 0,
            grace_tsc: 0,
            stock_row: StockRow::new(),
            stock_timer: StockTimer::new(),
            halts_by_doorbell: false,
            rests_on_stock: false,
            next_tag: 1,
            asking: Asking::new(),
            posts: GuestPost::new(),
            is_accepting: false,
            left_over: None,
        }
    }

    /// From now on each halt of this vCPU asks [`Session::halt_port`], or none does: only then is a deadline handed over
    /// at a halt, and needs no write before (`[HALT-5]`).
    pub fn halts_by_doorbell(&mut self, does: bool) {
        self.halts_by_doorbell = does;
    }

    /// The vCPU.
    pub const fn cpu(&self) -> &C {
        &self.cpu
    }

    /// What was counted.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The negotiated features; none without an area.
    pub fn features(&self) -> Features {
        let active = self.active.as_ref();
        active.map_or(Features::NONE, |active| active.features)
    }

    /// Finds the host and registers the area.
    ///
    /// # Errors
    /// Says why there is no area. The session then works by the stock path.
    pub fn open(&mut self) -> Result<Features, OpenError> {
        self.close();
        // The kernel may have set it by itself since this vCPU was here before.
        self.stock_timer = StockTimer::new();
        self.rests_on_stock = false;
        let offer = Offer::find(|leaf| self.cpu.cpuid(leaf)).ok_or(OpenError::NotFound)?;
        let wanted = self.options.wanted.intersection(Features::KNOWN);
        let features = offer.features.intersection(wanted);
        if !features.contains(Features::RING) {
            return Err(OpenError::NothingOffered);
        }
        let needed_bytes = offer.layout.area_bytes();
        if self.cpu.area_bytes() < needed_bytes {
            return Err(OpenError::TooShort { needed_bytes });
        }
        // A kernel that was here before may have left its area behind (`[LIFE-5]`).
        self.set_up(&offer, AREA_OFFSET, 0)?;
        self.set_up(&offer, FEATURES_OFFSET, features.0)?;
        self.clear(needed_bytes);
        self.posts = GuestPost::new();
        let request = AreaRequest::Register {
            gpa: self.cpu.area_gpa(),
        };
        let refused = OpenError::Refused(SetupStatus::RESERVED_BITS);
        self.set_up(&offer, AREA_OFFSET, request.encode().ok_or(refused)?)?;
        let is_ours = |header: page::Header| {
            header.ring_entries == offer.layout.ring_entries() && header.features == features.0
        };
        if !page::read_header(self.cpu.area()).is_some_and(is_ours) {
            let _ = self.set_up(&offer, AREA_OFFSET, 0);
            return Err(OpenError::BadHeader);
        }
        coopvirt_spec::timer::set_vector(self.cpu.area(), self.options.timer_vector);
        self.active = Some(Active {
            offer,
            features,
            ring: GuestRing::new(offer.layout),
        });
        Ok(features)
    }

    /// Unregisters the area; the stock path takes over (`[LIFE-3]`). The memory is free after it.
    ///
    /// Completions that were not taken are lost: drain before, if they matter.
    pub fn close(&mut self) {
        self.end_posts();
        let Some(mut active) = self.active.take() else {
            return;
        };
        // What was published without the host's having taken it is done now or never.
        for _ in 0..active.offer.layout.ring_entries() {
            let mem = self.cpu.area();
            active.ring.publish(mem);
            let is_open = !active.ring.is_broken(mem) && active.ring.pending(mem) != Ok(0);
            if !is_open {
                break;
            }
            self.cpu.write_port(active.offer.sync_port, 0);
            while let Ok(Some(_)) = active.ring.take(self.cpu.area()) {}
        }
        // The stock deadline first: between the two an interrupt too many may come, but none is lost.
        if active.features.contains(Features::TIMER) && self.deadline_tsc != 0 {
            self.write_stock_deadline(self.deadline_tsc);
            self.rests_on_stock = false;
        }
        let _ = self.set_up(&active.offer, AREA_OFFSET, 0);
    }

    /// The area, if it is in use and whole. The first look at a broken one abandons it.
    pub(crate) fn usable(&mut self) -> Option<(&mut Active, &C::Area)> {
        let is_broken = self.active.as_ref()?.ring.is_broken(self.cpu.area());
        if is_broken {
            self.count(GuestCounter::Broken, 1);
            self.close();
            return None;
        }
        self.active.as_mut().map(|active| (active, self.cpu.area()))
    }

    /// As [`Session::usable`], for one feature.
    pub(crate) fn with_feature(&mut self, feature: Features) -> Option<(&mut Active, &C::Area)> {
        self.usable()
            .filter(|(active, _)| active.features.contains(feature))
    }

    pub(crate) fn count(&mut self, counter: GuestCounter, by: u64) {
        let mem = self.active.is_some().then(|| self.cpu.area());
        self.counters.add(mem, counter, by);
    }

    fn set_up(&self, offer: &Offer, offset: u32, value: u64) -> Result<(), OpenError> {
        let base = offer.msr_base;
        let (Some(msr), Some(status)) = (base.checked_add(offset), base.checked_add(STATUS_OFFSET))
        else {
            return Err(OpenError::Fault);
        };
        if !self.cpu.write_msr(msr, value) {
            return Err(OpenError::Fault);
        }
        let state = self.cpu.read_msr(status).ok_or(OpenError::Fault)?;
        match SetupState::decode(state).last {
            SetupStatus::OK => Ok(()),
            status => Err(OpenError::Refused(status)),
        }
    }

    /// Sets the area's memory to zero (`[REG-5]`).
    fn clear(&self, len_bytes: usize) {
        let mem = self.cpu.area();
        let mut at = 0;
        while at < len_bytes {
            mem.store_u64(at, 0, Store::Relaxed);
            at += 8;
        }
    }
}
