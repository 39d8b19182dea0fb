// SPDX-License-Identifier: GPL-2.0
/* CPUs that come and go: each has a session of its own, opened and closed on it ([LIFE-4]). */
#include <linux/cpuhotplug.h>
#include <linux/irqflags.h>

#include "coopvirt.h"

static int state;

/* Reason: a callback, called in the CPU's own thread with interrupts on. Never fails: without an area it works too. */
static int cpu_up(unsigned int cpu)
{
	coopvirt_rs_cpu_up();
	return 0;
}

/* Reason: as above; before the CPU's interrupts and timers are taken from it. */
static int cpu_down(unsigned int cpu)
{
	coopvirt_rs_cpu_down();
	return 0;
}

/* Reason: inline, with callback types. Calls cpu_up on every CPU that is online. */
int coopvirt_glue_hotplug_register(void)
{
	int result = cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, "virt/coopvirt:online", cpu_up, cpu_down);

	if (result < 0)
		return result;
	state = result;
	return 0;
}

/* Reason: as above. Calls cpu_down on every CPU that is online. */
void coopvirt_glue_hotplug_unregister(void)
{
	cpuhp_remove_state(state);
}
