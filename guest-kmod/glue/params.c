// SPDX-License-Identifier: GPL-2.0
/*
 * Module parameters. In C because `module!` of 6.12 has none. They are read once, at load: a hook that came or went in
 * between would need a way to change every CPU at once, which is what loading and unloading are.
 */
#include <linux/module.h>
#include <linux/moduleparam.h>

#include "coopvirt.h"

static struct coopvirt_params params = {
	.level = 2,
	.idle = true,
	.tick = true,
	.post = true,
	.halt = true,
	.timer = true,
	.ipi = true,
	.populate = true,
	.release = true,
};

module_param_named(level, params.level, uint, 0444);
MODULE_PARM_DESC(level, "0 nothing but areas, 1 without a polling host thread, 2 with it (default 2)");
module_param_named(idle, params.idle, bool, 0444);
MODULE_PARM_DESC(idle, "poll before halting (default on)");
module_param_named(tick, params.tick, bool, 0444);
MODULE_PARM_DESC(tick, "stop the tick of CPUs that idle, where it would wake them for nothing (default on)");
module_param_named(post, params.post, bool, 0444);
MODULE_PARM_DESC(post, "let the host post interrupts to CPUs that poll (default on)");
module_param_named(halt, params.halt, bool, 0444);
MODULE_PARM_DESC(halt, "halt by the host's doorbell, which sets the local APIC's timer (default on)");
module_param_named(timer, params.timer, bool, 0444);
MODULE_PARM_DESC(timer, "timer deadlines by shared memory (default on)");
module_param_named(ipi, params.ipi, bool, 0444);
MODULE_PARM_DESC(ipi, "interrupts to other CPUs by shared memory (default on)");
module_param_named(populate, params.populate, bool, 0444);
MODULE_PARM_DESC(populate, "have free memory backed in batches (default on)");
module_param_named(release, params.release, bool, 0444);
MODULE_PARM_DESC(release, "give free memory back in batches (default on)");
module_param_named(selftest, params.selftest, bool, 0444);
MODULE_PARM_DESC(selftest, "test itself once loaded, results in the kernel log as KTAP (default off)");

/* Reason: Rust cannot name what module_param_named writes to. */
const struct coopvirt_params *coopvirt_glue_params(void)
{
	return &params;
}
