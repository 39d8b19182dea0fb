/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The whole interface between the Rust part of the module and its glue. coopvirt_glue_* is C, called from Rust
 * (declared once more in platform.rs); coopvirt_rs_* is Rust, called from C (callbacks.rs). C is here for what 6.12's
 * kernel crate cannot reach: macros and inline functions, structures with callbacks, code with RCU off. No policy.
 */
#ifndef COOPVIRT_GLUE_H
#define COOPVIRT_GLUE_H

#include <linux/percpu-defs.h>
#include <linux/types.h>

struct seq_file;
struct task_struct;

/* entry.c, only where the kernel has no Rust. Levels as in flavour/stock.rs; zero or a negative error number. */
void coopvirt_glue_print(u32 level, const u8 *text, size_t len);
void __noreturn coopvirt_glue_bug(void);
int coopvirt_rs_load(void);
void coopvirt_rs_unload(void);

/* params.c: as given at load. Same fields as RawParams in platform.rs. */
struct coopvirt_params {
	u32 level;
	bool idle;
	bool tick;
	bool post;
	bool halt;
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
void coopvirt_glue_poll_begin(void);
bool coopvirt_glue_poll_turns(const u64 *word, u64 seen, u64 until_tsc, u32 turns);
void coopvirt_glue_poll_stop(void);
bool coopvirt_glue_poll_end(void);
s64 coopvirt_glue_ns_until(s64 time_ns);
/*
 * Interrupts off, polling flag on, RCU watching; returns likewise, the flag off. When the next timer is due, by the
 * kernel's clock. Whether the next wait is to begin with the tick stopped, whose period is given.
 */
bool coopvirt_rs_idle(s64 timer_ns, u32 tick_ns);

/* halt.c. The second halts by writing the value to the port; by HLT if that is zero. */
bool coopvirt_glue_halt_begin(void);
bool coopvirt_glue_halt(u16 port, u32 value);

/* post.c. On the CPU itself; the second in its idle task, interrupts on or off. */
bool coopvirt_glue_post_prepare(void);
void coopvirt_glue_post_handle(u8 vector);

/* clock_event.c, for timer.c: NULL if it is another device. On the CPU itself, where it may sleep. */
struct clock_event_device;
struct clock_event_device *coopvirt_clock_event(int cpu);

/* hotplug.c, timer.c: on each CPU, after its session is open and before it is closed. */
int coopvirt_glue_timer_register(void);
void coopvirt_glue_timer_unregister(void);
int coopvirt_glue_timer_hook(void);
void coopvirt_glue_timer_unhook(void);
bool coopvirt_glue_timer_is_pending(void);
/* Interrupts off, on the CPU whose deadline it is; zero for none. */
void coopvirt_rs_deadline(u64 deadline_tsc);
void coopvirt_rs_timer_interrupt(void);
void coopvirt_rs_timer_handled(void);

/* ipi.c */
DECLARE_PER_CPU(struct task_struct *, coopvirt_idle_task);
DECLARE_PER_CPU(bool, coopvirt_answers);
int coopvirt_glue_ipi_hook(void);
void coopvirt_glue_ipi_unhook(void);
u64 coopvirt_glue_ipi_skipped(u32 cpu);
/* How long to wait for a CPU to poll before it is interrupted, in steps of the TSC; how it went. Any context. */
u64 coopvirt_rs_patience(void);
void coopvirt_rs_waited(u64 spent_tsc, bool is_spared);
/* Whether the host takes it; any context. */
bool coopvirt_rs_send_ipi(u32 first_apic_id, u64 mask_low, u64 mask_high, u8 vector);

/* memory.c: blocks by their number from address zero. Answers of coopvirt_rs_block_free(), as in blocks.rs. */
#define COOPVIRT_BLOCK_SHIFT 21
#define COOPVIRT_BLOCK_BYTES (1ull << COOPVIRT_BLOCK_SHIFT)
enum { COOPVIRT_BLOCK_KEEP, COOPVIRT_BLOCK_RELEASE, COOPVIRT_BLOCK_POPULATE };
u64 coopvirt_glue_nr_blocks(void);
u64 *coopvirt_glue_words_alloc(size_t nr_words);
void coopvirt_glue_words_free(u64 *words);
int coopvirt_glue_report_register(void);
void coopvirt_glue_report_unregister(void);
void coopvirt_glue_populate_ahead(void);
u32 coopvirt_rs_block_free(u64 block);
bool coopvirt_rs_next_ahead(u64 *block);
void coopvirt_rs_block_backed(u64 block);
void coopvirt_rs_block_refused(u64 block);
/* Interrupts on. Zero or a negative error number. */
int coopvirt_rs_release(u64 list_gpa, u32 nr_items);
int coopvirt_rs_populate(u64 list_gpa, u32 nr_items);

/* reuse.c: a set of what coopvirt_rs_block_used() wants; it is called in any context, with any lock held. */
#define COOPVIRT_USED_POPULATE 1
#define COOPVIRT_USED_AHEAD 2
int coopvirt_glue_reuse_register(const u64 *watched, u64 nr_blocks);
void coopvirt_glue_reuse_unregister(void);
u32 coopvirt_rs_block_used(u64 block);

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
