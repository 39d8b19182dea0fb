//! What happens to a machine that its owner has to act on.

/// Sent by devices, vCPU threads, the console and signal handlers to the machine's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// The guest switched off (ACPI S5).
    PowerOff,
    /// The guest pulled a reset line.
    Reset,
    /// The guest reported a panic, through pvpanic or KVM.
    Panicked,
    /// A test guest ended with this code.
    Exit(u8),
    /// A vCPU triple-faulted.
    TripleFault,
    /// A vCPU cannot run on.
    VcpuFailed {
        /// Which one.
        vcpu: u8,
        /// What KVM said, or that its thread panicked.
        what: String,
    },
    /// The I/O thread is gone, and with it what serves the devices: why.
    IoFailed(String),
    /// The user wants to end it.
    UserQuit,
    /// A signal wants to end it.
    Signal(i32),
}
