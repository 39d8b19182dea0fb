//! What a MiB over a tap costs, ours beside QEMU microvm in the same run, interleaved.
//!
//! In each arm the same guest (kernel, disk, iperf3 as a server) sits behind a tap of its own, and iperf3 on this host
//! sends to it, then receives from it. The host decides when a transfer begins and ends, so it reads all counts at
//! the same moments for every VMM:
//!
//! - exits: `exits` and `irq_exits` of the VM in /sys/kernel/debug/kvm, which the kernel counts whatever runs in user
//!   space. The table has exits without those for the host's own interrupts, which come whatever a guest does.
//! - CPU time: of the VMM's process with all its threads, vCPUs and vhost workers among them; not of iperf3.
//!
//! Threads of all arms run where `place.rs` says.
//!
//! Needs root, a true /dev/kvm and debugfs; `scripts/net-table` runs it, in the lab where it must.

mod arm;
mod causes;
mod counts;
mod place;
mod table;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use clap::Parser;
use coopvirt::account::backend::{kernel_release, Backend};
use coopvirt_tests::files::Folder;
use coopvirt_tests::tap::Tap;
use coopvirt_tests::tools;
use rustix::process::Signal;

use self::arm::{Arm, ARMS, CPUS};
use self::causes::Causes;
use self::counts::Counts;
use self::place::Place;
use self::table::{Sample, Way};

/// Measure exits and CPU time per MiB over a tap, ours and QEMU microvm's.
#[derive(Debug, Parser)]
struct Args {
    /// Rounds; each starts every arm anew
    #[arg(short = 'n', default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of each transfer
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Only arms whose names contain this, or one of these with a | between them
    #[arg(long, default_value = "")]
    arms: String,
    /// Say which exits there were, too, per MiB; that costs time, so the table's figures are others than without
    #[arg(long)]
    causes: bool,
}

/// The taps' network: 10.213.N.0/24.
const NETWORK: u8 = 60;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coopvirt-net: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let arms: Vec<Arm> = ARMS
        .into_iter()
        .filter(|arm| args.arms.split('|').any(|part| arm.name().contains(part)))
        .collect();
    ensure!(!arms.is_empty(), "no arm is called {:?}", args.arms);
    let place = Place::on_this_host(CPUS)?;
    let mut samples = Vec::new();
    for round in 1..=args.rounds {
        for &arm in &arms {
            eprintln!("[{round}/{}] {}", args.rounds, arm.name());
            match measure(arm, args, place) {
                Ok(both) => samples.extend(both),
                Err(error) => eprintln!("left out, n is less by one: {error:#}"),
            }
        }
    }
    println!(
        "host {}, {}; transfers of {} s; {}",
        kernel_release(),
        Backend::probe().name,
        args.seconds,
        place.words()
    );
    table::print(&arms, &samples);
    Ok(())
}

/// Both ways in one guest.
fn measure(arm: Arm, args: &Args, place: Place) -> Result<[Sample; 2]> {
    let seconds = args.seconds;
    let (tap, folder) = (Tap::up(NETWORK, &[]), Folder::new());
    // A transfer may take longer than it should, a guest to start too.
    let limit = Duration::from_secs(300 + 4 * seconds);
    place.as_vmm()?;
    let mut running = arm.start(&tap, &folder, limit)?;
    running.wait_for("\"ready\"");
    running.wait_for("Server listening");
    place.pin(running.id())?;
    place.as_peer()?;
    let counts = Counts::of(running.id())?;
    let transfer = |way: Way| -> Result<Sample> {
        let causes = args.causes.then(Causes::start).transpose()?;
        let (before, started) = (counts.read()?, Instant::now());
        let report = tools::iperf3(&tap.guest(), seconds, way == Way::FromGuest);
        let (after, elapsed) = (counts.read()?, started.elapsed());
        let received = &report["end"]["sum_received"]["bytes"];
        let bytes = received
            .as_u64()
            .with_context(|| format!("iperf3 says no bytes, but: {report}"))?;
        let sample = Sample::new(arm, way, bytes, after - before, elapsed)?;
        eprintln!("  {sample}");
        if let Some(causes) = causes {
            table::print_causes(&causes.read()?, bytes);
        }
        Ok(sample)
    };
    let samples = [transfer(Way::ToGuest)?, transfer(Way::FromGuest)?];
    running.signal(Signal::TERM);
    running.finish();
    Ok(samples)
}
