//! Reads the records (`[REC-1]` to `[REC-3]`) that a guest sent over its console.
//!
//! Guest text is hostile: sizes are bounded, unknown things are ignored, strings are cleaned before
//! anybody prints them, and nothing here panics. Pure; called by [`super::launch`].

use std::collections::BTreeMap;

use coopvirt_spec::record;
use coopvirt_spec::work::Work;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A longer line is no record.
const MAX_LINE_BYTES: usize = 16 << 10;
/// What Linux says when it gives up (`kernel/panic.c`).
const KERNEL_PANIC: &str = "Kernel panic - not syncing";
/// More records than this are ignored.
const MAX_RECORDS: usize = 256;
/// More log lines than this are dropped.
const MAX_LOG_LINES: usize = 32;
/// A curve has no more points.
const MAX_CURVE: usize = 64;
/// Longer strings are cut.
const MAX_TEXT_CHARS: usize = 160;

/// What the guest found itself to be running on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// Release of the guest's kernel.
    pub kernel: String,
    /// Current clock source.
    pub clocksource: String,
    /// Clock event device of CPU 0.
    pub clockevent: String,
    /// APIC driver.
    pub apic: String,
    /// cpuidle driver and governor: "haltpoll/haltpoll".
    pub idle: String,
    /// Hypervisor that the kernel recognized.
    pub hypervisor: String,
    /// Online vCPUs.
    pub cpus: u64,
    /// State of our module: "none", "loaded", or why it is not.
    pub module: String,
    /// Features of KVM's leaf, in hexadecimal, if the guest sees one.
    pub kvm_features: Option<String>,
    /// What the kernel's log says about paravirtual features.
    pub kvm_log: Vec<String>,
    /// Where the kernel's text begins, in hexadecimal, if the guest knows it. Another one in each
    /// boot.
    pub kernel_text: Option<String>,
}

/// Latency of one operation, nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// Number of operations timed.
    pub n: u64,
    /// Shortest.
    pub min: u64,
    /// Median.
    pub median: u64,
    /// 99th percentile.
    pub p99: u64,
    /// Longest.
    pub max: u64,
    /// Per mille of all operations, and what these did not exceed, for the curve of a plot.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<(u32, u64)>,
}

/// One work as the guest saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct WorkRecord {
    /// Operations done.
    pub ops: u64,
    /// The work's own check.
    pub ok: bool,
    /// What went wrong.
    pub error: Option<String>,
    /// Time the work took by the guest's clock.
    pub elapsed_ns: u64,
    /// Latency per operation, where it is known.
    pub latency_ns: Option<Latency>,
    /// Figures that only this work has.
    pub detail: Option<Value>,
}

/// What a guest says of our module when it has loaded or unloaded it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModuleRecord {
    /// "loaded", "unloaded", or why it is not.
    pub state: String,
    /// Warnings of the guest's kernel since it was loaded.
    pub trouble: Vec<String>,
    /// The module's own counters, by vCPU and name.
    pub counters: BTreeMap<String, BTreeMap<String, u64>>,
}

/// All that a guest said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    /// Its platform; the last one if it sent several.
    pub platform: Option<Platform>,
    /// Its works, by work.
    pub works: BTreeMap<Work, WorkRecord>,
    /// Works that it could not do, and why.
    pub skipped: BTreeMap<Work, String>,
    /// What it said of our module, in order.
    pub modules: Vec<ModuleRecord>,
    /// Number of works that it says it has done, from its `done` record.
    pub done: Option<u64>,
    /// Why the guest could not go on, from its `error` record.
    pub error: Option<String>,
    /// Lines that began like a record and were none.
    pub malformed: u64,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line {
    Platform(Platform),
    Work {
        work: String,
        #[serde(flatten)]
        record: WorkRecord,
    },
    Skip {
        work: String,
        #[serde(default)]
        reason: String,
    },
    Module(ModuleRecord),
    Done {
        works: u64,
    },
    Error {
        #[serde(default)]
        error: String,
    },
    #[serde(other)]
    Unknown,
}

/// Parses a whole console.
pub fn parse(console: &[u8]) -> Records {
    let mut records = Records::default();
    let mut seen = 0;
    for line in console.split(|byte| *byte == b'\n') {
        if line.len() > MAX_LINE_BYTES {
            continue;
        }
        let line = String::from_utf8_lossy(line);
        let Some(json) = record::find_in_line(&line) else {
            continue;
        };
        seen += 1;
        if seen > MAX_RECORDS {
            break;
        }
        match serde_json::from_str(json) {
            Ok(line) => records.add(line),
            Err(_) => records.malformed += 1,
        }
    }
    records
}

