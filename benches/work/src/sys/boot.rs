//! What only an init does: mounts, modules, the kernel's log, the end of the machine.
#![expect(unsafe_code)]
// UNSAFETY: mount, finit_module, kexec_file_load, klogctl, tcdrain and reboot have no safe wrappers.

use super::check;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Mounts a file system that has no source.
pub(crate) fn mount(kind: &CStr, target: &CStr) -> io::Result<()> {
    mount_from(kind, kind, target)
}

/// Mounts a file system.
pub(crate) fn mount_from(source: &CStr, kind: &CStr, target: &CStr) -> io::Result<()> {
    // SAFETY: the strings are terminated, and null data is allowed.
    check(unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            0,
            std::ptr::null(),
        )
    })?;
    Ok(())
}

/// Unmounts a file system that nobody uses.
pub(crate) fn unmount(target: &CStr) -> io::Result<()> {
    // SAFETY: the string is terminated.
    check(unsafe { libc::umount2(target.as_ptr(), 0) })?;
    Ok(())
}

/// Loads an uncompressed kernel module with parameters separated by spaces.
pub(crate) fn load_module(module: &File, params: &str) -> io::Result<()> {
    let params = CString::new(params)?;
    // SAFETY: the descriptor is open and the parameter string is terminated.
    check(unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            module.as_raw_fd(),
            params.as_ptr(),
            0,
        )
    })?;
    Ok(())
}

/// Unloads a kernel module that nobody uses.
pub(crate) fn unload_module(name: &CStr) -> io::Result<()> {
    // SAFETY: the name is terminated.
    check(unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) })?;
    Ok(())
}

/// Loads the kernel that [`Reboot::Kexec`] starts: a bzImage and an initramfs, both regular files.
pub(crate) fn load_kernel(kernel: &File, initramfs: &File, cmdline: &str) -> io::Result<()> {
    let cmdline = CString::new(cmdline)?;
    // SAFETY: the descriptors are open, and the command line has the length that is said, with its terminating zero.
    check(unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initramfs.as_raw_fd(),
            cmdline.as_bytes_with_nul().len(),
            cmdline.as_ptr(),
            0,
        )
    })?;
    Ok(())
}

/// Reads the kernel's log buffer, as far as it still reaches back.
pub(crate) fn read_kernel_log() -> io::Result<String> {
    const SYSLOG_ACTION_READ_ALL: libc::c_int = 3;
    const SYSLOG_ACTION_SIZE_BUFFER: libc::c_int = 10;
    // SAFETY: asks for a number only; the buffer is not used.
    let size = check(unsafe { libc::klogctl(SYSLOG_ACTION_SIZE_BUFFER, std::ptr::null_mut(), 0) })?;
    let mut log = vec![0u8; usize::try_from(size).unwrap_or(0)];
    // SAFETY: the buffer is valid for `size` bytes.
    let read =
        check(unsafe { libc::klogctl(SYSLOG_ACTION_READ_ALL, log.as_mut_ptr().cast(), size) })?;
    log.truncate(usize::try_from(read).unwrap_or(0));
    Ok(String::from_utf8_lossy(&log).into_owned())
}

/// Waits until a terminal has sent what was written to it.
pub(crate) fn drain(terminal: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open.
    check(unsafe { libc::tcdrain(terminal.as_raw_fd()) })?;
    Ok(())
}

/// Writes all file systems' data back.
pub(crate) fn sync() {
    // SAFETY: touches no memory of this process.
    unsafe { libc::sync() };
}

/// How reboot(2) ends a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reboot {
    /// Switch it off.
    PowerOff,
    /// Start it again.
    Restart,
    /// Stop the CPUs.
    Halt,
    /// Start the kernel that was loaded for this.
    Kexec,
}

/// Ends the machine; returns only if the kernel refuses.
pub(crate) fn reboot(how: Reboot) -> io::Error {
    let command = match how {
        Reboot::PowerOff => libc::RB_POWER_OFF,
        Reboot::Restart => libc::RB_AUTOBOOT,
        Reboot::Halt => libc::RB_HALT_SYSTEM,
        Reboot::Kexec => libc::LINUX_REBOOT_CMD_KEXEC,
    };
    // SAFETY: touches no memory of this process; needs CAP_SYS_BOOT, or it fails.
    unsafe { libc::reboot(command) };
    io::Error::last_os_error()
}
