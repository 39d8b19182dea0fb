//! Threads that take part in a work: made and pinned before its begin mark, ended behind its end.

use crate::sys::{cpu, time};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// For a thread to reach its CPU, and for it to end when told to.
const THREAD_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(1);
/// Small, so that stacks do not use up memory that `touch` wants to find fresh.
const STACK_BYTES: usize = 128 * 1024;

/// A thread on one CPU.
#[derive(Debug)]
pub(crate) struct Helper {
    thread: JoinHandle<Result<(), String>>,
}

impl Helper {
    /// Starts `body` on `cpu` and waits until it is there.
    pub(crate) fn start(
        cpu: usize,
        body: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> Result<Helper, String> {
        let is_there = Arc::new(AtomicBool::new(false));
        let arrived = Arc::clone(&is_there);
        let thread = Builder::new()
            .name(format!("helper-{cpu}"))
            .stack_size(STACK_BYTES)
            .spawn(move || {
                cpu::pin_to(&[cpu]).map_err(|error| format!("cannot pin to CPU {cpu}: {error}"))?;
                arrived.store(true, Ordering::Release);
                body()
            })
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        let helper = Helper { thread };
        if wait_until(|| is_there.load(Ordering::Acquire) || helper.thread.is_finished()) {
            if is_there.load(Ordering::Acquire) {
                return Ok(helper);
            }
            helper.finish()?;
        }
        Err(format!(
            "a thread did not reach CPU {cpu} within {THREAD_TIMEOUT:?}"
        ))
    }

    /// Waits for the end of a thread that has been told to end; leaves it behind if it does not.
    pub(crate) fn finish(self) -> Result<(), String> {
        if !wait_until(|| self.thread.is_finished()) {
            return Err(format!("a thread did not end within {THREAD_TIMEOUT:?}"));
        }
        self.thread
            .join()
            .unwrap_or_else(|_| Err("a thread panicked".to_string()))
    }
}

/// Tells threads to end as soon as it is dropped, on every way out of a work.
#[derive(Debug, Default)]
pub(crate) struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// The flag for a thread to look at.
    pub(crate) fn watch(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

impl Drop for StopFlag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn wait_until(is_true: impl Fn() -> bool) -> bool {
    let start_ns = time::read_clock_ns();
    while !is_true() {
        let waited = Duration::from_nanos(time::read_clock_ns().saturating_sub(start_ns));
        if waited > THREAD_TIMEOUT {
            return false;
        }
        // An alarm that ends the sleep early does no harm here.
        let _ = time::sleep(RETRY);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_runs_on_its_cpu_until_it_is_stopped() {
        let cpu = cpu::allowed_cpus().unwrap()[0];
        let stop = StopFlag::default();
        let watched = stop.watch();
        let helper = Helper::start(cpu, move || {
            while !watched.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            let cpus = cpu::allowed_cpus().map_err(|error| error.to_string())?;
            (cpus == [cpu])
                .then_some(())
                .ok_or_else(|| format!("{cpus:?}"))
        });
        drop(stop);
        assert_eq!(helper.unwrap().finish(), Ok(()));
    }

    #[test]
    fn a_helper_that_cannot_be_pinned_is_an_error() {
        assert!(Helper::start(1023, || Ok(())).is_err());
    }
}
