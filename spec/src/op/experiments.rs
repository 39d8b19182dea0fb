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
}
