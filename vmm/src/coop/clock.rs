//! A vCPU's TSC as the host sees it, so that deadlines and leases can be compared with "now".
//!
//! Version 1 of the host serves guests whose TSC runs at the host's rate, which is what KVM gives
//! unless it is told otherwise; it then differs by an offset. Where that does not hold, the area
//! is registered without lease and timers never, with a reason.

use std::time::Duration;

use crate::kvm::tsc;

/// Host TSC to guest TSC of one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestClock {
    offset: u64,
    khz: u64,
}

/// Why a vCPU's TSC cannot be followed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ClockError {
    #[error("the TSC's frequency is unknown")]
    Frequency,
    #[error(
        "the guest's TSC is {0} cycles away from the host's TSC plus its offset; is it scaled?"
    )]
    Scaled(u64),
}

impl GuestClock {
    /// From the vCPU's offset, if a reading of the guest's TSC between two of the host's agrees.
    pub fn new(offset: u64, khz: u32, reading: Reading) -> Result<Self, ClockError> {
        if khz == 0 {
            return Err(ClockError::Frequency);
        }
        let [before, after] = [reading.host_before, reading.host_after];
        let [first, last] = [before, after].map(|host| host.wrapping_add(offset));
        // KVM may answer with the value of a moment ago; a millisecond tells an offset from a scale
        // on any machine that has been up for more than a few seconds.
        let slack = u64::from(khz);
        let away = first
            .saturating_sub(reading.guest)
            .max(reading.guest.saturating_sub(last));
        if away > slack {
            return Err(ClockError::Scaled(away));
        }
        let khz = u64::from(khz);
        Ok(Self { offset, khz })
    }

    /// The guest's TSC now.
    pub fn now(&self) -> u64 {
        tsc::read().wrapping_add(self.offset)
    }

    /// The guest's TSC when the host's is `host_tsc`.
    pub fn at(&self, host_tsc: u64) -> u64 {
        host_tsc.wrapping_add(self.offset)
    }

    /// The host's TSC at a value of the guest's; the far future for what does not fit.
    pub fn host_at(&self, guest_tsc: u64, now_host: u64) -> u64 {
        let ahead = guest_tsc.saturating_sub(self.at(now_host));
        now_host.saturating_add(ahead)
    }

    /// Cycles in a time.
    pub fn cycles(&self, time: Duration) -> u64 {
        cycles(self.khz, time)
    }

    /// Its frequency.
    pub fn khz(&self) -> u64 {
        self.khz
    }

    /// The time that cycles take.
    pub fn time(&self, cycles: u64) -> Duration {
        time(self.khz, cycles)
    }
}

/// Cycles in a time, at a frequency.
pub fn cycles(khz: u64, time: Duration) -> u64 {
    let cycles = time.as_nanos() * u128::from(khz) / 1_000_000;
    u64::try_from(cycles).unwrap_or(u64::MAX)
}

/// The time that cycles take, rounded up: a timer set by it is never early. At most an hour, after
/// which whoever waits looks again.
pub fn time(khz: u64, cycles: u64) -> Duration {
    const LONGEST: Duration = Duration::from_secs(3600);
    let nanos = (u128::from(cycles) * 1_000_000).div_ceil(u128::from(khz.max(1)));
    u64::try_from(nanos).map_or(LONGEST, |nanos| Duration::from_nanos(nanos).min(LONGEST))
}

/// The guest's TSC, and the host's before and after it was read.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Host, before.
    pub host_before: u64,
    /// Guest.
    pub guest: u64,
    /// Host, after.
    pub host_after: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const KHZ: u32 = 2_000_000;

    fn reading(guest: u64) -> Reading {
        Reading {
            host_before: 1 << 50,
            guest,
            host_after: (1 << 50) + 5_000,
        }
    }

    #[test]
    fn an_offset_is_accepted_and_a_scaled_clock_is_not() {
        let offset = 0_u64.wrapping_sub(1 << 49);
        let clock = GuestClock::new(offset, KHZ, reading((1 << 49) + 2_000)).unwrap();
        assert_eq!(clock.at((1 << 50) + 7), (1 << 49) + 7);
        assert_eq!(clock.cycles(Duration::from_millis(1)), 2_000_000);
        let scaled = GuestClock::new(offset, KHZ, reading((1 << 49) + (1 << 40)));
        assert!(matches!(scaled, Err(ClockError::Scaled(_))));
        let unknown = GuestClock::new(offset, 0, reading(1 << 49));
        assert_eq!(unknown, Err(ClockError::Frequency));
    }

    #[test]
    fn a_timer_is_never_set_early_and_never_overflows() {
        assert_eq!(time(2_000_000, 1), Duration::from_nanos(1));
        assert_eq!(time(3_000_000, 10), Duration::from_nanos(4));
        assert_eq!(time(0, u64::MAX), Duration::from_secs(3600));
        assert_eq!(time(1, u64::MAX), Duration::from_secs(3600));
        let clock = GuestClock { offset: 5, khz: 1 };
        assert_eq!(clock.host_at(u64::MAX, 100), u64::MAX - 5);
        assert_eq!(clock.host_at(0, 100), 100);
    }
}
