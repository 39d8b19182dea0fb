//! Coopvirt's virtual machine monitor as a library.
#![deny(unsafe_code)]

pub mod account;
pub mod compare;
