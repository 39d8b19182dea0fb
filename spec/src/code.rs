//! Codes that either side answers with (`[ABI-3]`): statuses and reasons, zero invalid in each.

use crate::describe::open_code;

open_code! {
    /// How an operation ended, in its completion (`[OP-3]`).
    pub struct Status(u32) {
        /// Done, all of it.
        OK = 1,
        /// Done in part; the completion says where to go on.
        PARTIAL = 2,
        /// No operation has this opcode; zero among them.
        UNKNOWN_OPCODE = 0x100,
        /// The operation's feature was not negotiated.
        NOT_NEGOTIATED = 0x101,
        /// A reserved bit or an unused argument word is not zero, or a value is too wide.
        RESERVED_BITS = 0x102,
        /// A guest address is unaligned, outside memory, or inside a registered area.
        BAD_ADDRESS = 0x103,
        /// A list has no item, more items than the limit, or starts behind its end.
        BAD_LIST = 0x104,
        /// A range is empty, unaligned, outside memory, or overlaps a registered area.
        BAD_RANGE = 0x105,
        /// A target vCPU does not exist.
        BAD_TARGET = 0x106,
        /// A vector that no interrupt may have.
        BAD_VECTOR = 0x107,
        /// An argument is outside its documented values.
        BAD_ARGUMENT = 0x108,
        /// Not now; the same call may succeed later.
        BUSY = 0x109,
        /// The host knows the operation but this machine cannot do it.
        UNSUPPORTED = 0x10a,
        /// The host tried and failed.
        HOST_FAILED = 0x10b,
    }
}

open_code! {
    /// How the last write to a set-up register ended (`[REG-4]`).
    pub struct SetupStatus(u16) {
        /// Done.
        OK = 1,
        /// A reserved bit is set; an unaligned address among them.
        RESERVED_BITS = 2,
        /// Features that were not offered, or without those they need.
        BAD_FEATURES = 3,
        /// The area is not wholly inside ordinary guest memory.
        BAD_ADDRESS = 4,
        /// This vCPU has an area already; it stays.
        ALREADY_REGISTERED = 5,
        /// The area overlaps that of another vCPU.
        SHARED = 6,
        /// No features have been negotiated.
        NOT_NEGOTIATED = 7,
        /// Features cannot change while an area is registered.
        BUSY = 8,
        /// The host could not do it, for instance for lack of resources.
        HOST_FAILED = 9,
    }
}

open_code! {
    /// Why a vCPU's area is broken (`[LIFE-6]`).
    pub struct BrokenReason(u32) {
        /// The submission tail is impossible.
        SUBMISSION_TAIL = 1,
        /// The completion head is impossible.
        COMPLETION_HEAD = 2,
        /// The host can no longer reach the area's memory.
        MEMORY = 3,
        /// The host gave up for a reason of its own.
        HOST = 4,
    }
}

impl Status {
    /// Whether the operation was refused or failed.
    pub const fn is_error(self) -> bool {
        self.0 != Status::OK.0 && self.0 != Status::PARTIAL.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abi_3_codes_are_open_and_zero_is_no_code() {
        assert_eq!(Status(0).name(), None);
        assert_eq!(SetupStatus(0).name(), None);
        assert_eq!(BrokenReason(0).name(), None);
        assert_eq!(Status::BAD_LIST.name(), Some("BAD_LIST"));
        for codes in [Status::ALL, SetupStatus::ALL, BrokenReason::ALL] {
            assert!(codes.windows(2).all(|pair| pair[0].value < pair[1].value));
            assert!(codes[0].value > 0);
        }
        assert!(Status(0).is_error() && Status(77).is_error());
        assert!(!Status::OK.is_error() && !Status::PARTIAL.is_error());
    }
}
