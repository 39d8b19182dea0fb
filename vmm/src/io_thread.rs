//! The I/O thread: one event-manager loop for devices and the console.

use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use crate::event::MachineEvent;
use crate::vcpu::pin;
use crate::virtio::Lingerer;

/// How long the end waits for a device that is in the middle of something. A disk may have to write;
/// one that needs longer, or a device whose lock a stuck vCPU holds, must not keep the machine.
const END_LIMIT: Duration = Duration::from_secs(5);

/// As a timeout of epoll_wait(2): none.
const UNTIL_AN_EVENT: i32 = -1;

/// Anything that the loop can call.
pub type Subscriber = Box<dyn MutEventSubscriber + Send>;

/// The running loop; dropping it ends the thread, or leaves it alone if that takes too long.
pub struct IoThread {
    stop: Arc<AtomicBool>,
    wake: EventFd,
    thread: Option<JoinHandle<()>>,
    /// Nothing comes from there; its other end goes with the thread.
    ended: Receiver<()>,
}

/// Wakes the loop so that it looks at `stop`.
struct Waker(EventFd);

impl MutEventSubscriber for Waker {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        // A spurious wake-up costs one turn of the loop.
        let _ = self.0.read();
    }

    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(&self.0, EventSet::IN)) {
            debug_assert!(false, "a new eventfd can be waited for: {error}");
        }
    }
}

impl IoThread {
    /// Starts the loop with these subscribers, which may linger for these devices, on these host CPUs if there are any.
    pub fn spawn(
        subscribers: Vec<Subscriber>,
        lingerers: Vec<Lingerer>,
        host_cpus: Vec<usize>,
        events: Sender<MachineEvent>,
    ) -> io::Result<Self> {
        let wake = EventFd::new(libc::EFD_NONBLOCK)?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut manager = EventManager::<Subscriber>::new().map_err(io::Error::other)?;
        manager.add_subscriber(Box::new(Waker(wake.try_clone()?)));
        for subscriber in subscribers {
            manager.add_subscriber(subscriber);
        }
        let stopping = Arc::clone(&stop);
        let (alive, ended) = channel::<()>();
        let thread = Builder::new()
            .name("io".into())
            .stack_size(256 << 10)
            .spawn(move || {
                let _alive = alive;
                if !host_cpus.is_empty() {
                    // Without pinning it still works; only the figures get noisier.
                    let _ = pin::pin_current_thread(&host_cpus);
                }
                // A panicking device must end the machine, not leave it without any.
                let ended = catch_unwind(AssertUnwindSafe(|| {
                    run(&mut manager, &lingerers, &stopping)
                }));
                let what = match ended {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => format!("its loop failed: {error}"),
                    Err(_) => "it panicked".into(),
                };
                // The receiver only goes away when the machine is stopping already.
                let _ = events.send(MachineEvent::IoFailed(what));
            })?;
        Ok(Self {
            stop,
            wake,
            thread: Some(thread),
            ended,
        })
    }
}

/// Runs until told to stop.
fn run(
    manager: &mut EventManager<Subscriber>,
    lingerers: &[Lingerer],
    stopping: &AtomicBool,
) -> Result<(), event_manager::Error> {
    // Pairs with the store in `drop`; the eventfd between them orders more than enough.
    while !stopping.load(Ordering::Acquire) {
        let lingers = (lingerers.iter()).fold(false, |any, lingerer| any | lingerer.look());
        manager.run_with_timeout(if lingers { 0 } else { UNTIL_AN_EVENT })?;
    }
    Ok(())
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // An eventfd write of 1 only fails when its counter is full, and then the loop is awake.
        let _ = self.wake.write(1);
        if self.ended.recv_timeout(END_LIMIT) == Err(RecvTimeoutError::Timeout) {
            // It ends when it can, or with the process. What its devices use, they own.
            return;
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    /// Panics as soon as it is called.
    struct Bad(EventFd);

    impl MutEventSubscriber for Bad {
        fn process(&mut self, _events: Events, _ops: &mut EventOps) {
            panic!("a device with a mistake, for a test");
        }
        fn init(&mut self, ops: &mut EventOps) {
            ops.add(Events::new(&self.0, EventSet::IN))
                .expect("a new eventfd");
        }
    }

    #[test]
    fn a_device_that_panics_ends_the_machine() {
        let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        event.write(1).unwrap();
        let (sender, inbox) = channel();
        let _thread =
            IoThread::spawn(vec![Box::new(Bad(event))], Vec::new(), Vec::new(), sender).unwrap();
        assert_eq!(
            inbox.recv_timeout(Duration::from_secs(20)),
            Ok(MachineEvent::IoFailed("it panicked".into()))
        );
    }
}
