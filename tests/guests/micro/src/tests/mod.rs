//! The tests, by what they are about. Names begin with where they can run: `machine_` anywhere,
//! `smp_` with two CPUs and more, `kvm_` and `hvm_` in that mode,
//! `high_` with much memory; `end_` end otherwise than a test should.

mod cpuid;
mod end;
mod holes;
mod marks;
mod memory;
mod smp;
mod timer;
