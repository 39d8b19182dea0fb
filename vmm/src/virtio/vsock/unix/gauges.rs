//! What the hub has done, for metrics: written on the I/O thread, read by anybody.
//!
//! Packets and bytes are the device's requests and bytes (`counters.rs`), as of every device.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// The counters of a machine's UNIX-backed sockets.
#[derive(Debug, Default)]
pub struct VsockGauges {
    connections: AtomicU64,
    opened_by_guest: AtomicU64,
    opened_by_host: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
}

/// Their values at one moment. All but `connections` only grow, over resets too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockCounts {
    /// Connections that there are now, half-open ones included.
    pub connections: u64,
    /// Connections that the guest has opened to the host.
    pub opened_by_guest: u64,
    /// Connections that the host has opened to the guest, and the guest has taken.
    pub opened_by_host: u64,
    /// Connections that were asked for and not made: nobody listens, or there are too many.
    pub refused: u64,
    /// Connections that this side has reset: a guest that breaks the rules, a peer that died in the
    /// middle, an end that did not come in time.
    pub cut: u64,
}

/// What can happen.
#[derive(Clone, Copy, Debug)]
pub(super) enum Happened {
    OpenedByGuest,
    OpenedByHost,
    Refused,
    Cut,
}

impl VsockGauges {
    pub(super) fn count(&self, what: Happened) {
        let counter = match what {
            Happened::OpenedByGuest => &self.opened_by_guest,
            Happened::OpenedByHost => &self.opened_by_host,
            Happened::Refused => &self.refused,
            Happened::Cut => &self.cut,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_connections(&self, connections: usize) {
        self.connections
            .store(connections as u64, Ordering::Relaxed);
    }

    /// The values now.
    pub fn counts(&self) -> VsockCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        VsockCounts {
            connections: load(&self.connections),
            opened_by_guest: load(&self.opened_by_guest),
            opened_by_host: load(&self.opened_by_host),
            refused: load(&self.refused),
            cut: load(&self.cut),
        }
    }
}
