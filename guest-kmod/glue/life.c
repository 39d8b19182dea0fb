// SPDX-License-Identifier: GPL-2.0
/*
 * The ends of a kernel: restart, power-off, kexec (all three call reboot notifiers), suspend. A crash needs nothing:
 * a machine that restarts forgets its areas ([LIFE-1]), and a crash kernel registers anew ([LIFE-5]) while the old
 * areas lie in memory that it does not use.
 */
#include <linux/notifier.h>
#include <linux/reboot.h>
#include <linux/suspend.h>

#include "coopvirt.h"

/* Reason: a callback. Areas are unregistered before the next kernel may own their memory. */
static int on_reboot(struct notifier_block *block, unsigned long event, void *unused)
{
	coopvirt_rs_shutdown();
	return NOTIFY_DONE;
}

/*
 * Reason: a callback. A suspended machine would come back with its first CPU's area unregistered and its timer
 * hooked, and a kernel that an image replaces would leave its areas to another one: refused, until somebody needs it.
 */
static int on_suspend(struct notifier_block *block, unsigned long event, void *unused)
{
	switch (event) {
	case PM_SUSPEND_PREPARE:
	case PM_HIBERNATION_PREPARE:
	case PM_RESTORE_PREPARE:
		pr_info("coopvirt: unload the module to suspend or resume this machine\n");
		return notifier_from_errno(-EBUSY);
	default:
		return NOTIFY_DONE;
	}
}

static struct notifier_block reboot_block = { .notifier_call = on_reboot };
static struct notifier_block suspend_block = { .notifier_call = on_suspend };

/* Reason: structures with callbacks. */
int coopvirt_glue_life_register(void)
{
	int result = register_reboot_notifier(&reboot_block);

	if (result)
		return result;
	result = register_pm_notifier(&suspend_block);
	if (result)
		unregister_reboot_notifier(&reboot_block);
	return result;
}

/* Reason: as above. */
void coopvirt_glue_life_unregister(void)
{
	unregister_pm_notifier(&suspend_block);
	unregister_reboot_notifier(&reboot_block);
}