impl Records {
    fn add(&mut self, line: Line) {
        match line {
            Line::Platform(mut platform) => {
                for text in [
                    &mut platform.kernel,
                    &mut platform.clocksource,
                    &mut platform.clockevent,
                    &mut platform.apic,
                    &mut platform.idle,
                    &mut platform.hypervisor,
                    &mut platform.module,
                ] {
                    *text = clean(text);
                }
                platform.kvm_features = platform.kvm_features.map(|text| clean(&text));
                platform.kernel_text = platform.kernel_text.map(|text| clean(&text));
                platform.kvm_log.truncate(MAX_LOG_LINES);
                platform
                    .kvm_log
                    .iter_mut()
                    .for_each(|line| *line = clean(line));
                self.platform = Some(platform);
            }
            Line::Work { work, mut record } => {
                let Some(work) = Work::from_name(&work) else {
                    return;
                };
                record.error = record.error.map(|text| clean(&text));
                if let Some(latency) = &mut record.latency_ns {
                    latency.curve.truncate(MAX_CURVE);
                }
                self.works.insert(work, record);
            }
            Line::Skip { work, reason } => {
                let Some(work) = Work::from_name(&work) else {
                    return;
                };
                self.skipped.insert(work, clean(&reason));
            }
            Line::Module(mut module) => {
                module.state = clean(&module.state);
                module.trouble.truncate(MAX_LOG_LINES);
                module
                    .trouble
                    .iter_mut()
                    .for_each(|line| *line = clean(line));
                let counters = std::mem::take(&mut module.counters).into_iter();
                module.counters = counters
                    .map(|(cpu, of_cpu)| {
                        let of_cpu = of_cpu.into_iter();
                        let of_cpu = of_cpu.map(|(name, value)| (clean(&name), value));
                        (clean(&cpu), of_cpu.collect())
                    })
                    .collect();
                self.modules.push(module);
            }
            Line::Done { works } => self.done = Some(works),
            Line::Error { error } => self.error = Some(clean(&error)),
            Line::Unknown => {}
        }
    }

    /// Why the run as a whole has failed, if it has (`[REC-3]`). Failures of single works are not
    /// among it.
    pub fn failure(&self) -> Option<String> {
        if let Some(error) = &self.error {
            return Some(format!("the guest could not go on: {error}"));
        }
        let Some(done) = self.done else {
            let last = self
                .works
                .keys()
                .next_back()
                .map_or("none", |work| work.name());
            return Some(format!(
                "the guest did not finish (last work reported: {last})"
            ));
        };
        let reported = self.works.len() as u64;
        if done != reported {
            return Some(format!(
                "the guest says it did {done} works, but {reported} were reported"
            ));
        }
        if self.platform.is_none() {
            return Some("the guest sent no platform record".into());
        }
        None
    }
}

/// Text of a guest made fit for a terminal: one line, no control characters, bounded.
pub fn clean(text: &str) -> String {
    let spaced: String = text
        .chars()
        .take(MAX_LINE_BYTES)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let mut chars = spaced.trim().chars();
    let mut cleaned: String = chars.by_ref().take(MAX_TEXT_CHARS).collect();
    if chars.next().is_some() {
        cleaned.push('…');
    }
    cleaned
}

