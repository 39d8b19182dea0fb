//! The terminal around the screen: keys, sizes, signals, and its mode as it was afterwards.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::DefaultTerminal;

use super::find::{Asking, Found};
use super::screen::{draw, View};
use super::watch::{self, News, Watched};

/// For a key to be waited for; news are taken in between.
const TURN: Duration = Duration::from_millis(100);
/// Between two looks for machines that have begun since.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Shows the machines until a key or a signal ends it; says which signal. `finds_more`: machines that
/// start meanwhile are shown too.
pub fn run(found: Vec<Found>, every: Duration, finds_more: bool) -> anyhow::Result<Option<usize>> {
    if !io::stdout().is_terminal() {
        anyhow::bail!(
            "the live view needs a terminal; say --once, --csv or --prometheus without one"
        );
    }
    let signal = caught_signals().context("could not watch for signals")?;
    let (sender, news) = channel();
    let mut top = Top {
        machines: Vec::new(),
        chosen: 0,
        every,
        news,
        sender,
    };
    top.add(found)?;
    // From here on a panic restores the terminal before it says anything (the hook of try_init).
    let mut terminal = Restored(ratatui::try_init().context("could not set up the terminal")?);
    top.run(&mut terminal.0, &signal, finds_more)?;
    Ok(Some(signal.load(Ordering::Relaxed)).filter(|signal| *signal != 0))
}

/// Gives the terminal back as it was.
struct Restored(DefaultTerminal);

impl Drop for Restored {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing.
        let _ = ratatui::try_restore();
    }
}

/// The number of the signal that came, or 0.
fn caught_signals() -> io::Result<Arc<AtomicUsize>> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    let caught = Arc::new(AtomicUsize::new(0));
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        let number = usize::try_from(signal).unwrap_or(0);
        signal_hook::flag::register_usize(signal, Arc::clone(&caught), number)?;
    }
    Ok(caught)
}

struct Top {
    machines: Vec<Watched>,
    chosen: usize,
    every: Duration,
    news: Receiver<News>,
    sender: Sender<News>,
}

impl Top {
    fn run(
        &mut self,
        terminal: &mut DefaultTerminal,
        signal: &AtomicUsize,
        finds_more: bool,
    ) -> anyhow::Result<()> {
        let mut looked = Instant::now();
        let mut asking = Asking::new();
        let mut is_new = true;
        while signal.load(Ordering::Relaxed) == 0 {
            if is_new {
                terminal.draw(|frame| draw(frame, &self.view()))?;
            }
            is_new = false;
            if event::poll(TURN)? {
                match event::read()? {
                    Event::Key(key) if key.kind != KeyEventKind::Release => {
                        if self.is_quit_by(key) {
                            return Ok(());
                        }
                        is_new = true;
                    }
                    // Drawn anew at its new size.
                    Event::Resize(..) => is_new = true,
                    _ => {}
                }
            }
            while let Ok(News { path, said }) = self.news.try_recv() {
                let same = self
                    .machines
                    .iter_mut()
                    .find(|watched| watched.path == path);
                if let Some(watched) = same {
                    watched.take(said);
                }
                is_new = true;
            }
            if finds_more && looked.elapsed() >= LOOK_AGAIN {
                looked = Instant::now();
                let living = self.machines.iter().filter(|watched| !watched.is_gone());
                let known: Vec<_> = living.map(|watched| watched.path.clone()).collect();
                // A folder that cannot be read now says nothing new.
                let _ = asking.look(&known);
            }
            let new = asking.found();
            is_new |= !new.is_empty();
            self.add(new)?;
        }
        Ok(())
    }

    fn add(&mut self, found: Vec<Found>) -> io::Result<()> {
        for machine in found {
            watch::start(machine.path.clone(), self.every, self.sender.clone())?;
            let watched = Watched::new(machine);
            // A machine that came back at the same place takes the place of the one that went.
            let same = |old: &&mut Watched| old.path == watched.path;
            match self.machines.iter_mut().find(same) {
                Some(old) => *old = watched,
                None => self.machines.push(watched),
            }
        }
        Ok(())
    }

    fn view(&self) -> View<'_> {
        View {
            machines: &self.machines,
            chosen: self.chosen,
            every: self.every,
            is_live: true,
        }
    }

    /// In raw mode Ctrl-C is a key.
    fn is_quit_by(&mut self, key: KeyEvent) -> bool {
        let count = self.machines.len().max(1);
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => return true,
            KeyCode::Char('c') if is_control => return true,
            KeyCode::Tab | KeyCode::Right | KeyCode::Down => {
                self.chosen = (self.chosen + 1) % count
            }
            KeyCode::BackTab | KeyCode::Left | KeyCode::Up => {
                self.chosen = (self.chosen + count - 1) % count;
            }
            _ => {}
        }
        false
    }
}
