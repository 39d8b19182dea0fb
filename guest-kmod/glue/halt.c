// SPDX-License-Identifier: GPL-2.0
/*
 * The halt, which runs with RCU off: by HLT, or by a doorbell of the host's that halts as well ([HALT-1]). Which of them
 * it is to be is decided in Rust.
 */
#include <linux/cpu.h>
#include <linux/cpuidle.h>
#include <linux/sched.h>
#include <linux/sched/idle.h>

#include "coopvirt.h"

/*
 * Reason: inline, and everything between the two must not be traced. Without a port, arch_cpu_idle() is the kernel's
 * own halt, with what the CPU's errata ask for; a write that exits asks for nothing: who idles then is the host.
 * Interrupts begin with the instruction behind STI, and are off again.
 */
static void __cpuidle halt_rcu_off(u16 port, u32 value)
{
	ct_cpuidle_enter();
	if (port)
		asm volatile("sti\n\toutl %0, %1\n\tcli" : : "a" (value), "d" (port) : "memory", "cc");
	else
		arch_cpu_idle();
	ct_cpuidle_exit();
}

/* Reason: inline. Whether there is a task already; a later one interrupts. */
bool coopvirt_glue_halt_begin(void)
{
	return current_clr_polling_and_test();
}

/* Reason: calls the above. Whether there is a task after it. */
bool coopvirt_glue_halt(u16 port, u32 value)
{
	this_cpu_write(coopvirt_answers, false);
	halt_rcu_off(port, value);
	return need_resched();
}
