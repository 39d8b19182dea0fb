//! Two controls of perf events for which the perf crate has no call.
#![expect(unsafe_code)]
// UNSAFETY: ioctl is a foreign function; the requests here take an integer and a C string.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsRawFd;

/// `_IO('$', 5)`.
const PERF_EVENT_IOC_SET_OUTPUT: libc::c_ulong = 0x2405;
/// `_IOW('$', 6, char *)`.
const PERF_EVENT_IOC_SET_FILTER: libc::c_ulong = 0x4008_2406;

/// Makes an event write into another event's ring, so that both keep one order.
pub(super) fn set_output(event: &impl AsRawFd, ring: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: the request takes a file descriptor by value and touches no memory of ours.
    let result = unsafe {
        libc::ioctl(
            event.as_raw_fd(),
            PERF_EVENT_IOC_SET_OUTPUT,
            ring.as_raw_fd(),
        )
    };
    check(result)
}

/// Lets only records through that match a filter expression over the tracepoint's fields.
pub(super) fn set_filter(event: &impl AsRawFd, filter: &CStr) -> io::Result<()> {
    // SAFETY: the request reads a NUL-terminated string, which `filter` is and stays for the call.
    let result = unsafe {
        libc::ioctl(
            event.as_raw_fd(),
            PERF_EVENT_IOC_SET_FILTER,
            filter.as_ptr(),
        )
    };
    check(result)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
