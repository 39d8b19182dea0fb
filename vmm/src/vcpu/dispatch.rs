//! What to do about an exit: a function over buses, without KVM.
//!
//! Unclaimed reads give all ones, unclaimed writes are dropped; both are ordinary events that a
//! probing guest causes, so they are counted (by `tally`) and not logged.

use std::sync::Arc;

use coopvirt_spec::doorbell::Bell;
use coopvirt_spec::mark::{Mark, MARK_MSR, MARK_PORT};

use super::exit::Exit;
use super::tally::Kind;
use crate::bus::Bus;
use crate::coop::Coop;
use crate::notifies::Notifies;
use crate::pci::PciRoot;

/// What the buses made of an exit.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Run on.
    Continue,
    /// The guest made a mark (`[MARK-1]`, `[MARK-2]`).
    Mark(Mark),
    /// The guest wrote a set-up register of the cooperative interface (`[REG-1]`) or its TSC.
    SetUp {
        /// The register.
        msr: u32,
        /// What was written.
        value: u64,
    },
    /// The guest rang the synchronous doorbell (`[BELL-3]`).
    Doorbell,
    /// The guest halts by the synchronous doorbell (`[HALT-1]`).
    Halt,
    /// The vCPU triple-faulted.
    TripleFault,
    /// KVM says that the guest wants a reset.
    Reset,
    /// KVM says that the guest crashed.
    Crash,
    /// The vCPU cannot go on.
    Fail(String),
}

/// The two address spaces that devices live in.
///
/// Some addresses of the second one are only there to be written to, which needs no bus.
pub struct Buses {
    /// I/O ports.
    pub ports: Bus,
    /// Memory-mapped I/O.
    pub mmio: Bus,
    /// Who hears a write to memory-mapped I/O, before the bus is asked.
    pub notifies: Arc<Notifies>,
    /// Functions whose BARs are asked before the bus is: each has a lock of its own, so that a vCPU that waits for one
    /// device keeps no other from another.
    pub bars: Option<Arc<PciRoot>>,
}

impl Buses {
    fn write_memory(&self, gpa: u64, data: &[u8]) {
        let is_taken = self.notifies.hear(gpa)
            || (self.bars.as_ref()).is_some_and(|bars| bars.mmio_write(gpa, data));
        if !is_taken {
            self.mmio.write(gpa, data);
        }
    }

    fn read_memory(&self, gpa: u64, data: &mut [u8]) {
        let is_taken = (self.bars.as_ref()).is_some_and(|bars| bars.mmio_read(gpa, data));
        if !is_taken {
            self.mmio.read(gpa, data);
        }
    }
}

/// The cooperative interface of one vCPU.
#[derive(Clone, Copy)]
pub struct CoopVcpu<'a> {
    /// The machine's host half.
    pub coop: &'a Coop,
    /// Which vCPU.
    pub vcpu: u8,
}

/// The kind under which an exit is counted.
pub fn kind(exit: &Exit<'_>) -> Kind {
    match *exit {
        Exit::PortOut { port, .. } => Kind::PortOut(port),
        Exit::PortIn { port, .. } => Kind::PortIn(port),
        Exit::MmioWrite { gpa, .. } => Kind::MmioWrite(gpa),
        Exit::MmioRead { gpa, .. } => Kind::MmioRead(gpa),
        Exit::MsrRead { index, .. } => Kind::MsrRead(index),
        Exit::MsrWrite { index, .. } => Kind::MsrWrite(index),
        Exit::Shutdown => Kind::Shutdown,
        Exit::SystemReset | Exit::SystemCrash | Exit::Failure(_) => Kind::Other,
    }
}

/// Carries an exit out on the buses, and on the cooperative interface if there is one.
pub fn dispatch(exit: Exit<'_>, buses: &Buses, coop: Option<CoopVcpu<'_>>) -> Outcome {
    match exit {
        Exit::PortOut { port, width, data } => {
            if port == MARK_PORT {
                return mark(data);
            }
            if let (Some(CoopVcpu { coop, .. }), Some(bell)) = (coop, Bell::decode(port, data)) {
                return match bell {
                    Bell::Sync => Outcome::Doorbell,
                    Bell::Halt => Outcome::Halt,
                    // Comes as an exit only where KVM did not match it itself.
                    Bell::Async => {
                        coop.ring_async();
                        Outcome::Continue
                    }
                };
            }
            for item in data.chunks(width.max(1)) {
                buses.ports.write(port.into(), item);
            }
            Outcome::Continue
        }
        Exit::PortIn { port, width, data } => {
            for item in data.chunks_mut(width.max(1)) {
                buses.ports.read(port.into(), item);
            }
            Outcome::Continue
        }
        Exit::MmioWrite { gpa, data } => {
            buses.write_memory(gpa, data);
            Outcome::Continue
        }
        Exit::MmioRead { gpa, data } => {
            buses.read_memory(gpa, data);
            Outcome::Continue
        }
        Exit::MsrRead {
            index,
            value,
            fault,
        } => {
            let answer = match coop {
                _ if index == MARK_MSR => Some(0),
                Some(CoopVcpu { coop, vcpu }) => coop.read_register(vcpu, index),
                None => None,
            };
            *value = answer.unwrap_or(0);
            *fault = u8::from(answer.is_none());
            Outcome::Continue
        }
        Exit::MsrWrite {
            index,
            value,
            fault,
        } => {
            if coop.is_some_and(|CoopVcpu { coop, .. }| coop.has_register(index)) {
                *fault = 0;
                return Outcome::SetUp { msr: index, value };
            }
            if index != MARK_MSR {
                *fault = 1;
                return Outcome::Continue;
            }
            *fault = 0;
            let mark = u32::try_from(value).ok().and_then(Mark::decode);
            mark.map_or(Outcome::Continue, Outcome::Mark)
        }
        Exit::Shutdown => Outcome::TripleFault,
        Exit::SystemReset => Outcome::Reset,
        Exit::SystemCrash => Outcome::Crash,
        Exit::Failure(what) => Outcome::Fail(what),
    }
}

