// SPDX-License-Identifier: GPL-2.0
//! What the glue calls: names for C, and one line each into the file that decides.
#![expect(unsafe_code)]
// UNSAFETY: exports C names, and turns what C passes into types. As declared in glue/coopvirt.h.

use core::ptr::NonNull;

use crate::platform::{IdleTask, SeqFile, Show};
use crate::{cpus, debugfs, idle};

/// A CPU has come up; this is its own thread.
#[no_mangle]
extern "C" fn coopvirt_rs_cpu_up() {
    cpus::open_this();
}

/// A CPU is about to go down; this is its own thread.
#[no_mangle]
extern "C" fn coopvirt_rs_cpu_down() {
    cpus::close_this();
}

/// The idle driver has nothing to run.
#[no_mangle]
extern "C" fn coopvirt_rs_idle(until_timer_ns: i64) {
    // SAFETY: this is that function, and the value goes away with the call.
    let task = unsafe { IdleTask::from_callback() };
    idle::wait(task, until_timer_ns);
}

/// The kernel is about to end.
#[no_mangle]
extern "C" fn coopvirt_rs_shutdown() {
    cpus::shut_down();
}

/// Somebody reads a file.
#[no_mangle]
extern "C" fn coopvirt_rs_show(file: u32, to: Option<NonNull<SeqFile>>) {
    if let Some(to) = to {
        // SAFETY: C passes on what its callback got, and has not returned from it.
        debugfs::show(file, &mut unsafe { Show::new(to) });
    }
}
