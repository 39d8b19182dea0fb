//! File descriptors: as many as this process may have, and what to say where those are too few.
//!
//! The usual soft limit, 1024, is there for programs that call `select`. Nothing here does; and a machine
//! has an eventfd for each queue and each interrupt, a trace a dozen descriptors for each host CPU.

use std::error::Error;
use std::io;
use std::sync::OnceLock;

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};

/// What this process was started with.
static FORMER: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit to the hard one.
pub(crate) fn raise() {
    let former = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: former.maximum,
        ..former
    };
    // It is allowed to everybody. Where it fails all the same, who needs more descriptors says so.
    if setrlimit(Resource::Nofile, raised).is_ok() {
        // A second call finds what the first one made.
        let _ = FORMER.set(former);
    }
}

/// Gives a child the limit that this process was started with: it may be one that calls `select`. For the
/// time between fork and exec: one system call, and nothing is allocated.
pub(crate) fn restore() -> io::Result<()> {
    match FORMER.get() {
        Some(former) => Ok(setrlimit(Resource::Nofile, *former)?),
        None => Ok(()),
    }
}

/// What to do about an error, if too few descriptors are its cause.
pub(crate) fn remedy(error: &(dyn Error + 'static)) -> Option<String> {
    let is_it = |error: &(dyn Error + 'static)| {
        let io = error.downcast_ref().and_then(io::Error::raw_os_error);
        let kvm = error
            .downcast_ref()
            .map(|error: &kvm_ioctls::Error| error.errno());
        io.or(kvm) == Some(libc::EMFILE)
    };
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    let limit = || getrlimit(Resource::Nofile).current;
    causes.any(is_it).then(|| match limit() {
        Some(limit) => format!("raise `ulimit -n` (is: {limit})"),
        None => "raise `ulimit -n`".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::BuildError;

    #[test]
    fn too_few_descriptors_have_a_remedy_wherever_they_are_missed() {
        let missed = BuildError::Io {
            what: "make an eventfd",
            source: io::Error::from_raw_os_error(libc::EMFILE),
        };
        assert!(remedy(&missed).is_some_and(|says| says.starts_with("raise `ulimit -n`")));
        let missed = BuildError::Kvm {
            what: "create a vCPU",
            source: kvm_ioctls::Error::new(libc::EMFILE),
        };
        assert!(remedy(&missed).is_some());
        assert_eq!(remedy(&io::Error::from_raw_os_error(libc::ENOMEM)), None);
    }

    #[test]
    fn the_soft_limit_is_the_hard_one() {
        raise();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
