//! The counters that each side keeps in the area for the other's report (`[COUNT-1]`).
//!
//! Nobody decides anything by them, but for what `[COUNT-1]` allows predictions. Calls per operation are counted by each side under the names
//! that [`crate::op::OPERATIONS`] gives.

macro_rules! counters {
    ($(#[doc = $doc:literal])+ $Name:ident, $TABLE:ident, $at:ident:
     $($(#[doc = $value_doc:literal])+ $Variant:ident = $index:literal $name:literal,)+) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $Name {
            $($(#[doc = $value_doc])+ $Variant = $index,)+
        }

        impl $Name {
            /// Byte offset of the counter in the area.
            pub const fn offset(self) -> usize {
                crate::page::at::$at + self as usize * 8
            }
        }

        /// Index and name of each counter.
        pub const $TABLE: &[(usize, &str)] = &[$(($index, $name)),+];
    };
}

counters! {
    /// A counter of the guest.
    GuestCounter, GUEST_COUNTERS, GUEST_COUNTERS:
    /// Deadlines published.
    DeadlinePublished = 0 "deadline_published",
    /// Deadlines for which no stock write was made.
    DeadlineElided = 1 "deadline_elided",
    /// Deadlines for which the stock write was made.
    DeadlineFallback = 2 "deadline_fallback",
    /// Timer interrupts that came before the deadline.
    TimerSpurious = 3 "timer_spurious",
    /// Inter-processor interrupts sent without an exit.
    IpiElided = 4 "ipi_elided",
    /// Inter-processor interrupts sent by the stock path.
    IpiFallback = 5 "ipi_fallback",
    /// Calls published in the ring.
    Submitted = 6 "submitted",
    /// Completions taken.
    Completed = 7 "completed",
    /// Asynchronous doorbells rung.
    AsyncBell = 8 "async_bell",
    /// Synchronous doorbells rung.
    SyncBell = 9 "sync_bell",
    /// Calls that found the ring full.
    RingFull = 10 "ring_full",
    /// Calls that found the area broken and went without.
    Broken = 11 "broken",
    /// Waits in the idle loop that ended without a halt.
    IdlePolled = 12 "idle_polled",
    /// Halts.
    IdleHalted = 13 "idle_halted",
    /// Posted interrupts taken.
    Taken = 14 "posted_taken",
    /// Of the halts, those by the synchronous doorbell.
    IdleRung = 15 "idle_rung",
}

counters! {
    /// A counter of the host.
    HostCounter, HOST_COUNTERS, HOST_COUNTERS:
    /// Timer interrupts raised for a deadline word.
    TimerRaised = 0 "timer_raised",
    /// Looks at a deadline that was not due; armed again without an interrupt.
    TimerRearmed = 1 "timer_rearmed",
    /// Deadlines served later than the host's tolerance.
    TimerLate = 2 "timer_late",
    /// Submissions taken by the polling thread.
    TakenPolling = 3 "taken_polling",
    /// Submissions taken at a doorbell.
    TakenBell = 4 "taken_bell",
    /// Submissions refused with an error.
    Refused = 5 "refused",
    /// Interrupts raised for `ipi` calls.
    IpiRaised = 6 "ipi_raised",
    /// Leases revoked by another thread because the polling one was late.
    LeaseRevoked = 7 "lease_revoked",
    /// Deadlines that the local APIC's timer was set to at a halt.
    TimerHanded = 8 "timer_handed",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_1_counters_have_a_place_each_inside_their_lines() {
        for table in [GUEST_COUNTERS, HOST_COUNTERS] {
            for (place, (index, name)) in table.iter().enumerate() {
                assert_eq!(place, *index);
                assert!(*index < 16 && !name.is_empty());
            }
        }
        assert_eq!(GuestCounter::DeadlineElided.offset(), 328);
        assert_eq!(HostCounter::TimerRaised.offset(), 448);
    }
}
