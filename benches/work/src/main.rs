//! The works that are measured: init of a measured guest, or an ordinary program.
//!
//! As process 1 (`init`) it brings the guest up just far enough, does the works that the kernel
//! command line names (`options`, `runner`, `works`), reports them on a console (`record`,
//! `console`) and ends the machine. Otherwise it takes the same settings as arguments and exits.
//! Between two marks it never prints, and never makes a process or thread unless that is the work.
#![cfg_attr(not(test), no_main)]
#![cfg_attr(not(test), expect(unsafe_code))]
// UNSAFETY: exports `main` under its C name. The standard library's own start opens /dev/null if a
// standard descriptor is closed, and aborts if it cannot: an init whose kernel has no console yet
// would die before its first line.

#[cfg(not(target_arch = "x86_64"))]
compile_error!("marks are x86 port writes: only x86_64 is supported");

mod console;
mod disk_check;
mod helper;
mod hooks;
mod init;
mod kexec;
mod latency;
mod marks;
mod module;
mod module_cycles;
mod net;
mod options;
mod platform;
mod program;
mod record;
mod reported;
mod runner;
mod share;
mod sys;
mod vsock;
mod works;

/// Where the C library starts the program.
#[cfg_attr(not(test), no_mangle)]
extern "C" fn main(_argc: libc::c_int, _argv: *const *const libc::c_char) -> libc::c_int {
    sys::alarm::ignore_sigpipe();
    if std::process::id() == 1 {
        init::run()
    } else {
        program::run()
    }
}
