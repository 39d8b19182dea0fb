//! The accounting identity: independent counts of the same exits must agree.
//!
//! A report that shows figures also shows this, so that nobody has to believe one counter.

use serde::{Deserialize, Serialize};

use super::model::Trace;

/// Two counts may differ by this much: events of the last moment, seen by one side only.
const TOLERANCE_PERCENT: f64 = 1.0;

/// A count, or why there is none.
pub type Reading = Result<u64, String>;

/// What is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// `kvm_exit` events.
    pub tracepoint_exits: Reading,
    /// Sum of the exits by reason.
    pub by_reason_sum: Reading,
    /// Sum of `exits` of all vCPUs in KVM's binary statistics.
    pub stats_fd_exits: Reading,
    /// `kvm_userspace_exit` events.
    pub tracepoint_userspace: Reading,
    /// The VMM's own count of `KVM_RUN` returns.
    pub vmm_run_returns: Reading,
    /// Events that the kernel dropped.
    pub lost: Reading,
    /// Host CPUs that went offline or came while it was traced.
    pub untraced_cpus: Vec<usize>,
}

/// The comparison of two counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What is compared, left then right.
    pub name: String,
    /// The left count.
    pub left: Option<u64>,
    /// The right count.
    pub right: Option<u64>,
    /// By how much they differ, in percent of the larger.
    pub difference_percent: Option<f64>,
    /// Whether they agree; `None` if that could not be checked.
    pub is_ok: Option<bool>,
    /// Why it could not be checked.
    pub not_checked: Option<String>,
}

/// What all checks say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything was checked and agrees.
    Agree,
    /// What was checked agrees, something was not checked.
    AgreeInPart,
    /// Something disagrees.
    Disagree,
    /// Nothing could be checked.
    NotChecked,
}

/// All checks and the verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// The checks.
    pub checks: Vec<Check>,
    /// What they say together.
    pub verdict: Verdict,
    /// Which counts are known to be too low and why, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub too_low: Option<String>,
}

impl Inputs {
    /// What a trace (or the reason why there is none) contributes; the rest is the caller's.
    pub fn from_trace(trace: Result<&Trace, &str>) -> Inputs {
        let of = |count: fn(&Trace) -> u64| trace.map(count).map_err(str::to_string);
        let unknown = || Err("the vmm did not count".to_string());
        Inputs {
            tracepoint_exits: of(|trace| trace.whole.total),
            by_reason_sum: of(|trace| trace.whole.by_reason.values().sum()),
            stats_fd_exits: unknown(),
            tracepoint_userspace: of(|trace| trace.whole.userspace),
            vmm_run_returns: unknown(),
            lost: of(|trace| trace.lost),
            untraced_cpus: trace.map_or_else(|_| Vec::new(), |trace| trace.untraced_cpus.clone()),
        }
    }
}

/// Compares everything that is there.
pub fn check(inputs: &Inputs) -> Identity {
    let checks = vec![
        compare(
            "tracepoint",
            &inputs.tracepoint_exits,
            "stats fd",
            &inputs.stats_fd_exits,
        ),
        compare(
            "tracepoint userspace",
            &inputs.tracepoint_userspace,
            "vmm's KVM_RUN returns",
            &inputs.vmm_run_returns,
        ),
        exact(
            "sum by reason",
            &inputs.by_reason_sum,
            "tracepoint",
            &inputs.tracepoint_exits,
        ),
        exact("lost events", &inputs.lost, "none", &Ok(0)),
    ];
    let too_low = untraced(&inputs.untraced_cpus);
    let verdict = match too_low {
        // Within the tolerance, perhaps, but not to be relied on.
        Some(_) => Verdict::Disagree,
        None => verdict(&checks),
    };
    Identity {
        checks,
        verdict,
        too_low,
    }
}

/// What is missing if these host CPUs were not traced all the time.
pub fn untraced(cpus: &[usize]) -> Option<String> {
    let cpus: Vec<String> = cpus.iter().map(ToString::to_string).collect();
    let which = match cpus.as_slice() {
        [] => return None,
        [one] => format!("host CPU {one}"),
        _ => format!("host CPUs {}", cpus.join(", ")),
    };
    Some(format!(
        "{which} went offline or came while exits were traced: those on it since then are missing from \
         all counts by tracepoints (totals, reasons, causes, phases); KVM's statistics and the VMM's own \
         count have them"
    ))
}

impl Identity {
    /// One line of text for each check, and one for what is known to be missing.
    pub fn lines(&self) -> Vec<String> {
        let missing = self.too_low.iter();
        let missing = missing.map(|what| format!("identity: {what}"));
        self.checks.iter().map(Check::line).chain(missing).collect()
    }
}

impl Check {
    /// The check as one line: "identity: tracepoint 12345 = stats fd 12345 (0.00 %)".
    pub fn line(&self) -> String {
        let (left_name, right_name) = self.name.split_once(" = ").unwrap_or((&self.name, ""));
        match (self.left, self.right, self.difference_percent, self.is_ok) {
            (Some(left), Some(right), Some(percent), Some(is_ok)) => {
                let (sign, end) = if is_ok {
                    ("=", "")
                } else {
                    ("!=", ": DISAGREES")
                };
                format!(
                    "identity: {left_name} {left} {sign} {right_name} {right} ({percent:.2} %){end}"
                )
            }
            _ => {
                let reason = self.not_checked.as_deref().unwrap_or("unknown");
                format!("identity: {}: not checked: {reason}", self.name)
            }
        }
    }
}

