//! Queues that the polling thread owns, under an unmodified driver and without our module: what is read is right, fewer
//! reads notify, and a polling thread that freezes is done without.

use std::time::Duration;

use coopvirt::account::model::Counts;
use coopvirt::account::report::ExitReport;
use coopvirt::virtio::DeviceCounts;
use coopvirt_spec::work::Work;
use coopvirt_tests::exits::{own_exits, phase};
use coopvirt_tests::files::Folder;
use coopvirt_tests::lab::MODULE_KERNEL;
use coopvirt_tests::{Guest, Image, Outcome, Running};
use rustix::process::Signal;

/// 16 MiB.
const DISK_BLOCKS: u64 = 4096;
const DISK: &str = "virtio-blk 0";
/// How much longer a repetition may take while the polling thread is frozen than where none polls. Only reads that wait for
/// long are found by this: lower quartiles are compared, but the machine has other things to do.
const SLOWER: u64 = 10;

/// Per read where they are spared, of 1 otherwise: while the machine takes the polling thread's CPU away for longer than its
/// queues may wait, reads notify. On a quiet one it is a hundredth.
const MOST_SPARED: f64 = 0.5;

/// A guest with 2 vCPUs and a disk, in `coop` mode, whose kernel knows nothing of it. Its polling thread has to share a
/// CPU.
fn guest(disk: &str, policy: &str) -> Guest {
    polled(Guest::new().cpus(2), disk, ["--sidecore", policy]).arguments(["--pin", "1-2,0"])
}

/// The same with 1 vCPU, and a CPU for the polling thread: without, an adaptive one rests.
fn guest_with_spare_cpu(disk: &str, policy: &str) -> Guest {
    let policy = format!("{policy},cpu=2");
    polled(Guest::new().cpus(1), disk, ["--sidecore", &policy]).arguments(["--pin", "1,0"])
}

fn polled(guest: Guest, disk: &str, sidecore: [&str; 2]) -> Guest {
    guest
        .arguments(["--disk", disk, "--mode", "coop"])
        .arguments(sidecore)
        .limit(Duration::from_secs(300))
}

struct Run {
    outcome: Outcome,
    report: ExitReport,
}

/// Lets it run to its orderly end; `meanwhile` has it while it runs.
#[track_caller]
fn run(guest: Guest, meanwhile: impl FnOnce(&mut Running)) -> Run {
    let folder = Folder::new();
    let path = folder.path("exits.json");
    let mut running = guest.arguments(["--exits".into(), path.clone()]).start();
    meanwhile(&mut running);
    let outcome = running.finish();
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    let text = std::fs::read(path).expect("a report");
    let report: ExitReport = serde_json::from_slice(&text).expect("the report reads back");
    let events = report.coop.as_ref().map(|coop| &coop.events);
    eprintln!("{:?}, {events:?}", report.devices);
    Run { outcome, report }
}

impl Run {
    fn disk(&self) -> DeviceCounts {
        self.report.devices[DISK]
    }

    /// Exits per read of a work: the guest's own, notifies of the disk and interrupts of devices among them.
    fn per_read(&self, work: Work) -> [f64; 3] {
        let reads = self.outcome.work(work.name())["ops"]
            .as_u64()
            .expect("a count");
        let counts = &phase(&self.report, work.code()).counts;
        let latency = &self.outcome.work(work.name())["latency_ns"];
        eprintln!("{}: {counts:?}, latency {latency}", work.name());
        let per_read = |exits: u64| exits as f64 / reads as f64;
        [own_exits(counts), notifies(counts), interrupts(counts)].map(per_read)
    }
}

/// Exits by writes to the disk's doorbells.
fn notifies(counts: &Counts) -> u64 {
    caused(counts, "virtio-blk doorbell")
}

/// Exits for interrupts of any device.
fn interrupts(counts: &Counts) -> u64 {
    caused(counts, "vector of a device")
}

fn caused(counts: &Counts, words: &str) -> u64 {
    let causes = counts.by_cause.iter();
    let matching = causes.filter(|(cause, _)| cause.contains(words));
    matching.map(|(_, count)| count).sum()
}

/// Every word that is written and read back is right, with images that are memory (copied by the polling thread) and
/// images that are not (left to the I/O thread where they are not in the page cache), polled always and while there is
/// work.
#[test]
fn every_word_is_right_whoever_serves_the_queue() {
    for (folder, options) in [
        (Folder::new(), ""),
        (Folder::on_disk(), ",io=uring"),
        (Folder::on_disk(), ",io=sync"),
    ] {
        for policy in ["always", "adaptive"] {
            let image = folder.disk("disk", DISK_BLOCKS).display().to_string();
            let guest = guest(&format!("{image}{options}"), policy);
            let run = run(guest.cmdline("coopvirt.disk_check=40"), |_| {});
            let record = run.outcome.record("disk-check");
            assert_eq!(record["ok"], true, "{policy}{options}: {record}");
            let disk = run.disk();
            assert!(policy == "adaptive" || disk.polled_finds > 0, "{disk:?}");
            // Whoever takes a queue gives it back, but where the guest resets the device meanwhile.
            assert!(disk.hand_backs <= disk.take_overs, "{disk:?}");
        }
    }
}

