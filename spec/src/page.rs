//! The area that one vCPU shares with the host (`[PAGE-1]` to `[PAGE-5]`).
//!
//! Seven structures of whole cache lines, then the submission and the completion ring. Each line
//! has exactly one writer, which its documentation names first. With the default of
//! [`DEFAULT_RING_ENTRIES`] entries the area is one page, without a byte left over.

use core::mem::offset_of;

use crate::describe::{shared_struct, Structure};
use crate::entry::{Completion, Submission};
use crate::mem::{Load, SharedMem, Store};
use crate::ring::{Geometry, RingSize};
use crate::version::Features;

/// Bytes of a cache line, as the layout assumes it.
pub const LINE_BYTES: usize = 64;
/// Bytes of a guest page.
pub const PAGE_BYTES: u64 = 4096;
/// What a header starts with: the text `COOPVIRT`.
pub const MAGIC: u64 = u64::from_le_bytes(*b"COOPVIRT");
/// Bytes before the submission ring.
pub const CONTROL_BYTES: usize = 1024;
/// Entries of either ring, unless the host says otherwise: the area is one page then.
pub const DEFAULT_RING_ENTRIES: u32 = 32;
/// The fewest entries a host may announce.
pub const MIN_RING_ENTRIES: u32 = 16;
/// The most entries a host may announce.
pub const MAX_RING_ENTRIES: u32 = 1024;

shared_struct! {
    /// Host, at registration only: what this area is. Constant while it is registered.
    pub struct Header: 64 {
        /// `COOPVIRT`.
        0 => magic: u64,
        /// Bytes of the whole area.
        8 => area_bytes: u32,
        /// Major version of the layout.
        12 => major: u16,
        /// Minor version of the layout.
        14 => minor: u16,
        /// The negotiated features, a set of bits.
        16 => features: u64,
        /// Entries of either ring.
        24 => ring_entries: u32,
        /// Byte offset of the submission ring.
        28 => submissions_at: u32,
        /// Byte offset of the completion ring.
        32 => completions_at: u32,
        /// x2APIC id of the vCPU that registered the area.
        36 => apic_id: u32,
        /// Zero.
        40 => _reserved: [u64; 3],
    }
}

shared_struct! {
    /// Host, at any time: what it promises and what it sees.
    pub struct HostStatus: 64 {
        /// Guest TSC until which the host will look; 0 if it does not.
        0 => lease_until_tsc: u64,
        /// Guest TSC at which the host will look at the deadline; 0 if none.
        8 => armed_deadline_tsc: u64,
        /// The deadline for which the host has last raised the timer interrupt, or set the local APIC's timer.
        16 => served_deadline_tsc: u64,
        /// Why the area is broken, a broken reason; 0 while it is not.
        24 => broken: u32,
        /// Time that this vCPU lately waited for a CPU of the host, in parts per thousand.
        28 => contention_permille: u32,
        /// Requests of this VM that devices have in flight.
        32 => io_in_flight: u32,
        /// Zero.
        36 => _reserved0: u32,
        /// Zero.
        40 => _reserved: [u64; 3],
    }
}

shared_struct! {
    /// Guest, at any time: what the host polls.
    pub struct GuestControl: 64 {
        /// Guest TSC at which the timer interrupt is due; 0 for none.
        0 => deadline_tsc: u64,
        /// Submission tail, a free-running index.
        8 => submission_tail: u32,
        /// What the vCPU does: 0 runs, 1 polls in its idle loop, 2 is about to halt.
        12 => idle: u32,
        /// Vector that the host raises when the deadline is due, 16 to 255.
        16 => timer_vector: u32,
        /// Zero.
        20 => _reserved0: u32,
        /// The last deadline for which the guest made the stock write; 0 before the first, and if it was replaced
        /// before it was due.
        24 => stock_deadline_tsc: u64,
        /// Zero.
        32 => _reserved: [u64; 4],
    }
}

shared_struct! {
    /// Host, at any time: how far it has come; what a waiting guest polls.
    pub struct HostProgress: 64 {
        /// Submission head, a free-running index.
        0 => submission_head: u32,
        /// Completion tail, a free-running index.
        4 => completion_tail: u32,
        /// The interrupt posted last: number in bits 63-32, vector in bits 7-0; 0 before the first.
        8 => posted: u64,
        /// Zero.
        16 => _reserved: [u64; 6],
    }
}

