//! A guest of bare machine code: what the instruments that run one have in common.
//!
//! [`crate::validate`] and [`crate::doors`] each have a program of their own, in long mode and without
//! an operating system, that makes marks and ends by the exit port. Here are its places in memory, the
//! pieces of assembler that each needs, its machine, and its run from start to end. Nothing here knows
//! what a program measures.

use std::num::NonZeroU8;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::account::model::{Counts, Trace};
use crate::account::report::ExitReport;
use crate::accounting::Accounting;
use crate::config::{ConsoleKind, Kernel, MachineConfig, Mode};
use crate::coop::CoopOptions;
use crate::machine::{BuildError, ConsoleEnds, Gauges, Machine};
use crate::mark_log::{MarkEntry, MarkLog};
use crate::mem::{Backing, GuestRam};
use crate::stop::StopReason;

/// Where the program is loaded and starts.
pub const LOAD_ADDRESS: u64 = 0x10_0000;
/// Where it finds its parameters.
pub const PARAMETERS: u64 = 0x8000;

/// Assembler: an IDT at 0x6000 whose one gate, 0x40, is the handler of this name; the x2APIC on, and
/// its timer in TSC-deadline mode with that vector. Uses rax, rbx, rcx, rdx.
macro_rules! timer_set_up {
    ($handler:literal) => {
        concat!(
            "lea rax, [rip + ",
            $handler,
            "]",
            r"
    mov rbx, 0x6000
    mov word ptr [rbx + 0x40 * 16], ax
    mov word ptr [rbx + 0x40 * 16 + 2], 0x10
    mov word ptr [rbx + 0x40 * 16 + 4], 0x8e00
    shr rax, 16
    mov word ptr [rbx + 0x40 * 16 + 6], ax
    mov qword ptr [rbx + 0x40 * 16 + 8], 0
    mov word ptr [0x5ff0], 0x40 * 16 + 15
    mov qword ptr [0x5ff2], rbx
    lidt [0x5ff0]
    mov ecx, 0x1b
    rdmsr
    or eax, 0xc00
    wrmsr
    xor edx, edx
    mov ecx, 0x80f
    mov eax, 0x1ff
    wrmsr
    mov ecx, 0x832
    mov eax, 0x40040
    wrmsr
"
        )
    };
}

/// Assembler: one HLT that the timer ends, so many cycles later. Entered with interrupts off, which
/// they are until the instruction before HLT: whenever the timer fires, HLT exits first and the
/// pending interrupt then wakes it. One line, for it stands in a macro's argument.
macro_rules! timed_halt {
    ($cycles:literal) => {
        concat!(
            "rdtsc; shl rdx, 32; or rax, rdx; add rax, ",
            $cycles,
            "; mov rdx, rax; shr rdx, 32; mov ecx, 0x6e0; wrmsr; sti; hlt; cli"
        )
    };
}

/// Assembler: the handler of the timer for guests that halt so.
macro_rules! timer_handler {
    ($handler:literal, $cycles:literal) => {
        concat!(
            "\n    .balign 16\n",
            $handler,
            ":",
            r"
    push rax
    push rcx
    push rdx
    # Before its HLT and not in it: on hardware the STI shadow rules this out, but an emulator may
    # forget the shadow when it leaves the guest there. The HLT to come needs a timer of its own.
    mov rax, [rsp + 24]
    cmp byte ptr [rax], 0xf4
    jne 99f
    rdtsc
    add eax, ",
            $cycles,
            r"
    adc edx, 0
    mov ecx, 0x6e0
    wrmsr
99: mov ecx, 0x80b
    xor eax, eax
    xor edx, edx
    wrmsr
    pop rdx
    pop rcx
    pop rax
    iretq
"
        )
    };
}
pub(crate) use {timed_halt, timer_handler, timer_set_up};

/// The machine code between two linker symbols of an assembler block, as `code()`.
macro_rules! code_between {
    ($start:ident, $end:ident) => {
        unsafe extern "C" {
            static $start: u8;
            static $end: u8;
        }

        /// The guest's machine code.
        pub fn code() -> &'static [u8] {
            let start = &raw const $start;
            let end = &raw const $end;
            let len = end as usize - start as usize;
            // SAFETY: both symbols bound one read-only section of this program, start before end,
            // made by the assembler block of the same file; it lives as long as the program.
            unsafe { std::slice::from_raw_parts(start, len) }
        }
    };
}
pub(crate) use code_between;

