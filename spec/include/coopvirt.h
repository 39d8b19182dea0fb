/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Types and constants of the Coopvirt interface, version 1.0, for guests in C.
 *
 * Generated from the crate coopvirt-spec; do not edit. SPEC.md is normative: it says in which order
 * words are written and read, and that is not in any type.
 */
#ifndef COOPVIRT_H
#define COOPVIRT_H

#include <stddef.h>
#include <stdint.h>

#if defined(__cplusplus)
#define COOPVIRT_ASSERT(condition, text) static_assert(condition, text)
#else
#define COOPVIRT_ASSERT(condition, text) _Static_assert(condition, text)
#endif

#define COOPVIRT_SIGNATURE "CoopvirtHost"
#define COOPVIRT_VERSION_MAJOR 0x1U
#define COOPVIRT_VERSION_MINOR 0x0U
#define COOPVIRT_CPUID_SCAN_FIRST 0x40000000U
#define COOPVIRT_CPUID_SCAN_END 0x40010000U
#define COOPVIRT_CPUID_SCAN_STEP 0x100U
#define COOPVIRT_CPUID_DEFAULT_BASE 0x40000100U
#define COOPVIRT_CPUID_LEAVES 0x3U
#define COOPVIRT_MARK_PORT 0xd0cU
#define COOPVIRT_DEFAULT_ASYNC_PORT 0xd10U
#define COOPVIRT_DEFAULT_SYNC_PORT 0xd14U
#define COOPVIRT_BELL_VALUE 0x0U
#define COOPVIRT_BELL_HALT 0x1U
#define COOPVIRT_DEFAULT_MSR_BASE 0x43560000U
#define COOPVIRT_MSR_MARK 0x0U
#define COOPVIRT_MSR_FEATURES 0x1U
#define COOPVIRT_MSR_AREA 0x2U
#define COOPVIRT_MSR_STATUS 0x3U
#define COOPVIRT_NR_MSRS 0x4U
#define COOPVIRT_AREA_ENABLE 0x1U
#define COOPVIRT_MAGIC 0x54524956504f4f43ULL
#define COOPVIRT_PAGE_BYTES 0x1000U
#define COOPVIRT_CONTROL_BYTES 0x400U
#define COOPVIRT_DEFAULT_RING_ENTRIES 0x20U
#define COOPVIRT_MIN_RING_ENTRIES 0x10U
#define COOPVIRT_MAX_RING_ENTRIES 0x400U
#define COOPVIRT_AT_LEASE 0x40U
#define COOPVIRT_AT_ARMED 0x48U
#define COOPVIRT_AT_SERVED 0x50U
#define COOPVIRT_AT_BROKEN 0x58U
#define COOPVIRT_AT_CONTENTION 0x5cU
#define COOPVIRT_AT_IO_IN_FLIGHT 0x60U
#define COOPVIRT_AT_DEADLINE 0x80U
#define COOPVIRT_AT_SUBMISSION_TAIL 0x88U
#define COOPVIRT_AT_IDLE 0x8cU
#define COOPVIRT_AT_TIMER_VECTOR 0x90U
#define COOPVIRT_AT_STOCK_DEADLINE 0x98U
#define COOPVIRT_AT_SUBMISSION_HEAD 0xc0U
#define COOPVIRT_AT_COMPLETION_TAIL 0xc4U
#define COOPVIRT_AT_COMPLETION_HEAD 0x100U
#define COOPVIRT_AT_GUEST_COUNTERS 0x140U
#define COOPVIRT_AT_HOST_COUNTERS 0x1c0U
#define COOPVIRT_FLAG_QUIET 0x1U
#define COOPVIRT_ARG_WORDS 0x6U
#define COOPVIRT_OP_EXPERIMENTAL_FIRST 0xf000U

