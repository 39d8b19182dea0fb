// SPDX-License-Identifier: GPL-2.0
/*
 * Free memory: Linux reports blocks that have been free for a while. What becomes of one is decided in Rust, block by
 * block; here lists for the host are made of the answers. What is taken into use again is the matter of reuse.c.
 */
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/page_reporting.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "coopvirt.h"

/* Both blocks of each of the largest entries of a report. */
#define MOST_ITEMS (2 * PAGE_REPORTING_CAPACITY)

/* As the host reads it ([MMU-1]): physically contiguous, so never static, and never on a stack. */
struct list {
	u32 len;
	struct { u64 gpa, len_bytes; } items[MOST_ITEMS];
};

/* They are as they were before they were offered. */
static void refused(const struct list *list)
{
	u64 block, end;
	u32 i;

	for (i = 0; i < list->len; i++) {
		end = (list->items[i].gpa + list->items[i].len_bytes) >> COOPVIRT_BLOCK_SHIFT;
		for (block = list->items[i].gpa >> COOPVIRT_BLOCK_SHIFT; block < end; block++)
			coopvirt_rs_block_refused(block);
	}
}

static struct list *to_release, *to_populate, *ahead;

static u64 items_gpa(struct list *list)
{
	return virt_to_phys(list->items);
}

static void add(struct list *list, u64 gpa, u64 len_bytes)
{
	if (list->len && list->items[list->len - 1].gpa + list->items[list->len - 1].len_bytes == gpa) {
		list->items[list->len - 1].len_bytes += len_bytes;
	} else if (list->len < MOST_ITEMS) {
		list->items[list->len].gpa = gpa;
		list->items[list->len++].len_bytes = len_bytes;
	}
}

/* Reason: a callback, and scatter lists. Sleeps; the blocks are nobody's until it returns. */
static int report(struct page_reporting_dev_info *info, struct scatterlist *entries, unsigned int nr_entries)
{
	struct scatterlist *entry;
	int i, result = 0;

	to_release->len = to_populate->len = 0;
	for_each_sg(entries, entry, nr_entries, i) {
		u64 gpa = page_to_phys(sg_page(entry)), end = gpa + entry->length, next;

		for (; gpa < end; gpa = next) {
			next = min(end, (gpa | (COOPVIRT_BLOCK_BYTES - 1)) + 1);
			switch (coopvirt_rs_block_free(gpa >> COOPVIRT_BLOCK_SHIFT)) {
			case COOPVIRT_BLOCK_RELEASE:
				add(to_release, gpa, next - gpa);
				break;
			case COOPVIRT_BLOCK_POPULATE:
				add(to_populate, gpa, next - gpa);
				break;
			}
		}
	}
	if (to_release->len)
		result = coopvirt_rs_release(items_gpa(to_release), to_release->len);
	if (result)
		refused(to_release);
	if (to_populate->len && coopvirt_rs_populate(items_gpa(to_populate), to_populate->len))
		refused(to_populate);
	return result;
}
static struct page_reporting_dev_info reporting = { .report = report, .order = COOPVIRT_BLOCK_SHIFT - PAGE_SHIFT };

/* Reason: a callback. Runs once at a time. */
static void populate_ahead(struct work_struct *work)
{
	u64 block;

	while (coopvirt_rs_next_ahead(&block)) {
		ahead->len = 0;
		add(ahead, block << COOPVIRT_BLOCK_SHIFT, COOPVIRT_BLOCK_BYTES);
		if (coopvirt_rs_populate(items_gpa(ahead), ahead->len))
			break;
		coopvirt_rs_block_backed(block);
	}
}
static DECLARE_WORK(ahead_work, populate_ahead);

/* Reason: a structure with a callback. From any context that may take a worker's lock. */
void coopvirt_glue_populate_ahead(void)
{
	queue_work(system_unbound_wq, &ahead_work);
}

/* Reason: inline, by configuration. Blocks from address zero to the end of memory. */
u64 coopvirt_glue_nr_blocks(void)
{
	unsigned long end_pfn = 0;
	int nid;

	for_each_online_node(nid)
		end_pfn = max(end_pfn, node_end_pfn(nid));
	return DIV_ROUND_UP((u64)end_pfn << PAGE_SHIFT, COOPVIRT_BLOCK_BYTES);
}

/* Reason: macros. Zeroed. */
u64 *coopvirt_glue_words_alloc(size_t nr_words)
{
	return kvcalloc(nr_words, sizeof(u64), GFP_KERNEL);
}

/* Reason: as above. */
void coopvirt_glue_words_free(u64 *words)
{
	kvfree(words);
}

static void free_lists(void)
{
	kfree(to_release);
	kfree(to_populate);
	kfree(ahead);
	to_release = to_populate = ahead = NULL;
}

/* Reason: a structure with a callback. -EBUSY if somebody else has the reports. */
int coopvirt_glue_report_register(void)
{
	int result = -ENOMEM;

	/* Such a kernel wants to find its pattern in free pages, and not zeroes. */
	if (page_poisoning_enabled_static())
		return -EOPNOTSUPP;
	to_release = kmalloc(sizeof(*to_release), GFP_KERNEL);
	to_populate = kmalloc(sizeof(*to_populate), GFP_KERNEL);
	ahead = kmalloc(sizeof(*ahead), GFP_KERNEL);
	if (to_release && to_populate && ahead)
		result = page_reporting_register(&reporting);
	if (result)
		free_lists();
	return result;
}

/* Reason: as above. When it returns nothing of this file runs; reuse.c must be off before. */
void coopvirt_glue_report_unregister(void)
{
	page_reporting_unregister(&reporting);
	cancel_work_sync(&ahead_work);
	free_lists();
}