/// The last lines of a console, cleaned; before them what the kernel died of, where that lies further
/// back: a panic's reason comes first, and registers and calls behind it fill many lines.
pub fn tail(console: &[u8], lines: usize) -> Vec<String> {
    let start = console.len().saturating_sub(MAX_LINE_BYTES);
    let text = String::from_utf8_lossy(&console[start..]);
    let all: Vec<_> = text
        .lines()
        .map(clean)
        .filter(|line| !line.is_empty())
        .collect();
    let (before, last) = all.split_at(all.len().saturating_sub(lines));
    let reason = before.iter().rfind(|line| line.contains(KERNEL_PANIC));
    reason.into_iter().chain(last).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[    0.1] noise without a newline @coopvirt {"type":"platform","kernel":"6.12","clocksource":"tsc","clockevent":"lapic-deadline","apic":"x2apic","idle":"none","hypervisor":"KVM","cpus":2}
@coopvirt {"type":"work","work":"boot","ops":1,"ok":true,"elapsed_ns":5,"latency_ns":null}
@coopvirt {"type":"work","work":"pipe","ops":1000,"ok":true,"elapsed_ns":9,"latency_ns":{"n":1000,"min":1,"median":2,"p99":3,"max":4},"new":1}
@coopvirt {"type":"skip","work":"read1","reason":"no disk"}
@coopvirt {"type":"weather","rain":true}
@coopvirt {"type":"done","works":2}
"#;

    #[test]
    fn rec_1_to_3_a_good_console_is_read() {
        let records = parse(GOOD.as_bytes());
        assert_eq!(records.failure(), None);
        assert_eq!(records.malformed, 0);
        assert_eq!(
            records.platform.as_ref().unwrap().clockevent,
            "lapic-deadline"
        );
        assert_eq!(
            records.works[&Work::Pipe].latency_ns.as_ref().unwrap().p99,
            3
        );
        assert_eq!(records.skipped[&Work::Read1], "no disk");
    }

    #[test]
    fn rec_3_silence_is_failure() {
        assert!(parse(b"")
            .failure()
            .unwrap()
            .contains("last work reported: none"));
        let cut = GOOD.replace("\"done\"", "\"gone\"");
        assert!(parse(cut.as_bytes())
            .failure()
            .unwrap()
            .contains("last work reported: pipe"));
        let wrong = GOOD.replace("\"works\":2", "\"works\":3");
        assert!(parse(wrong.as_bytes())
            .failure()
            .unwrap()
            .contains("3 works"));
        let error = format!("{GOOD}@coopvirt {{\"type\":\"error\",\"error\":\"no port\"}}");
        assert!(parse(error.as_bytes())
            .failure()
            .unwrap()
            .ends_with("go on: no port"));
        let no_platform = GOOD.replace("\"platform\"", "\"plat\"");
        assert!(parse(no_platform.as_bytes()).failure().is_some());
    }

    #[test]
    fn what_is_said_of_the_module_is_kept_in_order() {
        let text = concat!(
            r#"@coopvirt {"type":"module","state":"loaded","log":["coopvirt: loaded"]}"#,
            "\n",
            r#"@coopvirt {"type":"module","state":"unloaded","trouble":["WARNING: CPU: 0\u0007"],"#,
            r#""counters":{"cpu0":{"halts":2}}}"#,
        );
        let modules = parse(text.as_bytes()).modules;
        assert_eq!(modules.len(), 2);
        assert_eq!(modules[0].trouble, [""; 0]);
        assert_eq!(modules[1].trouble, ["WARNING: CPU: 0"]);
        assert_eq!(modules[1].counters["cpu0"]["halts"], 2);
    }

    #[test]
    fn hostile_lines_are_counted_or_ignored_and_never_panic() {
        let hostile: [&[u8]; 9] = [
            b"@coopvirt ",
            b"@coopvirt {\"type\":\"done\",\"works\":-1}",
            b"@coopvirt {\"type\":\"done\",\"works\":1e99}",
            b"@coopvirt {\"type\":\"work\",\"work\":7}",
            b"@coopvirt {\"type\":\"work\",\"work\":\"pipe\",\"ops\":18446744073709551616}",
            b"@coopvirt [[[[[[",
            b"@coopvirt {\"type\":\"platform\",\"kernel\":\"\xff\xfe",
            b"@coopvirt {\"type\":\"platform\",\"cpus\":\"two\"}",
            b"@coopvirt \x00\x01",
        ];
        let records = parse(&hostile.join(&b'\n'));
        assert_eq!(records.malformed, 9);
        assert_eq!(
            Records {
                malformed: 0,
                ..records
            },
            Records::default()
        );
        let unknown = parse(b"@coopvirt {\"type\":\"work\",\"work\":\"mine\",\"ops\":1}");
        assert_eq!(unknown, Records::default());
    }

    #[test]
    fn floods_and_long_lines_are_bounded() {
        let line = b"@coopvirt {\"type\":\"done\",\"works\":1}\n";
        let mut flood = b"@coopvirt x\n".repeat(MAX_RECORDS);
        flood.extend_from_slice(line);
        assert_eq!(parse(&flood).done, None);
        let deep = format!("@coopvirt {}", "[".repeat(MAX_LINE_BYTES));
        assert_eq!(parse(deep.as_bytes()), Records::default());
        let deep = format!("@coopvirt {}", "[".repeat(MAX_LINE_BYTES / 2));
        assert_eq!(parse(deep.as_bytes()).malformed, 1);
    }

    #[test]
    fn text_is_cleaned_for_terminals() {
        assert_eq!(clean("a\x1b[31mb\x07\r"), "a [31mb");
        assert_eq!(clean(&"x".repeat(500)).chars().count(), MAX_TEXT_CHARS + 1);
        assert_eq!(tail(b"a\n\n\x1b[2Jb\r\nc\n", 2), ["[2Jb", "c"]);
        assert_eq!(tail(b"", 5), Vec::<String>::new());
        let died = b"x\nKernel panic - not syncing: y\nRIP\nRAX\nRBX\n";
        let reason = "Kernel panic - not syncing: y";
        assert_eq!(tail(died, 2), [reason, "RAX", "RBX"]);
        assert_eq!(tail(died, 4), [reason, "RIP", "RAX", "RBX"]);
    }
}