/* Features, as bits of a set. */
#define COOPVIRT_FEATURE_RING 0x1U /* The area, its rings and the synchronous doorbell. Every other feature needs it. */
#define COOPVIRT_FEATURE_SIDECORE 0x2U /* The host polls under a lease; the asynchronous doorbell wakes it. */
#define COOPVIRT_FEATURE_TIMER 0x4U /* Timer deadlines by the deadline word. */
#define COOPVIRT_FEATURE_IPI 0x8U /* Inter-processor interrupts through the ring. */
#define COOPVIRT_FEATURE_POPULATE 0x10U /* Populate batches. */
#define COOPVIRT_FEATURE_RELEASE 0x20U /* Release batches. */
#define COOPVIRT_FEATURE_HUGE 0x40U /* Huge-page collapse batches. Reserved: no host of version 1.0 offers it. */
#define COOPVIRT_FEATURE_COLD 0x80U /* Cold-page batches. Reserved: no host of version 1.0 offers it. */
#define COOPVIRT_FEATURE_YIELD 0x100U /* Directed yield. */
#define COOPVIRT_FEATURE_LOG 0x200U /* Log text. */
#define COOPVIRT_FEATURE_MARK 0x400U /* Measurement marks through the ring. */
#define COOPVIRT_FEATURE_HINTS 0x800U /* The contention and I/O hints of the host line are kept up to date. */
#define COOPVIRT_FEATURE_IDLE 0x1000U /* The host reads the idle word. */
#define COOPVIRT_FEATURE_POLL_DELIVERY 0x2000U /* Interrupts posted to a polling idle loop. */
#define COOPVIRT_FEATURE_HALT 0x4000U /* Halts by the synchronous doorbell, at which the host sets the local APIC's timer. */
#define COOPVIRT_FEATURE_EXPERIMENTAL 0x8000000000000000ULL /* Opcodes of the experimental range. */

/* How an operation ended. */
#define COOPVIRT_STATUS_OK 0x1U /* Done, all of it. */
#define COOPVIRT_STATUS_PARTIAL 0x2U /* Done in part; the completion says where to go on. */
#define COOPVIRT_STATUS_UNKNOWN_OPCODE 0x100U /* No operation has this opcode; zero among them. */
#define COOPVIRT_STATUS_NOT_NEGOTIATED 0x101U /* The operation's feature was not negotiated. */
#define COOPVIRT_STATUS_RESERVED_BITS 0x102U /* A reserved bit or an unused argument word is not zero, or a value is too wide. */
#define COOPVIRT_STATUS_BAD_ADDRESS 0x103U /* A guest address is unaligned, outside memory, or inside a registered area. */
#define COOPVIRT_STATUS_BAD_LIST 0x104U /* A list has no item, more items than the limit, or starts behind its end. */
#define COOPVIRT_STATUS_BAD_RANGE 0x105U /* A range is empty, unaligned, outside memory, or overlaps a registered area. */
#define COOPVIRT_STATUS_BAD_TARGET 0x106U /* A target vCPU does not exist. */
#define COOPVIRT_STATUS_BAD_VECTOR 0x107U /* A vector that no interrupt may have. */
#define COOPVIRT_STATUS_BAD_ARGUMENT 0x108U /* An argument is outside its documented values. */
#define COOPVIRT_STATUS_BUSY 0x109U /* Not now; the same call may succeed later. */
#define COOPVIRT_STATUS_UNSUPPORTED 0x10aU /* The host knows the operation but this machine cannot do it. */
#define COOPVIRT_STATUS_HOST_FAILED 0x10bU /* The host tried and failed. */

/* How a write to a set-up register ended. */
#define COOPVIRT_SETUP_OK 0x1U /* Done. */
#define COOPVIRT_SETUP_RESERVED_BITS 0x2U /* A reserved bit is set; an unaligned address among them. */
#define COOPVIRT_SETUP_BAD_FEATURES 0x3U /* Features that were not offered, or without those they need. */
#define COOPVIRT_SETUP_BAD_ADDRESS 0x4U /* The area is not wholly inside ordinary guest memory. */
#define COOPVIRT_SETUP_ALREADY_REGISTERED 0x5U /* This vCPU has an area already; it stays. */
#define COOPVIRT_SETUP_SHARED 0x6U /* The area overlaps that of another vCPU. */
#define COOPVIRT_SETUP_NOT_NEGOTIATED 0x7U /* No features have been negotiated. */
#define COOPVIRT_SETUP_BUSY 0x8U /* Features cannot change while an area is registered. */
#define COOPVIRT_SETUP_HOST_FAILED 0x9U /* The host could not do it, for instance for lack of resources. */

