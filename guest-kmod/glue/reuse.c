// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that is taken into use: two tracepoints of the page allocator, and the way from them to a batch.
 *
 * The first is behind the free lists' lock and before the kernel writes to the page (it zeroes it on most
 * configurations); the second sees the pages that the first does not, after that write. Nothing can be asked of the
 * host in the first, with a lock of all CPUs held. So it leaves a note and raises an irq_work, an interrupt that comes
 * with the release of the lock and still before the write; that one starts a tasklet, which runs with interrupts on.
 */
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/irq_work.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/tracepoint.h>

#include "coopvirt.h"

/* Two for the largest allocation. What does not fit is backed by its first touch, as ever. */
#define MOST_BLOCKS 8

/* A list of one range, as the host reads it ([MMU-1]): one for each CPU, physically contiguous. */
static struct item { u64 gpa, len_bytes; } *items;

struct taken {
	struct irq_work leave_lock, want_ahead;
	struct tasklet_struct populate;
	u32 len;
	u64 blocks[MOST_BLOCKS];
};
static DEFINE_PER_CPU(struct taken, taken);
static const unsigned long *watched;
static u64 nr_watched;
static struct tracepoint *on_locked, *on_alloc;

/* Reason: the hot path of every allocation of the kernel: a test of a bit, for Rust to be called once for a block. */
static void look(struct page *page, unsigned int order)
{
	u64 block = page_to_phys(page) >> COOPVIRT_BLOCK_SHIFT;
	u64 last = (page_to_phys(page) + (PAGE_SIZE << order) - 1) >> COOPVIRT_BLOCK_SHIFT;

	for (; block <= last && block < nr_watched; block++) {
		struct taken *here = this_cpu_ptr(&taken);
		unsigned long flags;
		u32 wanted;

		if (likely(!test_bit(block, watched)))
			continue;
		wanted = coopvirt_rs_block_used(block);
		local_irq_save(flags);
		if ((wanted & COOPVIRT_USED_POPULATE) && here->len < MOST_BLOCKS) {
			here->blocks[here->len++] = block;
			irq_work_queue(&here->leave_lock);
		}
		local_irq_restore(flags);
		if (wanted & COOPVIRT_USED_AHEAD)
			irq_work_queue(&here->want_ahead);
	}
}

/* Reason: a callback. Free lists' lock held, interrupts off. */
static void probe_locked(void *unused, struct page *page, unsigned int order, int type, int percpu_refill)
{
	look(page, order);
}

/* Reason: a callback. Whatever context the allocation is made in. */
static void probe_alloc(void *unused, struct page *page, unsigned int order, gfp_t flags, int type)
{
	if (page)
		look(page, order);
}

/* Reason: a callback. */
static void leave_lock(struct irq_work *work)
{
	tasklet_hi_schedule(&container_of(work, struct taken, leave_lock)->populate);
}

/* Reason: a callback. Comes with the next tick, without an interrupt of its own. */
static void want_ahead(struct irq_work *work)
{
	coopvirt_glue_populate_ahead();
}

/* Reason: a callback. On the CPU that made the notes, with interrupts on. */
static void populate(struct tasklet_struct *work)
{
	struct taken *here = container_of(work, struct taken, populate);
	struct item *item = &items[smp_processor_id()];
	int result = 0;

	while (!result && READ_ONCE(here->len)) {
		local_irq_disable();
		*item = (struct item) { here->blocks[--here->len] << COOPVIRT_BLOCK_SHIFT, COOPVIRT_BLOCK_BYTES };
		local_irq_enable();
		result = coopvirt_rs_populate(virt_to_phys(item), 1);
	}
	/* Notes that wait for the next time would be of blocks that are long in use by then. */
	if (result)
		WRITE_ONCE(here->len, 0);
}

/* Reason: a callback. The kernel exports no tracepoint by name. */
static void find(struct tracepoint *point, void *unused)
{
	if (!strcmp(point->name, "mm_page_alloc_zone_locked"))
		on_locked = point;
	else if (!strcmp(point->name, "mm_page_alloc"))
		on_alloc = point;
}

/* Reason: structures with callbacks. When it returns nothing of this file runs. */
void coopvirt_glue_reuse_unregister(void)
{
	int cpu;

	tracepoint_probe_unregister(on_locked, probe_locked, NULL);
	tracepoint_probe_unregister(on_alloc, probe_alloc, NULL);
	tracepoint_synchronize_unregister();
	for_each_possible_cpu(cpu) {
		irq_work_sync(&per_cpu(taken, cpu).leave_lock);
		irq_work_sync(&per_cpu(taken, cpu).want_ahead);
		tasklet_kill(&per_cpu(taken, cpu).populate);
	}
	kfree(items);
}

/* Reason: as above. -ENODEV without tracepoints, or memory. */
int coopvirt_glue_reuse_register(const u64 *bits, u64 nr_blocks)
{
	int cpu;

	watched = (const unsigned long *)bits;
	nr_watched = nr_blocks;
	for_each_kernel_tracepoint(find, NULL);
	items = kcalloc(nr_cpu_ids, sizeof(*items), GFP_KERNEL);
	if (!on_locked || !on_alloc || !items) {
		kfree(items);
		return -ENODEV;
	}
	for_each_possible_cpu(cpu) {
		init_irq_work(&per_cpu(taken, cpu).leave_lock, leave_lock);
		per_cpu(taken, cpu).want_ahead = IRQ_WORK_INIT_LAZY(want_ahead);
		tasklet_setup(&per_cpu(taken, cpu).populate, populate);
	}
	if (tracepoint_probe_register(on_locked, probe_locked, NULL) ||
	    tracepoint_probe_register(on_alloc, probe_alloc, NULL)) {
		coopvirt_glue_reuse_unregister();
		return -ENOMEM;
	}
	return 0;
}
