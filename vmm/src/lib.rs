//! Coopvirt's virtual machine monitor as a library.
//!
//! Data flows `cli -> config -> machine -> {mem, boot, vcpu, devices, virtio}`. An exit is parsed
//! once (`vcpu::exit`), dispatched by a pure function over buses (`vcpu::dispatch`) and comes back
//! as an outcome. vCPU threads own their vCPU; everything else runs in the I/O thread's event loop.
//! `coop` is the host half of the cooperative interface that `spec` describes.
//! `account` counts exits, `validate` proves the counters exact, `compare` measures arms against each
//! other, `top` watches running machines, `doors` measures what one exit costs, `doctor` says what this host can do. `coop` is the
//! host half of the interface that `spec/SPEC.md` describes.

// They panic where nobody reads what is said (`say`).
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

// First: its macro is for all that follow.
#[macro_use]
mod say;
mod outbox;

pub mod account;
pub mod accounting;
pub mod boot;
pub mod bus;
pub mod cli;
pub mod code_guest;
pub mod compare;
pub mod config;
pub mod console;
pub mod control;
pub mod coop;
mod descriptors;
pub mod devices;
mod disk_option;
pub mod doctor;
pub mod doors;
pub mod event;
pub mod io_thread;
pub mod irq;
pub mod kvm;
pub mod machine;
pub mod mark_log;
pub mod mem;
pub mod notifies;
pub mod pci;
mod signals;
mod socket_file;
pub mod stop;
pub mod top;
pub mod validate;
pub mod vcpu;
pub mod virtio;
