//! What a row knows of its exits beyond their number: places, durations, whose CPU time, the curve of
//! latencies.
//!
//! Pure; called by [`super::summary`] for each row, shown by [`super::waterfall`], [`super::table`]
//! and [`super::html`].

use std::collections::BTreeMap;

use serde::Serialize;

use super::model::Sample;
use super::stats;
use crate::account::durations::Durations;

/// Of a row's samples, per operation where not said otherwise; means over runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Attribution {
    /// Share of all exits with a cause beyond the reason, in percent; `None` where nothing was
    /// traced.
    pub explained_percent: Option<f64>,
    /// Exits by reason and the guest's instruction, most first.
    pub places: Vec<(String, f64)>,
    /// CPU time by kind of thread, nanoseconds, where it is known.
    pub threads_ns: BTreeMap<String, f64>,
    /// Time of all vCPUs in the guest, nanoseconds, where durations were traced.
    pub guest_ns: Option<f64>,
    /// Durations of all samples' exits together, by reason.
    pub durations: BTreeMap<String, Durations>,
    /// Points of the distribution of latencies: per mille of the operations, nanoseconds; medians
    /// over runs.
    pub curve: Vec<(u32, f64)>,
}

impl Attribution {
    /// Of the samples of one row.
    pub fn of(samples: &[&Sample]) -> Attribution {
        let traced = samples.iter().filter(|s| !s.counts.by_cause.is_empty());
        let (total, unexplained) = traced.fold((0, 0), |(total, unexplained), sample| {
            let counts = &sample.counts;
            (total + counts.total, unexplained + counts.unexplained)
        });
        let known = total.saturating_sub(unexplained);
        let mut durations: BTreeMap<String, Durations> = BTreeMap::new();
        for (reason, of_reason) in samples.iter().flat_map(|s| &s.counts.durations) {
            durations
                .entry(reason.clone())
                .or_default()
                .merge(of_reason);
        }
        let guest_ns = means(samples, |sample| {
            let guest_ns = sample.counts.guest_ns;
            (guest_ns > 0)
                .then_some(("", guest_ns))
                .into_iter()
                .collect()
        });
        let mut places: Vec<_> = means(samples, |s| entries(&s.counts.by_place))
            .into_iter()
            .collect();
        places.sort_by(|a, b| b.1.total_cmp(&a.1));
        Attribution {
            explained_percent: (total > 0).then(|| known as f64 * 100.0 / total as f64),
            places,
            threads_ns: means(samples, |sample| entries(&sample.cpu_by_thread_ns)),
            guest_ns: guest_ns.get("").copied(),
            durations,
            curve: curve(samples),
        }
    }
}

fn entries(map: &BTreeMap<String, u64>) -> Vec<(&str, u64)> {
    map.iter()
        .map(|(name, count)| (name.as_str(), *count))
        .collect()
}

/// Means over samples of each entry, per operation.
fn means<'a>(
    samples: &[&'a Sample],
    entries: impl Fn(&'a Sample) -> Vec<(&'a str, u64)>,
) -> BTreeMap<String, f64> {
    let mut means: BTreeMap<String, f64> = BTreeMap::new();
    for sample in samples {
        for (name, count) in entries(sample) {
            let share = count as f64 / sample.ops.max(1) as f64 / samples.len() as f64;
            *means.entry(name.to_string()).or_default() += share;
        }
    }
    means
}

/// Medians over samples of each point that all of them have.
fn curve(samples: &[&Sample]) -> Vec<(u32, f64)> {
    let latencies: Vec<_> = samples
        .iter()
        .filter_map(|s| s.latency_ns.as_ref())
        .collect();
    let points = latencies.first().map_or(&[][..], |latency| &latency.curve);
    let median = |per_mille: u32| {
        let of_each = latencies.iter().map(|latency| {
            let point = latency.curve.iter().find(|(at, _)| *at == per_mille)?;
            Some(point.1 as f64)
        });
        stats::median(&of_each.collect::<Option<Vec<_>>>()?)
    };
    let mut curve: Vec<_> = points
        .iter()
        .filter_map(|(at, _)| Some((*at, median(*at)?)))
        .collect();
    curve.sort_by_key(|(at, _)| *at);
    curve
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::summary::tests::run;

    #[test]
    fn shares_and_means_are_over_all_samples() {
        let mut sample = run(0, "kvm", 100).samples[1].clone();
        sample.ops = 10;
        sample.counts.by_cause = [("X".to_string(), 100)].into();
        sample.counts.unexplained = 5;
        sample.counts.by_place = [("A".to_string(), 20), ("B".into(), 60)].into();
        sample.cpu_by_thread_ns = [("vcpus".to_string(), 1000)].into();
        let mut other = sample.clone();
        other.counts.unexplained = 0;
        other.counts.guest_ns = 400;
        other.counts.by_place.clear();
        let found = Attribution::of(&[&sample, &other]);
        assert_eq!(found.explained_percent, Some(97.5));
        assert_eq!(found.places, [("B".to_string(), 3.0), ("A".into(), 1.0)]);
        assert_eq!(found.threads_ns["vcpus"], 100.0);
        assert_eq!(found.guest_ns, Some(20.0));
        assert_eq!(found.curve[1], (500, 2000.0));
        assert_eq!(Attribution::of(&[]), Attribution::default());
    }
}
