//! The progress lines on standard error: where a comparison is and how long it still takes.
//!
//! Called by [`super::session`] around each run.

use std::io::Write;
use std::time::Duration;

use coopvirt_spec::work::Work;

use super::model::Run;
use super::plan::Cell;

/// Counts runs and time.
pub struct Progress {
    out: Box<dyn Write>,
    all: usize,
    repetitions: u32,
    begun: usize,
    /// Runs done by now and their seconds, for full and boot-only runs.
    full: (u32, f64),
    boot_only: (u32, f64),
}

impl Progress {
    /// Of so many runs in so many repetitions.
    pub fn new(out: Box<dyn Write>, all: usize, repetitions: u32) -> Self {
        Self {
            out,
            all,
            repetitions,
            begun: 0,
            full: (0, 0.0),
            boot_only: (0, 0.0),
        }
    }

    /// A cell that a resumed comparison has already, or an arm that was given up.
    pub fn skip(&mut self) {
        self.begun += 1;
    }

    /// Says that a cell begins.
    pub fn begin(&mut self, cell: &Cell) {
        self.begun += 1;
        let line = begin_line(self.begun, self.all, self.repetitions, cell);
        self.write(&line);
    }

    /// Says that the user has ended it.
    pub fn interrupted(&mut self) {
        self.write("interrupted\n");
    }

    /// Says that it is tried again.
    pub fn again(&mut self, cell: &Cell) {
        self.write(&format!(
            "  again, {} ({}): ",
            cell.arm.name,
            cell.setting.name()
        ));
    }

    /// Says how it ended and how long the rest will take.
    pub fn end(&mut self, cell: &Cell, run: &Run, rest: &[Cell]) {
        let (count, seconds) = self.kind(cell);
        *count += 1;
        *seconds += run.seconds;
        let left = self.left(rest);
        self.write(&format!("{}, {}\n", outcome(run), left_text(left)));
    }

    fn write(&mut self, text: &str) {
        // Progress is a courtesy: a closed standard error must not end a measurement.
        let _ = self
            .out
            .write_all(text.as_bytes())
            .and_then(|()| self.out.flush());
    }

    fn kind(&mut self, cell: &Cell) -> &mut (u32, f64) {
        match is_boot_only(cell) {
            true => &mut self.boot_only,
            false => &mut self.full,
        }
    }

    fn left(&self, rest: &[Cell]) -> Option<Duration> {
        let mean = |(count, seconds): (u32, f64)| (count > 0).then(|| seconds / f64::from(count));
        let any = mean((
            self.full.0 + self.boot_only.0,
            self.full.1 + self.boot_only.1,
        ))?;
        let full = mean(self.full).unwrap_or(any);
        let boot_only = mean(self.boot_only).unwrap_or(any);
        let seconds = rest
            .iter()
            .map(|cell| if is_boot_only(cell) { boot_only } else { full });
        Some(Duration::from_secs_f64(
            seconds.sum::<f64>().clamp(0.0, 1e9),
        ))
    }
}

fn is_boot_only(cell: &Cell) -> bool {
    cell.works == [Work::Boot]
}

fn begin_line(number: usize, all: usize, repetitions: u32, cell: &Cell) -> String {
    format!(
        "[{number}/{all}] repetition {}/{repetitions} {} ({}): ",
        cell.repetition + 1,
        cell.arm.name,
        cell.setting.name()
    )
}

fn outcome(run: &Run) -> String {
    let boot = run.samples.iter().find(|sample| sample.work == "boot");
    let mut text = String::new();
    if let Some(boot) = boot {
        let boot_seconds = boot.elapsed_ns as f64 / 1e9;
        let works = (run.seconds - boot_seconds).max(0.0);
        text += &format!("boot {boot_seconds:.1} s, works {works:.1} s, ");
    } else {
        text += &format!("{:.1} s, ", run.seconds);
    }
    match &run.failure {
        None => text += "ok",
        Some(failure) => text += &format!("FAILED: {}", failure.reason),
    }
    text
}

fn left_text(left: Option<Duration>) -> String {
    match left.map(|left| left.as_secs()) {
        None => "time left unknown".into(),
        Some(0) => "none left".into(),
        Some(seconds @ 1..=90) => format!("about {seconds} s left"),
        Some(seconds) => format!("about {} min left", (seconds + 30) / 60),
    }
}

#[cfg(test)]
mod tests {
    use coopvirt_spec::work::Work;

    use super::*;
    use crate::compare::args::Console;
    use crate::compare::arm::by_name;
    use crate::compare::evaluate::{evaluate, tests::finished};
    use crate::compare::setting::Setting;

    fn cell(works: &[Work]) -> Cell {
        let arm = by_name("kvm").unwrap();
        Cell {
            repetition: 1,
            arm,
            setting: Setting::quiet(Console::Virtio),
            works: works.to_vec(),
        }
    }

    #[test]
    fn lines_say_where_and_how_it_went() {
        let cell = cell(&[Work::Boot, Work::Pipe]);
        assert_eq!(
            begin_line(12, 54, 9, &cell),
            "[12/54] repetition 2/9 kvm (virtio): "
        );
        let mut run = evaluate(&cell, 2, 1, Vec::new(), finished());
        assert_eq!(outcome(&run), "boot 0.0 s, works 20.0 s, ok");
        run = evaluate(&cell, 4, 1, Vec::new(), finished());
        assert!(outcome(&run).starts_with("20.0 s, FAILED: the guest has 2 vCPUs"));
    }

    #[test]
    fn the_rest_is_estimated_by_kind() {
        let mut progress = Progress::new(Box::new(std::io::sink()), 4, 1);
        let (full, boot) = (cell(&[Work::Boot, Work::Pipe]), cell(&[Work::Boot]));
        assert_eq!(progress.left(std::slice::from_ref(&full)), None);
        *progress.kind(&full) = (2, 40.0);
        *progress.kind(&boot) = (1, 5.0);
        let left = progress.left(&[full.clone(), full, boot]);
        assert_eq!(left, Some(Duration::from_secs(45)));
        assert_eq!(left_text(left), "about 45 s left");
        assert_eq!(
            left_text(Some(Duration::from_secs(660))),
            "about 11 min left"
        );
    }
}
