//! How the polling thread sleeps: until its alarm or a doorbell.

use std::io;
use std::os::fd::AsRawFd;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::timerfd::TimerFd;

use crate::coop::host::Coop;

/// The alarm and the doorbell, waited for together.
pub(super) struct Sleeper {
    epoll: Epoll,
    /// The rate of the host's TSC.
    pub(super) tsc_khz: u64,
}

impl Sleeper {
    pub(super) fn new(coop: &Coop, tsc_khz: u64) -> io::Result<Self> {
        let timer = TimerFd::new().map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        let epoll = Epoll::new()?;
        // The timer is set anew before each wait, and so it need not be asked again whether it is still over.
        let timer_events = EventSet::IN | EventSet::EDGE_TRIGGERED;
        for (events, data, fd) in [
            (timer_events, 0, timer.as_raw_fd()),
            (EventSet::IN, 1, coop.wake.as_raw_fd()),
        ] {
            let event = EpollEvent::new(events, data);
            epoll.ctl(ControlOperation::Add, fd, event)?;
        }
        coop.alarm.connect(timer, tsc_khz);
        Ok(Self { epoll, tsc_khz })
    }

    /// Waits; true if it was the doorbell.
    pub(super) fn wait(&self, bell: &vmm_sys_util::eventfd::EventFd) -> bool {
        let mut events = [EpollEvent::default(); 2];
        let count = self.epoll.wait(-1, &mut events).unwrap_or(0);
        let is_bell = events.iter().take(count).any(|event| event.data() == 1);
        if is_bell {
            // Nobody else reads it, so there is something to read.
            let _ = bell.read();
        }
        is_bell
    }
}
