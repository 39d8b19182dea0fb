//! Loads and unloads the guest's kernel module again and again while the guest has much to do.
//!
//! Called by `runner` before the works, if `coopvirt.module_cycles=N` asks for it. Its record says how
//! far it came and what the kernel complained about; a guest that dies of it sends none.

use crate::module::{Module, State};
use serde_json::{json, Value};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Every so many cycles the last CPU goes and comes back while the module is loaded.
const CYCLES_PER_HOTPLUG: u32 = 8;
/// How long the module stays, and how long it is away.
const STAY: Duration = Duration::from_millis(10);

/// Runs the cycles; the record, and whether all went well.
pub(crate) fn run(params: &str, cycles: u32) -> (Value, bool) {
    let load = Load::start();
    let last_cpu = last_cpu();
    let (mut done, mut hotplugs) = (0, 0);
    let mut trouble = Vec::new();
    let mut error = None;
    while done < cycles && error.is_none() && trouble.is_empty() {
        let module = Module::load(Some(params));
        if module.state != State::Loaded {
            error = Some(module.state.text());
            break;
        }
        thread::sleep(STAY);
        if done % CYCLES_PER_HOTPLUG == 0 {
            if let Some(file) = &last_cpu {
                let plugged = fs::write(file, "0").and_then(|()| fs::write(file, "1"));
                error = plugged.err().map(|error| format!("{file}: {error}"));
                hotplugs += 1;
            }
        }
        match module.unload() {
            Some((_, true)) => done += 1,
            Some((record, false)) => trouble.push(record.to_string()),
            None => {}
        }
        thread::sleep(STAY);
    }
    let turns = load.stop();
    let is_well =
        done == cycles && error.is_none() && trouble.is_empty() && turns.iter().all(|&n| n > 0);
    let record = json!({
        "type": "module_cycles",
        "ok": is_well,
        "cycles": done,
        "hotplugs": hotplugs,
        "turns": turns,
        "error": error,
        "trouble": trouble,
    });
    (record, is_well)
}

/// The switch of the last CPU, if there is more than one.
fn last_cpu() -> Option<String> {
    let file = |cpu: u32| format!("/sys/devices/system/cpu/cpu{cpu}/online");
    let last = (1..1024).take_while(|&cpu| fs::exists(file(cpu)).unwrap_or(false));
    last.last().map(file)
}

/// Threads that wait for each other and for timers all the time.
struct Load {
    is_over: Arc<AtomicBool>,
    turns: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start() -> Load {
        let mut load = Load {
            is_over: Arc::default(),
            turns: Vec::new(),
            threads: Vec::new(),
        };
        if let Ok((mut here, mut there)) = UnixStream::pair() {
            load.spawn(move || {
                let mut byte = [0];
                let _ = here
                    .write_all(&byte)
                    .and_then(|()| here.read_exact(&mut byte));
            });
            // Ends when the other end is closed.
            load.threads.push(thread::spawn(move || {
                let mut byte = [0];
                while there.read_exact(&mut byte).is_ok() && there.write_all(&byte).is_ok() {}
            }));
        }
        load.spawn(|| thread::sleep(Duration::from_millis(1)));
        load.spawn(|| drop(thread::spawn(|| ()).join()));
        load
    }

    fn spawn(&mut self, mut turn: impl FnMut() + Send + 'static) {
        let turns: Arc<AtomicU64> = Arc::default();
        self.turns.push(Arc::clone(&turns));
        let is_over = Arc::clone(&self.is_over);
        self.threads.push(thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                turn();
                turns.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }

    /// Ends all threads; how many turns each kind of work has made.
    fn stop(self) -> Vec<u64> {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // One that panicked has made no further turns: the numbers show it.
            drop(thread.join());
        }
        let turns = self.turns.iter();
        turns.map(|turns| turns.load(Ordering::Relaxed)).collect()
    }
}