/// A mark is one 32-bit write; anything else on that port is nothing (`[MARK-1]`).
fn mark(data: &[u8]) -> Outcome {
    let value = data.try_into().map(u32::from_le_bytes).ok();
    value
        .and_then(Mark::decode)
        .map_or(Outcome::Continue, Outcome::Mark)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use coopvirt_spec::mark::MarkKind;

    use super::*;
    use crate::bus::BusDevice;

    #[derive(Default)]
    struct Recorder(Vec<(u64, Vec<u8>)>);

    impl BusDevice for Recorder {
        fn read(&mut self, _offset: u64, data: &mut [u8]) {
            data.fill(0x5a);
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0.push((offset, data.to_vec()));
        }
        fn name(&self) -> &str {
            "recorder"
        }
    }

    fn buses() -> (Buses, Arc<Mutex<Recorder>>) {
        let device = Arc::new(Mutex::new(Recorder::default()));
        let mut buses = Buses {
            ports: Bus::new(),
            mmio: Bus::new(),
            notifies: Arc::default(),
            bars: None,
        };
        buses.ports.insert(0x3f8, 8, device.clone()).unwrap();
        buses
            .mmio
            .insert(0xc000_0000, 0x1000, device.clone())
            .unwrap();
        (buses, device)
    }

    #[test]
    fn string_output_reaches_the_port_item_by_item() {
        let (buses, device) = buses();
        let exit = Exit::PortOut {
            port: 0x3f8,
            width: 1,
            data: b"abc",
        };
        assert_eq!(dispatch(exit, &buses, None), Outcome::Continue);
        let written: Vec<_> = device
            .lock()
            .unwrap()
            .0
            .iter()
            .map(|(_, data)| data[0])
            .collect();
        assert_eq!(written, b"abc");
    }

    #[test]
    fn nobody_home_reads_as_all_ones() {
        let (buses, _) = buses();
        let mut data = [0; 4];
        dispatch(
            Exit::PortIn {
                port: 0x1234,
                width: 4,
                data: &mut data,
            },
            &buses,
            None,
        );
        assert_eq!(data, [0xff; 4]);
        dispatch(
            Exit::MmioRead {
                gpa: u64::MAX - 1,
                data: &mut data,
            },
            &buses,
            None,
        );
        assert_eq!(data, [0xff; 4]);
        assert_eq!(
            dispatch(
                Exit::MmioWrite {
                    gpa: u64::MAX,
                    data: &[1; 8]
                },
                &buses,
                None,
            ),
            Outcome::Continue
        );
    }

    #[test]
    fn mark_1_only_a_32_bit_write_is_a_mark() {
        let (buses, _) = buses();
        let port = MARK_PORT;
        let mark = Mark {
            kind: MarkKind::End,
            work: 2,
            seq: 9,
        };
        let bytes = mark.encode().to_le_bytes();
        assert_eq!(
            dispatch(
                Exit::PortOut {
                    port,
                    width: 4,
                    data: &bytes
                },
                &buses,
                None,
            ),
            Outcome::Mark(mark)
        );
        for data in [&bytes[..1], &bytes[..2], &[0; 8][..], &[0xff; 4][..]] {
            assert_eq!(
                dispatch(
                    Exit::PortOut {
                        port,
                        width: data.len(),
                        data
                    },
                    &buses,
                    None,
                ),
                Outcome::Continue
            );
        }
    }

    #[test]
    fn mark_2_other_filtered_msrs_fault() {
        let (buses, _) = buses();
        let mark = Mark {
            kind: MarkKind::Begin,
            work: 1,
            seq: 1,
        };
        let mut fault = 0;
        let value = u64::from(mark.encode());
        let exit = Exit::MsrWrite {
            index: MARK_MSR,
            value,
            fault: &mut fault,
        };
        assert_eq!(dispatch(exit, &buses, None), Outcome::Mark(mark));
        assert_eq!(fault, 0);
        dispatch(
            Exit::MsrWrite {
                index: MARK_MSR + 1,
                value,
                fault: &mut fault,
            },
            &buses,
            None,
        );
        assert_eq!(fault, 1);
    }
}
