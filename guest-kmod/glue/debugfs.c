// SPDX-License-Identifier: GPL-2.0
/* /sys/kernel/debug/coopvirt: text files, filled by coopvirt_rs_show(). */
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/module.h>
#include <linux/seq_file.h>

#include "coopvirt.h"

/* The index is the file's number for coopvirt_rs_show(), as in debugfs.rs. */
static const char *const names[] = { "state", "params", "counters", "selftest" };

static struct dentry *folder;

/* Reason: a callback. */
static int file_show(struct seq_file *to, void *unused)
{
	coopvirt_rs_show((unsigned long)to->private, to);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(file);

/* Reason: structures with callbacks. Where debugfs is left out or switched off there are no files: no failure. */
int coopvirt_glue_debugfs_register(void)
{
	unsigned long number;

	folder = debugfs_create_dir("coopvirt", NULL);
	if (IS_ERR(folder)) {
		pr_info("coopvirt: no files in debugfs: error %ld\n", PTR_ERR(folder));
		folder = NULL;
		return 0;
	}
	for (number = 0; number < ARRAY_SIZE(names); number++)
		debugfs_create_file(names[number], 0444, folder, (void *)number, &file_fops);
	return 0;
}

/* Reason: as above. Waits for readers. */
void coopvirt_glue_debugfs_unregister(void)
{
	debugfs_remove_recursive(folder);
	folder = NULL;
}

/* Reason: not in the bindings. */
void coopvirt_glue_show_bytes(struct seq_file *to, const u8 *bytes, size_t len)
{
	seq_write(to, bytes, len);
}
