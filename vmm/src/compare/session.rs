//! The comparison itself: set up, run every cell, keep what was found, print it.
//!
//! [`run`] is what `coopvirt compare` does. It never measures: a [`Launcher`] does.

mod start;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};

use super::args::{Args, Choice};
use super::arm::{Arm, Group, Module, Vmm};
use super::budget::{self, Budget};
use super::child::ChildLauncher;
use super::cmdline::Amount;
use super::disk::{self, TempFolder};
use super::gaps::{self, Gap};
use super::journal::Journal;
use super::launch::{self, Boot, Job, Launcher, Programs};
use super::model::{ArmNote, Params, Program, Report, Run, FORMAT};
use super::pin::{self, Pinning};
use super::plan::{self, Cell};
use super::progress::Progress;
use super::setting::{Backing, Setting};
use super::symbols::Symbols;
use super::{aa, cmdline, evaluate, host, html, interrupt, json, table, table_file, verdict};
use crate::say::say;

/// A failed run is repeated once.
const ATTEMPTS: u32 = 2;
/// After so many repetitions in a row that failed twice, an arm is given up.
const MAX_FAILED_REPETITIONS: u32 = 2;

/// Compares; prints to standard output. The code is failure if any run has failed for good, an arm
/// could not be run at all, the budget is exceeded, or an arm differs from itself.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut choice = args.choose()?;
    let symbols = args.symbols.as_deref().map(Symbols::read).transpose()?;
    // What is wrong with it must not be found out after the runs.
    let budget = args.budget.as_deref();
    let budget = budget
        .map(|path| Budget::read(path, args.update_budget))
        .transpose()?;
    start::check_files(args)?;
    let folder = TempFolder::new()?;
    let inputs = Inputs::find(args)?;
    let (traces, here) = start::look(args, &choice, &inputs)?;
    let gaps = gaps::take(&mut choice, &here, &inputs.initrd)?;
    let setup = Setup::new(args, &choice, &gaps, inputs, folder.path())?;
    let mut report = setup.report.clone();
    let mut journal = start::begin(args, &mut report)?;
    interrupt::catch_signals()?;
    pin::pin_self(setup.pinning).context("cannot pin this program to CPU 0")?;
    let mut launcher = ChildLauncher::new(folder.path(), traces);
    start::announce(args, &choice, &setup, &report, &gaps);
    start::warm_up(args, &choice, &setup, &report, &mut launcher);
    run_cells(
        args,
        &choice,
        &setup,
        &mut report,
        journal.as_mut(),
        &mut launcher,
        Box::new(io::stderr()),
    )?;
    if let Some(symbols) = &symbols {
        symbols.apply(&mut report);
    }
    if let (Some(path), Some(journal)) = (&args.json, journal) {
        json::write(path, &report)?;
        journal.remove()?;
    }
    let mut text = table::render(&report);
    if args.bars {
        text += &format!("\n{}", verdict::render(&report));
    }
    say(&text)?;
    if let Some(path) = &args.html {
        fs::write(path, html::render(&report))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &args.csv {
        table_file::write(path, &report)?;
    }
    let budget = match (&budget, args.budget.as_deref()) {
        (Some(old), Some(path)) if args.update_budget => Some(budget::update(old, &report, path)?),
        (Some(budget), _) => Some(budget::check(budget, &report)),
        (None, _) => None,
    };
    if let Some(outcome) = &budget {
        say(&format!("\n{}", outcome.text))?;
    }
    let is_whole = gaps.is_empty() && is_complete(&report, &plan_of(args, &choice));
    let is_kept = budget.is_none_or(|outcome| outcome.is_kept);
    let is_honest = aa::evaluate(&report).is_none_or(|outcome| outcome.is_honest());
    Ok(match is_whole && is_kept && is_honest {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn amount(args: &Args) -> Amount {
    Amount {
        warm_up: args.settle,
        scale: args.scale,
        seconds: args.seconds,
    }
}

/// The files that every guest is started from.
struct Inputs {
    kernel: PathBuf,
    initrd: PathBuf,
}

impl Inputs {
    fn find(args: &Args) -> Result<Inputs> {
        let default = || Some(format!("/boot/vmlinuz-{}", host::kernel_release()).into());
        Ok(Inputs {
            kernel: input(&args.kernel, "COOPVIRT_KERNEL", default, "--kernel")?,
            initrd: input(&args.initrd, "COOPVIRT_INITRD", || None, "--initrd")?,
        })
    }
}

/// Everything that stays the same from boot to boot.
struct Setup {
    programs: Programs,
    kernel: PathBuf,
    initrd: PathBuf,
    disk: PathBuf,
    exits_file: PathBuf,
    pinning: Pinning,
    tsc_khz: Option<u32>,
    report: Report,
}

impl Setup {
    fn new(
        args: &Args,
        choice: &Choice,
        gaps: &[Gap],
        inputs: Inputs,
        folder: &Path,
    ) -> Result<Setup> {
        let Inputs { kernel, initrd } = inputs;
        let has_peer = choice
            .arms
            .iter()
            .any(|arm| matches!(arm.vmm, Vmm::Qemu(_)));
        let host = host::read(has_peer.then_some(args.qemu.as_path()));
        let disk = match &args.disk {
            Some(disk) => disk.clone(),
            None => {
                let disk = folder.join("disk");
                disk::write_patterned(&disk)?;
                disk
            }
        };
        let (pinning, pinning_words) = pin::decide(args.pin, args.cpus, host.cpus);
        let tsc_khz = match choice.arms.iter().any(|arm| arm.needs_tsc_khz) {
            true => host::tsc_khz().ok(),
            false => None,
        };
        let params = Params {
            kernel: kernel.display().to_string(),
            kernel_id: host::file_id(&kernel)?,
            initrd: initrd.display().to_string(),
            initrd_id: host::file_id(&initrd)?,
            works: choice
                .works
                .iter()
                .map(|work| work.name().to_string())
                .collect(),
            reference: choice.reference.into(),
            repetitions: args.repetitions,
            cpus: args.cpus,
            memory_bytes: args.memory,
            console: args.console,
            scale: args.scale,
            seed: args.seed,
            seconds: args.seconds,
            refill: args.refill,
            detail: args.detail,
            pinning: pinning_words,
            own_arms: own_arms(args)?,
        };
        let note = |arm: &Arm, gap: Option<&str>| ArmNote {
            name: arm.name.clone(),
            description: arm.description.clone(),
            is_stock: arm.group == Group::Stock,
            gap: gap.map(Into::into),
        };
        let run = choice.arms.iter().map(|arm| note(arm, None));
        let missing = gaps.iter().map(|gap| note(gap.arm, Some(&gap.reason)));
        Ok(Setup {
            programs: Programs {
                ours: std::env::current_exe().context("cannot find this program's file")?,
                qemu: args.qemu.clone(),
            },
            kernel,
            initrd,
            disk,
            exits_file: folder.join("exits.json"),
            pinning,
            tsc_khz,
            report: Report {
                format: FORMAT,
                program: Program {
                    version: env!("CARGO_PKG_VERSION").into(),
                    revision: option_env!("COOPVIRT_REVISION").map(Into::into),
                },
                host,
                params,
                arms: run.chain(missing).collect(),
                runs: Vec::new(),
            },
        })
    }
}

/// The experiment's own arms, with the hashes of their own files: what makes them what they are.
fn own_arms(args: &Args) -> Result<Vec<String>> {
    let own = args.own_arms.iter().map(|arm| {
        let files = [&arm.kernel, &arm.initrd].into_iter().flatten();
        let ids: Result<Vec<String>> = files.map(|file| host::file_id(file)).collect();
        Ok(format!("{} {}", arm.text(), ids?.join(" "))
            .trim_end()
            .into())
    });
    own.collect()
}

/// An input file from its option, its environment variable or a default.
fn input(
    option: &Option<PathBuf>,
    variable: &str,
    default: impl FnOnce() -> Option<PathBuf>,
    name: &str,
) -> Result<PathBuf> {
    let path = option
        .clone()
        .or_else(|| std::env::var_os(variable).map(PathBuf::from))
        .or_else(default);
    let Some(path) = path else {
        bail!("{name} or ${variable} is needed")
    };
    ensure!(path.is_file(), "{} is no file (see {name})", path.display());
    // Children run in the same folder, but absolute paths are what a report should hold.
    std::path::absolute(&path).with_context(|| format!("cannot resolve {}", path.display()))
}

fn plan_of(args: &Args, choice: &Choice) -> Vec<Cell> {
    plan::cells(choice, args.console, args.repetitions, args.seed)
}

fn run_cells(
    args: &Args,
    choice: &Choice,
    setup: &Setup,
    report: &mut Report,
    mut journal: Option<&mut Journal>,
    launcher: &mut dyn Launcher,
    progress: Box<dyn Write>,
) -> Result<()> {
    let cells = plan_of(args, choice);
    let mut progress = Progress::new(progress, cells.len(), args.repetitions);
    let mut given_up = GivenUp::default();
    for (index, cell) in cells.iter().enumerate() {
        if has_succeeded(report, cell) || given_up.contains(cell) {
            progress.skip();
            continue;
        }
        progress.begin(cell);
        for attempt in 1..=ATTEMPTS {
            let run = run_once(args, setup, cell, attempt, launcher);
            if interrupt::is_requested() {
                progress.interrupted();
                return Ok(());
            }
            progress.end(cell, &run, &cells[index + 1..]);
            let is_last = match &run.failure {
                None => true,
                Some(failure) => failure.is_final || attempt == ATTEMPTS,
            };
            if is_last {
                given_up.note(cell, &run);
            }
            if let Some(journal) = journal.as_deref_mut() {
                journal.note(&run)?;
            }
            report.runs.push(run);
            if is_last {
                break;
            }
            progress.again(cell);
        }
    }
    Ok(())
}

fn has_succeeded(report: &Report, cell: &Cell) -> bool {
    report
        .run_of(cell.repetition, &cell.arm.name, cell.setting)
        .is_some_and(|run| run.failure.is_none())
}

fn is_complete(report: &Report, cells: &[Cell]) -> bool {
    cells.iter().all(|cell| has_succeeded(report, cell))
}

/// Arms that failed so often that more tries would only cost time.
#[derive(Default)]
struct GivenUp(BTreeMap<(&'static str, Setting), u32>);

impl GivenUp {
    fn note(&mut self, cell: &Cell, run: &Run) {
        let failures = self.0.entry((&cell.arm.name, cell.setting)).or_default();
        *failures = match &run.failure {
            None => 0,
            Some(failure) if failure.is_final => MAX_FAILED_REPETITIONS,
            Some(_) => *failures + 1,
        };
    }

    fn contains(&self, cell: &Cell) -> bool {
        let failures = self.0.get(&(cell.arm.name.as_str(), cell.setting));
        failures.is_some_and(|failures| *failures >= MAX_FAILED_REPETITIONS)
    }
}

fn run_once(
    args: &Args,
    setup: &Setup,
    cell: &Cell,
    attempt: u32,
    launcher: &mut dyn Launcher,
) -> Run {
    let cmdline = cmdline::build(
        cell.arm,
        cell.setting,
        &cell.works,
        amount(args),
        setup.tsc_khz,
    );
    let is_returned = cell.setting.backing == Backing::Returned;
    let machine = &cell.arm.machine;
    let cpus = machine.cpus.unwrap_or(args.cpus);
    let pinning = match machine.cpus {
        None => setup.pinning,
        Some(cpus) => pin::decide(args.pin, cpus, setup.report.host.cpus).0,
    };
    let cmdline = match cmdline {
        Ok(cmdline) => cmdline,
        Err(reason) => return evaluate::not_launched(cell, attempt, Vec::new(), reason, true),
    };
    let boot = Boot {
        kernel: machine.kernel.as_ref().unwrap_or(&setup.kernel).clone(),
        initrd: machine.initrd.as_ref().unwrap_or(&setup.initrd).clone(),
        disk: setup.disk.clone(),
        cmdline,
        cpus,
        memory_bytes: machine.memory_bytes.unwrap_or(args.memory),
        console: cell.setting.console,
        // The module reports free pages by itself, and the kernel has one reporter at most.
        has_balloon: is_returned && cell.arm.module != Module::Loaded,
        exits_file: setup.exits_file.clone(),
        pinning,
    };
    let command = launch::command(&setup.programs, cell.arm, &boot);
    let job = Job {
        command: &command,
        pinning,
        exits_file: match cell.arm.vmm {
            Vmm::Ours(_) => Some(&setup.exits_file),
            Vmm::Qemu(_) => None,
        },
        has_huge_pages: !is_returned && !machine.has_small_pages,
        boot_timeout: Duration::from_secs(args.boot_timeout),
        work_timeout: Duration::from_secs(args.work_timeout),
    };
    match launcher.launch(&job) {
        Ok(vm) => evaluate::evaluate(cell, cpus, attempt, command.words(), vm),
        Err(error) => {
            let reason = format!("{error:#}");
            evaluate::not_launched(cell, attempt, command.words(), reason, false)
        }
    }
}

#[cfg(test)]
mod tests;