shared_struct! {
    /// Guest, at any time: how far it has taken completions and interrupts.
    pub struct GuestProgress: 64 {
        /// Completion head, a free-running index.
        0 => completion_head: u32,
        /// Zero.
        4 => _reserved0: u32,
        /// Number of the last posting taken in bits 63-32, session in bits 31-1, whether it accepts in bit 0.
        8 => accept: u64,
        /// Zero.
        16 => _reserved: [u64; 6],
    }
}

shared_struct! {
    /// Guest, at any time: its counters, for the host's report only.
    pub struct GuestCounters: 128 {
        /// Counters in the order of `GUEST_COUNTERS`.
        0 => values: [u64; 16],
    }
}

shared_struct! {
    /// Host, at any time: its counters for this vCPU, for the guest's report only.
    pub struct HostCounters: 128 {
        /// Counters in the order of `HOST_COUNTERS`.
        0 => values: [u64; 16],
    }
}

shared_struct! {
    /// Everything before the rings.
    pub struct Control: 1024 {
        /// Written by the host, at registration.
        0 => header: Header,
        /// Written by the host.
        64 => host_status: HostStatus,
        /// Written by the guest.
        128 => guest_control: GuestControl,
        /// Written by the host.
        192 => host_progress: HostProgress,
        /// Written by the guest.
        256 => guest_progress: GuestProgress,
        /// Written by the guest.
        320 => guest_counters: GuestCounters,
        /// Written by the host.
        448 => host_counters: HostCounters,
        /// Zero; written by nobody.
        576 => _reserved: [u64; 56],
    }
}

/// All structures of the area, in order of first use.
pub const STRUCTURES: &[Structure] = &[
    Header::DESCRIPTION,
    HostStatus::DESCRIPTION,
    GuestControl::DESCRIPTION,
    HostProgress::DESCRIPTION,
    GuestProgress::DESCRIPTION,
    GuestCounters::DESCRIPTION,
    HostCounters::DESCRIPTION,
    Control::DESCRIPTION,
    Submission::DESCRIPTION,
    Completion::DESCRIPTION,
    crate::range::Range::DESCRIPTION,
];

/// Byte offsets of the live words in the area.
pub mod at {
    use super::*;