/// Whether the CPU's hypercall is VMMCALL.
pub fn is_amd() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("AuthenticAMD"))
}

/// A machine with one vCPU for this program; small pages, so that each first touch is an exit of its
/// own, and everything else plain.
pub fn machine(
    code: &[u8],
    parameters: Vec<u8>,
    memory_bytes: u64,
    pin: &[usize],
) -> MachineConfig {
    MachineConfig {
        kernel: Kernel::Code {
            pieces: vec![(LOAD_ADDRESS, code.to_vec()), (PARAMETERS, parameters)],
        },
        initrd: None,
        cmdline: String::new(),
        vcpus: NonZeroU8::MIN,
        memory_bytes,
        backing: Backing {
            huge_pages: false,
            prefault: false,
            overcommit: false,
        },
        disks: Vec::new(),
        nets: Vec::new(),
        vsock: None,
        vhost_user_disks: Vec::new(),
        shares: Vec::new(),
        mode: Mode::Kvm,
        coop: CoopOptions::default(),
        x2apic: true,
        kvm_features: 0,
        halt_poll_ns: None,
        disable_hlt_exits: false,
        console: ConsoleKind::Serial,
        pin: pin.to_vec(),
        pci_config_ports: false,
        balloon: false,
        debug_exit: true,
    }
}

/// What is left of a run.
pub struct Finished {
    /// Why it ended; `None`: it did not, in its time.
    pub reason: Option<StopReason>,
    /// The guest's memory.
    pub ram: GuestRam,
    /// Its marks.
    pub entries: Vec<MarkEntry>,
    /// The exit report.
    pub report: ExitReport,
    /// The trace, if there was one.
    pub trace: Option<Trace>,
}

/// Runs the machine until its program ends it, or the time is over.
pub fn run(
    config: &MachineConfig,
    limit: Duration,
    trace: Tracing,
) -> Result<Finished, BuildError> {
    let accounting = Accounting::start(trace == Tracing::On);
    let console = ConsoleEnds {
        output: Box::new(std::io::sink()),
        stdin: false,
    };
    let mut log = None;
    let machine = Machine::build(config, console, |gauges| {
        let marks = Arc::new(MarkLog::new(gauges));
        log = Some(Arc::clone(&marks));
        marks
    })?;
    accounting.name_devices(machine.gauges());
    machine.resume();
    let reader = (trace == Tracing::Statistics).then(|| Reader::start(machine.gauges().clone()));
    let reason = machine.wait(Some(limit));
    drop(reader);
    machine.pause();
    let gauges = machine.gauges().clone();
    let ram = machine.ram();
    machine.shut_down();
    let (report, trace) = accounting.finish(&gauges, config.mode.name());
    Ok(Finished {
        reason,
        ram,
        entries: log.map(|log| log.entries()).unwrap_or_default(),
        report,
        trace,
    })
}

/// Whether exits are traced, which has a cost of its own at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracing {
    /// They are.
    On,
    /// They are not.
    Off,
    /// They are not, but KVM's statistics are read again and again, as a live view does.
    Statistics,
}

/// How often a [`Reader`] reads.
const READ_EVERY: Duration = Duration::from_millis(10);

/// A thread that reads KVM's statistics of all vCPUs until it is dropped.
struct Reader {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn start(gauges: Gauges) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            // Relaxed: the flag guards no other data.
            while !seen.load(Ordering::Relaxed) {
                for stats in gauges.stats.iter() {
                    // Only what reading costs is wanted.
                    let _ = std::hint::black_box(stats.read());
                }
                std::thread::sleep(READ_EVERY);
            }
        });
        Self {
            is_over,
            thread: Some(thread),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // It cannot have panicked in a way that matters here.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Exits of the guest's own doing: all but interrupts of the host.
pub fn own_exits(counts: &Counts) -> u64 {
    let is_host = |reason: &str| matches!(reason, "INTR" | "EXTERNAL_INTERRUPT" | "NMI");
    let own = counts
        .by_reason
        .iter()
        .filter(|(reason, _)| !is_host(reason));
    own.map(|(_, count)| count).sum()
}
