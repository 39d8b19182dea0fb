//! What a device on the PCI bus implements.

/// Where a BAR is decoded now: its number and guest-physical base, or no base.
pub type BarBase = (usize, Option<u64>);

/// One PCI function. [`PciRoot`](super::PciRoot) calls it with its lock held, from vCPU threads.
///
/// Nothing here may block for long: the vCPU waits.
pub trait PciFunction: Send {
    /// Names the function in reports ("virtio-blk 00:02.0" is made from this and its place).
    fn name(&self) -> &str;

    /// Sizes of the function's 32-bit memory BARs, 0 where there is none. Each is a power of two of
    /// at least 16 and never changes.
    fn bar_sizes(&self) -> [u32; super::BAR_COUNT];

    /// Places a BAR and enables memory decoding, as firmware would. Called once per BAR, before the
    /// guest runs.
    fn place_bar(&mut self, bar: usize, base: u32);

    /// Names the parts of a BAR in reports, where they are worth telling apart: offset, length in
    /// bytes, name.
    fn bar_parts(&self, _bar: usize) -> Vec<(u64, u64, String)> {
        Vec::new()
    }

    /// Fills `data` from configuration space. `offset + data.len()` is at most 4096.
    fn config_read(&mut self, offset: u16, data: &mut [u8]);

    /// Takes a configuration write. `offset + data.len()` is at most 4096.
    fn config_write(&mut self, offset: u16, data: &[u8]);

    /// Tells where the guest wants the BAR, or `None` if it is not decoded at all (memory decoding
    /// off). The root decides whether it can be there.
    fn bar_address(&self, bar: usize) -> Option<u64>;

    /// Tells the function that a BAR is now decoded at another place, or no longer.
    fn bar_moved(&mut self, bar: BarBase);

    /// Fills `data` from a BAR. `offset + data.len()` is at most the BAR's size.
    fn bar_read(&mut self, bar: usize, offset: u64, data: &mut [u8]);

    /// Takes a write to a BAR. `offset + data.len()` is at most the BAR's size.
    fn bar_write(&mut self, bar: usize, offset: u64, data: &[u8]);
}
