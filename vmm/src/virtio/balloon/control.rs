//! The host's handle on a balloon: what it wants, what there is, what the guest says.
//!
//! The device writes what there is (I/O thread, vCPU threads), the control socket reads it and sets
//! the target. All figures are atomics that order nothing; statistics have a lock of their own, a leaf.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use super::super::backend::ring;
use super::frames::Released;
use super::{BalloonStatistics, ACTUAL_AT, CONFIG_BYTES};

const PAGE_SHIFT: u32 = 12;
/// For a guest to say how it is off. One that is paused says nothing.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Why a balloon cannot be told this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum BalloonError {
    #[error("the machine has no balloon; run it with --balloon")]
    None,
    #[error(
        "a balloon of {target_mib} MiB is not less than the guest's memory of {memory_mib} MiB; \
         give a smaller target"
    )]
    TooLarge { target_mib: u64, memory_mib: u64 },
}

/// The answer of `GET /balloon`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonState {
    /// How much memory the guest shall give up.
    pub target_bytes: u64,
    /// How much it says that it has given up.
    pub actual_bytes: u64,
    /// Whether it has a driver for the balloon now.
    pub has_driver: bool,
    /// Whether that takes memory out again by itself before the guest runs out of it.
    pub deflates_on_oom: bool,
    /// Memory that came back to the host by inflating, altogether.
    pub inflated_bytes: u64,
    /// Memory that came back because the guest reported it as free, altogether.
    pub reported_bytes: u64,
    /// Pages that the guest put in which are no memory of its.
    pub refused_pages: u64,
    /// What the guest says about its memory, once it has.
    pub statistics: Option<BalloonStatistics>,
}

/// The host's handle.
#[derive(Debug)]
pub struct BalloonControl {
    target_pages: AtomicU32,
    actual_pages: AtomicU32,
    has_new_target: AtomicBool,
    has_driver: AtomicBool,
    deflates_on_oom: AtomicBool,
    inflated_bytes: AtomicU64,
    reported_bytes: AtomicU64,
    refused_pages: AtomicU64,
    /// Whether the driver has statistics, and whether somebody waits for new ones.
    has_statistics: AtomicBool,
    is_asked: AtomicBool,
    said: Mutex<Said>,
    came: Condvar,
    event: Arc<EventFd>,
}

/// The statistics that came last.
#[derive(Debug, Default)]
struct Said {
    /// How often there were any.
    serial: u64,
    last: Option<(Instant, BTreeMap<String, u64>)>,
}