/* Why an area is broken. */
#define COOPVIRT_BROKEN_SUBMISSION_TAIL 0x1U /* The submission tail is impossible. */
#define COOPVIRT_BROKEN_COMPLETION_HEAD 0x2U /* The completion head is impossible. */
#define COOPVIRT_BROKEN_MEMORY 0x3U /* The host can no longer reach the area's memory. */
#define COOPVIRT_BROKEN_HOST 0x4U /* The host gave up for a reason of its own. */

/* Operations, then experiments: the opcode, and the index of each argument's word. */
#define COOPVIRT_OP_NOP 0x1U /* Does nothing; measures the way there and back. */
#define COOPVIRT_OP_ECHO 0x2U /* Gives its argument back. */
#define COOPVIRT_ARG_ECHO_VALUE 0x0U /* u64: any value */
#define COOPVIRT_OP_POPULATE 0x101U /* Backs guest memory with host memory and maps it, so that first touches do not exit. */
#define COOPVIRT_ARG_POPULATE_LIST_GPA 0x0U /* u64: guest-physical address of ranges */
#define COOPVIRT_ARG_POPULATE_NR_ITEMS 0x1U /* u32: items */
#define COOPVIRT_ARG_POPULATE_FIRST_ITEM 0x2U /* u32: index of an item */
#define COOPVIRT_ARG_POPULATE_FIRST_OFFSET 0x3U /* u64: bytes */
#define COOPVIRT_OP_RELEASE 0x102U /* Gives guest memory back to the host; its contents are lost and read as zero or as before. */
#define COOPVIRT_ARG_RELEASE_LIST_GPA 0x0U /* u64: guest-physical address of ranges */
#define COOPVIRT_ARG_RELEASE_NR_ITEMS 0x1U /* u32: items */
#define COOPVIRT_ARG_RELEASE_FIRST_ITEM 0x2U /* u32: index of an item */
#define COOPVIRT_ARG_RELEASE_FIRST_OFFSET 0x3U /* u64: bytes */
#define COOPVIRT_OP_HUGE_COLLAPSE 0x103U /* Collapses guest memory into huge pages of the host. Reserved in version 1.0. */
#define COOPVIRT_ARG_HUGE_COLLAPSE_LIST_GPA 0x0U /* u64: guest-physical address of ranges */
#define COOPVIRT_ARG_HUGE_COLLAPSE_NR_ITEMS 0x1U /* u32: items */
#define COOPVIRT_ARG_HUGE_COLLAPSE_FIRST_ITEM 0x2U /* u32: index of an item */
#define COOPVIRT_ARG_HUGE_COLLAPSE_FIRST_OFFSET 0x3U /* u64: bytes */
#define COOPVIRT_OP_COLD 0x104U /* Says that guest memory will not be used soon. Reserved in version 1.0. */
#define COOPVIRT_ARG_COLD_LIST_GPA 0x0U /* u64: guest-physical address of ranges */
#define COOPVIRT_ARG_COLD_NR_ITEMS 0x1U /* u32: items */
#define COOPVIRT_ARG_COLD_FIRST_ITEM 0x2U /* u32: index of an item */
#define COOPVIRT_ARG_COLD_FIRST_OFFSET 0x3U /* u64: bytes */
#define COOPVIRT_OP_IPI 0x201U /* Raises an interrupt at each vCPU of a mask; any vCPU, the caller's own among them. */
#define COOPVIRT_ARG_IPI_FIRST_APIC_ID 0x0U /* u32: x2APIC id */
#define COOPVIRT_ARG_IPI_MASK_LOW 0x1U /* u64: bit per x2APIC id */
#define COOPVIRT_ARG_IPI_MASK_HIGH 0x2U /* u64: bit per x2APIC id */
#define COOPVIRT_ARG_IPI_VECTOR 0x3U /* u8: vector, 16 to 255 */
#define COOPVIRT_OP_YIELD_TO 0x301U /* Lets another vCPU run in the caller's place, as a hint. */
#define COOPVIRT_ARG_YIELD_TO_APIC_ID 0x0U /* u32: x2APIC id */
#define COOPVIRT_OP_LOG 0x401U /* Puts text into the host's log. */
#define COOPVIRT_ARG_LOG_TEXT_GPA 0x0U /* u64: guest-physical address */
#define COOPVIRT_ARG_LOG_LEN_BYTES 0x1U /* u32: bytes, 1 to 1024 */
#define COOPVIRT_ARG_LOG_LEVEL 0x2U /* u8: syslog level, 0 to 7 */
#define COOPVIRT_OP_MARK 0x402U /* Makes a measurement mark at the time when the host takes the entry, without an exit. */
#define COOPVIRT_ARG_MARK_VALUE 0x0U /* u32: mark */
#define COOPVIRT_OP_WORKING_SET 0xf000U /* Says how much of a range of guest memory the host keeps resident. */
#define COOPVIRT_ARG_WORKING_SET_FIRST_GPA 0x0U /* u64: guest-physical address of a page */
#define COOPVIRT_ARG_WORKING_SET_NR_PAGES 0x1U /* u32: pages of 4 KiB, 1 to 512 */

