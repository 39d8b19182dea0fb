//! What comes before the first run that counts: what there is here, an earlier comparison, how long
//! it will take, and boots that warm the host up.

use std::fs::File;

use anyhow::{ensure, Context, Result};
use coopvirt_spec::work::Work;

use super::{amount, has_succeeded, is_complete, plan_of, run_once, Inputs, Setup};
use crate::compare::args::{Args, Choice};
use crate::compare::arm::Vmm;
use crate::compare::degraded::{self, Statistics};
use crate::compare::gaps::{self, Gap, Here};
use crate::compare::journal::{self, Journal};
use crate::compare::launch::{Launcher, TraceSource};
use crate::compare::model::Report;
use crate::compare::plan::Cell;
use crate::compare::setting::Setting;
use crate::compare::traced::Tracepoints;
use crate::compare::{estimate, host, interrupt, json};
use crate::say::tell;

/// What this machine offers to these arms, and what counts their exits.
pub(super) fn look(
    args: &Args,
    choice: &Choice,
    inputs: &Inputs,
) -> Result<(Box<dyn TraceSource>, Here)> {
    let mut here = Here::default();
    here.look_for_modules(choice, &inputs.initrd)?;
    if choice
        .arms
        .iter()
        .any(|arm| matches!(arm.vmm, Vmm::Qemu(_)))
    {
        here.peer = host::program_problem(&args.qemu);
    }
    if choice.arms.iter().any(|arm| gaps::halts_inside(arm)) {
        here.can_halt_inside = host::can_halt_inside();
    }
    let Some(detail) = args.detail.of_trace() else {
        return Ok((Box::new(Statistics::default()), here));
    };
    // One try, so that a user without the right hears of it once and at the beginning.
    let tried = Tracepoints(detail)
        .start(std::process::id())
        .and_then(|trace| trace.finish(None));
    Ok(match tried {
        Ok(_) => (Box::new(Tracepoints(detail)), here),
        Err(error) => {
            let why = format!("{error:#}");
            complain!("not traced: {why}\n  {}", degraded::LOST);
            here.trace = Some(why.clone());
            let missing = Some(why);
            (Box::new(Statistics { missing }), here)
        }
    })
}

/// What would fail after all runs, or in each of them, fails before the first.
pub(super) fn check_files(args: &Args) -> Result<()> {
    for path in [&args.html, &args.csv].into_iter().flatten() {
        // What is in it stays until there is something better.
        let opened = File::options().append(true).create(true).open(path);
        opened.with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(disk) = &args.disk {
        let opened = File::open(disk);
        let opened = opened.with_context(|| format!("cannot read {}", disk.display()))?;
        ensure!(
            !opened.metadata()?.is_dir(),
            "{} is a folder; --disk needs an image",
            disk.display()
        );
    }
    Ok(())
}

/// Takes up an earlier comparison if that is wished, and opens the journal.
pub(super) fn begin(args: &Args, report: &mut Report) -> Result<Option<Journal>> {
    let Some(path) = &args.json else {
        return Ok(None);
    };
    let at = journal::path_of(path);
    if args.resume {
        // A journal is younger than the file beside it, and has all that it had.
        let old = match (at.exists(), path.exists()) {
            (true, _) => Some(journal::read(&at)?),
            (false, true) => Some(json::read(path)?),
            (false, false) => None,
        };
        if let Some(old) = old {
            json::resume(old, report)?;
        }
    } else if at.exists() {
        complain!("{} of an unfinished comparison is replaced", at.display());
    }
    Journal::create(at, report).map(Some)
}

/// Says how long it will take and what is left out.
pub(super) fn announce(args: &Args, choice: &Choice, setup: &Setup, report: &Report, gaps: &[Gap]) {
    for gap in gaps {
        complain!("gap: {}: {}", gap.arm.name, gap.reason);
    }
    let mut cells = plan_of(args, choice);
    cells.retain(|cell| !has_succeeded(report, cell));
    let time = estimate::of(&cells, amount(args), setup.report.host.is_emulated);
    complain!(
        "{}; {} arms, {} repetitions, order from seed {}",
        estimate::text(time, cells.len()),
        choice.arms.len(),
        args.repetitions,
        args.seed
    );
}

/// Boots that do not count. If one fails, the runs will say why.
pub(super) fn warm_up(
    args: &Args,
    choice: &Choice,
    setup: &Setup,
    report: &Report,
    launcher: &mut dyn Launcher,
) {
    let arm = choice.arms.iter().find(|arm| arm.name == choice.reference);
    let is_done = is_complete(report, &plan_of(args, choice));
    let (Some(arm), false) = (arm, is_done) else {
        return;
    };
    for number in 1..=args.warm_up {
        if interrupt::is_requested() {
            return;
        }
        tell(format_args!(
            "warm-up {number}/{} {}: ",
            args.warm_up, arm.name
        ));
        let cell = Cell {
            repetition: 0,
            arm,
            setting: Setting::quiet(args.console),
            works: vec![Work::Boot],
        };
        let run = run_once(args, setup, &cell, 1, launcher);
        match run.failure {
            None => complain!("{:.1} s, not counted", run.seconds),
            Some(failure) => complain!("failed: {}", failure.reason),
        }
    }
}
