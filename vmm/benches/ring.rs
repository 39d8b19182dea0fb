//! What one no-op costs the host that serves it, in batches of 32, beside a plain ring.
//!
//! Two threads, guest and host, on a CPU each where there are two. Each has its own mapping of one
//! memfd. The guest publishes a batch and waits for its completions; the host's time begins when it
//! has seen the batch and ends when the last completion is published, so that it holds all cache
//! misses of the host but none of its waiting. The plain rings (`rtrb`) carry entries of the same
//! sizes both ways, and one way only.
//!
//! `cargo bench -p coopvirt --bench ring`; fails where a batch costs more than [`BAR_NS`] per entry
//! at the median.
#![expect(unsafe_code)]
// UNSAFETY: `memfd_create` has no safe wrapper among our dependencies.

use std::fs::File;
use std::hint::spin_loop;
use std::os::fd::FromRawFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use coopvirt::coop::area::Area;
use coopvirt::coop::areas::Areas;
use coopvirt::coop::budget::Budget;
use coopvirt::coop::counters::Totals;
use coopvirt::coop::effects::Effects;
use coopvirt::coop::seat::Served;
use coopvirt::coop::serve::{Server, Shared};
use coopvirt::mem::GuestRam;
use coopvirt::vcpu::pin::pin_current_thread;
use coopvirt_spec::code::Status;
use coopvirt_spec::entry::{Completion, Submission};
use coopvirt_spec::mark::Mark;
use coopvirt_spec::mem::{Load, SharedMem};
use coopvirt_spec::op::NopArgs;
use coopvirt_spec::page::{at, write_header, AreaLayout};
use coopvirt_spec::ring::{GuestRing, HostRing};
use coopvirt_spec::version::Features;
use criterion::{Criterion, Throughput};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

/// Entries of a batch: one full ring.
const BATCH: u32 = 32;
/// Most that serving one entry may cost at the median.
const BAR_NS: f64 = 60.0;
const AREA_BYTES: usize = 4096;

fn main() -> ExitCode {
    let mut criterion = Criterion::default().configure_from_args();
    let medians = [
        measure(&mut criterion, "rtrb, one way", || plain(false)),
        measure(&mut criterion, "rtrb, both ways", || plain(true)),
        measure(&mut criterion, "ring alone", ring_alone),
        measure(&mut criterion, "served by the VMM", served),
    ];
    criterion.final_summary();
    println!("host's cost per no-op entry, batches of {BATCH}, over all batches:");
    for median in medians.iter().flatten() {
        println!(
            "  {:<18} median {:5.1} ns, 99th percentile {:6.1} ns, {} batches",
            median.name, median.median_ns, median.p99_ns, median.batches
        );
    }
    let Some(served) = &medians[3] else {
        return ExitCode::SUCCESS;
    };
    if served.median_ns > BAR_NS {
        eprintln!("{} costs more than {BAR_NS} ns per entry", served.name);
        return ExitCode::FAILURE;
    }
    println!("at most {BAR_NS} ns as served by the VMM: yes");
    ExitCode::SUCCESS
}

/// What the host's thread does for one batch; waits for it first.
type Serve = Box<dyn FnMut() -> Duration>;
/// What the guest's thread does for one batch; false where it was stopped while it waited.
type Ask = Box<dyn FnMut(&AtomicBool) -> bool + Send>;

/// Figures over all batches of one benchmark, warm-up included.
struct Median {
    name: &'static str,
    median_ns: f64,
    p99_ns: f64,
    batches: usize,
}

/// Lets criterion measure, and takes medians over batches: its own samples are means over many
/// batches, in which one interrupt weighs more than all else. `None` if a filter left it out.
fn measure(
    criterion: &mut Criterion,
    name: &'static str,
    sides: impl Fn() -> (Serve, Ask),
) -> Option<Median> {
    let mut batches: Vec<Duration> = Vec::new();
    let mut group = criterion.benchmark_group("no-op");
    group.throughput(Throughput::Elements(BATCH.into()));
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|count| {
            let times = run(count, sides());
            batches.extend(&times);
            times.iter().sum()
        });
    });
    group.finish();
    batches.sort_unstable();
    let ns_at = |percent: usize| {
        let time = batches.get((batches.len() * percent / 100).min(batches.len() - 1));
        time.map_or(0.0, |time| time.as_secs_f64() * 1e9 / f64::from(BATCH))
    };
    (!batches.is_empty()).then(|| Median {
        name,
        median_ns: ns_at(50),
        p99_ns: ns_at(99),
        batches: batches.len(),
    })
}

/// One batch after the other; the host's time of each.
fn run(count: u64, (mut serve, mut ask): (Serve, Ask)) -> Vec<Duration> {
    // Asked for once: it counts what this thread is pinned to, later.
    static CPUS: OnceLock<usize> = OnceLock::new();
    let cpus = *CPUS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || {
            if cpus > 1 {
                // Where this is refused the threads find CPUs of their own.
                let _ = pin_current_thread(&[1]);
            }
            while ask(stop) {}
        });
        if cpus > 1 {
            let _ = pin_current_thread(&[0]);
        }
        let times = (0..count).map(|_| serve()).collect();
        stop.store(true, Ordering::Relaxed);
        times
    })
}

/// Spins until `is_so`; false if stopped before. Yields now and then, where both share a CPU.
fn wait(stop: &AtomicBool, mut is_so: impl FnMut() -> bool) -> bool {
    let mut spins = 0_u32;
    while !is_so() {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        spins = spins.wrapping_add(1);
        if spins.is_multiple_of(1 << 14) {
            std::thread::yield_now();
        }
        spin_loop();
    }
    true
}

