//! Safe wrappers around the system calls and instructions that the works need.
//!
//! All unsafe code of this program is below this module. Callers are everywhere in the crate; no
//! wrapper prints, retries or keeps state beyond the object that it returns.

pub(crate) mod aio;
pub(crate) mod alarm;
pub(crate) mod block;
pub(crate) mod boot;
pub(crate) mod cpu;
pub(crate) mod interface;
pub(crate) mod memory;
pub(crate) mod port;
pub(crate) mod process;
pub(crate) mod time;
pub(crate) mod uring;

use std::io;

/// Turns the "-1 means errno" convention of system calls into a result.
fn check<T: Copy + From<i8> + PartialEq>(returned: T) -> io::Result<T> {
    if returned == T::from(-1) {
        return Err(io::Error::last_os_error());
    }
    Ok(returned)
}
