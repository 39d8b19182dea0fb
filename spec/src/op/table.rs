//! The table of operations. Opcodes and argument words never change their meaning (`[VER-2]`).

use super::macros::operations;
use super::{Answer, ExperimentalArgs, Opcode, Operation, ARG_WORDS};
use crate::code::Status;
use crate::range::RangeList;

operations! {
    /// A decoded call, for the host to carry out.
    enum Request, or Experimental(ExperimentalArgs);
    /// All operations, in order of opcode.
    list OPERATIONS;
    /// Who carries out calls: one function for each operation.
    trait Serve;

    /// Does nothing; measures the way there and back.
    Nop(NopArgs) = NOP 0x0001 nop {
        feature: RING,
        since: (1, 0),
        arguments: {},
        result: "0",
        errors: [],
    }
    /// Gives its argument back.
    Echo(EchoArgs) = ECHO 0x0002 echo {
        feature: RING,
        since: (1, 0),
        arguments: {
            /// Any value.
            value: u64 in "any value",
        },
        result: "`value`",
        errors: [],
    }
    /// Backs guest memory with host memory and maps it, so that first touches do not exit.
    Populate(PopulateArgs) = POPULATE 0x0101 populate {
        feature: POPULATE,
        since: (1, 0),
        arguments: {
            /// Where the list is.
            list_gpa: u64 in "guest-physical address of ranges",
            /// How many items it has.
            nr_items: u32 in "items",
            /// The first item to do.
            first_item: u32 in "index of an item",
            /// How much of that item is done already.
            first_offset: u64 in "bytes",
        },
        result: "bytes done of the first item that is not done",
        errors: [BAD_LIST, BAD_ADDRESS, BAD_RANGE, UNSUPPORTED, HOST_FAILED],
    }
    /// Gives guest memory back to the host; its contents are lost and read as zero or as before.
    Release(ReleaseArgs) = RELEASE 0x0102 release {
        feature: RELEASE,
        since: (1, 0),
        arguments: {
            /// Where the list is.
            list_gpa: u64 in "guest-physical address of ranges",
            /// How many items it has.
            nr_items: u32 in "items",
            /// The first item to do.
            first_item: u32 in "index of an item",
            /// How much of that item is done already.
            first_offset: u64 in "bytes",
        },
        result: "bytes done of the first item that is not done",
        errors: [BAD_LIST, BAD_ADDRESS, BAD_RANGE, UNSUPPORTED, HOST_FAILED],
    }
    /// Collapses guest memory into huge pages of the host. Reserved in version 1.0.
    Huge(HugeArgs) = HUGE 0x0103 huge_collapse {
        feature: HUGE,
        since: (1, 0),
        arguments: {
            /// Where the list is.
            list_gpa: u64 in "guest-physical address of ranges",
            /// How many items it has.
            nr_items: u32 in "items",
            /// The first item to do.
            first_item: u32 in "index of an item",
            /// How much of that item is done already.
            first_offset: u64 in "bytes",
        },
        result: "bytes done of the first item that is not done",
        errors: [BAD_LIST, BAD_ADDRESS, BAD_RANGE, UNSUPPORTED, HOST_FAILED],
    }
    /// Says that guest memory will not be used soon. Reserved in version 1.0.
    Cold(ColdArgs) = COLD 0x0104 cold {
        feature: COLD,
        since: (1, 0),
        arguments: {
            /// Where the list is.
            list_gpa: u64 in "guest-physical address of ranges",
            /// How many items it has.
            nr_items: u32 in "items",
            /// The first item to do.
            first_item: u32 in "index of an item",
            /// How much of that item is done already.
            first_offset: u64 in "bytes",
        },
        result: "bytes done of the first item that is not done",
        errors: [BAD_LIST, BAD_ADDRESS, BAD_RANGE, UNSUPPORTED, HOST_FAILED],
    }
    /// Raises an interrupt at each vCPU of a mask; any vCPU, the caller's own among them.
    Ipi(IpiArgs) = IPI 0x0201 ipi {
        feature: IPI,
        since: (1, 0),
        arguments: {
            /// The vCPU that bit 0 of the mask stands for.
            first_apic_id: u32 in "x2APIC id",
            /// The first 64 vCPUs.
            mask_low: u64 in "bit per x2APIC id",
            /// The next 64 vCPUs.
            mask_high: u64 in "bit per x2APIC id",
            /// The interrupt.
            vector: u8 in "vector, 16 to 255",
        },
        result: "vCPUs that were sent the interrupt",
        errors: [BAD_TARGET, BAD_VECTOR, HOST_FAILED],
    }
    /// Lets another vCPU run in the caller's place, as a hint.
    YieldTo(YieldToArgs) = YIELD_TO 0x0301 yield_to {
        feature: YIELD,
        since: (1, 0),
        arguments: {
            /// Who should run.
            apic_id: u32 in "x2APIC id",
        },
        result: "0",
        errors: [BAD_TARGET],
    }
    /// Puts text into the host's log.
    Log(LogArgs) = LOG 0x0401 log {
        feature: LOG,
        since: (1, 0),
        arguments: {
            /// Where the text is.
            text_gpa: u64 in "guest-physical address",
            /// How long it is.
            len_bytes: u32 in "bytes, 1 to 1024",
            /// How much it matters.
            level: u8 in "syslog level, 0 to 7",
        },
        result: "bytes taken",
        errors: [BAD_ADDRESS, BAD_ARGUMENT, BUSY],
    }
    /// Makes a measurement mark at the time when the host takes the entry, without an exit.
    Mark(MarkArgs) = MARK 0x0402 mark {
        feature: MARK,
        since: (1, 0),
        arguments: {
            /// What a write to the mark port would carry.
            value: u32 in "mark",
        },
        result: "0",
        errors: [BAD_ARGUMENT],
    }
}

macro_rules! list_operations {
    ($($Args:ident),+) => {$(
        impl From<$Args> for RangeList {
            fn from(args: $Args) -> RangeList {
                RangeList {
                    list_gpa: args.list_gpa,
                    nr_items: args.nr_items,
                    first_item: args.first_item,
                    first_offset: args.first_offset,
                }
            }
        }

        impl From<RangeList> for $Args {
            fn from(list: RangeList) -> $Args {
                $Args {
                    list_gpa: list.list_gpa,
                    nr_items: list.nr_items,
                    first_item: list.first_item,
                    first_offset: list.first_offset,
                }
            }
        }
    )+};
}

list_operations!(PopulateArgs, ReleaseArgs, HugeArgs, ColdArgs);