/* Counters, by index in their lines. */
#define COOPVIRT_GUEST_COUNTER_DEADLINE_PUBLISHED 0x0U
#define COOPVIRT_GUEST_COUNTER_DEADLINE_ELIDED 0x1U
#define COOPVIRT_GUEST_COUNTER_DEADLINE_FALLBACK 0x2U
#define COOPVIRT_GUEST_COUNTER_TIMER_SPURIOUS 0x3U
#define COOPVIRT_GUEST_COUNTER_IPI_ELIDED 0x4U
#define COOPVIRT_GUEST_COUNTER_IPI_FALLBACK 0x5U
#define COOPVIRT_GUEST_COUNTER_SUBMITTED 0x6U
#define COOPVIRT_GUEST_COUNTER_COMPLETED 0x7U
#define COOPVIRT_GUEST_COUNTER_ASYNC_BELL 0x8U
#define COOPVIRT_GUEST_COUNTER_SYNC_BELL 0x9U
#define COOPVIRT_GUEST_COUNTER_RING_FULL 0xaU
#define COOPVIRT_GUEST_COUNTER_BROKEN 0xbU
#define COOPVIRT_GUEST_COUNTER_IDLE_POLLED 0xcU
#define COOPVIRT_GUEST_COUNTER_IDLE_HALTED 0xdU
#define COOPVIRT_GUEST_COUNTER_POSTED_TAKEN 0xeU
#define COOPVIRT_GUEST_COUNTER_IDLE_RUNG 0xfU
#define COOPVIRT_HOST_COUNTER_TIMER_RAISED 0x0U
#define COOPVIRT_HOST_COUNTER_TIMER_REARMED 0x1U
#define COOPVIRT_HOST_COUNTER_TIMER_LATE 0x2U
#define COOPVIRT_HOST_COUNTER_TAKEN_POLLING 0x3U
#define COOPVIRT_HOST_COUNTER_TAKEN_BELL 0x4U
#define COOPVIRT_HOST_COUNTER_REFUSED 0x5U
#define COOPVIRT_HOST_COUNTER_IPI_RAISED 0x6U
#define COOPVIRT_HOST_COUNTER_LEASE_REVOKED 0x7U
#define COOPVIRT_HOST_COUNTER_TIMER_HANDED 0x8U

/* Host, at registration only: what this area is. Constant while it is registered. */
struct coopvirt_header {
	uint64_t magic; /* `COOPVIRT`. */
	uint32_t area_bytes; /* Bytes of the whole area. */
	uint16_t major; /* Major version of the layout. */
	uint16_t minor; /* Minor version of the layout. */
	uint64_t features; /* The negotiated features, a set of bits. */
	uint32_t ring_entries; /* Entries of either ring. */
	uint32_t submissions_at; /* Byte offset of the submission ring. */
	uint32_t completions_at; /* Byte offset of the completion ring. */
	uint32_t apic_id; /* x2APIC id of the vCPU that registered the area. */
	uint64_t reserved[3]; /* Zero. */
};
COOPVIRT_ASSERT(sizeof(struct coopvirt_header) == 64, "size of coopvirt_header");
COOPVIRT_ASSERT(offsetof(struct coopvirt_header, magic) == 0, "coopvirt_header.magic");
COOPVIRT_ASSERT(offsetof(struct coopvirt_header, area_bytes) == 8, "coopvirt_header.area_bytes");
COOPVIRT_ASSERT(offsetof(struct coopvirt_header, major) == 12, "coopvirt_header.major");
COOPVIRT_ASSERT(offsetof(struct coopvirt_header, minor) == 14, "coopvirt_header.minor");
COOPVIRT_ASSERT(offsetof(struct coopvirt_header, features) == 16, "coopvirt_header.features");
COOPVIRT_ASSERT(offsetof(struct coopvirt_header, ring_entries) == 24, "coopvirt_header.ring_entries");
COOPVIRT_ASSERT(offsetof(struct coopvirt_header, submissions_at) == 28, "coopvirt_header.submissions_at");
COOPVIRT_ASSERT(offsetof(struct coopvirt_header, completions_at) == 32, "coopvirt_header.completions_at");
COOPVIRT_ASSERT(offsetof(struct coopvirt_header, apic_id) == 36, "coopvirt_header.apic_id");
COOPVIRT_ASSERT(offsetof(struct coopvirt_header, reserved) == 40, "coopvirt_header.reserved");