/// With a thread that always polls hardly any read notifies; with one that polls while there is work, fewer do. Without
/// one, or in `kvm` mode, each does, and no queue changes hands.
#[test]
fn reads_of_a_polled_disk_notify_less() {
    let folder = Folder::new();
    let image = folder.disk("disk", DISK_BLOCKS).display().to_string();
    let mut seen = Vec::new();
    for policy in ["off", "adaptive", "always"] {
        let run = run(
            guest_with_spare_cpu(&format!("{image},ro"), policy).works("read1,read32"),
            |_| {},
        );
        run.outcome.done();
        let [one, one_notified, one_interrupted] = run.per_read(Work::Read1);
        let [many, many_notified, many_interrupted] = run.per_read(Work::Read32);
        eprintln!(
            "{policy}: {one:.2} exits per read one at a time ({one_notified:.2} notifies, {one_interrupted:.2} \
             interrupts), {many:.3} of 32 in flight ({many_notified:.3}, {many_interrupted:.3})"
        );
        seen.push((policy, one_notified, run.disk()));
    }
    let [(_, off, unpolled), (_, adaptive, _), (_, always, polled)] = seen[..] else {
        panic!("{seen:?}");
    };
    assert!(off > 0.9, "each read notifies: {off}");
    assert_eq!((unpolled.take_overs, unpolled.polled_finds), (0, 0));
    assert!(
        polled.take_overs > 0 && polled.polled_finds > 0,
        "{polled:?}"
    );
    assert!(always < MOST_SPARED, "{always} notifies per read");
    // How often it polls in time is a matter of the machine's other work.
    assert!(adaptive <= off * 1.1, "{adaptive} of {off}");
}

/// Where the guest polls as well, through a queue that stock virtio_blk makes without an interrupt, a read costs neither
/// a notify nor an interrupt.
#[test]
fn reads_through_a_poll_queue_need_neither_notify_nor_interrupt() {
    let folder = Folder::new();
    let image = folder.disk("disk", DISK_BLOCKS).display().to_string();
    let stock = Guest::with_kernel(MODULE_KERNEL, Image::Vmlinux).cpus(2);
    let guest = polled(stock, &format!("{image},ro"), ["--sidecore", "always"])
        .arguments(["--pin", "1-2,0"])
        .cmdline("virtio_blk.poll_queues=1")
        .works("readpoll");
    let run = run(guest, |_| {});
    run.outcome.done();
    let [exits, notified, interrupted] = run.per_read(Work::Readpoll);
    eprintln!("{exits:.2} exits per read ({notified:.2} notifies, {interrupted:.2} interrupts)");
    let disk = run.disk();
    assert!(disk.polled_finds > 0, "{disk:?}");
    assert!(notified < MOST_SPARED, "{notified} notifies per read");
    assert!(
        interrupted < MOST_SPARED,
        "{interrupted} interrupts per read"
    );
}

/// In the lower quartile of its repetitions, in nanoseconds.
fn read_time(outcome: &Outcome, first: usize, end: usize) -> u64 {
    let records = outcome.records("work");
    let records = records.filter(|record| record["work"] == "read1");
    let times = records.filter_map(|record| record["elapsed_ns"].as_u64());
    let mut times: Vec<u64> = times.skip(first).take(end - first).collect();
    assert!(times.len() >= 3, "{} repetitions", times.len());
    times.sort_unstable();
    times[times.len() / 4]
}

fn nr_said(running: &Running) -> usize {
    running.text().matches(r#""work":"read1""#).count()
}

fn wait_until_said(running: &Running, count: usize) {
    for _ in 0..2400 {
        if nr_said(running) >= count {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the guest did not come to repetition {count} within two minutes");
}

/// Frozen for some repetitions while it owns the disk's queue: the I/O thread takes the queue back, no read waits for ever,
/// and when the thread comes back it takes the queue over again.
#[test]
fn frozen_polling_thread_loses_its_queues_and_no_read() {
    const FREEZE_AT: usize = 5;
    const FROZEN: usize = 10;
    const REPETITIONS: usize = 30;
    let folder = Folder::new();
    let image = folder.disk("disk", DISK_BLOCKS).display().to_string();
    let words = "coopvirt.works=read1 coopvirt.scale=0.5";
    let with = |policy: &str, reps: usize| {
        guest(&format!("{image},ro"), policy).cmdline(&format!("{words} coopvirt.reps={reps}"))
    };
    let unpolled = run(with("off", 10), |_| {});
    let stock = read_time(&unpolled.outcome, 0, 10);
    let mut span = (0, 0);
    let run = run(with("always", REPETITIONS), |running| {
        wait_until_said(running, FREEZE_AT);
        span.0 = nr_said(running);
        running.signal(Signal::USR2);
        wait_until_said(running, span.0 + FROZEN);
        span.1 = nr_said(running);
        running.signal(Signal::USR2);
    });
    run.outcome.done();
    let frozen = read_time(&run.outcome, span.0 + 1, span.1);
    let after = read_time(&run.outcome, span.1 + 1, REPETITIONS);
    eprintln!(
        "frozen {span:?}: a repetition {frozen} ns, {stock} without polling, {after} afterwards"
    );
    let disk = run.disk();
    let coop = run.report.coop.as_ref().expect("coop mode");
    assert!(disk.hand_backs >= 1, "{disk:?}");
    assert!(disk.take_overs >= 2, "it came back: {disk:?}");
    // Meanwhile the I/O thread is told of each read, as without polling, and nobody has to look for it. The first and
    // the last repetition may have been frozen in part.
    let told = unpolled.disk().notifies / 10 * (FROZEN as u64 - 2);
    assert!(disk.notifies >= told, "{told}: {disk:?}");
    assert!(frozen <= stock * SLOWER, "{frozen} of {stock}, {coop:?}");
}
