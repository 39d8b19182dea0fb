//! Coopvirt's virtual machine monitor as a library.
//!
//! Data flows `cli -> config -> machine -> {mem, boot, vcpu, devices, virtio}`. An exit is parsed
//! once (`vcpu::exit`), dispatched by a pure function over buses (`vcpu::dispatch`) and comes back
//! as an outcome. vCPU threads own their vCPU; everything else runs in the I/O thread's event loop.
//! `account` counts exits, `compare` measures arms against each other, `doctor` says what this host
//! can do.

pub mod account;
pub mod doctor;
