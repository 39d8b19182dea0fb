//! I/O ports.
#![expect(unsafe_code)]
// UNSAFETY: IN and OUT are instructions. A write may do anything to the machine, even end it; this
// guest has the machine for itself and exists to try such things.

use core::arch::asm;

macro_rules! port_access {
    ($read:ident, $write:ident, $type:ty, $register:tt) => {
        #[doc = concat!("Reads ", stringify!($type), " from a port.")]
        pub fn $read(port: u16) -> $type {
            let value: $type;
            // SAFETY: touches no memory of this program.
            unsafe {
                asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value,
                    options(nomem, nostack, preserves_flags));
            }
            value
        }

        #[doc = concat!("Writes ", stringify!($type), " to a port. Memory written before is seen by who reacts.")]
        pub fn $write(port: u16, value: $type) {
            // SAFETY: touches no memory of this program. Without `nomem` it keeps its order to
            // writes of memory, which doorbells need.
            unsafe {
                asm!(concat!("out dx, ", $register), in("dx") port, in($register) value,
                    options(nostack, preserves_flags));
            }
        }
    };
}

port_access!(read_u8, write_u8, u8, "al");
port_access!(read_u16, write_u16, u16, "ax");
port_access!(read_u32, write_u32, u32, "eax");
