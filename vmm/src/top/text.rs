//! The view for those without a terminal of their own: once as text, as CSV, for Prometheus.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{channel, Receiver};
use std::time::Duration;

use ratatui::backend::TestBackend;
use ratatui::Terminal;

use super::csv::{rows, HEADER};
use super::find::Found;
use super::screen::{draw, plain, View};
use super::watch::{self, News, Trouble, Watched};
use crate::control::prometheus::text_of_all;

/// Of the text; the terminal's own size does not matter, as it can be scrolled.
const COLUMNS: u16 = 100;
const LINES: u16 = 40;

/// Looks for one interval and prints what a screen would show, of all machines.
pub fn once(found: Vec<Found>, every: Duration) -> anyhow::Result<()> {
    let (mut machines, news) = start(found, every)?;
    let is_settled = |watched: &Watched| watched.rates.is_some() || watched.trouble.is_some();
    while !machines.iter().all(is_settled) {
        take(&mut machines, &news, |_| {});
    }
    for chosen in 0..machines.len() {
        let view = View {
            machines: &machines,
            chosen,
            every,
            is_live: false,
        };
        print(&lines(&view)?)?;
    }
    Ok(())
}

/// Prints rows after each interval, of the first one only or until all machines are gone.
pub fn csv(found: Vec<Found>, every: Duration, is_once: bool) -> anyhow::Result<()> {
    let (mut machines, news) = start(found, every)?;
    print(&format!("{}\n", HEADER))?;
    let mut has_said = vec![false; machines.len()];
    while !machines.iter().all(Watched::is_gone) {
        let mut text = String::new();
        let mut spoke = None;
        take(&mut machines, &news, |index| spoke = Some(index));
        let Some(index) = spoke else {
            continue;
        };
        let watched = &machines[index];
        match &watched.trouble {
            None => text = rows(watched),
            Some(Trouble::Gone) => {
                complain!(
                    "coopvirt: the machine of process {} is gone",
                    watched.state.pid
                );
            }
            Some(Trouble::Odd(what)) => {
                complain!("coopvirt: no news of process {}: {what}", watched.state.pid);
            }
        }
        if is_once && has_said[index] {
            continue;
        }
        print(&text)?;
        has_said[index] |= !text.is_empty() || watched.is_gone();
        if is_once && has_said.iter().all(|has_said| *has_said) {
            break;
        }
    }
    Ok(())
}

/// Prints all counters once, for Prometheus.
pub fn prometheus(found: &[Found]) -> anyhow::Result<()> {
    let mut metrics = Vec::new();
    // All at once, as one that stands still by now holds up nobody then.
    let answers = std::thread::scope(|scope| {
        let asked = found
            .iter()
            .map(|machine| scope.spawn(|| watch::ask(&machine.path)));
        let asked: Vec<_> = asked.collect();
        let answers = asked.into_iter().map(|thread| thread.join());
        answers.collect::<Vec<_>>()
    });
    for (machine, answer) in found.iter().zip(answers) {
        match answer.unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
            Ok(sample) => metrics.push((machine.state.pid, sample.metrics)),
            Err(trouble) => anyhow::bail!(
                "process {}: {}",
                machine.state.pid,
                match trouble {
                    Trouble::Gone => "its machine is gone".into(),
                    Trouble::Odd(what) => what,
                }
            ),
        }
    }
    print(&text_of_all(
        metrics.iter().map(|(pid, metrics)| (*pid, metrics)),
    ))
}

fn start(found: Vec<Found>, every: Duration) -> io::Result<(Vec<Watched>, Receiver<News>)> {
    let (sender, news) = channel();
    for machine in &found {
        watch::start(machine.path.clone(), every, sender.clone())?;
    }
    Ok((found.into_iter().map(Watched::new).collect(), news))
}

/// Takes the next news and says whose they were.
fn take(machines: &mut [Watched], news: &Receiver<News>, mut said: impl FnMut(usize)) {
    let Ok(News { path, said: what }) = news.recv() else {
        // All threads have ended, each with a last word.
        return;
    };
    let same = |path: &PathBuf, watched: &Watched| watched.path == *path;
    if let Some(index) = machines.iter().position(|watched| same(&path, watched)) {
        machines[index].take(what);
        said(index);
    }
}

/// Who reads it may have had enough.
fn print(text: &str) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    let printed = output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush());
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        printed => Ok(printed?),
    }
}

/// The screen as text.
pub(super) fn lines(view: &View<'_>) -> anyhow::Result<String> {
    let mut terminal = Terminal::new(TestBackend::new(COLUMNS, LINES))?;
    terminal.draw(|frame| draw(frame, view))?;
    // The middle of a screen takes what room there is.
    let text = plain(terminal.backend().buffer());
    let mut lines: Vec<&str> = text.lines().collect();
    lines.dedup_by(|line, before| line.is_empty() && before.is_empty());
    Ok(lines.join("\n") + "\n")
}
