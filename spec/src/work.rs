//! The works that are measured (`[WORK-1]`): what a guest does between two marks.

/// A unit of work whose exits are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Work {
    /// From the first instruction of the VM to init. One operation; has only an end mark.
    Boot = 1,
    /// Nothing to do on any vCPU. An operation is one second.
    Idle = 2,
    /// One thread computes. An operation is one second.
    Busy = 3,
    /// One thread sleeps 1 ms at a time. An operation is one sleep.
    Sleep = 4,
    /// Two threads on two vCPUs exchange one byte over two pipes. An operation is a round trip.
    Pipe = 5,
    /// `madvise(MADV_DONTNEED)` while threads spin on the other vCPUs. An operation is one call.
    Tlb = 6,
    /// First write to each 4 KiB page of fresh memory. An operation is one page.
    Touch = 7,
    /// The same memory freed and touched again. An operation is one page.
    Refill = 8,
    /// `fork`, child exits, `wait`. An operation is one child.
    Fork = 9,
    /// 4 KiB `O_DIRECT` reads, one at a time. An operation is one read.
    Read1 = 10,
    /// 4 KiB `O_DIRECT` reads, 32 in flight. An operation is one read.
    Read32 = 11,
    /// The guest's module loaded and unloaded under load. An operation is one cycle.
    Cycles = 12,
    /// Threads that wake at fixed times, a histogram of how late. An operation is one wake-up.
    Wakeup = 13,
    /// The guest's clocks beside the host's, at point marks. An operation is one second.
    Clock = 14,
    /// Debian's cyclictest, where the initramfs has it. An operation is one wake-up.
    Cyclictest = 15,
    /// 4 KiB `O_DIRECT` reads, one at a time, through a queue without interrupts. An operation is one
    /// read.
    Readpoll = 16,
}

impl Work {
    /// Works that test rather than measure, or need a guest of their own; they run only by name.
    pub const TESTS: [Work; 5] = [
        Work::Cycles,
        Work::Wakeup,
        Work::Clock,
        Work::Cyclictest,
        Work::Readpoll,
    ];

    /// All works that measure, in the order in which they run and are reported.
    pub const ALL: [Work; 11] = [
        Work::Boot,
        Work::Idle,
        Work::Busy,
        Work::Sleep,
        Work::Pipe,
        Work::Tlb,
        Work::Touch,
        Work::Refill,
        Work::Fork,
        Work::Read1,
        Work::Read32,
    ];

    /// The code that marks carry.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The work with this code, if there is one.
    pub fn from_code(code: u8) -> Option<Work> {
        Work::every().find(|work| work.code() == code)
    }

    /// All works that measure, then those that test.
    pub fn every() -> impl Iterator<Item = Work> {
        Work::ALL.into_iter().chain(Work::TESTS)
    }

    /// The name used on command lines, in records and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Work::Boot => "boot",
            Work::Idle => "idle",
            Work::Busy => "busy",
            Work::Sleep => "sleep",
            Work::Pipe => "pipe",
            Work::Tlb => "tlb",
            Work::Touch => "touch",
            Work::Refill => "refill",
            Work::Fork => "fork",
            Work::Read1 => "read1",
            Work::Read32 => "read32",
            Work::Cycles => "cycles",
            Work::Wakeup => "wakeup",
            Work::Clock => "clock",
            Work::Cyclictest => "cyclictest",
            Work::Readpoll => "readpoll",
        }
    }

    /// The work with this name, if there is one.
    pub fn from_name(name: &str) -> Option<Work> {
        Work::every().find(|work| work.name() == name)
    }

    /// What one operation is, for column headings: "1 s", "sleep", "page".
    pub const fn operation(self) -> &'static str {
        match self {
            Work::Boot => "boot",
            Work::Idle | Work::Busy | Work::Clock => "second",
            Work::Sleep => "sleep",
            Work::Pipe => "round trip",
            Work::Tlb => "call",
            Work::Touch | Work::Refill => "page",
            Work::Fork => "child",
            Work::Read1 | Work::Read32 | Work::Readpoll => "read",
            Work::Cycles => "cycle",
            Work::Wakeup | Work::Cyclictest => "wake-up",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_1_codes_and_names_are_unique_and_reversible() {
        for (index, work) in Work::every().enumerate() {
            assert_eq!(usize::from(work.code()), index + 1);
            assert_eq!(Work::from_code(work.code()), Some(work));
            assert_eq!(Work::from_name(work.name()), Some(work));
        }
        assert_eq!(Work::from_code(0), None);
        assert_eq!(Work::from_name("nothing"), None);
    }
}
