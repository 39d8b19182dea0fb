// SPDX-License-Identifier: GPL-2.0
/* Instructions of the CPU that runs this, for platform.rs. Each function's reason is what it wraps. */
#include <linux/irqflags.h>
#include <linux/smp.h>
#include <asm/apic.h>
#include <asm/irq_vectors.h>
#include <asm/msr.h>
#include <asm/processor.h>
#include <asm/tsc.h>

#include "coopvirt.h"

/* Reason: a paravirtual call on some kernels, and RBX is LLVM's own. */
void coopvirt_glue_cpuid(u32 leaf, u32 registers[4])
{
	cpuid_count(leaf, 0, &registers[0], &registers[1], &registers[2], &registers[3]);
}

/* Reason: only the kernel's exception tables make the instruction safe where the register may be missing. */
bool coopvirt_glue_read_msr(u32 msr, u64 *value)
{
	return !rdmsrl_safe(msr, value);
}

/* Reason: as above. */
bool coopvirt_glue_write_msr(u32 msr, u64 value)
{
	return !wrmsrl_safe(msr, value);
}

/* Reason: a plain variable, not in the bindings. */
u32 coopvirt_glue_tsc_khz(void)
{
	return tsc_khz;
}

/* Reason: a macro. The raw form: a session is used from interrupts and from the idle loop, too often to be traced. */
unsigned long coopvirt_glue_irq_save(void)
{
	unsigned long flags;

	raw_local_irq_save(flags);
	return flags;
}

/* Reason: as above. */
void coopvirt_glue_irq_restore(unsigned long flags)
{
	raw_local_irq_restore(flags);
}

/* Reason: a macro over per-CPU data. Only with interrupts off is the answer worth anything. */
u32 coopvirt_glue_this_cpu(void)
{
	return raw_smp_processor_id();
}

/* Reason: no bindings. Whether the timer's interrupt waits for this CPU to take it; an exit. */
bool coopvirt_glue_timer_is_pending(void)
{
	return apic->read(APIC_IRR + LOCAL_TIMER_VECTOR / 32 * 0x10) & BIT(LOCAL_TIMER_VECTOR % 32);
}
