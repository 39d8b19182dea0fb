// SPDX-License-Identifier: GPL-2.0
/*
 * The timer hook: the live clock event device of each CPU's local APIC, with our functions in place of its own. A
 * deadline, or that there is none, goes to Rust, which publishes it or makes the stock write ([TIMER-2], [TIMER-3]).
 * The kernel calls a device's functions on its CPU with interrupts off; so when they are exchanged there with
 * interrupts off, nobody is inside.
 */
#include <linux/clockchips.h>
#include <linux/ktime.h>
#include <linux/percpu.h>
#include <linux/smp.h>
#include <asm/msr.h>
#include <asm/tsc.h>

#include "coopvirt.h"

/* The device counts in eights of the TSC: TSC_DIVISOR, which is private to the kernel's driver. */
#define TSC_PER_TICK 8

struct timer_hook {
	struct clock_event_device *device;
	struct clock_event_device stock;	/* as it was before: its functions */
};
static DEFINE_PER_CPU(struct timer_hook, hooks);

/* Reason: a callback, in place of lapic_next_deadline(); the same conversion. */
static int next_event(unsigned long delta, struct clock_event_device *device)
{
	coopvirt_rs_deadline(rdtsc() + (u64)delta * TSC_PER_TICK);
	return 0;
}

/* Reason: a callback. Stock masks LVTT and writes zero, three exits; "none" is a word, and LVTT stays as it is. */
static int stop(struct clock_event_device *device)
{
	coopvirt_rs_deadline(0);
	return 0;
}

/* Reason: a callback. Stock unmasks LVTT, which was not masked. */
static int nothing(struct clock_event_device *device)
{
	return 0;
}

/*
 * Reason: a callback. The interrupt itself is the kernel's; here it reaches the device. Meanwhile the device has the
 * kernel's handler, as that of a periodic tick (nohz=off highres=off, or a CPU that has just come) sets the next tick
 * only if it finds itself there; and it may put another one in its place, which is called from then on.
 */
static void handler(struct clock_event_device *device)
{
	struct timer_hook *hook = this_cpu_ptr(&hooks);

	coopvirt_rs_timer_interrupt();
	device->event_handler = hook->stock.event_handler;
	hook->stock.event_handler(device);
	hook->stock.event_handler = device->event_handler;
	device->event_handler = handler;
	coopvirt_rs_timer_handled();
}

/* Reason: structures without bindings. On the CPU itself, by a caller that may sleep and cannot be moved. */
int coopvirt_glue_timer_hook(void)
{
	struct timer_hook *hook = this_cpu_ptr(&hooks);
	struct clock_event_device *device;
	unsigned long flags;

	if (check_tsc_unstable())
		return -EINVAL;
	device = coopvirt_clock_event(smp_processor_id());
	if (!device)
		return -ENODEV;
	local_irq_save(flags);
	hook->stock = *device;
	/* From here on LVTT is not touched any more; without a listener its deadline is needed at once. */
	if (clockevent_state_oneshot_stopped(device))
		device->set_state_oneshot(device);
	device->set_next_event = next_event;
	device->set_state_oneshot = nothing;
	device->set_state_oneshot_stopped = stop;
	device->set_state_shutdown = stop;
	device->event_handler = handler;
	hook->device = device;
	local_irq_restore(flags);
	return 0;
}

/* Reason: as above. Afterwards the stock timer is set to what the kernel waits for. */
void coopvirt_glue_timer_unhook(void)
{
	struct timer_hook *hook = this_cpu_ptr(&hooks);
	struct clock_event_device *device = hook->device;
	unsigned long flags;

	if (!device)
		return;
	local_irq_save(flags);
	device->set_next_event = hook->stock.set_next_event;
	device->set_state_oneshot = hook->stock.set_state_oneshot;
	device->set_state_oneshot_stopped = hook->stock.set_state_oneshot_stopped;
	device->set_state_shutdown = hook->stock.set_state_shutdown;
	/* The kernel may have put in another one meanwhile. */
	if (device->event_handler == handler)
		device->event_handler = hook->stock.event_handler;
	hook->device = NULL;
	coopvirt_rs_deadline(0);
	if (clockevent_state_oneshot(device) && device->next_event != KTIME_MAX) {
		s64 delta_ns = ktime_to_ns(ktime_sub(device->next_event, ktime_get()));

		delta_ns = clamp(delta_ns, (s64)device->min_delta_ns, (s64)device->max_delta_ns);
		device->set_next_event(((u64)delta_ns * device->mult) >> device->shift, device);
	} else if (clockevent_state_oneshot_stopped(device)) {
		device->set_state_oneshot_stopped(device);
	}
	local_irq_restore(flags);
}