static NEVER: AtomicBool = AtomicBool::new(false);

fn nop(tag: u64) -> Submission {
    NopArgs {}.submission(tag)
}

/// Two mappings of one memfd, and an area in each.
fn memory() -> (GuestRam, Area, Area) {
    // SAFETY: the name is a C string; the result is checked and owned by the file alone.
    let file = unsafe {
        let fd = libc::memfd_create(c"coopvirt-ring".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        File::from_raw_fd(fd)
    };
    file.set_len(AREA_BYTES as u64).expect("one page");
    let map = || {
        let file = FileOffset::new(file.try_clone().expect("a descriptor"), 0);
        let ranges = [(GuestAddress(0), AREA_BYTES, Some(file))];
        GuestMemoryMmap::<()>::from_ranges_with_files(ranges).expect("one page fits")
    };
    let (host, guest) = (GuestRam::new(map()), GuestRam::new(map()));
    let area = |ram| Area::new(ram, 0, AREA_BYTES).expect("it is one page");
    let areas = (area(&host), area(&guest));
    (host, areas.0, areas.1)
}

/// The guest: a batch of no-ops, each of which has to be answered well.
fn guest(area: Area) -> Ask {
    let mut ring = GuestRing::new(AreaLayout::DEFAULT);
    let mut tag = 0;
    Box::new(move |stop| {
        let first = tag;
        for _ in 0..BATCH {
            ring.stage(&area, &nop(tag)).expect("the ring is empty");
            tag += 1;
        }
        ring.publish(&area);
        for expected in first..tag {
            let mut done = None;
            let is_done = wait(stop, || {
                done = ring.take(&area).expect("the host is honest");
                done.is_some()
            });
            if !is_done {
                return false;
            }
            let done = done.expect("it is done");
            assert_eq!((done.tag, done.status()), (expected, Status::OK));
        }
        true
    })
}

/// Waits until the guest has published its next batch.
fn await_batch(watched: &Area, head: &mut u32) {
    *head = head.wrapping_add(BATCH);
    wait(&NEVER, || {
        watched.load_u32(at::SUBMISSION_TAIL, Load::Acquire) == *head
    });
}

/// The specification's rings, with an answer to everything.
fn ring_alone() -> (Serve, Ask) {
    let (_, area, guests) = memory();
    write_header(&area, AreaLayout::DEFAULT, Features::RING, 0);
    let mut ring = HostRing::new(AreaLayout::DEFAULT);
    let mut head = 0;
    let serve = move || {
        await_batch(&area, &mut head);
        let began = Instant::now();
        let mut turn = ring.turn(&area);
        while let Some(call) = turn.take() {
            turn.finish(&call, Completion::new(call.tag, Status::OK, 0));
        }
        drop(turn);
        began.elapsed()
    };
    (Box::new(serve), guest(guests))
}

struct NoEffects;

impl Effects for NoEffects {
    fn raise(&self, _: u32, _: u8) -> bool {
        false
    }
    fn mark(&self, _: u8, _: Mark) {}
    fn log(&self, _: &str) {}
}

/// All that the polling thread does for a batch but to give the lease.
fn served() -> (Serve, Ask) {
    let (ram, area, guests) = memory();
    let watched = Area::new(&ram, 0, AREA_BYTES).expect("it is one page");
    let shared = Shared {
        ram,
        nr_vcpus: 1,
        areas: Areas::default(),
        totals: Totals::default(),
        io_in_flight: std::sync::atomic::AtomicU32::new(0),
        post_boxes: Vec::new(),
        log_limits: Vec::new(),
        effects: Box::new(NoEffects),
    };
    let mut served = Served::new(0, area, Features::RING, None);
    let mut head = 0;
    let serve = move || {
        await_batch(&watched, &mut head);
        let began = Instant::now();
        let mut budget = Budget::exit();
        assert_eq!(served.drain(&shared, &mut budget, Server::Polling), BATCH);
        began.elapsed()
    };
    (Box::new(serve), guest(guests))
}

/// Plain rings of entries of our sizes.
fn plain(answers: bool) -> (Serve, Ask) {
    let (mut calls, mut host_calls) = rtrb::RingBuffer::<[u64; 8]>::new(BATCH as usize);
    let (mut host_done, mut done) = rtrb::RingBuffer::<[u64; 4]>::new(BATCH as usize);
    let taken = Arc::new(AtomicBool::new(false));
    let host_taken = Arc::clone(&taken);
    let serve = move || {
        wait(&NEVER, || host_calls.slots() == BATCH as usize);
        let began = Instant::now();
        for _ in 0..BATCH {
            let call = std::hint::black_box(host_calls.pop().expect("it was there"));
            if answers {
                host_done.push([call[1], 1, 0, 0]).expect("there is room");
            }
        }
        let time = began.elapsed();
        if !answers {
            host_taken.store(true, Ordering::Release);
        }
        time
    };
    let mut tag = 0;
    let ask = move |stop: &AtomicBool| {
        let first = tag;
        let mut chunk = calls.write_chunk(BATCH as usize).expect("it is empty");
        let (one, two) = chunk.as_mut_slices();
        for slot in one.iter_mut().chain(two) {
            *slot = nop(tag).to_words();
            tag += 1;
        }
        chunk.commit_all();
        if !answers {
            return wait(stop, || taken.swap(false, Ordering::Acquire));
        }
        (first..tag).all(|expected| {
            let mut got = None;
            let is_done = wait(stop, || {
                got = done.pop().ok();
                got.is_some()
            });
            assert!(!is_done || got.is_some_and(|words| words[0] == expected));
            is_done
        })
    };
    (Box::new(serve), Box::new(ask))
}
