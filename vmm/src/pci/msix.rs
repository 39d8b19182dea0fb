//! MSI-X: a table of messages with a mask each, and a pending bit for each masked one.
//!
//! Each vector has an eventfd that KVM turns into the interrupt (irqfd), so raising one is a single
//! small write from whatever thread. Route and irqfd are set up when the guest first makes the
//! vector live; most guests never use all of them.
//!
//! Lock order: the state's lock is a leaf but for the [`InterruptSink`]'s own. vCPU threads take it
//! from table writes, the I/O thread to raise a vector.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use crate::irq::{InterruptSink, IrqError, MsiMessage};

/// Size of a table entry.
pub const MSIX_ENTRY_BYTES: usize = 16;

const CONTROL_MASKED: u32 = 1;

/// The MSI-X vectors of one function.
pub struct Msix {
    sink: Arc<dyn InterruptSink>,
    state: Mutex<State>,
}

struct State {
    enabled: bool,
    masked: bool,
    vectors: Vec<Vector>,
}

struct Vector {
    gsi: u32,
    irqfd: EventFd,
    // As in the table: address low, address high, data, control.
    entry: [u32; 4],
    pending: bool,
    registered: bool,
    // Somebody else writes to the irqfd too: while masked, KVM must not listen to it.
    direct: bool,
    // What the line sends now. None: the guest's message was refused, or there was none yet.
    routed: Option<MsiMessage>,
}

impl Vector {
    fn is_masked(&self) -> bool {
        self.entry[3] & CONTROL_MASKED != 0
    }

    fn message(&self) -> MsiMessage {
        let [low, high, data, _] = self.entry;
        MsiMessage {
            address: u64::from(high) << 32 | u64::from(low),
            data,
        }
    }
}

impl Msix {
    /// Creates `nr_vectors` masked vectors, with a line of the sink for each.
    pub fn new(sink: Arc<dyn InterruptSink>, nr_vectors: u16) -> Result<Self, IrqError> {
        let vectors = (0..nr_vectors)
            .map(|_| {
                let gsi = sink.allocate()?;
                let irqfd =
                    EventFd::new(EFD_NONBLOCK).map_err(|source| irqfd_error(gsi, source))?;
                let entry = [0, 0, 0, CONTROL_MASKED];
                Ok(Vector {
                    gsi,
                    irqfd,
                    entry,
                    pending: false,
                    registered: false,
                    direct: false,
                    routed: None,
                })
            })
            .collect::<Result<_, IrqError>>()?;
        let state = State {
            enabled: false,
            masked: false,
            vectors,
        };
        Ok(Self {
            sink,
            state: Mutex::new(state),
        })
    }

    /// How many vectors there are.
    pub fn nr_vectors(&self) -> u16 {
        u16::try_from(self.state().vectors.len()).expect("created from a u16")
    }

    /// Whether the guest has enabled MSI-X.
    pub fn is_enabled(&self) -> bool {
        self.state().enabled
    }

    /// Takes the two bits of the capability's control register that a guest can write.
    pub fn set_control(&self, enabled: bool, masked: bool) {
        let mut state = self.state();
        (state.enabled, state.masked) = (enabled, masked);
        for index in 0..state.vectors.len() {
            self.make_live(&mut state, index);
        }
    }

    /// The eventfd of a vector, for somebody who raises it without us. While the vector is masked,
    /// what is written waits in it. One that raises nothing for a vector that does not exist.
    pub fn direct_fd(&self, vector: u16) -> io::Result<EventFd> {
        let mut state = self.state();
        let index = usize::from(vector);
        let Some(vector) = state.vectors.get_mut(index) else {
            return EventFd::new(EFD_NONBLOCK);
        };
        vector.direct = true;
        let fd = vector.irqfd.try_clone()?;
        self.make_live(&mut state, index);
        Ok(fd)
    }

