//! What the host tells of itself (`[COUNT-1]` and the hints), and what its threads cost when there is
//! nothing to do.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use coopvirt::account::report::ExitReport;
use coopvirt_tests::files::Folder;
use coopvirt_tests::micro::MicroRun;
use coopvirt_tests::MicroGuest;

fn guest() -> MicroGuest {
    MicroGuest::new().arguments(["--mode", "coop"])
}

/// 0.2 % of a minute. Most of it is used in the first seconds, while the naps grow, so the short form may
/// use as much.
const ALLOWED: Duration = Duration::from_millis(120);

/// An idle machine's threads of the interface take less than 0.2 % of a CPU: in a minute with
/// `COOPVIRT_LONG` (`scripts/soak`), else in ten seconds what a minute may take.
#[test]
fn an_idle_sidecore_costs_next_to_nothing() {
    let seconds: u32 = match std::env::var_os("COOPVIRT_LONG") {
        Some(_) => 60,
        None => 10,
    };
    let guest = guest()
        .cpus(2)
        .param("seconds", seconds + 4)
        .limit(Duration::from_secs(150));
    let mut running = guest.start("coop_hints_quiet");
    running.wait_for("quiet");
    // What registering has begun comes to its end.
    std::thread::sleep(Duration::from_secs(3));
    let (start, before) = (Instant::now(), running.cpu_time("coop-"));
    running.wait_for("over");
    let (used, time) = (running.cpu_time("coop-") - before, start.elapsed());
    MicroRun::new(running.finish()).assert_passed();
    let percent = used.as_secs_f64() / time.as_secs_f64() * 100.0;
    eprintln!("{used:?} of CPU time in {time:?}: {percent:.3} %");
    assert!(used < ALLOWED, "{used:?}");
}

/// Threads that keep a host CPU busy.
struct Hogs(Vec<Child>);

impl Hogs {
    fn on_cpu(cpu: usize, count: usize) -> Self {
        let hog = |_| {
            Command::new("taskset")
                .args(["-c", &cpu.to_string(), "sh", "-c", "while :; do :; done"])
                .spawn()
                .expect("taskset")
        };
        Self((0..count).map(hog).collect())
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            // It may have ended by itself, which is as good.
            let _ = hog.kill();
            let _ = hog.wait();
        }
    }
}

/// The guest is told when its CPU is wanted by others, and when it is not.
#[test]
fn contention_is_told() {
    let most = |nr_hogs| {
        let _hogs = Hogs::on_cpu(1, nr_hogs);
        let guest = guest().arguments(["--pin", "1"]).param("seconds", 5);
        let run = guest.run("coop_hints_contention");
        let value = |name| run.value("coop_hints_contention", name);
        let (most, last) = (value("most_permille"), value("last_permille"));
        eprintln!(
            "{nr_hogs} busy threads beside the vCPU: {most} permille at most, {last} at last"
        );
        most
    };
    let (alone, contended) = (most(0), most(2));
    assert!(contended >= 300, "{contended}");
    assert!(contended > alone, "{alone}");
}

#[test]
fn the_idle_word_is_read() {
    let folder = Folder::new();
    let path = folder.path("exits.json");
    let guest = guest()
        .arguments(["--sidecore", "always"])
        .arguments(["--exits".into(), path.clone()]);
    guest.run_to_end("coop_hints_idle_word").assert_passed();
    let text = std::fs::read(path).expect("a report");
    let report: ExitReport = serde_json::from_slice(&text).expect("the report reads back");
    let coop = report.coop.expect("coop mode");
    for event in ["idle_polls", "idle_halts"] {
        let count = coop.events[event];
        assert!((1..=10).contains(&count), "{event}: {count}");
    }
}
