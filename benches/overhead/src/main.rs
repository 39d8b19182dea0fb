//! What a VMM itself costs, ours beside QEMU microvm in the same run.
//!
//! - Resident memory beyond the guest's: `Rss` of all mappings in smaps but the one that is the
//!   guest's RAM, once a guest of 1 vCPU and 128 MiB sits idle in its init.
//! - Time from process start to the first guest instruction: from before `fork` to the first
//!   `kvm_entry` tracepoint of the new process, both on the monotonic clock.
//!
//! Needs root and a true /dev/kvm; `scripts/overhead` runs it, in the lab where it must.

mod first_entry;
mod smaps;
mod vmm;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use self::first_entry::EntryTrace;
use self::vmm::{Vmm, VmmKind};

/// Measure resident overhead and start-up time of our VMM and of QEMU microvm.
#[derive(Debug, Parser)]
struct Args {
    /// The coopvirt program
    #[arg(long)]
    coopvirt: PathBuf,
    /// Guest kernel (bzImage)
    #[arg(long)]
    kernel: PathBuf,
    /// Guest initramfs with the work program as init
    #[arg(long)]
    initrd: PathBuf,
    /// Starts of each VMM, interleaved
    #[arg(short = 'n', default_value_t = 9)]
    count: usize,
}

const GUEST_MIB: u64 = 128;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coopvirt-overhead: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let trace = EntryTrace::start().context("could not trace kvm_entry; root is needed")?;
    let kinds = [VmmKind::Coopvirt, VmmKind::QemuMicrovm];
    let mut starts: [Vec<f64>; 2] = Default::default();
    for round in 1..=args.count {
        for (kind, starts) in kinds.iter().zip(&mut starts) {
            eprintln!("[{round}/{}] start of {}", args.count, kind.name());
            let vmm = Vmm::start(*kind, args, GUEST_MIB)?;
            let entry = trace.wait_for(vmm.pid(), Duration::from_secs(60))?;
            starts.push((entry - vmm.started()).as_secs_f64() * 1e3);
        }
    }
    println!("guest of 1 vCPU and {GUEST_MIB} MiB");
    for ((kind, starts), n) in kinds.iter().zip(&mut starts).zip([args.count; 2]) {
        starts.sort_by(f64::total_cmp);
        let (least, median, most) = (starts[0], starts[n / 2], starts[n - 1]);
        println!(
            "{}: first guest instruction after {median:.1} ms (median of {n}, {least:.1} - {most:.1})",
            kind.name()
        );
    }
    println!(
        "ratio of medians: {:.2}",
        starts[0][args.count / 2] / starts[1][args.count / 2]
    );
    for kind in kinds {
        let mut vmm = Vmm::start(kind, args, GUEST_MIB)?;
        vmm.wait_for_init(Duration::from_secs(120))?;
        let resident = smaps::resident(vmm.pid(), GUEST_MIB << 20)?;
        println!(
            "{}: {} KiB resident beyond the guest's memory ({} KiB of it private)",
            kind.name(),
            resident.total_kib,
            resident.private_kib
        );
    }
    Ok(())
}