impl BalloonControl {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            target_pages: AtomicU32::new(0),
            actual_pages: AtomicU32::new(0),
            has_new_target: AtomicBool::new(false),
            has_driver: AtomicBool::new(false),
            deflates_on_oom: AtomicBool::new(false),
            inflated_bytes: AtomicU64::new(0),
            reported_bytes: AtomicU64::new(0),
            refused_pages: AtomicU64::new(0),
            has_statistics: AtomicBool::new(false),
            is_asked: AtomicBool::new(false),
            said: Mutex::default(),
            came: Condvar::new(),
            event: Arc::new(EventFd::new(libc::EFD_NONBLOCK)?),
        })
    }

    /// Sets how much memory the guest shall give up, of all that it has. It is told at once, or when
    /// it has a driver, and takes its time.
    pub fn set_target(&self, target_mib: u64, memory_bytes: u64) -> Result<(), BalloonError> {
        let memory_mib = memory_bytes >> 20;
        let pages = target_mib
            .checked_mul(1 << (20 - PAGE_SHIFT))
            .and_then(|pages| u32::try_from(pages).ok())
            .filter(|_| target_mib < memory_mib);
        let pages = pages.ok_or(BalloonError::TooLarge {
            target_mib,
            memory_mib,
        })?;
        self.target_pages.store(pages, Ordering::Relaxed);
        // Release pairs with the acquire of the I/O thread, which has the guest read the target.
        self.has_new_target.store(true, Ordering::Release);
        ring(&self.event);
        Ok(())
    }

    /// What is known now.
    pub fn state(&self) -> BalloonState {
        let bytes = |pages: &AtomicU32| u64::from(pages.load(Ordering::Relaxed)) << PAGE_SHIFT;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        let last = lock(&self.said).last.clone();
        let statistics = last.map(|(at, values)| BalloonStatistics {
            age_ms: u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX),
            values,
        });
        BalloonState {
            target_bytes: bytes(&self.target_pages),
            actual_bytes: bytes(&self.actual_pages),
            has_driver: is(&self.has_driver),
            deflates_on_oom: is(&self.deflates_on_oom),
            inflated_bytes: count(&self.inflated_bytes),
            reported_bytes: count(&self.reported_bytes),
            refused_pages: count(&self.refused_pages),
            statistics,
        }
    }

    /// Asks the guest for its statistics and says the state then. A guest that does not answer within
    /// two seconds leaves the old ones, with their age.
    pub fn ask(&self) -> BalloonState {
        if self.has_statistics.load(Ordering::Relaxed) {
            let said = lock(&self.said);
            let before = said.serial;
            self.is_asked.store(true, Ordering::Relaxed);
            ring(&self.event);
            let wait = |said: &mut Said| said.serial == before;
            // Whether it came or not shows in the age.
            let waited = self.came.wait_timeout_while(said, ANSWER_LIMIT, wait);
            drop(waited);
        }
        self.state()
    }

    /// The device's configuration: pages wanted, pages in the balloon.
    pub(super) fn config(&self) -> [u8; CONFIG_BYTES] {
        let mut config = [0; CONFIG_BYTES];
        let (target, actual) = config.split_at_mut(ACTUAL_AT);
        target.copy_from_slice(&self.target_pages.load(Ordering::Relaxed).to_le_bytes());
        actual.copy_from_slice(&self.actual_pages.load(Ordering::Relaxed).to_le_bytes());
        config
    }

    pub(super) fn set_actual(&self, pages: u32) {
        self.actual_pages.store(pages, Ordering::Relaxed);
    }

    pub(super) fn driver_comes(&self, has_statistics: bool, deflates_on_oom: bool) {
        self.has_driver.store(true, Ordering::Relaxed);
        self.has_statistics.store(has_statistics, Ordering::Relaxed);
        self.deflates_on_oom
            .store(deflates_on_oom, Ordering::Relaxed);
    }

    /// All memory is the guest's again.
    pub(super) fn driver_goes(&self) {
        self.has_driver.store(false, Ordering::Relaxed);
        self.has_statistics.store(false, Ordering::Relaxed);
        self.deflates_on_oom.store(false, Ordering::Relaxed);
        self.set_actual(0);
    }

    pub(super) fn count_inflated(&self, released: Released) {
        self.inflated_bytes
            .fetch_add(released.bytes, Ordering::Relaxed);
        self.refused_pages
            .fetch_add(released.refused, Ordering::Relaxed);
    }

    pub(super) fn count_reported(&self, bytes: u64) {
        self.reported_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn take_statistics(&self, values: BTreeMap<String, u64>) {
        let mut said = lock(&self.said);
        said.serial = said.serial.wrapping_add(1);
        said.last = Some((Instant::now(), values));
        drop(said);
        self.came.notify_all();
    }

    /// Whether somebody has asked since the last call.
    pub(super) fn take_question(&self) -> bool {
        self.is_asked.swap(false, Ordering::Relaxed)
    }

    /// Whether the target was set since the last call.
    pub(super) fn take_new_target(&self) -> bool {
        self.has_new_target.swap(false, Ordering::Acquire)
    }

    pub(super) fn event(&self) -> Arc<EventFd> {
        Arc::clone(&self.event)
    }
}

fn lock(said: &Mutex<Said>) -> MutexGuard<'_, Said> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}
