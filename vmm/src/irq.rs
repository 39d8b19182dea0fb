//! Interrupt routes: which message an interrupt line of KVM's carries, and which eventfd raises it.
//!
//! [`MsiRouter`] owns the VM's whole GSI routing table (KVM replaces it as one piece): the default
//! routes of the PIC and the IOAPIC, and one route per MSI that a device asked for. Devices see only
//! the trait [`InterruptSink`], so that their tests run on machines without KVM.
//!
//! A guest chooses the messages. One that KVM refuses fails alone: it must never take the other
//! devices' routes with it.
//!
//! Lock order: the router's table lock is a leaf, nothing else is locked while it is held.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use kvm_bindings::{
    kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi, KvmIrqRouting, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use crate::mem::layout::LOCAL_APIC;

/// Lines of the IOAPIC: GSIs below this are wired to chips, MSIs start here.
const NR_IOAPIC_PINS: u32 = 24;
/// Lines of both PICs together.
const NR_PIC_PINS: u32 = 16;
/// GSIs that this router gives out at most; far below KVM's limit of 4096 routes.
const MAX_MSI_ROUTES: u32 = 1024;

/// What a message-signalled interrupt writes, and where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Address of the write; names the target CPU.
    pub address: u64,
    /// Data of the write; holds the vector.
    pub data: u32,
}

impl MsiMessage {
    /// APIC id and vector of a fixed, edge-triggered interrupt to one CPU by its physical id; `None`
    /// for every other message (AMD APM volume 2, 16.5; Intel SDM volume 3, 12.11).
    fn fixed_target(self) -> Option<(u32, u8)> {
        const DESTINATION: u64 = 0xff << 12;
        const DELIVERY_AND_TRIGGER: u32 = 0x8700;
        let destination = (self.address & DESTINATION) >> 12;
        let is_physical = self.address & !DESTINATION == u64::from(LOCAL_APIC);
        let is_fixed = self.data & DELIVERY_AND_TRIGGER == 0;
        let [vector, ..] = self.data.to_le_bytes();
        // Everybody, and what no interrupt may have.
        let is_one = destination != 0xff && vector >= 16;
        (is_physical && is_fixed && is_one).then_some((u32::try_from(destination).ok()?, vector))
    }
}

/// Why an interrupt could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum IrqError {
    /// All GSIs are in use.
    #[error(
        "no interrupt route left of {MAX_MSI_ROUTES}; give devices fewer queues (,queues=N), or fewer devices \
         (--disk, --net)"
    )]
    Exhausted,
    /// The GSI was never allocated.
    #[error("interrupt route {0} was not allocated")]
    Unallocated(u32),
    /// KVM refused the routing table.
    #[error("could not route interrupt {gsi} to message {address:#x} data {data:#x}")]
    Route {
        /// The line.
        gsi: u32,
        /// Address of the message.
        address: u64,
        /// Data of the message.
        data: u32,
        /// KVM's reason.
        source: io::Error,
    },
    /// KVM refused to bind an eventfd.
    #[error("could not bind an eventfd to interrupt {gsi}")]
    Irqfd {
        /// The line.
        gsi: u32,
        /// KVM's reason.
        source: io::Error,
    },
}

/// Where a device's message-signalled interrupts go.
pub trait InterruptSink: Send + Sync {
    /// Reserves a line (GSI) for one MSI vector.
    fn allocate(&self) -> Result<u32, IrqError>;
    /// Sets the message that the line sends. On an error the line keeps its former message.
    fn set(&self, gsi: u32, message: MsiMessage) -> Result<(), IrqError>;
    /// Lets a write to `fd` raise the line.
    fn register_irqfd(&self, fd: &EventFd, gsi: u32) -> Result<(), IrqError>;
    /// Undoes [`InterruptSink::register_irqfd`].
    fn unregister_irqfd(&self, fd: &EventFd, gsi: u32) -> Result<(), IrqError>;
    /// Has the guest take a message without its line, if it can; else the line has to be raised.
    fn post(&self, _message: MsiMessage) -> bool {
        false
    }
}

/// Posts an interrupt to the vCPU with an APIC id, if that one accepts it now.
pub trait Poster: Send + Sync {
    /// Whether it is posted; if not, it has to be raised.
    fn post(&self, apic_id: u32, vector: u8) -> bool;
}

/// The GSI routing table of one VM.
pub struct MsiRouter {
    vm: Arc<VmFd>,
    table: Mutex<Table>,
    poster: OnceLock<Weak<dyn Poster>>,
}

struct Table {
    next_gsi: u32,
    messages: BTreeMap<u32, MsiMessage>,
}

impl MsiRouter {
    /// Creates the router of a VM that has KVM's irqchip.
    pub fn new(vm: Arc<VmFd>) -> Self {
        let table = Table {
            next_gsi: NR_IOAPIC_PINS,
            messages: BTreeMap::new(),
        };
        Self {
            vm,
            table: Mutex::new(table),
            poster: OnceLock::new(),
        }
    }

    /// From now on asks this one first, whether the guest takes a message without its line. Weak,
    /// because it may know devices, which know this.
    pub fn post_by(&self, poster: Weak<dyn Poster>) {
        // A machine has one; the first one stays.
        let _ = self.poster.set(poster);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn install(&self, messages: &BTreeMap<u32, MsiMessage>) -> io::Result<()> {
        let routing = KvmIrqRouting::from_entries(&entries(messages))
            .map_err(|error| io::Error::other(format!("{error:?}")))?;
        self.vm
            .set_gsi_routing(&routing)
            .map_err(|e| io::Error::from_raw_os_error(e.errno()))
    }
}

impl InterruptSink for MsiRouter {
    fn allocate(&self) -> Result<u32, IrqError> {
        let mut table = self.table();
        if table.next_gsi >= NR_IOAPIC_PINS + MAX_MSI_ROUTES {
            return Err(IrqError::Exhausted);
        }
        let gsi = table.next_gsi;
        table.next_gsi += 1;
        Ok(gsi)
    }

