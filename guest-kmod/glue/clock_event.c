// SPDX-License-Identifier: GPL-2.0
/*
 * Where a CPU's live clock event device is: the timer of its local APIC, in deadline mode.
 */
#include <linux/clockchips.h>
#include <linux/percpu.h>
#include <linux/smp.h>
#include <linux/uaccess.h>

#include "coopvirt.h"

/* A list that changes while it is walked must not keep us for ever. */
#define MOST_DEVICES 65536

static DEFINE_PER_CPU(struct clock_event_device, probes);

/* Reason: a callback, of a device that does nothing. */
static int nothing(struct clock_event_device *device)
{
	return 0;
}

static bool is_ours(struct clock_event_device *device, int cpu)
{
	static const char name[] = "lapic-deadline";
	const struct cpumask *mask;
	char text[sizeof(name)] = "";
	const char *at;

	/* The ring's head has something else around it. */
	if (get_kernel_nofault(at, &device->name) || get_kernel_nofault(mask, &device->cpumask))
		return false;
	return mask == cpumask_of(cpu) && !copy_from_kernel_nofault(text, at, sizeof(text)) &&
	       !memcmp(text, name, sizeof(name));
}

/*
 * Reason: structures without bindings. The kernel exports no way to its devices, but they are in a ring: one of our own
 * is put into it, to look at its neighbours, and taken out again. A dummy is never chosen for anything.
 */
struct clock_event_device *coopvirt_clock_event(int cpu)
{
	struct clock_event_device *probe = per_cpu_ptr(&probes, cpu);
	struct clock_event_device *found = NULL;
	struct list_head *at, *next;
	unsigned int left = MOST_DEVICES;

	*probe = (struct clock_event_device) {
		.name = "coopvirt-probe", .features = CLOCK_EVT_FEAT_DUMMY, .set_state_shutdown = nothing,
		.cpumask = cpumask_of(cpu), .irq = -1 };
	clockevents_register_device(probe);
	for (at = probe->list.next; !found && at != &probe->list && left--; at = next) {
		if (is_ours(list_entry(at, struct clock_event_device, list), cpu))
			found = list_entry(at, struct clock_event_device, list);
		if (get_kernel_nofault(next, &at->next))
			break;
	}
	clockevents_unbind_device(probe, cpu);
	return found;
}
