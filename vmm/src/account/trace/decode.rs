//! From raw records to the aggregator's events.
//!
//! All events of a CPU share one ring; a record says by its first field which tracepoint it is.

use super::error::TraceError;
use super::kallsyms::TimerFunctions;
use super::tracefs::{Field, Tracefs, Tracepoint};
use crate::account::aggregate::event::{Exit, Kind};
use crate::account::reason::Isa;

/// Interrupts were off when the tracepoint was hit (`TRACE_FLAG_IRQS_OFF`).
const FLAG_IRQS_OFF: u64 = 1;

/// Interrupts of the host that explain an exit, beside timers, kicks and devices. `irq_work_entry`
/// is not among them: perf's own records cause such interrupts.
const HOST_VECTORS: [&str; 3] = [
    "irq_vectors:local_timer_entry",
    "irq_vectors:call_function_entry",
    "irq_vectors:call_function_single_entry",
];

/// How much is traced; each costs more than the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// Every exit with its cause.
    #[default]
    Causes,
    /// Also each entry, so that the duration of each exit is known.
    Durations,
}

/// One tracepoint to open: with the filter that the kernel shall apply.
#[derive(Clone, Debug)]
pub struct Source {
    /// Which.
    pub tracepoint: Tracepoint,
    /// Over its fields.
    pub filter: Option<String>,
    layout: Layout,
}

/// Where the fields lie that are needed.
#[derive(Clone, Copy, Debug)]
enum Layout {
    Exit {
        flags: Field,
        isa: Field,
        reason: Field,
        info1: Field,
        info2: Field,
        /// Where this kernel has it.
        rip: Option<Field>,
        intr_info: Option<Field>,
    },
    Msr {
        is_write: Field,
        index: Field,
    },
    Mark {
        value: Field,
        size_bytes: Field,
    },
    UserspaceExit,
    Kick,
    Mmio {
        gpa: Field,
    },
    Hypercall {
        nr: Field,
    },
    Injection {
        vector: Field,
    },
    Cpuid {
        leaf: Field,
    },
    HostVector {
        vector: Field,
    },
    HostIrq {
        irq: Field,
    },
    Entry,
    Timer {
        function: Field,
    },
}

/// Knows every tracepoint that is traced.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// What to open.
    pub sources: Vec<Source>,
    timers: Option<TimerFunctions>,
}

impl Decoder {
    /// Looks up all tracepoints. Only `kvm_exit` and the mark's port are indispensable for
    /// counting; the others give details, so an old kernel without them is no error.
    pub fn new(
        tracefs: &Tracefs,
        mark_port: u16,
        timers: Option<TimerFunctions>,
        detail: Detail,
    ) -> Result<Decoder, TraceError> {
        let mut sources = vec![exit_source(tracefs)?, mark_source(tracefs, mark_port)?];
        sources.push(Source {
            tracepoint: tracefs.tracepoint("kvm:kvm_userspace_exit")?,
            filter: None,
            layout: Layout::UserspaceExit,
        });
        let mut optional = |name: &str, layout: fn(&Tracepoint) -> Result<Layout, TraceError>| {
            if let Ok(tracepoint) = tracefs.tracepoint(name) {
                if let Ok(layout) = layout(&tracepoint) {
                    sources.push(Source {
                        tracepoint,
                        filter: None,
                        layout,
                    });
                }
            }
        };
        optional("kvm:kvm_msr", |t| {
            Ok(Layout::Msr {
                is_write: t.field("write")?,
                index: t.field("ecx")?,
            })
        });
        optional("kvm:kvm_mmio", |t| {
            Ok(Layout::Mmio {
                gpa: t.field("gpa")?,
            })
        });
        optional("kvm:kvm_fast_mmio", |t| {
            Ok(Layout::Mmio {
                gpa: t.field("gpa")?,
            })
        });
        optional("irq_vectors:reschedule_entry", |_| Ok(Layout::Kick));
        optional("kvm:kvm_hypercall", |t| {
            Ok(Layout::Hypercall { nr: t.field("nr")? })
        });
        optional("kvm:kvm_inj_virq", |t| {
            // `irq` before Linux 5.19.
            let vector = t.field("vector").or_else(|_| t.field("irq"))?;
            Ok(Layout::Injection { vector })
        });
        optional("kvm:kvm_cpuid", |t| {
            Ok(Layout::Cpuid {
                leaf: t.field("function")?,
            })
        });
        for name in HOST_VECTORS {
            optional(name, |t| {
                Ok(Layout::HostVector {
                    vector: t.field("vector")?,
                })
            });
        }
        optional("irq:irq_handler_entry", |t| {
            Ok(Layout::HostIrq {
                irq: t.field("irq")?,
            })
        });
        if detail == Detail::Durations {
            sources.push(Source {
                tracepoint: tracefs.tracepoint("kvm:kvm_entry")?,
                filter: None,
                layout: Layout::Entry,
            });
        }
        if let Some(functions) = &timers {
            sources.push(timer_source(tracefs, functions)?);
        }
        Ok(Decoder { sources, timers })
    }

