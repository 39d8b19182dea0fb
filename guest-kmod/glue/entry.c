// SPDX-License-Identifier: GPL-2.0
/*
 * The module's entry, and its log, for kernels that were built without Rust; where they were, the kernel crate and
 * `module!` have both. Not compiled there.
 */
#include <linux/bug.h>
#include <linux/minmax.h>
#include <linux/module.h>
#include <linux/printk.h>

#include "coopvirt.h"

/* Reason: a function with any number of arguments, and macros for levels. */
void coopvirt_glue_print(u32 level, const u8 *text, size_t len)
{
	/* The index is Level in flavour/stock.rs. */
	static const char *const levels[] = { KERN_EMERG, KERN_ERR, KERN_WARNING, KERN_INFO };

	printk("%s" KBUILD_MODNAME ": %.*s", levels[min_t(u32, level, ARRAY_SIZE(levels) - 1)], (int)len, text);
}

/* Reason: a macro. The end of a panic. */
void __noreturn coopvirt_glue_bug(void)
{
	BUG();
}

/* Reason: a macro gives it its name. */
static int __init load(void)
{
	return coopvirt_rs_load();
}
module_init(load);

/* Reason: as above. */
static void __exit unload(void)
{
	coopvirt_rs_unload();
}
module_exit(unload);

/* As in main.rs. */
MODULE_AUTHOR("the Coopvirt developers");
MODULE_DESCRIPTION("The guest's half of cooperative virtualization");
MODULE_LICENSE("GPL");
