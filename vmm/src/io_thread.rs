//! The I/O thread: one event-manager loop for devices and the console.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use crate::event::MachineEvent;
use crate::vcpu::pin;

/// Anything that the loop can call.
pub type Subscriber = Box<dyn MutEventSubscriber + Send>;

/// The running loop; dropping it ends the thread.
pub struct IoThread {
    stop: Arc<AtomicBool>,
    wake: EventFd,
    thread: Option<JoinHandle<()>>,
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
    /// Starts the loop with these subscribers, on these host CPUs if there are any.
    pub fn spawn(
        subscribers: Vec<Subscriber>,
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
        let thread = Builder::new()
            .name("io".into())
            .stack_size(256 << 10)
            .spawn(move || {
                if !host_cpus.is_empty() {
                    // Without pinning it still works; only the figures get noisier.
                    let _ = pin::pin_current_thread(&host_cpus);
                }
                // Pairs with the store in `drop`; the eventfd between them orders more than enough.
                while !stopping.load(Ordering::Acquire) {
                    if let Err(error) = manager.run() {
                        let what = format!("the I/O loop failed: {error}");
                        // The receiver only goes away when the machine is stopping already.
                        let _ = events.send(MachineEvent::VcpuFailed { vcpu: 0, what });
                        return;
                    }
                }
            })?;
        Ok(Self {
            stop,
            wake,
            thread: Some(thread),
        })
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // An eventfd write of 1 only fails when its counter is full, and then the loop is awake.
        let _ = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
