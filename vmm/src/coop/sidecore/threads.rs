//! The threads of the interface, from their start to their end.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use super::fault::Fault;
use super::sleeper::Sleeper;
use super::thread::Poller;
use super::worker::{self, Message};
use crate::coop::host::{lock, Coop};
use crate::vcpu::pin;

/// The running threads; dropping it ends them.
pub struct Sidecore {
    coop: Arc<Coop>,
    stop: Arc<AtomicBool>,
    polling: Option<JoinHandle<()>>,
    worker: Option<JoinHandle<()>>,
}

impl Sidecore {
    /// Starts the polling thread and the worker. `host_cpus` are for threads without a CPU of
    /// their own; empty: no pinning.
    pub fn spawn(coop: Arc<Coop>, tsc_khz: u32, host_cpus: Vec<usize>) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, inbox) = channel();
        // A second sidecore for one machine would be our own mistake; the first one stays.
        let _ = coop.worker.set(sender);
        let sleeper = Sleeper::new(&coop, tsc_khz.into())?;
        let fault = Fault::new()?;
        let worker = {
            let coop = Arc::clone(&coop);
            start("coop-worker", host_cpus.clone(), move || {
                worker::run(&coop, &inbox, &coop.alarm.pulse, tsc_khz.into());
                account(&coop, "worker");
            })?
        };
        let own_cpu = coop.options.sidecore.host_cpu;
        let polling = {
            let (coop, stop) = (Arc::clone(&coop), Arc::clone(&stop));
            let host_cpus = own_cpu.map_or(host_cpus, |cpu| vec![cpu]);
            start("coop-poll", host_cpus, move || {
                Poller::new(&coop, &stop, sleeper, fault).run();
                account(&coop, "polling");
            })
        };
        let mut sidecore = Self {
            coop,
            stop,
            polling: None,
            worker: Some(worker),
        };
        // Dropped on error, which ends the worker.
        sidecore.polling = Some(polling?);
        Ok(sidecore)
    }
}

impl Drop for Sidecore {
    fn drop(&mut self) {
        // Pairs with the load in the loop; the doorbell between them orders more than enough.
        self.stop.store(true, Ordering::Release);
        self.coop.ring_async();
        if let Some(thread) = self.polling.take() {
            let _ = thread.join();
        }
        self.coop.tell_worker(Message::Stop);
        if let Some(thread) = self.worker.take() {
            let _ = thread.join();
        }
    }
}

fn start(
    name: &str,
    host_cpus: Vec<usize>,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    Builder::new()
        .name(name.into())
        .stack_size(256 << 10)
        .spawn(move || {
            if !host_cpus.is_empty() {
                // Without pinning it still works; only the figures get noisier.
                let _ = pin::pin_current_thread(&host_cpus);
            }
            body();
        })
}

/// Notes the calling thread's CPU time and run delay, the first numbers of its `schedstat`.
fn account(coop: &Coop, name: &'static str) {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let mut numbers = text.split_whitespace().map(|n| n.parse().unwrap_or(0));
    let times = [(); 2].map(|()| numbers.next().unwrap_or(0));
    lock(&coop.thread_times).push((name, times));
}
