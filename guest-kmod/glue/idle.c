// SPDX-License-Identifier: GPL-2.0
/*
 * The idle driver: one state, so that no governor is asked. What to do is decided by coopvirt_rs_idle(); here are the
 * structures with callbacks and the flags of the idle task; the halt is in halt.c.
 */
#include <linux/cpu.h>
#include <linux/cpuidle.h>
#include <linux/hrtimer.h>
#include <linux/sched.h>
#include <linux/sched/idle.h>
#include <linux/workqueue.h>
#include <asm/msr.h>
#include <asm/processor.h>

#include "coopvirt.h"

/* The devices of the CPUs that have been in enter(): the core's own pointers to them are not exported. */
static DEFINE_PER_CPU(struct cpuidle_device *, used);
/* Whether a CPU's last wait ended with work that came while it polled, so that it will poll in the next one, too. */
DEFINE_PER_CPU(bool, coopvirt_answers);

/*
 * Reason: a field of a structure without bindings, in the two values that it has here. With a limit, do_idle() stops
 * the tick at once and takes the deepest state, which is the only one. Idle injection has limits of its own.
 */
static void limit(struct cpuidle_device *dev, u64 limit_ns)
{
	if (dev->forced_idle_latency_limit_ns == 0 || dev->forced_idle_latency_limit_ns == U64_MAX)
		dev->forced_idle_latency_limit_ns = limit_ns;
}

/*
 * Reason: a callback. The core has looked for a task, and has taken the polling flag off. It is put on again first: a
 * CPU that works out how to wait needs no interrupt either. Both ways to wait take it off and look once more.
 */
static int enter(struct cpuidle_device *dev, struct cpuidle_driver *drv, int index)
{
	/* An injected wait's thread may end before anybody looks. */
	if (is_idle_task(current))
		this_cpu_write(coopvirt_idle_task, current);
	__current_set_polling();
	this_cpu_write(used, dev);
	limit(dev, coopvirt_rs_idle(READ_ONCE(dev->next_hrtimer), TICK_NSEC) ? U64_MAX : 0);
	return index;
}

/* Reason: inline. How long it is until then by the kernel's clock; S64_MAX stands for never, on both sides. */
s64 coopvirt_glue_ns_until(s64 time_ns)
{
	return time_ns == KTIME_MAX ? S64_MAX : time_ns - ktime_get();
}

static struct cpuidle_driver driver = {
	.name = "coopvirt",
	/* No .owner: it would pin the module all the time. Unregistering waits for every CPU instead. */
	.state_count = 1,
	.states = { {
		.enter = enter,
		.name = "COOP",
		.desc = "poll, then halt",
		.exit_latency = 1,
		.target_residency = 1,
		/* RCU is switched off around the halt alone, by halt.c. */
		.flags = CPUIDLE_FLAG_RCU_IDLE,
	} },
};

/*
 * Reason: inline. From enter() to coopvirt_glue_poll_end() whoever has a task for this CPU sets need_resched and sends
 * no interrupt. Interrupts are on until coopvirt_glue_poll_stop().
 */
void coopvirt_glue_poll_begin(void)
{
	local_irq_enable();
}

/*
 * Reason: inline, and a turn of the loop is to be short: whoever shares the core, or the emulator's CPU, works meanwhile.
 * Polls for some turns, until the word changes or until then: false once there is a task. Most come in the pause.
 */
bool coopvirt_glue_poll_turns(const u64 *word, u64 seen, u64 until_tsc, u32 turns)
{
	do {
		if (need_resched())
			return false;
		cpu_relax();
		if (need_resched())
			return false;
	} while (--turns && READ_ONCE(*word) == seen && rdtsc() < until_tsc);
	return true;
}

/* Reason: inline. */
void coopvirt_glue_poll_stop(void)
{
	local_irq_disable();
}

/* Reason: inline. Whether there is a task; the flag is off before the look, so that a later one interrupts. */
bool coopvirt_glue_poll_end(void)
{
	bool has_work = current_clr_polling_and_test();

	this_cpu_write(coopvirt_answers, has_work);
	return has_work;
}

/*
 * Reason: structure with callbacks. -EBUSY if there is a driver, -ENODEV if idle drivers are switched off, or if idle= on
 * the kernel's command line says how to wait.
 */
int coopvirt_glue_idle_register(void)
{
	if (boot_option_idle_override != IDLE_NO_OVERRIDE)
		return -ENODEV;
	return cpuidle_register(&driver, NULL);
}

static long nothing(void *unused)
{
	return 0;
}

/*
 * Reason: as above. cpuidle_unregister() wakes CPUs that are in enter(), but does not wait until they have left it:
 * with RCU off around the halt, no grace period covers it. A CPU that has run a worker has left its idle loop.
 */
void coopvirt_glue_idle_unregister(void)
{
	unsigned int cpu;

	cpuidle_unregister(&driver);
	cpus_read_lock();
	for_each_online_cpu(cpu)
		work_on_cpu(cpu, nothing, NULL);
	cpus_read_unlock();
	for_each_possible_cpu(cpu)
		if (per_cpu(used, cpu))
			limit(per_cpu(used, cpu), 0);
}

/* Reason: a structure without bindings. The name of the driver that has the slot, NULL if nobody has. */
const char *coopvirt_glue_idle_owner(void)
{
	struct cpuidle_driver *owner = cpuidle_get_driver();

	return owner ? owner->name : NULL;
}
