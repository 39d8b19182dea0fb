// SPDX-License-Identifier: GPL-2.0
//! For kernels without Rust: the names of `rust`, over core and glue/entry.c.
#![expect(unsafe_code)]
// UNSAFETY: calls C, and keeps what the first of C's two calls makes for the second one to drop.

use core::cell::UnsafeCell;
use core::ffi::c_int;
use core::fmt::{self, Write};
use core::panic::PanicInfo;

use crate::Module;

// As in glue/coopvirt.h.
unsafe extern "C" {
    fn coopvirt_glue_print(level: u32, text: *const u8, len: usize);
    safe fn coopvirt_glue_bug() -> !;
}

/// An error of the kernel's: its number, negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Error(c_int);

pub(crate) const EIO: Error = Error(-5);
pub(crate) const ENOMEM: Error = Error(-12);
pub(crate) const EBUSY: Error = Error(-16);
pub(crate) const ENODEV: Error = Error(-19);
pub(crate) const EINVAL: Error = Error(-22);

/// What may fail in the kernel.
pub(crate) type Result<T = (), E = Error> = core::result::Result<T, E>;

impl Error {
    /// The number, negative.
    pub(crate) fn to_errno(self) -> c_int {
        self.0
    }
}

/// A result as C says it: an error is negative.
pub(crate) fn to_result(code: c_int) -> Result {
    if code < 0 {
        return Err(Error(code));
    }
    Ok(())
}

/// How much a line of the log matters: the index in glue/entry.c.
pub(crate) enum Level {
    Emergency = 0,
    Error = 1,
    Warning = 2,
    Info = 3,
}

/// The longest text of one line; the kernel's own limit is near a thousand.
const LINE_BYTES: usize = 480;

/// Text on its way to the log. What does not fit is left out.
struct Line {
    bytes: [u8; LINE_BYTES],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (to, from) in self.bytes.iter_mut().skip(self.len).zip(text.bytes()) {
            *to = from;
            self.len += 1;
        }
        Ok(())
    }
}

/// Writes a line to the kernel's log; from any context.
pub(crate) fn print(level: Level, text: fmt::Arguments<'_>) {
    let mut line = Line {
        bytes: [0; LINE_BYTES],
        len: 0,
    };
    // A line takes everything.
    let _ = line.write_fmt(text);
    // SAFETY: `len` bytes of the line have been written.
    unsafe { coopvirt_glue_print(level as u32, line.bytes.as_ptr(), line.len) };
}

macro_rules! pr_err {
    ($($text:tt)*) => {
        $crate::flavour::print($crate::flavour::Level::Error, format_args!($($text)*))
    };
}
macro_rules! pr_warn {
    ($($text:tt)*) => {
        $crate::flavour::print($crate::flavour::Level::Warning, format_args!($($text)*))
    };
}
macro_rules! pr_info {
    ($($text:tt)*) => {
        $crate::flavour::print($crate::flavour::Level::Info, format_args!($($text)*))
    };
}
pub(crate) use {pr_err, pr_info, pr_warn};

/// As the kernel crate: the log says why, and this thread ends.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    print(Level::Emergency, format_args!("{info}\n"));
    coopvirt_glue_bug()
}

/// The module, from load to unload.
struct Loaded(UnsafeCell<Option<Module>>);

// SAFETY: reached by the two functions below only, which the kernel calls once each, one after the
// other has returned.
unsafe impl Sync for Loaded {}

static LOADED: Loaded = Loaded(UnsafeCell::new(None));

/// The kernel loads the module. Zero, or a negative error number, after which it is not unloaded.
#[no_mangle]
extern "C" fn coopvirt_rs_load() -> c_int {
    match Module::load() {
        Ok(module) => {
            // SAFETY: nobody else is here, see `Loaded`.
            unsafe { *LOADED.0.get() = Some(module) };
            0
        }
        Err(error) => error.to_errno(),
    }
}

/// The kernel unloads the module.
#[no_mangle]
extern "C" fn coopvirt_rs_unload() {
    // SAFETY: as above.
    drop(unsafe { (*LOADED.0.get()).take() });
}
