//! What this host does for experiments (`[OP-6]`): one function for each of the spec's table.
//!
//! Called as the functions in `serve.rs`, and under their rules: never wait, never trust a word of
//! the call. The polling thread leaves all of them to the worker.

use coopvirt_spec::op;

use super::serve::Context;

impl op::ServeExperiments for Context<'_> {
    // In order of opcode.
}
