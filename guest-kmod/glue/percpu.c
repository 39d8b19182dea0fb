// SPDX-License-Identifier: GPL-2.0
/* All CPUs at once, and memory that belongs to one of them. */
#include <linux/cpu.h>
#include <linux/cpumask.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/rcupdate.h>
#include <linux/smp.h>
#include <linux/topology.h>

#include "coopvirt.h"

/* Reason: a variable or a constant, by configuration. */
u32 coopvirt_glue_nr_cpu_ids(void)
{
	return nr_cpu_ids;
}

/* Reason: inline. */
bool coopvirt_glue_is_possible(u32 cpu)
{
	return cpu < nr_cpu_ids && cpu_possible(cpu);
}

/* Reason: inline. */
bool coopvirt_glue_is_online(u32 cpu)
{
	return cpu < nr_cpu_ids && cpu_online(cpu);
}

/*
 * Reason: page allocation by node and virt_to_phys() are inline. The area is near its CPU, zeroed, and contiguous
 * for the host ([PAGE-1]).
 */
void *coopvirt_glue_area_alloc(u32 cpu, size_t len_bytes, u64 *gpa)
{
	struct page *page = alloc_pages_node(cpu_to_node(cpu), GFP_KERNEL | __GFP_ZERO, get_order(len_bytes));

	if (!page)
		return NULL;
	*gpa = page_to_phys(page);
	return page_address(page);
}

/* Reason: as above. */
void coopvirt_glue_area_free(void *area, size_t len_bytes)
{
	free_pages((unsigned long)area, get_order(len_bytes));
}

/* Reason: callback types. Waits; `call` runs with interrupts off. -ENXIO if the CPU is offline. */
int coopvirt_glue_call_on(u32 cpu, void (*call)(void *argument), void *argument)
{
	return smp_call_function_single(cpu, call, argument, 1);
}

/* Reason: as above. Every online CPU, this one too. */
void coopvirt_glue_call_all(void (*call)(void *argument), void *argument)
{
	on_each_cpu(call, argument, 1);
}

/* Reason: inline where hotplug is not configured. No CPU comes or goes between the two. */
void coopvirt_glue_cpus_lock(void)
{
	cpus_read_lock();
}

/* Reason: as above. */
void coopvirt_glue_cpus_unlock(void)
{
	cpus_read_unlock();
}

/* Reason: not in the bindings. When it returns, whoever had interrupts off at the call has had them on since. */
void coopvirt_glue_wait_for_readers(void)
{
	synchronize_rcu();
}
