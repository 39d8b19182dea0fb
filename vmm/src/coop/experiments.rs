//! What this host does for experiments (`[OP-6]`): one function for each of the spec's table.
//!
//! Called as the functions in `serve.rs`, and under their rules: never wait, never trust a word of
//! the call. The polling thread leaves all of them to the worker.

use std::fs::File;
use std::os::unix::fs::FileExt;

use coopvirt_spec::code::Status;
use coopvirt_spec::op;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::serve::Context;

impl op::ServeExperiments for Context<'_> {
    // In order of opcode.

    /// The kernel has a word for each page of this process; its top bit says "present".
    fn working_set(&mut self, args: op::WorkingSetArgs) -> Result<op::Answer, Status> {
        if !(1..=512).contains(&args.nr_pages) || args.first_gpa & 0xfff != 0 {
            return Err(Status::BAD_ARGUMENT);
        }
        let (mut words, len) = ([0; 512 * 8], args.nr_pages as usize * 8);
        let range = (self.shared.ram).get_slice(GuestAddress(args.first_gpa), len * 512);
        let range = range.map_err(|_| Status::BAD_RANGE)?;
        let at = range.ptr_guard().as_ptr().addr() as u64 / 4096 * 8;
        (File::open("/proc/self/pagemap"))
            .and_then(|map| map.read_exact_at(&mut words[..len], at))
            .map_err(|_| Status::HOST_FAILED)?;
        self.budget
            .spend(len as u64 * 512, super::budget::Budget::BACKING_WEIGHT);
        let resident = words[..len].chunks(8).filter(|word| word[7] >> 7 != 0);
        Ok((resident.count() as u64).into())
    }
}
