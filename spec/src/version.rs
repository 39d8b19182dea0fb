//! Versions, features and their negotiation (`[VER-1]` to `[VER-3]`, `[NEG-1]` to `[NEG-4]`).

use core::fmt;
use core::ops::BitOr;

use crate::code::SetupStatus;
use crate::describe::Code;

/// A version of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Changes when an older reader would misread.
    pub major: u16,
    /// Changes when something is added that an older reader may ignore.
    pub minor: u16,
}

impl Version {
    /// The version that this crate describes.
    pub const CURRENT: Version = Version { major: 1, minor: 0 };

    /// Packs the version into a register: major in bits 31-16, minor in bits 15-0.
    pub const fn encode(self) -> u32 {
        (self.major as u32) << 16 | self.minor as u32
    }

    /// Unpacks a register.
    pub const fn decode(value: u32) -> Version {
        let [m0, m1, j0, j1] = value.to_le_bytes();
        Version {
            major: u16::from_le_bytes([j0, j1]),
            minor: u16::from_le_bytes([m0, m1]),
        }
    }

    /// Whether a reader of this version understands a writer of `other` (`[VER-1]`).
    pub const fn understands(self, other: Version) -> bool {
        self.major == other.major
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A set of features, one per bit; unknown bits are kept and mean nothing (`[NEG-2]`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
#[repr(transparent)]
pub struct Features(pub u64);

macro_rules! features {
    ($($(#[doc = $doc:literal])+ $NAME:ident = $bit:literal,)+) => {
        impl Features {
            $($(#[doc = $doc])+ pub const $NAME: Features = Features(1 << $bit);)+

            /// All features with a name; the value is the bit's number.
            pub const ALL: &'static [Code] = &[$(Code {
                name: stringify!($NAME),
                value: $bit,
                purpose: concat!($($doc),+),
            }),+];
        }
    };
}

features! {
    /// The area, its rings and the synchronous doorbell. Every other feature needs it.
    RING = 0,
    /// The host polls under a lease; the asynchronous doorbell wakes it.
    SIDECORE = 1,
    /// Timer deadlines by the deadline word.
    TIMER = 2,
    /// Inter-processor interrupts through the ring.
    IPI = 3,
    /// Populate batches.
    POPULATE = 4,
    /// Release batches.
    RELEASE = 5,
    /// Huge-page collapse batches. Reserved: no host of version 1.0 offers it.
    HUGE = 6,
    /// Cold-page batches. Reserved: no host of version 1.0 offers it.
    COLD = 7,
    /// Directed yield.
    YIELD = 8,
    /// Log text.
    LOG = 9,
    /// Measurement marks through the ring.
    MARK = 10,
    /// The contention and I/O hints of the host line are kept up to date.
    HINTS = 11,
    /// The host reads the idle word.
    IDLE = 12,
    /// Interrupts posted to a polling idle loop.
    POLL_DELIVERY = 13,
    /// Halts by the synchronous doorbell, at which the host sets the local APIC's timer.
    HALT = 14,
    /// Opcodes of the experimental range.
    EXPERIMENTAL = 63,
}

impl Features {
    /// All features that this version knows (`[NEG-2]`).
    pub const KNOWN: Features = {
        let (mut known, mut at) = (0, 0);
        while at < Features::ALL.len() {
            known |= 1 << Features::ALL[at].value;
            at += 1;
        }
        Features(known)
    };

    /// No feature.
    pub const NONE: Features = Features(0);

    /// Whether all of `other` are in the set.
    pub const fn contains(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }

    /// What both sets have.
    pub const fn intersection(self, other: Features) -> Features {
        Features(self.0 & other.0)
    }

    /// The set without `other`.
    pub const fn without(self, other: Features) -> Features {
        Features(self.0 & !other.0)
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Features {
    type Output = Features;
    fn bitor(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut separator = "";
        for code in Features::ALL {
            let bit = 1_u64 << code.value;
            if rest & bit != 0 {
                write!(f, "{separator}{}", code.name)?;
                separator = "|";
                rest &= !bit;
            }
        }
        if rest != 0 || self.0 == 0 {
            write!(f, "{separator}{rest:#x}")?;
        }
        Ok(())
    }
}

/// Decides what a host answers to a guest that wants features (`[NEG-3]`).
///
/// All that is wanted or nothing: a guest that asked for something else than was offered has read
/// the wrong register, and a silent subset would hide that.
pub const fn negotiate(offered: Features, wanted: Features) -> Result<Features, SetupStatus> {
    if !offered.contains(wanted) {
        return Err(SetupStatus::BAD_FEATURES);
    }
    if !wanted.is_empty() && !wanted.contains(Features::RING) {
        return Err(SetupStatus::BAD_FEATURES);
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ver_1_the_major_version_decides() {
        let [old, new, next] = [0x0001_0000, 0x0001_0007, 0x0002_0000].map(Version::decode);
        assert_eq!(old, Version::CURRENT);
        assert_eq!(new, Version { major: 1, minor: 7 });
        assert!(old.understands(new) && new.understands(old));
        assert!(!old.understands(next) && !next.understands(old));
        assert_eq!(new.encode(), 0x0001_0007);
    }

    #[test]
    fn neg_3_only_what_is_offered_with_what_it_needs() {
        let offered = Features::RING | Features::TIMER | Features::IPI;
        let wanted = Features::RING | Features::IPI;
        assert_eq!(negotiate(offered, wanted), Ok(wanted));
        assert_eq!(negotiate(offered, Features::NONE), Ok(Features::NONE));
        for wanted in [
            Features::RING | Features::LOG,
            Features::IPI,
            Features::RING | Features(1 << 40),
            Features(u64::MAX),
        ] {
            assert_eq!(negotiate(offered, wanted), Err(SetupStatus::BAD_FEATURES));
        }
    }

    #[test]
    fn neg_2_unknown_features_are_kept_and_print() {
        extern crate std;
        let set = Features(1 << 40 | 1);
        assert_eq!(std::format!("{set:?}"), "RING|0x10000000000");
        assert_eq!(std::format!("{:?}", Features::NONE), "0x0");
        assert!(!set.contains(Features::IPI));
        assert_eq!(Features::KNOWN, Features(0x8000_0000_0000_7fff));
    }
}
