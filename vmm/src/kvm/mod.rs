//! Thin owned wrappers around KVM: opening it, what it can do, CPUID, raw ioctls.
//!
//! Called by the machine builder. Policy (which mode shows what to a guest) is in [`cpuid`] and
//! [`features`]; the rest only asks KVM and reports errors with a remedy.

pub mod cpuid;
pub mod features;
pub mod irqchip;
pub mod mce;
pub mod open;
pub mod prefault;
pub mod setup;
pub mod tsc;
