//! Runs the list of works and reports it: platform, works, done.

use crate::console::Console;
use crate::marks::Marks;
use crate::module::Module;
use crate::options::{End, Options};
use crate::platform::Platform;
use crate::sys::{cpu, memory, time};
use crate::works::{self, Bench, Failure, Measured};
use crate::{disk_check, module_cycles, net, record, share, vsock};
use std::io;

/// How a run that came to its end went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Each work that was not skipped is ok, and not all were skipped.
    AllOk,
    /// Otherwise.
    SomeFailed,
}

/// Runs all repetitions of all works. Fails only if records cannot be written.
pub(crate) fn run(
    options: &Options,
    marks: &mut Marks,
    console: &mut Console,
) -> io::Result<Verdict> {
    let cpus = cpu::allowed_cpus()?;
    let mut is_well = true;
    if let (Some(params), 1..) = (&options.module, options.module_cycles) {
        let (record, went_well) = module_cycles::run(params, options.module_cycles);
        console.line(&record::module(&record))?;
        is_well = went_well;
    }
    if let Some(plan) = &options.net {
        let (record, went_well) = net::run(plan);
        console.line(&record::module(&record))?;
        is_well &= went_well;
        if plan.awaits_down {
            let (record, went_well) = net::wait_for_link_down();
            console.line(&record::module(&record))?;
            is_well &= went_well;
        }
    }
    if let Some(plan) = &options.vsock {
        let (record, went_well) = vsock::run(plan);
        console.line(&record::module(&record))?;
        is_well &= went_well;
    }
    if let Some(plan) = &options.share {
        let (record, went_well) = share::run(plan);
        console.line(&record::module(&record))?;
        is_well &= went_well;
        if plan.awaits_loss {
            let (record, went_well) = share::wait_for_loss();
            console.line(&record::module(&record))?;
            is_well &= went_well;
        }
    }
    let module = Module::load(options.module.as_deref());
    // Nothing to be done about an error: then it is as if no quiet time had been asked for. The kernel
    // changes its clock source up to a second after init has started: the platform is read behind this.
    let _ = time::sleep(options.warm_up);
    let platform = Platform::read(cpus.len());
    console.line(&record::platform(&platform, &module.state.text()))?;
    if let Some(loaded) = module.loaded_record() {
        console.line(&record::module(&loaded))?;
    }
    if options.disk_check > 0 {
        let (checked, went_well) = disk_check::run(&options.disk, options.disk_check, cpus.len());
        console.line(&record::other(&checked))?;
        is_well &= went_well;
    }
    memory::lock_present();
    let mut bench = Bench::new(options, marks, cpus);
    let mut reported = 0u64;
    let mut verdict = if is_well {
        Verdict::AllOk
    } else {
        Verdict::SomeFailed
    };
    for rep in 0..options.reps {
        let first = options.first.iter().filter(|_| rep == 0);
        for &work in first.chain(&options.works) {
            let measured = match works::run(work, &mut bench) {
                Err(Failure::Skip(reason)) => {
                    console.line(&record::skip(work, rep, &reason))?;
                    continue;
                }
                Err(Failure::Error(error)) => Measured::failed(error),
                Ok(measured) => measured,
            };
            if measured.check.is_err() {
                verdict = Verdict::SomeFailed;
            }
            console.line(&record::work(work, rep, &measured))?;
            // What is still on its way out would be counted into the next work.
            console.drain();
            reported += 1;
        }
        if options.has_counters {
            if let Some(counters) = module.counters_record(rep) {
                console.line(&record::module(&counters))?;
                console.drain();
            }
        }
    }
    if reported == 0 && !(options.works.is_empty() && options.first.is_empty()) {
        // Only skips: that is no success, however good each reason is.
        verdict = Verdict::SomeFailed;
    }
    // Before the `done` record: a guest that dies of unloading has not succeeded. A kernel that gives its machine away
    // keeps it to its end.
    let is_kept = options.end == End::Kexec;
    if let Some((unloaded, is_well)) = (!is_kept).then(|| module.unload()).flatten() {
        console.line(&record::module(&unloaded))?;
        if !is_well {
            verdict = Verdict::SomeFailed;
        }
    }
    console.line(&record::done(reported))?;
    console.drain();
    Ok(verdict)
}
