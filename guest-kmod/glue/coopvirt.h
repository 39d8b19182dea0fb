/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The whole interface between the Rust part of the module and its glue. coopvirt_glue_* is C, called from Rust
 * (declared once more in platform.rs); coopvirt_rs_* is Rust, called from C (callbacks.rs). C is here for what 6.12's
 * kernel crate cannot reach: macros and inline functions, structures with callbacks, code with RCU off. No policy.
 */
#ifndef COOPVIRT_GLUE_H
#define COOPVIRT_GLUE_H

#include <linux/types.h>

struct seq_file;

/* params.c: as given at load. Same fields as RawParams in platform.rs. */
struct coopvirt_params {
	u32 level;
	bool idle;
	bool timer;
	bool ipi;
	bool populate;
	bool release;
	bool selftest;
};
const struct coopvirt_params *coopvirt_glue_params(void);

/* cpu.c: the CPU that runs this. */
void coopvirt_glue_cpuid(u32 leaf, u32 registers[4]);
bool coopvirt_glue_read_msr(u32 msr, u64 *value);
bool coopvirt_glue_write_msr(u32 msr, u64 value);
u32 coopvirt_glue_tsc_khz(void);
unsigned long coopvirt_glue_irq_save(void);
void coopvirt_glue_irq_restore(unsigned long flags);
u32 coopvirt_glue_this_cpu(void);

/* percpu.c: all CPUs, and memory for them. */
u32 coopvirt_glue_nr_cpu_ids(void);
bool coopvirt_glue_is_possible(u32 cpu);
bool coopvirt_glue_is_online(u32 cpu);
void *coopvirt_glue_area_alloc(u32 cpu, size_t len_bytes, u64 *gpa);
void coopvirt_glue_area_free(void *area, size_t len_bytes);
int coopvirt_glue_call_on(u32 cpu, void (*call)(void *argument), void *argument);
void coopvirt_glue_call_all(void (*call)(void *argument), void *argument);
void coopvirt_glue_cpus_lock(void);
void coopvirt_glue_cpus_unlock(void);
void coopvirt_glue_wait_for_readers(void);

/* hotplug.c */
int coopvirt_glue_hotplug_register(void);
void coopvirt_glue_hotplug_unregister(void);
void coopvirt_rs_cpu_up(void);
void coopvirt_rs_cpu_down(void);

/* idle.c */
int coopvirt_glue_idle_register(void);
void coopvirt_glue_idle_unregister(void);
const char *coopvirt_glue_idle_owner(void);
bool coopvirt_glue_poll_begin(void);
bool coopvirt_glue_poll_goes_on(void);
bool coopvirt_glue_poll_end(void);
bool coopvirt_glue_halt(void);
/* Interrupts off, polling flag off, RCU watching; returns likewise. */
void coopvirt_rs_idle(s64 until_timer_ns);

/* life.c */
int coopvirt_glue_life_register(void);
void coopvirt_glue_life_unregister(void);
void coopvirt_rs_shutdown(void);

/* debugfs.c: one file per name; coopvirt_rs_show fills it. */
int coopvirt_glue_debugfs_register(void);
void coopvirt_glue_debugfs_unregister(void);
void coopvirt_glue_show_bytes(struct seq_file *to, const u8 *bytes, size_t len);
void coopvirt_rs_show(u32 file, struct seq_file *to);

#endif