fn compare(left_name: &str, left: &Reading, right_name: &str, right: &Reading) -> Check {
    within(TOLERANCE_PERCENT, left_name, left, right_name, right)
}

fn exact(left_name: &str, left: &Reading, right_name: &str, right: &Reading) -> Check {
    within(0.0, left_name, left, right_name, right)
}

fn within(
    tolerance_percent: f64,
    left_name: &str,
    left: &Reading,
    right_name: &str,
    right: &Reading,
) -> Check {
    let name = format!("{left_name} = {right_name}");
    let (left, right) = match (left, right) {
        (Ok(left), Ok(right)) => (*left, *right),
        (Err(reason), _) | (_, Err(reason)) => {
            return Check {
                name,
                left: left.as_ref().ok().copied(),
                right: right.as_ref().ok().copied(),
                difference_percent: None,
                is_ok: None,
                not_checked: Some(reason.clone()),
            }
        }
    };
    let percent = difference_percent(left, right);
    Check {
        name,
        left: Some(left),
        right: Some(right),
        difference_percent: Some(percent),
        is_ok: Some(percent <= tolerance_percent),
        not_checked: None,
    }
}

fn difference_percent(left: u64, right: u64) -> f64 {
    let larger = left.max(right);
    if larger == 0 {
        return 0.0;
    }
    left.abs_diff(right) as f64 * 100.0 / larger as f64
}

fn verdict(checks: &[Check]) -> Verdict {
    let nr_ok = checks
        .iter()
        .filter(|check| check.is_ok == Some(true))
        .count();
    match () {
        () if checks.iter().any(|check| check.is_ok == Some(false)) => Verdict::Disagree,
        () if nr_ok == 0 => Verdict::NotChecked,
        () if nr_ok == checks.len() => Verdict::Agree,
        () => Verdict::AgreeInPart,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(tracepoint: u64, stats: u64) -> Inputs {
        Inputs {
            tracepoint_exits: Ok(tracepoint),
            by_reason_sum: Ok(tracepoint),
            stats_fd_exits: Ok(stats),
            tracepoint_userspace: Ok(10),
            vmm_run_returns: Ok(10),
            lost: Ok(0),
            untraced_cpus: Vec::new(),
        }
    }

    #[test]
    fn equal_counts_agree() {
        let identity = check(&inputs(12345, 12345));
        assert_eq!(identity.verdict, Verdict::Agree);
        assert_eq!(
            identity.lines()[0],
            "identity: tracepoint 12345 = stats fd 12345 (0.00 %)"
        );
    }

    #[test]
    fn counts_one_percent_apart_agree_and_more_do_not() {
        assert_eq!(check(&inputs(990, 1000)).verdict, Verdict::Agree);
        let identity = check(&inputs(980, 1000));
        assert_eq!(identity.verdict, Verdict::Disagree);
        assert_eq!(
            identity.lines()[0],
            "identity: tracepoint 980 != stats fd 1000 (2.00 %): DISAGREES"
        );
    }

    #[test]
    fn lost_events_and_a_wrong_sum_are_never_tolerated() {
        let lost = Inputs {
            lost: Ok(1),
            ..inputs(100_000, 100_000)
        };
        assert_eq!(check(&lost).verdict, Verdict::Disagree);
        let sum = Inputs {
            by_reason_sum: Ok(99_999),
            ..inputs(100_000, 100_000)
        };
        assert_eq!(check(&sum).verdict, Verdict::Disagree);
    }

    #[test]
    fn a_host_cpu_that_was_not_traced_is_the_reason_and_is_said() {
        let mut gone = inputs(999, 1000);
        gone.untraced_cpus = vec![2];
        let identity = check(&gone);
        assert_eq!(identity.verdict, Verdict::Disagree);
        let last = identity.lines().pop().unwrap();
        assert!(
            last.starts_with("identity: host CPU 2 went offline or came"),
            "{last}"
        );
        assert!(
            last.contains("missing from all counts by tracepoints"),
            "{last}"
        );
        gone.untraced_cpus = vec![1, 3];
        let last = check(&gone).lines().pop().unwrap();
        assert!(last.contains("host CPUs 1, 3 went"), "{last}");
        assert_eq!(check(&inputs(5, 5)).too_low, None);
    }

    #[test]
    fn what_is_missing_is_said() {
        let peer = Inputs {
            stats_fd_exits: Err("a peer's vm".into()),
            ..inputs(5, 5)
        };
        let identity = check(&peer);
        assert_eq!(identity.verdict, Verdict::AgreeInPart);
        assert_eq!(
            identity.lines()[0],
            "identity: tracepoint = stats fd: not checked: a peer's vm"
        );
        let none = check(&Inputs::from_trace(Err("no root")));
        assert_eq!(none.verdict, Verdict::NotChecked);
        assert_eq!(check(&inputs(0, 0)).verdict, Verdict::Agree);
    }
}
