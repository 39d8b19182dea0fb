// SPDX-License-Identifier: GPL-2.0
/* CPUs that come and go: each has a session of its own, opened and closed on it ([LIFE-4]). */
#include <linux/cpuhotplug.h>
#include <linux/irqflags.h>

#include "coopvirt.h"

static int state, timer_state;
static bool is_timer_needed;

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

/* Reason: a callback, as above. A later CPU whose timer cannot be hooked keeps its own; that is no reason to refuse it. */
static int timer_up(unsigned int cpu)
{
	int result = coopvirt_glue_timer_hook();

	return is_timer_needed ? result : 0;
}

/* Reason: as above. */
static int timer_down(unsigned int cpu)
{
	coopvirt_glue_timer_unhook();
	return 0;
}

/*
 * Reason: as above. States are entered in the order of their making and left in reverse: a CPU's timer is hooked while
 * its session is open. If one timer cannot be hooked, none is.
 */
int coopvirt_glue_timer_register(void)
{
	int result;

	is_timer_needed = true;
	result = cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, "virt/coopvirt:timer", timer_up, timer_down);
	is_timer_needed = false;
	if (result < 0)
		return result;
	timer_state = result;
	return 0;
}

/* Reason: as above. */
void coopvirt_glue_timer_unregister(void)
{
	cpuhp_remove_state(timer_state);
}