/* Host, at any time: what it promises and what it sees. */
struct coopvirt_host_status {
	uint64_t lease_until_tsc; /* Guest TSC until which the host will look; 0 if it does not. */
	uint64_t armed_deadline_tsc; /* Guest TSC at which the host will look at the deadline; 0 if none. */
	uint64_t served_deadline_tsc; /* The deadline for which the host has last raised the timer interrupt, or set the local APIC's timer. */
	uint32_t broken; /* Why the area is broken, a broken reason; 0 while it is not. */
	uint32_t contention_permille; /* Time that this vCPU lately waited for a CPU of the host, in parts per thousand. */
	uint32_t io_in_flight; /* Requests of this VM that devices have in flight. */
	uint32_t reserved0; /* Zero. */
	uint64_t reserved[3]; /* Zero. */
};
COOPVIRT_ASSERT(sizeof(struct coopvirt_host_status) == 64, "size of coopvirt_host_status");
COOPVIRT_ASSERT(offsetof(struct coopvirt_host_status, lease_until_tsc) == 0, "coopvirt_host_status.lease_until_tsc");
COOPVIRT_ASSERT(offsetof(struct coopvirt_host_status, armed_deadline_tsc) == 8, "coopvirt_host_status.armed_deadline_tsc");
COOPVIRT_ASSERT(offsetof(struct coopvirt_host_status, served_deadline_tsc) == 16, "coopvirt_host_status.served_deadline_tsc");
COOPVIRT_ASSERT(offsetof(struct coopvirt_host_status, broken) == 24, "coopvirt_host_status.broken");
COOPVIRT_ASSERT(offsetof(struct coopvirt_host_status, contention_permille) == 28, "coopvirt_host_status.contention_permille");
COOPVIRT_ASSERT(offsetof(struct coopvirt_host_status, io_in_flight) == 32, "coopvirt_host_status.io_in_flight");
COOPVIRT_ASSERT(offsetof(struct coopvirt_host_status, reserved0) == 36, "coopvirt_host_status.reserved0");
COOPVIRT_ASSERT(offsetof(struct coopvirt_host_status, reserved) == 40, "coopvirt_host_status.reserved");

/* Guest, at any time: what the host polls. */
struct coopvirt_guest_control {
	uint64_t deadline_tsc; /* Guest TSC at which the timer interrupt is due; 0 for none. */
	uint32_t submission_tail; /* Submission tail, a free-running index. */
	uint32_t idle; /* What the vCPU does: 0 runs, 1 polls in its idle loop, 2 is about to halt. */
	uint32_t timer_vector; /* Vector that the host raises when the deadline is due, 16 to 255. */
	uint32_t reserved0; /* Zero. */
	uint64_t stock_deadline_tsc; /* The last deadline for which the guest made the stock write; 0 before the first, and if it was replaced before it was due. */
	uint64_t reserved[4]; /* Zero. */
};
COOPVIRT_ASSERT(sizeof(struct coopvirt_guest_control) == 64, "size of coopvirt_guest_control");
COOPVIRT_ASSERT(offsetof(struct coopvirt_guest_control, deadline_tsc) == 0, "coopvirt_guest_control.deadline_tsc");
COOPVIRT_ASSERT(offsetof(struct coopvirt_guest_control, submission_tail) == 8, "coopvirt_guest_control.submission_tail");
COOPVIRT_ASSERT(offsetof(struct coopvirt_guest_control, idle) == 12, "coopvirt_guest_control.idle");
COOPVIRT_ASSERT(offsetof(struct coopvirt_guest_control, timer_vector) == 16, "coopvirt_guest_control.timer_vector");
COOPVIRT_ASSERT(offsetof(struct coopvirt_guest_control, reserved0) == 20, "coopvirt_guest_control.reserved0");
COOPVIRT_ASSERT(offsetof(struct coopvirt_guest_control, stock_deadline_tsc) == 24, "coopvirt_guest_control.stock_deadline_tsc");
COOPVIRT_ASSERT(offsetof(struct coopvirt_guest_control, reserved) == 32, "coopvirt_guest_control.reserved");

