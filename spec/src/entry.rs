//! The entries of the two rings (`[RING-8]`, `[OP-1]` to `[OP-4]`), and how they become words.

use crate::code::Status;
use crate::describe::shared_struct;
use crate::op::Opcode;

/// Words of a submission.
pub const SUBMISSION_WORDS: usize = 8;
/// Words of a completion.
pub const COMPLETION_WORDS: usize = 4;

shared_struct! {
    /// One call of the guest, in the submission ring.
    pub struct Submission: 64 {
        /// Which operation.
        0 => opcode: u16,
        /// Submission flags; unknown ones are refused.
        2 => flags: u16,
        /// Zero.
        4 => _reserved: u32,
        /// Comes back in the completion; the host does not look at it.
        8 => tag: u64,
        /// The operation's arguments; unused words are zero.
        16 => args: [u64; 6],
    }
}

shared_struct! {
    /// The host's answer to one call, in the completion ring.
    pub struct Completion: 32 {
        /// The submission's tag.
        0 => tag: u64,
        /// How it ended, a status.
        8 => status: u32,
        /// List items that are done, from the start of the list.
        12 => items_done: u32,
        /// The operation's result.
        16 => result: u64,
        /// Zero.
        24 => _reserved: u64,
    }
}

/// Submission flag: no completion is written if the status is OK (`[OP-4]`).
pub const FLAG_QUIET: u16 = 1 << 0;
/// All submission flags that exist.
pub const FLAGS_KNOWN: u16 = FLAG_QUIET;

impl Submission {
    /// A call without flags.
    pub const fn new(opcode: Opcode, tag: u64, args: [u64; 6]) -> Self {
        Self {
            opcode: opcode.0,
            flags: 0,
            _reserved: 0,
            tag,
            args,
        }
    }

    /// The same call, without completion on success.
    pub const fn quiet(mut self) -> Self {
        self.flags |= FLAG_QUIET;
        self
    }

    /// Whether a success needs no completion.
    pub const fn is_quiet(&self) -> bool {
        self.flags & FLAG_QUIET != 0
    }

    /// The words that the ring carries.
    pub const fn to_words(self) -> [u64; SUBMISSION_WORDS] {
        let [a0, a1, a2, a3, a4, a5] = self.args;
        let head = self.opcode as u64 | (self.flags as u64) << 16 | (self._reserved as u64) << 32;
        [head, self.tag, a0, a1, a2, a3, a4, a5]
    }

    /// Reads the words of a ring. Whether they make sense is for [`crate::op::Request::decode`].
    pub const fn from_words(words: [u64; SUBMISSION_WORDS]) -> Self {
        let [head, tag, a0, a1, a2, a3, a4, a5] = words;
        let [o0, o1, f0, f1, r0, r1, r2, r3] = head.to_le_bytes();
        Self {
            opcode: u16::from_le_bytes([o0, o1]),
            flags: u16::from_le_bytes([f0, f1]),
            _reserved: u32::from_le_bytes([r0, r1, r2, r3]),
            tag,
            args: [a0, a1, a2, a3, a4, a5],
        }
    }
}

impl Completion {
    /// An answer without list items.
    pub const fn new(tag: u64, status: Status, result: u64) -> Self {
        Self {
            tag,
            status: status.0,
            items_done: 0,
            result,
            _reserved: 0,
        }
    }

    /// The status as a code.
    pub const fn status(&self) -> Status {
        Status(self.status)
    }

    /// The words that the ring carries.
    pub const fn to_words(self) -> [u64; COMPLETION_WORDS] {
        let middle = self.status as u64 | (self.items_done as u64) << 32;
        [self.tag, middle, self.result, self._reserved]
    }

    /// Reads the words of a ring.
    pub const fn from_words(words: [u64; COMPLETION_WORDS]) -> Self {
        let [tag, middle, result, _reserved] = words;
        let [s0, s1, s2, s3, i0, i1, i2, i3] = middle.to_le_bytes();
        Self {
            tag,
            status: u32::from_le_bytes([s0, s1, s2, s3]),
            items_done: u32::from_le_bytes([i0, i1, i2, i3]),
            result,
            _reserved,
        }
    }
}
