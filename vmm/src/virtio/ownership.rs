//! Who looks at a queue's available ring, and how that changes hands without losing a buffer.
//!
//! A queue has one *owner* at a time. The owner is who has promised the driver to find its buffers:
//!
//! - the I/O thread, which looks when it is notified; the driver is asked to notify;
//! - the polling thread, or for a moment the I/O thread that lingers, which look by themselves; the driver is asked not to notify, by the standard's
//!   own means, so that any driver understands it: `VIRTQ_USED_F_NO_NOTIFY`, or with
//!   `VIRTIO_F_EVENT_IDX` an `avail_event` that no index of the driver's is about to pass.
//!
//! Owning is a promise, not a lock: whoever touches a queue holds its backend's lock, also the I/O
//! thread when it is called to a queue that the polling thread owns, or that looks at a queue at which the other lingers. Both changes happen under that
//! lock. What is argued here is between the owner and the driver, who knows no lock of ours.
//!
//! **Take-over**: suppress, fence, look. Nothing can be lost, whatever the driver sees: a notification
//! that is on its way reaches the I/O thread, which looks; one that is not sent is for a buffer that
//! the new owner finds, as it goes on looking. The fence makes the suppression visible before the
//! first look, so that a driver that publishes behind that look is told in time not to notify.
//!
//! **Hand-back**: ask, fence, look once more ([`hand_back`]). Here all depends on the order. The driver
//! (virtio 1.2, 2.7.13.4.1 and 2.7.10) stores its index, makes a full fence, and loads what we stored;
//! we store that we want to be told, make a full fence, and load its index. Of the two loads at least
//! one sees the other side's store: either the driver notifies, or the last look finds its buffer.
//! Without either fence both loads can miss, and the buffer waits until the driver happens to publish
//! another. Without the last look it is lost even on a machine that reorders nothing.
//!
//! `tests/ownership.rs` explores all interleavings of these two functions with a driver's (loom), and
//! shows that it finds the loss if a fence or the last look is left out.

/// The words of a ring by which the two sides tell each other what they want.
pub(super) trait RingWords {
    /// Why memory cannot be reached.
    type Error;
    /// Asks the driver not to notify. `next` is the index of the buffer that is taken next.
    fn suppress(&self, next: u16) -> Result<(), Self::Error>;
    /// Asks the driver to notify when it publishes the buffer of index `next`.
    fn ask(&self, next: u16) -> Result<(), Self::Error>;
    /// A full fence: keeps the stores above before the load below.
    fn fence(&self);
    /// The driver's available index.
    fn avail(&self) -> Result<u16, Self::Error>;
}

/// The owner is from now on one who looks by himself. Returns whether there are buffers already.
pub(super) fn take_over<W: RingWords>(words: &W, next: u16) -> Result<bool, W::Error> {
    words.suppress(next)?;
    words.fence();
    Ok(words.avail()? != next)
}

/// The owner is from now on one who looks when he is notified. Returns whether there are buffers of
/// which he may not be told: then the caller has to call him.
pub(super) fn hand_back<W: RingWords>(words: &W, next: u16) -> Result<bool, W::Error> {
    words.ask(next)?;
    words.fence();
    Ok(words.avail()? != next)
}
