//! The table of experiments (`[OP-6]`): opcodes from `0xf000` on, which mean what this tree says.
//!
//! They are declared as operations are, and all that follows from a declaration follows from these
//! too, but for the table in `SPEC.md`: theirs is `EXPERIMENTS.md`. `TUTORIAL.md` adds one.

use super::macros::operations;
use super::{Answer, Opcode, Operation, ARG_WORDS};
use crate::code::Status;

operations! {
    /// A decoded call of an experiment, for a host that knows it.
    enum Experiment;
    /// All experiments, in order of opcode.
    list EXPERIMENTS;
    /// Who carries out experiments: one function for each.
    trait ServeExperiments;

    /// Says how much of a range of guest memory the host keeps resident.
    WorkingSet(WorkingSetArgs) = WORKING_SET 0xf000 working_set {
        feature: EXPERIMENTAL,
        since: (1, 0),
        arguments: {
            /// Where the range begins.
            first_gpa: u64 in "guest-physical address of a page",
            /// How long it is.
            nr_pages: u32 in "pages of 4 KiB, 1 to 512",
        },
        result: "pages of the range that are resident",
        errors: [BAD_ARGUMENT, BAD_RANGE, HOST_FAILED],
    }
}
