//! The operations (`[OP-1]` to `[OP-6]`): one table, from which everything about them follows.
//!
//! `table.rs` declares each operation once. From it follow its [`Opcode`] constant, its argument
//! structure with encoding and decoding, its arm of [`Request`], its function in [`Serve`], its row
//! of [`OPERATIONS`] (and so of `coopvirt hypercalls`, of the table in `SPEC.md` and of the C
//! header), its counter's name, and the tests that all operations have in common.
//! `experiments.rs` does the same for experiments. How to add either: `TUTORIAL.md`.

mod answer;
mod experiments;
mod ipi;
mod macros;
mod table;
mod word;

pub use answer::Answer;
pub use experiments::*;
pub use ipi::FIRST_VECTOR;
pub use table::*;
pub use word::ArgWord;

use core::fmt;

use crate::code::Status;
use crate::entry::{Submission, FLAGS_KNOWN};
use crate::version::{Features, Version};

/// Words that carry the arguments of a submission.
pub const ARG_WORDS: usize = 6;
/// First opcode of the range that researchers may use as they like (`[OP-6]`).
pub const EXPERIMENTAL_FIRST: u16 = 0xf000;

/// The code of an operation; zero and unknown ones are refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Opcode(pub u16);

impl Opcode {
    /// Whether the opcode is in the experimental range.
    pub const fn is_experimental(self) -> bool {
        self.0 >= EXPERIMENTAL_FIRST
    }

    /// The description of the operation, if there is one.
    pub fn describe(self) -> Option<&'static Operation> {
        all().find(|operation| operation.opcode == self)
    }
}

impl fmt::Debug for Opcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Opcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.describe() {
            Some(operation) => f.write_str(operation.name),
            None => write!(f, "opcode {:#06x}", self.0),
        }
    }
}

/// One argument of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: &'static str,
    /// Its type: `u64`, `u32` or `u8`; each has a whole word, whose upper bits are zero.
    pub kind: &'static str,
    /// What its value counts or is.
    pub unit: &'static str,
}

/// What there is to know about one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its name, for people.
    pub name: &'static str,
    /// Its code.
    pub opcode: Opcode,
    /// What it does.
    pub purpose: &'static str,
    /// The feature that has to be negotiated.
    pub feature: Features,
    /// The first version that has it.
    pub since: Version,
    /// Its arguments, one word each.
    pub arguments: &'static [Argument],
    /// What the completion's result holds.
    pub result: &'static str,
    /// The errors that are its own; every operation also has those of [`COMMON_ERRORS`].
    pub errors: &'static [Status],
    /// The name of the counter of its calls.
    pub counter: &'static str,
}

/// All operations, then all experiments.
pub fn all() -> impl Iterator<Item = &'static Operation> {
    OPERATIONS.iter().chain(EXPERIMENTS)
}

/// The errors that any submission can get.
pub const COMMON_ERRORS: &[Status] = &[
    Status::UNKNOWN_OPCODE,
    Status::NOT_NEGOTIATED,
    Status::RESERVED_BITS,
];

/// An experimental call, whose words nobody has looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExperimentalArgs {
    /// Its code, in the experimental range.
    pub opcode: Opcode,
    /// Its argument words.
    pub args: [u64; ARG_WORDS],
}

impl Request {
    /// Decodes a submission that the guest made under the `negotiated` features (`[OP-2]`).
    ///
    /// For the host. What needs the machine (addresses, targets) is checked by who carries it out.
    pub fn decode(submission: &Submission, negotiated: Features) -> Result<Request, Status> {
        let opcode = Opcode(submission.opcode);
        let feature = match opcode.describe() {
            Some(operation) => operation.feature,
            None if opcode.is_experimental() => Features::EXPERIMENTAL,
            None => return Err(Status::UNKNOWN_OPCODE),
        };
        if !negotiated.contains(feature) {
            return Err(Status::NOT_NEGOTIATED);
        }
        if submission.flags & !FLAGS_KNOWN != 0 || submission._reserved != 0 {
            return Err(Status::RESERVED_BITS);
        }
        if opcode.is_experimental() {
            return Ok(Request::Experimental(ExperimentalArgs {
                opcode,
                args: submission.args,
            }));
        }
        Request::decode_args(opcode, &submission.args)
    }
}
