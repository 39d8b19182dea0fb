//! Eight guests at once from one image that is read-only for all of them, and the memory that they take together: by
//! `Rss`, where pages that two share count twice, and by `Pss`, where they count once.

use std::time::Duration;

use coopvirt_tests::tools;
use coopvirt_tests::Running;
use rustix::process::Signal;

const GUESTS: usize = 8;
const MEMORY: &str = "128M";

#[test]
fn eight_guests_of_one_image() {
    let start = |_| {
        tools::guest("wait")
            .memory(MEMORY)
            .limit(Duration::from_secs(600))
            .start()
    };
    let mut running: Vec<Running> = (0..GUESTS).map(start).collect();
    running
        .iter_mut()
        .for_each(|guest| guest.wait_for("\"ready\""));
    let sum = |what| -> u64 { running.iter().map(|guest| guest.memory_kib(what)).sum() };
    let (resident, proportional) = (sum("Rss:") >> 10, sum("Pss:") >> 10);
    eprintln!("{GUESTS} guests of {MEMORY}: {resident} MiB Rss, {proportional} MiB Pss");
    // No guest has more than its memory and what a machine needs itself.
    assert!(resident <= (128 + 32) * GUESTS as u64, "{resident} MiB");
    for guest in running {
        guest.signal(Signal::TERM);
        let outcome = guest.finish();
        assert_eq!(outcome.status(), 128 + 15, "{}", outcome.stderr);
    }
}
