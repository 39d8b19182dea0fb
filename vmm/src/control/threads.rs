//! CPU time of this process's threads, from `/proc`.

use std::collections::BTreeMap;
use std::fs;

/// CPU time in nanoseconds of the threads that run now, those of one name together: "vcpu0", "io",
/// "coop-poll". The kernel's own threads for vhost queues are among them from Linux 6.4 on, as "vhost";
/// before that they are no threads of this process.
pub(super) fn cpu_ns() -> BTreeMap<String, u64> {
    let mut times = BTreeMap::new();
    let Ok(tasks) = fs::read_dir("/proc/self/task") else {
        return times;
    };
    for task in tasks.flatten() {
        let read = |file| fs::read_to_string(task.path().join(file));
        // One that has ended in between is gone.
        let (Ok(name), Ok(stat)) = (read("comm"), read("schedstat")) else {
            continue;
        };
        let nanos = stat.split_whitespace().next();
        if let Some(nanos) = nanos.and_then(|nanos| nanos.parse::<u64>().ok()) {
            *times.entry(plain(name.trim_end())).or_default() += nanos;
        }
    }
    times
}

/// The kernel names its threads "vhost-PID".
fn plain(name: &str) -> String {
    match name.strip_prefix("vhost-") {
        Some(_) => "vhost".into(),
        None => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_thread_is_among_them() {
        let all = cpu_ns();
        assert!(!all.is_empty());
        assert!(all.values().any(|nanos| *nanos > 0), "{all:?}");
        assert_eq!(plain("vhost-1234"), "vhost");
        assert_eq!(plain("vcpu0"), "vcpu0");
    }
}
