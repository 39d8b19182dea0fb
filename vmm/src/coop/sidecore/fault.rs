//! Freezes the polling thread on request, to see what becomes of a guest whose host does not come
//! back (`[LEASE-6]`).
//!
//! Only with the cargo feature `fault`, which the tests with guests are built with: there SIGUSR2
//! freezes the thread in the middle of its turn, under leases, or as it wakes up, and a second one lets it go on.
//! Without the feature nothing of this is there.

#[cfg(feature = "fault")]
mod hook {
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::Arc;
    use std::time::Duration;

    use signal_hook::consts::SIGUSR2;

    /// The signal, when it has come.
    pub(in crate::coop::sidecore) struct Fault(Arc<AtomicBool>);

    impl Fault {
        pub(in crate::coop::sidecore) fn new() -> io::Result<Self> {
            let flag = Arc::default();
            signal_hook::flag::register(SIGUSR2, Arc::clone(&flag))?;
            Ok(Self(flag))
        }

        /// A place where the thread can be frozen, until the next signal or the machine's end.
        pub(in crate::coop::sidecore) fn point(&self, stop: &AtomicBool) {
            if !self.0.swap(false, Ordering::Relaxed) {
                return;
            }
            while !self.0.swap(false, Ordering::Relaxed) && !stop.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }
}

#[cfg(not(feature = "fault"))]
mod hook {
    use std::io;
    use std::sync::atomic::AtomicBool;

    pub(in crate::coop::sidecore) struct Fault;

    impl Fault {
        #[expect(
            clippy::unnecessary_wraps,
            reason = "the same signature as with the feature"
        )]
        pub(in crate::coop::sidecore) fn new() -> io::Result<Self> {
            Ok(Self)
        }

        pub(in crate::coop::sidecore) fn point(&self, _stop: &AtomicBool) {}
    }
}

pub(super) use hook::Fault;