/* Host, at any time: how far it has come; what a waiting guest polls. */
struct coopvirt_host_progress {
	uint32_t submission_head; /* Submission head, a free-running index. */
	uint32_t completion_tail; /* Completion tail, a free-running index. */
	uint64_t posted; /* The interrupt posted last: number in bits 63-32, vector in bits 7-0; 0 before the first. */
	uint64_t reserved[6]; /* Zero. */
};
COOPVIRT_ASSERT(sizeof(struct coopvirt_host_progress) == 64, "size of coopvirt_host_progress");
COOPVIRT_ASSERT(offsetof(struct coopvirt_host_progress, submission_head) == 0, "coopvirt_host_progress.submission_head");
COOPVIRT_ASSERT(offsetof(struct coopvirt_host_progress, completion_tail) == 4, "coopvirt_host_progress.completion_tail");
COOPVIRT_ASSERT(offsetof(struct coopvirt_host_progress, posted) == 8, "coopvirt_host_progress.posted");
COOPVIRT_ASSERT(offsetof(struct coopvirt_host_progress, reserved) == 16, "coopvirt_host_progress.reserved");

/* Guest, at any time: how far it has taken completions and interrupts. */
struct coopvirt_guest_progress {
	uint32_t completion_head; /* Completion head, a free-running index. */
	uint32_t reserved0; /* Zero. */
	uint64_t accept; /* Number of the last posting taken in bits 63-32, session in bits 31-1, whether it accepts in bit 0. */
	uint64_t reserved[6]; /* Zero. */
};
COOPVIRT_ASSERT(sizeof(struct coopvirt_guest_progress) == 64, "size of coopvirt_guest_progress");
COOPVIRT_ASSERT(offsetof(struct coopvirt_guest_progress, completion_head) == 0, "coopvirt_guest_progress.completion_head");
COOPVIRT_ASSERT(offsetof(struct coopvirt_guest_progress, reserved0) == 4, "coopvirt_guest_progress.reserved0");
COOPVIRT_ASSERT(offsetof(struct coopvirt_guest_progress, accept) == 8, "coopvirt_guest_progress.accept");
COOPVIRT_ASSERT(offsetof(struct coopvirt_guest_progress, reserved) == 16, "coopvirt_guest_progress.reserved");

/* Guest, at any time: its counters, for the host's report only. */
struct coopvirt_guest_counters {
	uint64_t values[16]; /* Counters in the order of `GUEST_COUNTERS`. */
};
COOPVIRT_ASSERT(sizeof(struct coopvirt_guest_counters) == 128, "size of coopvirt_guest_counters");
COOPVIRT_ASSERT(offsetof(struct coopvirt_guest_counters, values) == 0, "coopvirt_guest_counters.values");

/* Host, at any time: its counters for this vCPU, for the guest's report only. */
struct coopvirt_host_counters {
	uint64_t values[16]; /* Counters in the order of `HOST_COUNTERS`. */
};
COOPVIRT_ASSERT(sizeof(struct coopvirt_host_counters) == 128, "size of coopvirt_host_counters");
COOPVIRT_ASSERT(offsetof(struct coopvirt_host_counters, values) == 0, "coopvirt_host_counters.values");

