//! What the guest's module exchanges while it is in, as the kernel shows it: the functions of the clock event devices
//! (`/proc/timer_list`) and the idle driver.
//!
//! `works::cycles` reads it before the first load, while the module is in, and behind the last unload. The functions
//! that interrupt other CPUs the kernel shows nowhere; but what an unloaded module leaves in them is no code any more,
//! so that the next such interrupt would be the kernel's last.

use crate::platform::idle_driver;
use std::fs;
use std::path::Path;

const TIMER_LIST: &str = "/proc/timer_list";
/// What begins the lines that name a device and its functions.
const LINES: [&str; 8] = [
    "Clock Event Device:",
    "set_next_event:",
    "shutdown:",
    "periodic:",
    "oneshot:",
    "oneshot stopped:",
    "resume:",
    "event_handler:",
];

/// The idle driver, then a line for each device and function.
pub(crate) fn read() -> Result<Vec<String>, String> {
    let text = fs::read_to_string(TIMER_LIST).map_err(|error| format!("{TIMER_LIST}: {error}"))?;
    let mut lines = vec![format!("idle driver: {}", idle_driver())];
    lines.extend(functions(&text));
    Ok(lines)
}

fn functions(timer_list: &str) -> impl Iterator<Item = String> + '_ {
    let lines = timer_list.lines().map(str::trim);
    let found = lines.filter(|line| LINES.iter().any(|start| line.starts_with(start)));
    found.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Takes the last CPU away and brings it back, if there are two or more and it can go.
pub(crate) fn replug_last_cpu(cpus: &[usize]) -> Result<(), String> {
    let Some(last) = cpus.last().filter(|&&cpu| cpu > 0) else {
        return Ok(());
    };
    let file = format!("/sys/devices/system/cpu/cpu{last}/online");
    if !Path::new(&file).exists() {
        return Ok(());
    }
    let write = |value| fs::write(&file, value).map_err(|error| format!("{file}: {error}"));
    write("0")?;
    write("1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_and_figures_are_left_out() {
        let text = "Tick Device: mode:     1\nPer CPU device: 0\nClock Event Device: lapic-deadline\n\
                    \x20max_delta_ns:   1100\n next_event:     1192 nsecs\n set_next_event: lapic_next_deadline\n\
                    \x20oneshot stopped: x\n retries:        55\n";
        let lines: Vec<_> = functions(text).collect();
        let expected = [
            "Clock Event Device: lapic-deadline",
            "set_next_event: lapic_next_deadline",
            "oneshot stopped: x",
        ];
        assert_eq!(lines, expected);
    }
}