    fn set(&self, gsi: u32, message: MsiMessage) -> Result<(), IrqError> {
        let mut table = self.table();
        if !(NR_IOAPIC_PINS..table.next_gsi).contains(&gsi) {
            return Err(IrqError::Unallocated(gsi));
        }
        let former = table.messages.insert(gsi, message);
        if former == Some(message) {
            return Ok(());
        }
        let Err(source) = self.install(&table.messages) else {
            return Ok(());
        };
        // KVM still has the old table; ours must say the same, or this one bad message would fail
        // every later update too.
        match former {
            Some(former) => table.messages.insert(gsi, former),
            None => table.messages.remove(&gsi),
        };
        let MsiMessage { address, data } = message;
        Err(IrqError::Route {
            gsi,
            address,
            data,
            source,
        })
    }

    fn post(&self, message: MsiMessage) -> bool {
        let target = message.fixed_target();
        target
            .zip(self.poster.get().and_then(Weak::upgrade))
            .is_some_and(|((apic_id, vector), poster)| poster.post(apic_id, vector))
    }

    fn register_irqfd(&self, fd: &EventFd, gsi: u32) -> Result<(), IrqError> {
        self.vm
            .register_irqfd(fd, gsi)
            .map_err(|error| irqfd_error(gsi, error.errno()))
    }

    fn unregister_irqfd(&self, fd: &EventFd, gsi: u32) -> Result<(), IrqError> {
        self.vm
            .unregister_irqfd(fd, gsi)
            .map_err(|error| irqfd_error(gsi, error.errno()))
    }
}

fn irqfd_error(gsi: u32, errno: i32) -> IrqError {
    IrqError::Irqfd {
        gsi,
        source: io::Error::from_raw_os_error(errno),
    }
}

/// The whole table: what KVM has from the start, then the messages.
fn entries(messages: &BTreeMap<u32, MsiMessage>) -> Vec<kvm_irq_routing_entry> {
    let mut entries = Vec::with_capacity(NR_IOAPIC_PINS as usize * 2 + messages.len());
    for gsi in 0..NR_IOAPIC_PINS {
        // A line below 16 is wired to a PIC and to the IOAPIC, and the guest uses one of them.
        if gsi < NR_PIC_PINS / 2 {
            entries.push(chip_entry(gsi, KVM_IRQCHIP_PIC_MASTER, gsi));
        } else if gsi < NR_PIC_PINS {
            entries.push(chip_entry(
                gsi,
                KVM_IRQCHIP_PIC_SLAVE,
                gsi - NR_PIC_PINS / 2,
            ));
        }
        entries.push(chip_entry(gsi, KVM_IRQCHIP_IOAPIC, gsi));
    }
    entries.extend(
        messages
            .iter()
            .map(|(&gsi, &message)| msi_entry(gsi, message)),
    );
    entries
}

fn chip_entry(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            irqchip: kvm_irq_routing_irqchip { irqchip, pin },
        },
        ..Default::default()
    }
}

fn msi_entry(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let [b0, b1, b2, b3, b4, b5, b6, b7] = message.address.to_le_bytes();
    let msi = kvm_irq_routing_msi {
        address_lo: u32::from_le_bytes([b0, b1, b2, b3]),
        address_hi: u32::from_le_bytes([b4, b5, b6, b7]),
        data: message.data,
        ..Default::default()
    };
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_both_pics_and_the_ioapic() {
        let entries = entries(&BTreeMap::new());
        assert_eq!(entries.len(), 40);
        assert!(entries
            .iter()
            .all(|entry| entry.type_ == KVM_IRQ_ROUTING_IRQCHIP));
        for gsi in 0..24 {
            let nr = entries.iter().filter(|entry| entry.gsi == gsi).count();
            assert_eq!(nr, if gsi < 16 { 2 } else { 1 }, "gsi {gsi}");
        }
    }

    #[test]
    fn too_many_routes_name_what_to_ask_less_of() {
        let says = IrqError::Exhausted.to_string();
        assert!(
            says.contains(",queues=N") && says.contains("--disk, --net"),
            "{says}"
        );
    }

    #[test]
    fn post_6_only_a_fixed_edge_to_one_cpu_can_be_posted() {
        let message = |address, data| MsiMessage { address, data }.fixed_target();
        assert_eq!(message(0xfee0_3000, 0x41), Some((3, 0x41)));
        for (address, data) in [
            (0xfee0_3000, 0x0f),   // no vector
            (0xfee0_3000, 0x8041), // level
            (0xfee0_3000, 0x0441), // NMI
            (0xfee0_3000, 0x0141), // lowest priority
            (0xfee0_3004, 0x41),   // logical destination
            (0xfeef_f000, 0x41),   // everybody
            (0x1_fee0_3000, 0x41), // further destination bits
            (0x3000, 0x41),        // no message at all
        ] {
            assert_eq!(message(address, data), None, "{address:#x} {data:#x}");
        }
    }

    #[test]
    fn messages_come_after_the_chips() {
        let message = MsiMessage {
            address: 0xfee0_0000,
            data: 0x41,
        };
        let entries = entries(&BTreeMap::from([(24, message), (30, message)]));
        assert_eq!(entries.len(), 42);
        let gsis: Vec<u32> = entries[40..].iter().map(|entry| entry.gsi).collect();
        assert_eq!(gsis, [24, 30]);
        assert!(entries[40..]
            .iter()
            .all(|entry| entry.type_ == KVM_IRQ_ROUTING_MSI));
    }
}