/* Everything before the rings. */
struct coopvirt_control {
	struct coopvirt_header header; /* Written by the host, at registration. */
	struct coopvirt_host_status host_status; /* Written by the host. */
	struct coopvirt_guest_control guest_control; /* Written by the guest. */
	struct coopvirt_host_progress host_progress; /* Written by the host. */
	struct coopvirt_guest_progress guest_progress; /* Written by the guest. */
	struct coopvirt_guest_counters guest_counters; /* Written by the guest. */
	struct coopvirt_host_counters host_counters; /* Written by the host. */
	uint64_t reserved[56]; /* Zero; written by nobody. */
};
COOPVIRT_ASSERT(sizeof(struct coopvirt_control) == 1024, "size of coopvirt_control");
COOPVIRT_ASSERT(offsetof(struct coopvirt_control, header) == 0, "coopvirt_control.header");
COOPVIRT_ASSERT(offsetof(struct coopvirt_control, host_status) == 64, "coopvirt_control.host_status");
COOPVIRT_ASSERT(offsetof(struct coopvirt_control, guest_control) == 128, "coopvirt_control.guest_control");
COOPVIRT_ASSERT(offsetof(struct coopvirt_control, host_progress) == 192, "coopvirt_control.host_progress");
COOPVIRT_ASSERT(offsetof(struct coopvirt_control, guest_progress) == 256, "coopvirt_control.guest_progress");
COOPVIRT_ASSERT(offsetof(struct coopvirt_control, guest_counters) == 320, "coopvirt_control.guest_counters");
COOPVIRT_ASSERT(offsetof(struct coopvirt_control, host_counters) == 448, "coopvirt_control.host_counters");
COOPVIRT_ASSERT(offsetof(struct coopvirt_control, reserved) == 576, "coopvirt_control.reserved");

/* One call of the guest, in the submission ring. */
struct coopvirt_submission {
	uint16_t opcode; /* Which operation. */
	uint16_t flags; /* Submission flags; unknown ones are refused. */
	uint32_t reserved; /* Zero. */
	uint64_t tag; /* Comes back in the completion; the host does not look at it. */
	uint64_t args[6]; /* The operation's arguments; unused words are zero. */
};
COOPVIRT_ASSERT(sizeof(struct coopvirt_submission) == 64, "size of coopvirt_submission");
COOPVIRT_ASSERT(offsetof(struct coopvirt_submission, opcode) == 0, "coopvirt_submission.opcode");
COOPVIRT_ASSERT(offsetof(struct coopvirt_submission, flags) == 2, "coopvirt_submission.flags");
COOPVIRT_ASSERT(offsetof(struct coopvirt_submission, reserved) == 4, "coopvirt_submission.reserved");
COOPVIRT_ASSERT(offsetof(struct coopvirt_submission, tag) == 8, "coopvirt_submission.tag");
COOPVIRT_ASSERT(offsetof(struct coopvirt_submission, args) == 16, "coopvirt_submission.args");

/* The host's answer to one call, in the completion ring. */
struct coopvirt_completion {
	uint64_t tag; /* The submission's tag. */
	uint32_t status; /* How it ended, a status. */
	uint32_t items_done; /* List items that are done, from the start of the list. */
	uint64_t result; /* The operation's result. */
	uint64_t reserved; /* Zero. */
};
COOPVIRT_ASSERT(sizeof(struct coopvirt_completion) == 32, "size of coopvirt_completion");
COOPVIRT_ASSERT(offsetof(struct coopvirt_completion, tag) == 0, "coopvirt_completion.tag");
COOPVIRT_ASSERT(offsetof(struct coopvirt_completion, status) == 8, "coopvirt_completion.status");
COOPVIRT_ASSERT(offsetof(struct coopvirt_completion, items_done) == 12, "coopvirt_completion.items_done");
COOPVIRT_ASSERT(offsetof(struct coopvirt_completion, result) == 16, "coopvirt_completion.result");
COOPVIRT_ASSERT(offsetof(struct coopvirt_completion, reserved) == 24, "coopvirt_completion.reserved");

/* A range of guest-physical memory, an item of a list. */
struct coopvirt_range {
	uint64_t gpa; /* First byte; a multiple of 4096. */
	uint64_t len_bytes; /* Bytes; a multiple of 4096, not zero. */
};
COOPVIRT_ASSERT(sizeof(struct coopvirt_range) == 16, "size of coopvirt_range");
COOPVIRT_ASSERT(offsetof(struct coopvirt_range, gpa) == 0, "coopvirt_range.gpa");
COOPVIRT_ASSERT(offsetof(struct coopvirt_range, len_bytes) == 8, "coopvirt_range.len_bytes");

#endif /* COOPVIRT_H */
