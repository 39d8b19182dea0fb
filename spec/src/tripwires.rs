//! A second copy of every value of the interface, so that none changes by accident.
//!
//! If one of these fails, do not just correct it: the value is part of the interface. Read
//! "Versions" in `SPEC.md` first, and change clause, both sides, golden bytes, C header and this
//! copy in one commit.

use crate::code::{BrokenReason, SetupStatus, Status};
use crate::op::Opcode;
use crate::version::{Features, Version};
use crate::{discover, doorbell, entry, mark, op, page, setup};

macro_rules! tripwires {
    ($($left:expr => $right:expr;)+) => {
        $(const _: () = assert!(
            $left == $right,
            concat!("the interface has changed: ", stringify!($left), ". Read Versions in SPEC.md"),
        );)+
    };
}

tripwires! {
    Version::CURRENT.encode() => 0x0001_0000;
    page::MAGIC => 0x5452_4956_504f_4f43;
    discover::DEFAULT_BASE => 0x4000_0100;
    discover::LEAVES => 3;
    mark::MARK_PORT => 0x0d0c;
    doorbell::ASYNC_PORT => 0x0d10;
    doorbell::SYNC_PORT => 0x0d14;
    doorbell::VALUE => 0;
    doorbell::HALT => 1;
    mark::MARK_MSR => 0x4356_0000;
    setup::FEATURES_MSR => 0x4356_0001;
    setup::AREA_MSR => 0x4356_0002;
    setup::STATUS_MSR => 0x4356_0003;
    page::at::LEASE => 64;
    page::at::ARMED => 72;
    page::at::SERVED => 80;
    page::at::BROKEN => 88;
    page::at::CONTENTION => 92;
    page::at::IO_IN_FLIGHT => 96;
    page::at::DEADLINE => 128;
    page::at::SUBMISSION_TAIL => 136;
    page::at::IDLE => 140;
    page::at::TIMER_VECTOR => 144;
    page::at::STOCK_DEADLINE => 152;
    page::at::SUBMISSION_HEAD => 192;
    page::at::COMPLETION_TAIL => 196;
    page::at::POSTED => 200;
    page::at::COMPLETION_HEAD => 256;
    page::at::ACCEPT => 264;
    page::at::GUEST_COUNTERS => 320;
    page::at::HOST_COUNTERS => 448;
    page::CONTROL_BYTES => 1024;
    page::AreaLayout::DEFAULT.submissions().entries => 1024;
    page::AreaLayout::DEFAULT.completions().entries => 3072;
    entry::SUBMISSION_WORDS * 8 => core::mem::size_of::<entry::Submission>();
    entry::COMPLETION_WORDS * 8 => core::mem::size_of::<entry::Completion>();
    entry::FLAGS_KNOWN => 1;
    op::EXPERIMENTAL_FIRST => 0xf000;
    Opcode::NOP.0 => 0x0001;
    Opcode::ECHO.0 => 0x0002;
    Opcode::POPULATE.0 => 0x0101;
    Opcode::RELEASE.0 => 0x0102;
    Opcode::HUGE.0 => 0x0103;
    Opcode::COLD.0 => 0x0104;
    Opcode::IPI.0 => 0x0201;
    Opcode::YIELD_TO.0 => 0x0301;
    Opcode::LOG.0 => 0x0401;
    Opcode::MARK.0 => 0x0402;
    op::OPERATIONS.len() => 10;
    Features::RING.0 => 1;
    Features::SIDECORE.0 => 2;
    Features::TIMER.0 => 4;
    Features::IPI.0 => 8;
    Features::POPULATE.0 => 0x10;
    Features::RELEASE.0 => 0x20;
    Features::HUGE.0 => 0x40;
    Features::COLD.0 => 0x80;
    Features::YIELD.0 => 0x100;
    Features::LOG.0 => 0x200;
    Features::MARK.0 => 0x400;
    Features::HINTS.0 => 0x800;
    Features::IDLE.0 => 0x1000;
    Features::POLL_DELIVERY.0 => 0x2000;
    Features::HALT.0 => 0x4000;
    Features::EXPERIMENTAL.0 => 0x8000_0000_0000_0000;
    Features::ALL.len() => 16;
    Status::OK.0 => 1;
    Status::PARTIAL.0 => 2;
    Status::UNKNOWN_OPCODE.0 => 0x100;
    Status::NOT_NEGOTIATED.0 => 0x101;
    Status::RESERVED_BITS.0 => 0x102;
    Status::BAD_ADDRESS.0 => 0x103;
    Status::BAD_LIST.0 => 0x104;
    Status::BAD_RANGE.0 => 0x105;
    Status::BAD_TARGET.0 => 0x106;
    Status::BAD_VECTOR.0 => 0x107;
    Status::BAD_ARGUMENT.0 => 0x108;
    Status::BUSY.0 => 0x109;
    Status::UNSUPPORTED.0 => 0x10a;
    Status::HOST_FAILED.0 => 0x10b;
    Status::ALL.len() => 14;
    SetupStatus::OK.0 => 1;
    SetupStatus::RESERVED_BITS.0 => 2;
    SetupStatus::BAD_FEATURES.0 => 3;
    SetupStatus::BAD_ADDRESS.0 => 4;
    SetupStatus::ALREADY_REGISTERED.0 => 5;
    SetupStatus::SHARED.0 => 6;
    SetupStatus::NOT_NEGOTIATED.0 => 7;
    SetupStatus::BUSY.0 => 8;
    SetupStatus::HOST_FAILED.0 => 9;
    SetupStatus::ALL.len() => 9;
    BrokenReason::SUBMISSION_TAIL.0 => 1;
    BrokenReason::COMPLETION_HEAD.0 => 2;
    BrokenReason::MEMORY.0 => 3;
    BrokenReason::HOST.0 => 4;
    BrokenReason::ALL.len() => 4;
}
