// SPDX-License-Identifier: GPL-2.0
/*
 * The interrupt hooks: the three functions by which Linux interrupts other CPUs to run something there. What was there
 * before is kept (KVM puts in a function of its own) and called whenever Rust says that an interrupt was not taken.
 * All of these interrupts may come twice without harm ([LEASE-5]).
 */
#include <linux/cpumask.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <asm/apic.h>
#include <asm/irq_vectors.h>
#include <asm/smp.h>

#include "coopvirt.h"

#define WINDOW 128	/* APIC ids that one operation reaches [IPI-1] */

static struct smp_ops saved;
/* The idle task of each CPU, as our idle driver has seen it; NULL before. */
DEFINE_PER_CPU(struct task_struct *, coopvirt_idle_task);
static DEFINE_PER_CPU(struct cpumask, rest);	/* of a mask, who has to be interrupted; used with interrupts off */
static DEFINE_PER_CPU(unsigned long, skipped);

/* Reason: a per-CPU variable. */
u64 coopvirt_glue_ipi_skipped(u32 cpu)
{
	return per_cpu(skipped, cpu);
}

/* Reason: a callback. */
static void reschedule(int cpu)
{
	if (!coopvirt_rs_send_ipi(per_cpu(x86_cpu_to_apicid, cpu), 1, 0, RESCHEDULE_VECTOR))
		(saved.smp_send_reschedule)(cpu);	/* a macro of this name stands in the way */
}

/*
 * Reason: the kernel's own function is not exported. A CPU that polls need_resched in its idle loop runs what is queued
 * for it when it leaves the loop, so telling it to leave is enough: so the kernel does for single calls, not for masks.
 */
static bool is_woken(int cpu)
{
	struct task_struct *idle = per_cpu(coopvirt_idle_task, cpu);
	unsigned long flags;

	if (!idle)
		return false;
	flags = READ_ONCE(task_thread_info(idle)->flags);
	do {
		if (!(flags & _TIF_POLLING_NRFLAG))
			return false;
		if (flags & _TIF_NEED_RESCHED)
			return true;
	} while (!try_cmpxchg(&task_thread_info(idle)->flags, &flags, flags | _TIF_NEED_RESCHED));
	return true;
}

/* Reason: the above in a loop. The kernel has looked once; a CPU in an exchange with this one comes to poll soon. */
static bool comes_to_poll(int cpu)
{
	u64 patience = per_cpu(coopvirt_answers, cpu) ? coopvirt_rs_patience() : 0, start = rdtsc(), spent;
	bool is_there;

	if (patience == 0)
		return false;
	do {
		cpu_relax();
		is_there = is_woken(cpu);
		spent = rdtsc() - start;
	} while (!is_there && spent < patience);
	coopvirt_rs_waited(spent, is_there);
	this_cpu_add(skipped, is_there ? 1 : 0);
	return is_there;
}

/* Reason: a callback. */
static void call_single(int cpu)
{
	if (!comes_to_poll(cpu) &&
	    !coopvirt_rs_send_ipi(per_cpu(x86_cpu_to_apicid, cpu), 1, 0, CALL_FUNCTION_SINGLE_VECTOR))
		saved.send_call_func_single_ipi(cpu);
}

/* Reason: cpumasks and per-CPU data. A window of ids at a time. */
static bool send_mask(const struct cpumask *mask, u8 vector)
{
	u32 first = 0;
	u64 bits[2] = { };
	int cpu;

	for_each_cpu(cpu, mask) {
		u32 id = per_cpu(x86_cpu_to_apicid, cpu);

		if ((bits[0] | bits[1]) && (id < first || id - first >= WINDOW)) {
			if (!coopvirt_rs_send_ipi(first, bits[0], bits[1], vector))
				return false;
			bits[0] = bits[1] = 0;
		}
		if (!(bits[0] | bits[1]))
			first = id & ~63u;
		bits[(id - first) / 64] |= BIT_ULL(id % 64);
	}
	return !(bits[0] | bits[1]) || coopvirt_rs_send_ipi(first, bits[0], bits[1], vector);
}

/* Reason: a callback. Interrupts are off to the end: `left` is this CPU's. An NMI must not take it. */
static void call_many(const struct cpumask *mask)
{
	struct cpumask *left;
	unsigned long flags;
	int cpu;

	if (in_nmi()) {
		saved.send_call_func_ipi(mask);
		return;
	}
	raw_local_irq_save(flags);
	left = this_cpu_ptr(&rest);
	cpumask_copy(left, mask);
	for_each_cpu(cpu, mask) {
		if (is_woken(cpu)) {
			__cpumask_clear_cpu(cpu, left);
			this_cpu_inc(skipped);
		}
	}
	if (!cpumask_empty(left) && !send_mask(left, CALL_FUNCTION_VECTOR))
		saved.send_call_func_ipi(left);
	raw_local_irq_restore(flags);
}

/* Reason: a structure of callbacks. */
int coopvirt_glue_ipi_hook(void)
{
	saved = smp_ops;
	WRITE_ONCE(smp_ops.smp_send_reschedule, reschedule);
	WRITE_ONCE(smp_ops.send_call_func_ipi, call_many);
	WRITE_ONCE(smp_ops.send_call_func_single_ipi, call_single);
	return 0;
}

/* Reason: as above. When it returns nobody runs our functions: neither preempted in them nor with preemption off. */
void coopvirt_glue_ipi_unhook(void)
{
	WRITE_ONCE(smp_ops.smp_send_reschedule, saved.smp_send_reschedule);
	WRITE_ONCE(smp_ops.send_call_func_ipi, saved.send_call_func_ipi);
	WRITE_ONCE(smp_ops.send_call_func_single_ipi, saved.send_call_func_single_ipi);
	synchronize_rcu_tasks();
	synchronize_rcu();
}