    macro_rules! offsets {
        ($($(#[$doc:meta])+ $NAME:ident = $line:ident . $Line:ident . $field:ident;)+) => {
            $($(#[$doc])+ pub const $NAME: usize =
                offset_of!(Control, $line) + offset_of!($Line, $field);)+
        };
    }

    offsets! {
        /// Host: the lease.
        LEASE = host_status.HostStatus.lease_until_tsc;
        /// Host: the armed deadline.
        ARMED = host_status.HostStatus.armed_deadline_tsc;
        /// Host: the served deadline.
        SERVED = host_status.HostStatus.served_deadline_tsc;
        /// Host: the broken reason.
        BROKEN = host_status.HostStatus.broken;
        /// Host: contention in parts per thousand.
        CONTENTION = host_status.HostStatus.contention_permille;
        /// Host: requests in flight.
        IO_IN_FLIGHT = host_status.HostStatus.io_in_flight;
        /// Guest: the deadline.
        DEADLINE = guest_control.GuestControl.deadline_tsc;
        /// Guest: the submission tail.
        SUBMISSION_TAIL = guest_control.GuestControl.submission_tail;
        /// Guest: the idle word.
        IDLE = guest_control.GuestControl.idle;
        /// Guest: the timer's vector.
        TIMER_VECTOR = guest_control.GuestControl.timer_vector;
        /// Guest: the last deadline that took the stock path.
        STOCK_DEADLINE = guest_control.GuestControl.stock_deadline_tsc;
        /// Host: the submission head.
        SUBMISSION_HEAD = host_progress.HostProgress.submission_head;
        /// Host: the completion tail.
        COMPLETION_TAIL = host_progress.HostProgress.completion_tail;
        /// Host: the interrupt posted last.
        POSTED = host_progress.HostProgress.posted;
        /// Guest: whether it accepts interrupts, and which it has taken.
        ACCEPT = guest_progress.GuestProgress.accept;
        /// Guest: the completion head.
        COMPLETION_HEAD = guest_progress.GuestProgress.completion_head;
        /// Guest: the counters.
        GUEST_COUNTERS = guest_counters.GuestCounters.values;
        /// Host: the counters.
        HOST_COUNTERS = host_counters.HostCounters.values;
    }
}

/// Where the rings of an area lie, which depends on their size alone (`[PAGE-4]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AreaLayout {
    size: RingSize,
}

impl AreaLayout {
    /// The layout of an area with one page.
    pub const DEFAULT: AreaLayout = match AreaLayout::new(DEFAULT_RING_ENTRIES) {
        Some(layout) => layout,
        None => panic!("the default number of entries is no ring size"),
    };

    /// Checks a number of entries as announced.
    pub const fn new(ring_entries: u32) -> Option<Self> {
        if ring_entries < MIN_RING_ENTRIES || ring_entries > MAX_RING_ENTRIES {
            return None;
        }
        match RingSize::new(ring_entries) {
            Some(size) => Some(Self { size }),
            None => None,
        }
    }

    /// Entries of either ring.
    pub const fn ring_entries(self) -> u32 {
        self.size.entries()
    }

    /// The submission ring.
    pub const fn submissions(self) -> Geometry {
        Geometry {
            tail: at::SUBMISSION_TAIL,
            head: at::SUBMISSION_HEAD,
            entries: CONTROL_BYTES,
            size: self.size,
        }
    }

    /// The completion ring.
    pub const fn completions(self) -> Geometry {
        Geometry {
            tail: at::COMPLETION_TAIL,
            head: at::COMPLETION_HEAD,
            entries: self.submissions().entries + self.bytes_of(size_of::<Submission>()),
            size: self.size,
        }
    }

    /// Bytes of the area, whole pages (`[PAGE-1]`).
    pub const fn area_bytes(self) -> usize {
        let end = self.completions().entries + self.bytes_of(size_of::<Completion>());
        end.next_multiple_of(4096)
    }

    const fn bytes_of(self, entry_bytes: usize) -> usize {
        self.size.entries() as usize * entry_bytes
    }
}

use core::mem::size_of;
const _: () = assert!(AreaLayout::DEFAULT.area_bytes() == 4096);
const _: () = assert!(size_of::<Control>() == CONTROL_BYTES);

/// What a vCPU says that it does, in the idle word (`[PAGE-5]`). A hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Idle {
    /// It runs; also what any unknown value means.
    Runs = 0,
    /// It polls in its idle loop, with interrupts on.
    Polls = 1,
    /// It is about to halt.
    Halts = 2,
}

impl Idle {
    /// Reads the idle word. For the host.
    pub fn read<M: SharedMem>(mem: &M) -> Idle {
        match mem.load_u32(at::IDLE, Load::Relaxed) {
            1 => Idle::Polls,
            2 => Idle::Halts,
            _ => Idle::Runs,
        }
    }

    /// Writes the idle word. For the guest.
    pub fn write<M: SharedMem>(self, mem: &M) {
        mem.store_u32(at::IDLE, self as u32, Store::Relaxed);
    }
}

/// Writes the constant header and clears every word that the host owns (`[REG-5]`).
///
/// For the host, at registration. The guest's own words are the guest's to clear.
pub fn write_header<M: SharedMem>(mem: &M, layout: AreaLayout, features: Features, apic_id: u32) {
    for line in [
        offset_of!(Control, host_status),
        offset_of!(Control, host_progress),
    ] {
        mem.write_words(line, &[0; 8]);
    }
    mem.write_words(at::HOST_COUNTERS, &[0; 16]);
    mem.write_words(0, &Header::for_area(layout, features, apic_id).to_words());
    // Nothing pairs with this: the guest reads the header after its WRMSR, which the host completes
    // after this returns. The fence only keeps the header before whatever the host does next.
    mem.fence_full();
}

/// Reads the header, for the guest after registration; `None` if it is none that we understand.
pub fn read_header<M: SharedMem>(mem: &M) -> Option<Header> {
    // Acquire: no load behind this one may be older than the header.
    if mem.load_u64(0, Load::Acquire) != MAGIC {
        return None;
    }
    let mut words = [0; 8];
    mem.read_words(0, &mut words);
    Header::from_words(&words).check()
}

/// Says in the area that it is broken (`[LIFE-6]`). For the host.
pub fn write_broken<M: SharedMem>(mem: &M, reason: crate::code::BrokenReason) {
    mem.store_u64(at::LEASE, 0, Store::Relaxed);
    mem.store_u64(at::ARMED, 0, Store::Relaxed);
    mem.store_u32(at::BROKEN, reason.0, Store::Release);
}
