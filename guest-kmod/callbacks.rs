// SPDX-License-Identifier: GPL-2.0
//! What the glue calls: names for C, and one line each into the file that decides.
#![expect(unsafe_code)]
// UNSAFETY: exports C names, and turns what C passes into types. As declared in glue/coopvirt.h.

use core::ffi::c_int;
use core::ptr::NonNull;

use coopvirt_spec::op::IpiArgs;

use crate::flavour::Result;
use crate::platform::{IdleTask, SeqFile, Show};
use crate::{cpus, debugfs, idle, ipi, memory, timer};

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
extern "C" fn coopvirt_rs_idle(timer_ns: i64, tick_ns: u32) -> bool {
    // SAFETY: this is that function, and the value goes away with the call.
    let task = unsafe { IdleTask::from_callback() };
    idle::wait(task, timer_ns, tick_ns)
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

/// The kernel sets this CPU's timer.
#[no_mangle]
extern "C" fn coopvirt_rs_deadline(deadline_tsc: u64) {
    timer::set_deadline(deadline_tsc);
}

/// This CPU's timer interrupt has come.
#[no_mangle]
extern "C" fn coopvirt_rs_timer_interrupt() {
    timer::interrupt();
}

/// The kernel's handler has run for it.
#[no_mangle]
extern "C" fn coopvirt_rs_timer_handled() {
    timer::handled();
}

/// The kernel interrupts other CPUs.
#[no_mangle]
extern "C" fn coopvirt_rs_send_ipi(
    first_apic_id: u32,
    mask_low: u64,
    mask_high: u64,
    vector: u8,
) -> bool {
    ipi::send(&IpiArgs {
        first_apic_id,
        mask_low,
        mask_high,
        vector,
    })
}

/// The kernel is about to interrupt a CPU that does not poll.
#[no_mangle]
extern "C" fn coopvirt_rs_patience() -> u64 {
    ipi::patience()
}

/// It has waited for that CPU.
#[no_mangle]
extern "C" fn coopvirt_rs_waited(spent_tsc: u64, is_spared: bool) {
    ipi::waited(spent_tsc, is_spared);
}

/// The kernel offers a free block.
#[no_mangle]
extern "C" fn coopvirt_rs_block_free(block: u64) -> u32 {
    memory::block_free(block)
}

/// The kernel takes a watched block into use.
#[no_mangle]
extern "C" fn coopvirt_rs_block_used(block: u64) -> u32 {
    memory::block_used(block)
}

/// A block was backed ahead.
#[no_mangle]
extern "C" fn coopvirt_rs_block_backed(block: u64) {
    memory::block_backed(block);
}


/// A block was backed ahead.
#[no_mangle]
extern "C" fn coopvirt_rs_block_refused(block: u64) {
    memory::block_refused(block);
}

/// A block is to be backed ahead.
#[no_mangle]
extern "C" fn coopvirt_rs_next_ahead(block: &mut u64) -> bool {
    memory::next_ahead().map(|next| *block = next).is_some()
}

/// A list is to be given back.
#[no_mangle]
extern "C" fn coopvirt_rs_release(list_gpa: u64, nr_items: u32) -> c_int {
    to_code(memory::release(list_gpa, nr_items))
}

/// A list is to be backed.
#[no_mangle]
extern "C" fn coopvirt_rs_populate(list_gpa: u64, nr_items: u32) -> c_int {
    to_code(memory::populate(list_gpa, nr_items))
}

fn to_code(result: Result) -> c_int {
    result.map_or_else(|error| error.to_errno(), |()| 0)
}
