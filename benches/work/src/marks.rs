//! The marks of this program: the shim's marker over the mark port, or over nothing.

use crate::sys::port::MarkPort;
use coopvirt_spec::work::Work;
use guest_shim::{Marker, Platform};

/// Makes marks, or does not where there is no port to write to.
pub(crate) struct Marks(Marker<Port>);

struct Port(Option<MarkPort>);

impl Platform for Port {
    #[inline]
    fn write_mark_port(&mut self, value: u32) {
        if let Some(port) = &mut self.0 {
            port.write(value);
        }
    }
}

impl Marks {
    /// Starts with sequence number zero; without a port nothing is ever written.
    pub(crate) fn new(port: Option<MarkPort>) -> Marks {
        Marks(Marker::new(Port(port)))
    }

    /// Marks that init has been reached.
    pub(crate) fn boot(&mut self) {
        self.0.point(Work::Boot.code());
    }

    /// Marks a moment of `work`.
    #[inline]
    pub(crate) fn point(&mut self, work: Work) {
        self.0.point(work.code());
    }

    /// Runs `body` between the marks of `work`.
    #[inline]
    pub(crate) fn phase<T>(&mut self, work: Work, body: impl FnOnce() -> T) -> T {
        self.0.phase(work.code(), body)
    }
}
