//! Puts a kernel, its initramfs, command line and tables into guest memory and says where the
//! first vCPU starts.
//!
//! [`image`] tells kernel formats apart and refuses what is none, [`load`] places everything,
//! [`pvh`] and [`linux64`] write the structures of the two boot protocols, [`acpi`] the tables,
//! [`registers`] the first vCPU's state. Nothing here talks to KVM but [`registers`].

pub mod acpi;
pub mod image;
pub mod linux64;
pub mod load;
pub mod pvh;
pub mod registers;

pub use load::{load, write_cmdline, BootError, Entry, Loaded};