    /// Decodes one record; `None` if it is not one of ours or says nothing.
    pub fn decode(&self, record: &[u8]) -> Option<Kind> {
        let id = u16::from_le_bytes([*record.first()?, *record.get(1)?]);
        let source = self
            .sources
            .iter()
            .find(|source| source.tracepoint.id == id)?;
        let low_u32 = |field: Field| u32::try_from(field.read(record)?).ok();
        Some(match source.layout {
            Layout::Exit {
                flags,
                isa,
                reason,
                info1,
                info2,
                rip,
                intr_info,
            } => Kind::Exit(Exit {
                isa: Isa::from_tracepoint(isa.read(record)?)?,
                reason: reason.read(record)?,
                info1: info1.read(record)?,
                info2: info2.read(record)?,
                rip: rip.and_then(|rip| rip.read(record)),
                intr_info: intr_info.and_then(low_u32).unwrap_or(0),
                is_traced_early: flags.read(record)? & FLAG_IRQS_OFF != 0,
            }),
            Layout::Msr { is_write, index } => Kind::Msr {
                is_write: is_write.read(record)? != 0,
                index: low_u32(index)?,
            },
            Layout::Mark { value, size_bytes } => Kind::Mark {
                value: low_u32(value)?,
                size_bytes: size_bytes.read(record)?,
            },
            Layout::Kick => Kind::Kick,
            Layout::UserspaceExit => Kind::UserspaceExit,
            Layout::Mmio { gpa } => Kind::Mmio {
                gpa: gpa.read(record)?,
            },
            Layout::Hypercall { nr } => Kind::Hypercall {
                nr: nr.read(record)?,
            },
            Layout::Injection { vector } => Kind::Injection {
                vector: u8::try_from(vector.read(record)?).ok()?,
            },
            Layout::Cpuid { leaf } => Kind::Cpuid {
                leaf: low_u32(leaf)?,
            },
            Layout::HostVector { vector } => Kind::HostVector {
                vector: u8::try_from(vector.read(record)?).ok()?,
            },
            Layout::HostIrq { irq } => Kind::HostIrq { irq: low_u32(irq)? },
            Layout::Entry => Kind::Entry,
            Layout::Timer { function } => {
                let function = function.read(record)?;
                let timers = self.timers.as_ref()?;
                match () {
                    () if function == timers.host_tick => Kind::HostTick,
                    () if function == timers.guest_timer => Kind::GuestTimer,
                    () => return None,
                }
            }
        })
    }
}

fn exit_source(tracefs: &Tracefs) -> Result<Source, TraceError> {
    let tracepoint = tracefs.tracepoint("kvm:kvm_exit")?;
    let layout = Layout::Exit {
        flags: tracepoint.field("common_flags")?,
        isa: tracepoint.field("isa")?,
        reason: tracepoint.field("exit_reason")?,
        info1: tracepoint.field("info1")?,
        info2: tracepoint.field("info2")?,
        rip: tracepoint.field("guest_rip").ok(),
        intr_info: tracepoint.field("intr_info").ok(),
    };
    Ok(Source {
        tracepoint,
        filter: None,
        layout,
    })
}

fn mark_source(tracefs: &Tracefs, mark_port: u16) -> Result<Source, TraceError> {
    let tracepoint = tracefs.tracepoint("kvm:kvm_pio")?;
    let layout = Layout::Mark {
        value: tracepoint.field("val")?,
        size_bytes: tracepoint.field("size")?,
    };
    // `rw` is 1 for OUT.
    let filter = Some(format!("port == {mark_port:#x} && rw == 1"));
    Ok(Source {
        tracepoint,
        filter,
        layout,
    })
}

fn timer_source(tracefs: &Tracefs, functions: &TimerFunctions) -> Result<Source, TraceError> {
    let tracepoint = tracefs.tracepoint("timer:hrtimer_expire_entry")?;
    let layout = Layout::Timer {
        function: tracepoint.field("function")?,
    };
    let filter = format!(
        "function == {:#x} || function == {:#x}",
        functions.host_tick, functions.guest_timer
    );
    Ok(Source {
        tracepoint,
        filter: Some(filter),
        layout,
    })
}
