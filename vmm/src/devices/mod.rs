//! The small legacy devices: serial port, clock, reset and power registers.
//!
//! Each file is one device with its register table. They sit on the port bus and are driven by
//! vCPU threads; none blocks for longer than a console write.

pub mod debug_exit;
pub mod i8042;
pub mod power;
pub mod pvpanic;
pub mod rtc;
pub mod serial;
