//! The guest's kernel module: loaded before the works and unloaded behind them, if that is asked for.
//!
//! `runner` calls it. What the module and the kernel say meanwhile goes into `module` records, so that
//! a run can be judged by them; without `coopvirt.module=` nothing here does anything.

use crate::platform::idle_driver;
use crate::sys::boot;
use serde_json::{json, Map, Value};
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Where `scripts/guest-initrd --module` puts it.
const FILE: &str = "/lib/coopvirt/coopvirt.ko";
const NAME: &std::ffi::CStr = c"coopvirt";
const COUNTERS: &str = "/sys/kernel/debug/coopvirt/counters";
const STATE: &str = "/sys/kernel/debug/coopvirt/state";
const SELFTEST: &str = "/sys/kernel/debug/coopvirt/selftest";

/// What begins the module's own lines of the kernel's log.
const OWN_LINE: &str = "coopvirt: ";
/// What the kernel says when something is wrong with it.
const TROUBLE: [&str; 7] = [
    "WARNING:",
    "BUG:",
    "Oops",
    "general protection fault",
    "rcu: INFO",
    "blocked for more than",
    "Unable to handle",
];

/// What became of the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nobody asked for it.
    None,
    /// It is loaded.
    Loaded,
    /// The kernel, or the module itself, refused to load it: the error number.
    Refused(i32),
}

/// Whether there is one to load.
pub(crate) fn is_there() -> bool {
    Path::new(FILE).exists()
}

/// Loads it, with parameters separated by spaces.
pub(crate) fn load_once(params: &str) -> io::Result<()> {
    File::open(FILE).and_then(|file| boot::load_module(&file, params))
}

/// Unloads it.
pub(crate) fn unload_once() -> io::Result<()> {
    boot::unload_module(NAME)
}

/// Time of the last line of the kernel's log.
pub(crate) fn log_time() -> f64 {
    kernel_log().lines().rev().find_map(time_of).unwrap_or(0.0)
}

/// The kernel's warnings since then.
pub(crate) fn trouble_since(since: f64) -> Vec<String> {
    let log = kernel_log();
    let lines = lines_since(&log, since);
    let bad = lines.filter(|line| TROUBLE.iter().any(|word| line.contains(word)));
    bad.map(str::to_string).collect()
}

impl State {
    /// The word for records.
    pub(crate) fn text(&self) -> String {
        match self {
            State::None => "none".to_string(),
            State::Loaded => "loaded".to_string(),
            State::Refused(errno) => format!("refused: {errno}"),
        }
    }
}

/// The module, from before the works to behind them.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) state: State,
    params: String,
    /// Time of the kernel's last line before.
    since: f64,
}

impl Module {
    /// Loads it with these parameters, separated by commas; `None` for not at all.
    pub(crate) fn load(params: Option<&str>) -> Module {
        let Some(params) = params else {
            return Module {
                state: State::None,
                params: String::new(),
                since: 0.0,
            };
        };
        let since = log_time();
        let params = params.replace(',', " ");
        let state = match load_once(&params) {
            Ok(()) => State::Loaded,
            Err(error) => State::Refused(errno(&error)),
        };
        Module {
            state,
            params,
            since,
        }
    }

    /// What there is to say once it is loaded, if anybody asked for it.
    pub(crate) fn loaded_record(&self) -> Option<Value> {
        if self.state == State::None {
            return None;
        }
        Some(json!({
            "type": "module",
            "state": self.state.text(),
            "params": self.params,
            "idle": idle_driver(),
            "log": self.own_lines(),
            "text": fs::read_to_string(STATE).unwrap_or_default(),
            "selftest": fs::read_to_string(SELFTEST).unwrap_or_default(),
            "trouble": self.trouble(),
        }))
    }

    /// What it has counted so far; `None` if it is not loaded.
    pub(crate) fn counters_record(&self, rep: u32) -> Option<Value> {
        if self.state != State::Loaded {
            return None;
        }
        let counters = fs::read_to_string(COUNTERS).unwrap_or_default();
        Some(json!({ "type": "counters", "rep": rep, "counters": counters_of(&counters) }))
    }

    /// Unloads it, and says how that went and what it had counted; `None` if it was not loaded.
    pub(crate) fn unload(&self) -> Option<(Value, bool)> {
        if self.state != State::Loaded {
            return None;
        }
        let counters = fs::read_to_string(COUNTERS).unwrap_or_default();
        let result = unload_once();
        let state = match &result {
            Ok(()) => "unloaded".to_string(),
            Err(error) => format!("stuck: {}", errno(error)),
        };
        let trouble = self.trouble();
        let is_well = result.is_ok() && trouble.is_empty();
        let record = json!({
            "type": "module",
            "state": state,
            "idle": idle_driver(),
            "counters": counters_of(&counters),
            "log": self.own_lines(),
            "trouble": trouble,
        });
        Some((record, is_well))
    }

    fn own_lines(&self) -> Vec<String> {
        let log = kernel_log();
        let lines = lines_since(&log, self.since);
        let own = lines.filter_map(|line| line.find(OWN_LINE).and_then(|at| line.get(at..)));
        own.map(str::to_string).collect()
    }

    fn trouble(&self) -> Vec<String> {
        trouble_since(self.since)
    }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

fn kernel_log() -> String {
    boot::read_kernel_log().unwrap_or_default()
}

/// The time of a line such as `<6>[    1.250479] text`.
fn time_of(line: &str) -> Option<f64> {
    let (_, rest) = line.split_once('[')?;
    let (time, _) = rest.split_once(']')?;
    time.trim().parse().ok()
}

fn lines_since(log: &str, since: f64) -> impl Iterator<Item = &str> {
    log.lines()
        .filter(move |line| time_of(line).is_some_and(|time| time > since))
}

/// Lines such as `cpu0 idle_polled 7` as `{"cpu0": {"idle_polled": 7}}`.
fn counters_of(text: &str) -> Value {
    let mut cpus = Map::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(cpu), Some(name), Some(Ok(value)), None) = (
            words.next(),
            words.next(),
            words.next().map(str::parse::<u64>),
            words.next(),
        ) else {
            continue;
        };
        let counters = cpus.entry(cpu).or_insert_with(|| json!({}));
        counters[name] = json!(value);
    }
    Value::Object(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_since_the_load_count() {
        let log = "<4>[    1.000100] WARNING: CPU: 0\n<6>[    2.500000] coopvirt: loaded\n\
                   continued WARNING: without a time\n<4>[   10.000001] BUG: x\n";
        let lines: Vec<_> = lines_since(log, 2.0).collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[1].contains("BUG"));
        assert_eq!(time_of("<6>[   12.5] x"), Some(12.5));
        assert_eq!(time_of("no time"), None);
    }

    #[test]
    fn counters_are_grouped_by_cpu() {
        let text = "cpu0 idle_polled 7\ncpu0 halts 2\ncpu1 offline\ncpu2 a 1 2\n";
        assert_eq!(
            counters_of(text),
            json!({"cpu0": {"idle_polled": 7, "halts": 2}})
        );
    }

    #[test]
    fn without_the_setting_nothing_is_loaded_or_said() {
        let module = Module::load(None);
        assert_eq!(module.state.text(), "none");
        assert!(module.loaded_record().is_none() && module.unload().is_none());
    }

    #[test]
    fn a_module_that_is_not_there_is_refused() {
        let module = Module::load(Some("idle=0,level=1"));
        assert_eq!(module.state, State::Refused(libc::ENOENT));
        assert_eq!(module.params, "idle=0 level=1");
        assert!(module.unload().is_none());
    }
}
