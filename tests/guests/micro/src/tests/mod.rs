//! The tests, by what they are about. Names begin with where they can run: `machine_` anywhere,
//! `smp_` with two CPUs and more, `kvm_`, `hvm_` and `coop_` in that mode, `experiment_` in coop mode with experiments,
//! `high_` with much memory; `end_` end otherwise than a test should.

mod coop_abuse;
mod coop_batch;
mod coop_halt;
mod coop_hints;
mod coop_hostile;
mod coop_ipi;
mod coop_memory;
mod coop_neighbour;
mod coop_setup;
mod coop_sidecore;
mod coop_timer;
mod cpuid;
mod end;
mod experiments;
mod holes;
mod marks;
mod memory;
mod smp;
mod timer;
