// SPDX-License-Identifier: GPL-2.0
//! What C offers, as glue/coopvirt.h declares it. Called by the files of this folder only.
#![expect(unsafe_code)]
// UNSAFETY: declares functions of C.

use core::ffi::{c_char, c_int, c_ulong, c_void};
use core::sync::atomic::AtomicU64;

/// The module's parameters: `struct coopvirt_params`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct RawParams {
    pub(crate) level: u32,
    pub(crate) idle: bool,
    pub(crate) tick: bool,
    pub(crate) post: bool,
    pub(crate) halt: bool,
    pub(crate) timer: bool,
    pub(crate) ipi: bool,
    pub(crate) populate: bool,
    pub(crate) release: bool,
    pub(crate) selftest: bool,
}

/// What a callback writes text to.
#[repr(C)]
pub(crate) struct SeqFile {
    _opaque: [u8; 0],
}

pub(super) type OnCpu = extern "C" fn(*mut c_void);

// As in glue/coopvirt.h. Safe to call: any argument, at any time, from any context that the place of
// the call allows.
unsafe extern "C" {
    pub(super) safe fn coopvirt_glue_params() -> &'static RawParams;
    pub(super) safe fn coopvirt_glue_cpuid(leaf: u32, registers: &mut [u32; 4]);
    pub(super) safe fn coopvirt_glue_read_msr(msr: u32, value: &mut u64) -> bool;
    pub(super) fn coopvirt_glue_write_msr(msr: u32, value: u64) -> bool;
    pub(super) safe fn coopvirt_glue_tsc_khz() -> u32;
    pub(super) safe fn coopvirt_glue_irq_save() -> c_ulong;
    pub(super) fn coopvirt_glue_irq_restore(flags: c_ulong);
    pub(super) safe fn coopvirt_glue_this_cpu() -> u32;
    pub(super) safe fn coopvirt_glue_nr_cpu_ids() -> u32;
    pub(super) safe fn coopvirt_glue_is_possible(cpu: u32) -> bool;
    pub(super) safe fn coopvirt_glue_is_online(cpu: u32) -> bool;
    pub(super) safe fn coopvirt_glue_area_alloc(
        cpu: u32,
        len_bytes: usize,
        gpa: &mut u64,
    ) -> *mut c_void;
    pub(super) fn coopvirt_glue_area_free(area: *mut c_void, len_bytes: usize);
    pub(super) safe fn coopvirt_glue_words_alloc(nr_words: usize) -> *mut AtomicU64;
    pub(super) fn coopvirt_glue_words_free(words: *mut AtomicU64);
    pub(super) fn coopvirt_glue_call_on(cpu: u32, call: OnCpu, argument: *mut c_void) -> c_int;
    pub(super) fn coopvirt_glue_call_all(call: OnCpu, argument: *mut c_void);
    pub(super) safe fn coopvirt_glue_cpus_lock();
    pub(super) fn coopvirt_glue_cpus_unlock();
    pub(super) safe fn coopvirt_glue_wait_for_readers();
    pub(super) fn coopvirt_glue_hotplug_register() -> c_int;
    pub(super) fn coopvirt_glue_hotplug_unregister();
    pub(super) fn coopvirt_glue_idle_register() -> c_int;
    pub(super) fn coopvirt_glue_idle_unregister();
    pub(super) safe fn coopvirt_glue_idle_owner() -> *const c_char;
    pub(super) fn coopvirt_glue_poll_begin();
    pub(super) fn coopvirt_glue_poll_turns(
        word: *const AtomicU64,
        seen: u64,
        until_tsc: u64,
        turns: u32,
    ) -> bool;
    pub(super) fn coopvirt_glue_poll_stop();
    pub(super) fn coopvirt_glue_poll_end() -> bool;
    pub(super) safe fn coopvirt_glue_ns_until(time_ns: i64) -> i64;
    pub(super) fn coopvirt_glue_halt_begin() -> bool;
    pub(super) fn coopvirt_glue_halt(port: u16, value: u32) -> bool;
    pub(super) safe fn coopvirt_glue_post_prepare() -> bool;
    pub(super) fn coopvirt_glue_post_handle(vector: u8);
    pub(super) fn coopvirt_glue_timer_register() -> c_int;
    pub(super) fn coopvirt_glue_timer_unregister();
    pub(super) safe fn coopvirt_glue_timer_is_pending() -> bool;
    pub(super) fn coopvirt_glue_ipi_hook() -> c_int;
    pub(super) fn coopvirt_glue_ipi_unhook();
    pub(super) safe fn coopvirt_glue_ipi_skipped(cpu: u32) -> u64;
    pub(super) fn coopvirt_glue_life_register() -> c_int;
    pub(super) fn coopvirt_glue_life_unregister();
    pub(super) fn coopvirt_glue_debugfs_register() -> c_int;
    pub(super) fn coopvirt_glue_debugfs_unregister();
    pub(super) fn coopvirt_glue_show_bytes(to: *mut SeqFile, bytes: *const u8, len: usize);
}