    /// Raises a vector, or marks it pending if it is masked. Unknown vectors and those of a disabled
    /// MSI-X vanish.
    pub fn trigger(&self, vector: u16) {
        let mut state = self.state();
        let blocked = state.masked;
        if !state.enabled {
            return;
        }
        let Some(vector) = state.vectors.get_mut(usize::from(vector)) else {
            return;
        };
        if blocked || vector.is_masked() {
            vector.pending = true;
        } else if vector
            .routed
            .is_some_and(|message| !self.sink.post(message))
        {
            raise(&vector.irqfd);
        }
    }

    /// Reads the table. Offsets past its end read as zero.
    pub fn table_read(&self, offset: usize, data: &mut [u8]) {
        let state = self.state();
        for (at, byte) in (offset..).zip(data) {
            let vector = state.vectors.get(at / MSIX_ENTRY_BYTES);
            let word = vector.map_or(0, |vector| vector.entry[at % MSIX_ENTRY_BYTES / 4]);
            *byte = word.to_le_bytes()[at % 4];
        }
    }

    /// Writes the table: aligned accesses of 4 or 8 bytes only, as the specification says.
    pub fn table_write(&self, offset: usize, data: &[u8]) {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len()) {
            return;
        }
        let index = offset / MSIX_ENTRY_BYTES;
        let mut state = self.state();
        let Some(vector) = state.vectors.get_mut(index) else {
            return;
        };
        // Aligned to their size, so all words are in this entry.
        let first = offset % MSIX_ENTRY_BYTES / 4;
        for (word, bytes) in vector.entry[first..].iter_mut().zip(data.chunks_exact(4)) {
            *word = u32::from_le_bytes(bytes.try_into().expect("chunks of four"));
        }
        vector.entry[3] &= CONTROL_MASKED;
        self.make_live(&mut state, index);
    }

    /// Reads the pending bits. Offsets past their end read as zero.
    pub fn pending_read(&self, offset: usize, data: &mut [u8]) {
        let state = self.state();
        for (at, byte) in (offset..).zip(data) {
            let vectors = state.vectors.iter().skip(at.saturating_mul(8)).take(8);
            *byte = (0..)
                .zip(vectors)
                .fold(0, |byte, (bit, v)| byte | u8::from(v.pending) << bit);
        }
    }

    /// Forgets what is pending, as a device reset does. Table and enable bits are PCI's, and stay.
    pub fn clear_pending(&self) {
        self.state()
            .vectors
            .iter_mut()
            .for_each(|vector| vector.pending = false);
    }

    /// Routes a vector that may send now, and sends what was pending.
    fn make_live(&self, state: &mut State, index: usize) {
        let live = state.enabled && !state.masked;
        let vector = &mut state.vectors[index];
        if !live || vector.is_masked() {
            if vector.direct && vector.registered {
                // It was registered; if KVM will not have it back, an interrupt too many is all.
                let undone = self.sink.unregister_irqfd(&vector.irqfd, vector.gsi);
                vector.registered = undone.is_err();
            }
            return;
        }
        let message = vector.message();
        if vector.routed != Some(message) || !vector.registered {
            // A message that the host refuses is the guest's mistake and costs it this interrupt.
            vector.routed = self.route(vector, message).ok().map(|()| message);
        }
        if vector.pending && vector.routed.is_some() {
            raise(&vector.irqfd);
        }
        vector.pending = false;
    }

    fn route(&self, vector: &mut Vector, message: MsiMessage) -> Result<(), IrqError> {
        self.sink.set(vector.gsi, message)?;
        if !vector.registered {
            self.sink.register_irqfd(&vector.irqfd, vector.gsi)?;
            vector.registered = true;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Msix {
    fn drop(&mut self) {
        for vector in self
            .state()
            .vectors
            .iter()
            .filter(|vector| vector.registered)
        {
            // On the way out there is nobody left to tell.
            let _ = self.sink.unregister_irqfd(&vector.irqfd, vector.gsi);
        }
    }
}

fn raise(irqfd: &EventFd) {
    // Fails only if the counter is full, and then the interrupt is on its way anyway.
    let _ = irqfd.write(1);
}

fn irqfd_error(gsi: u32, source: io::Error) -> IrqError {
    IrqError::Irqfd { gsi, source }
}
