// SPDX-License-Identifier: GPL-2.0
/*
 * Interrupts that the host posts to a CPU that polls: their handlers are entered by a software interrupt. Such an
 * interrupt is not in the local APIC, but its handler says its end there all the same. KVM lets a guest say it by
 * clearing a bit in memory, which the host sets for an interrupt that it has injected; here we set it ourselves. An
 * exit in between may clear it, for an interrupt whose end the host has not seen yet: then the handler's write to the
 * APIC ends that one.
 */
#include <linux/cpufeature.h>
#include <linux/irqflags.h>
#include <linux/percpu.h>
#include <asm/kvm_para.h>
#include <asm/msr.h>
#include <asm/page.h>

#include "coopvirt.h"

/* The bit's word of each CPU, as its kernel has told the host; NULL if there is none. */
static DEFINE_PER_CPU(unsigned long *, end_of_interrupt);

/* Reason: the kernel's own variable is not exported, its MSR says where it is. On the CPU itself; an exit. */
bool coopvirt_glue_post_prepare(void)
{
	unsigned long *word = NULL;
	u64 value;

	/* With FRED a software interrupt does not get to a device's handler. */
	if (!cpu_feature_enabled(X86_FEATURE_FRED) && !rdmsrl_safe(MSR_KVM_PV_EOI_EN, &value) &&
	    (value & KVM_MSR_ENABLED))
		word = __va(value & ~(u64)3);
	this_cpu_write(end_of_interrupt, word);
	return word;
}

#define RAISE(n) case (n): asm volatile("int %0" : : "i" (n) : "memory", "cc"); break;
#define RAISE_4(n) RAISE(n) RAISE((n) + 1) RAISE((n) + 2) RAISE((n) + 3)
#define RAISE_16(n) RAISE_4(n) RAISE_4((n) + 4) RAISE_4((n) + 8) RAISE_4((n) + 12)

/* The instruction has its vector in it. Exceptions and 0x80, the system call, are not among these. */
static void raise(u8 vector)
{
	switch (vector) {
	RAISE_16(0x20) RAISE_16(0x30) RAISE_16(0x40) RAISE_16(0x50) RAISE_16(0x60) RAISE_16(0x70)
	RAISE(0x81) RAISE(0x82) RAISE(0x83) RAISE_4(0x84) RAISE_4(0x88) RAISE_4(0x8c)
	RAISE_16(0x90) RAISE_16(0xa0) RAISE_16(0xb0) RAISE_16(0xc0) RAISE_16(0xd0) RAISE_16(0xe0) RAISE_16(0xf0)
	}
}

/* Reason: an instruction, and a word of the kernel's. In the idle task, which has no interrupt in service. */
void coopvirt_glue_post_handle(u8 vector)
{
	unsigned long *word, flags;

	local_irq_save(flags);
	word = this_cpu_read(end_of_interrupt);
	if (word)
		__set_bit(KVM_PV_EOI_BIT, word);
	raise(vector);
	/* No handler, or one that says no end. */
	if (word)
		__clear_bit(KVM_PV_EOI_BIT, word);
	local_irq_restore(flags);
}
