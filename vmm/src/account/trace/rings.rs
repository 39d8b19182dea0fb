//! Opens the tracepoints on every CPU and reads their rings.
//!
//! One ring per CPU holds all its events, so that their order on that CPU is the kernel's own.
//! Nobody waits for these rings: the kernel is asked for no wake-up before a ring is full.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use perf_event::{Builder, Clock, Counter, SampleFlag, Sampler};

use super::decode::{Decoder, Source};
use super::error::TraceError;
use super::perf_ioctl;
use crate::account::aggregate::event::Event;

/// `PERF_RECORD_LOST`.
const RECORD_LOST: u32 = 2;
/// `PERF_RECORD_SAMPLE`.
const RECORD_SAMPLE: u32 = 9;
/// Before the raw data of a sample: process, thread, time, length of the raw data.
const SAMPLE_HEAD_BYTES: usize = 4 + 4 + 8 + 4;
/// Two clocks of the kernel may differ by this share, and by this much.
const CLOCKS_DIFFER_SHARE: u32 = 100;
const CLOCKS_DIFFER: Duration = Duration::from_millis(1);

/// The events of all CPUs.
pub struct Rings {
    cpus: Vec<CpuRing>,
    decoder: Decoder,
    /// All that were online at any time.
    seen: BTreeSet<usize>,
}

/// The ring of one CPU.
struct CpuRing {
    cpu: usize,
    ring: Sampler,
    /// Not before the ring's events were enabled.
    enabled_at: Instant,
    /// Events that write into the ring; they live as long as they are open.
    others: Vec<Counter>,
    /// Time of the last record: an interrupt between taking the time and writing the record can
    /// put two records in the wrong order of time, never in the wrong order of events.
    last_ns: u64,
}

/// What one record says.
enum Parsed<'a> {
    Sample {
        pid: u32,
        tid: u32,
        time_ns: u64,
        raw: &'a [u8],
    },
    Lost(u64),
    Ignored,
}

/// Where drained events go.
pub trait Sink {
    /// An event of a process.
    fn event(&mut self, pid: u32, event: Event);
    /// A number of events that the kernel dropped.
    fn lost(&mut self, events: u64);
}

impl Rings {
    /// Opens and enables everything that `decoder` knows, on every online CPU.
    pub fn open(decoder: Decoder, ring_bytes: usize) -> Result<Rings, TraceError> {
        let online = online_cpus().map_err(TraceError::Cpus)?;
        let mut cpus = Vec::new();
        for &cpu in &online {
            cpus.push(CpuRing::open(&decoder, cpu, ring_bytes)?);
        }
        Ok(Rings {
            cpus,
            decoder,
            seen: online.into_iter().collect(),
        })
    }

    /// Looks which CPUs are online. To be called now and then.
    pub fn note_online_cpus(&mut self) {
        // Where it cannot be read, those that were there at the beginning are still watched.
        self.seen.extend(online_cpus().unwrap_or_default());
    }

    /// The CPUs whose events are missing since some time: the kernel takes a CPU's events away when it
    /// goes offline and does not bring them back, and one that has come since `open` has none. Before
    /// `disable`; it interrupts every CPU once.
    pub fn untraced_cpus(&mut self) -> Vec<usize> {
        self.note_online_cpus();
        let mut untraced = self.seen.clone();
        for ring in &mut self.cpus {
            if ring.was_traced_always() {
                untraced.remove(&ring.cpu);
            }
        }
        untraced.into_iter().collect()
    }

    /// Keeps the calling thread, which is going to drain, off the CPUs set apart for vCPUs.
    pub fn bind_drain_thread(&self) {
        super::affinity::avoid_nohz_full_cpus();
    }

    /// Reads all records that are there now. Records of one CPU come in order and with times that
    /// do not go back; the caller merges CPUs.
    pub fn drain(&mut self, sink: &mut impl Sink) {
        for cpu in &mut self.cpus {
            cpu.drain(&self.decoder, sink);
        }
    }

    /// Stops recording; what is in the rings can still be read.
    pub fn disable(&mut self) {
        for cpu in &mut self.cpus {
            // A counter that cannot be disabled goes on until it is dropped: no harm.
            let _ = cpu.ring.disable();
            for counter in &mut cpu.others {
                let _ = counter.disable();
            }
        }
    }
}

impl CpuRing {
    fn open(decoder: &Decoder, cpu: usize, len_bytes: usize) -> Result<CpuRing, TraceError> {
        let mut ring: Option<Sampler> = None;
        let mut others = Vec::new();
        for source in &decoder.sources {
            let counter = open_event(source, cpu, len_bytes)?;
            set_filter(source, &counter)?;
            match &ring {
                None => {
                    let sampler = counter.sampled(len_bytes);
                    ring = Some(sampler.map_err(|source| TraceError::Ring {
                        cpu,
                        len_bytes,
                        source,
                    })?);
                }
                Some(ring) => {
                    perf_ioctl::set_output(&counter, ring)
                        .map_err(|error| control("redirect", source, cpu, error))?;
                    others.push(counter);
                }
            }
        }
        let Some(mut ring) = ring else {
            return Err(TraceError::Thread("has nothing to drain".into()));
        };
        let first = &decoder.sources[0];
        ring.enable()
            .map_err(|error| control("enable", first, cpu, error))?;
        for (counter, source) in others.iter_mut().zip(&decoder.sources[1..]) {
            counter
                .enable()
                .map_err(|error| control("enable", source, cpu, error))?;
        }
        Ok(CpuRing {
            cpu,
            ring,
            enabled_at: Instant::now(),
            others,
            last_ns: 0,
        })
    }

    fn was_traced_always(&mut self) -> bool {
        let elapsed = self.enabled_at.elapsed();
        let read = self.ring.read_full();
        let enabled = read.ok().and_then(|read| read.time_enabled());
        // What cannot be told is not complained of: the counts themselves are compared too.
        enabled.is_none_or(|enabled| has_counted(enabled, elapsed))
    }

    fn drain(&mut self, decoder: &Decoder, sink: &mut impl Sink) {
        while let Some(record) = self.ring.next_record() {
            let bytes = record.to_contiguous();
            match parse(record.ty(), &bytes) {
                Parsed::Sample {
                    pid,
                    tid,
                    time_ns,
                    raw,
                } => {
                    self.last_ns = self.last_ns.max(time_ns);
                    if let Some(kind) = decoder.decode(raw) {
                        sink.event(
                            pid,
                            Event {
                                time_ns: self.last_ns,
                                tid,
                                kind,
                            },
                        );
                    }
                }
                Parsed::Lost(events) => sink.lost(events),
                Parsed::Ignored => {}
            }
        }
    }
}

/// Whether an event that was enabled for so long has missed nothing.
fn has_counted(enabled: Duration, elapsed: Duration) -> bool {
    enabled + elapsed / CLOCKS_DIFFER_SHARE + CLOCKS_DIFFER >= elapsed
}

fn open_event(source: &Source, cpu: usize, len_bytes: usize) -> Result<Counter, TraceError> {
    let mut builder = Builder::new(perf_event::events::Tracepoint::with_id(u64::from(
        source.tracepoint.id,
    )));
    builder
        .any_pid()
        .one_cpu(cpu)
        .include_kernel()
        .include_hv()
        .sample_period(1)
        .sample(SampleFlag::TID | SampleFlag::TIME | SampleFlag::RAW)
        .clockid(Clock::MONOTONIC)
        .wakeup_watermark(len_bytes);
    builder.build().map_err(|error| {
        let event = source.tracepoint.name.clone();
        if matches!(error.kind(), ErrorKind::PermissionDenied) {
            let paranoid = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
            let paranoid = paranoid.map_or_else(|_| "unknown".into(), |text| text.trim().into());
            return TraceError::NotPermitted {
                event,
                paranoid,
                source: error,
            };
        }
        TraceError::Open {
            event,
            cpu,
            source: error,
        }
    })
}

fn set_filter(source: &Source, counter: &impl AsRawFd) -> Result<(), TraceError> {
    let Some(filter) = &source.filter else {
        return Ok(());
    };
    let text = CString::new(filter.as_str()).map_err(io::Error::from);
    text.and_then(|text| perf_ioctl::set_filter(counter, &text))
        .map_err(|error| TraceError::Filter {
            event: source.tracepoint.name.clone(),
            filter: filter.clone(),
            source: error,
        })
}

fn control(action: &'static str, source: &Source, cpu: usize, error: io::Error) -> TraceError {
    TraceError::Control {
        action,
        event: source.tracepoint.name.clone(),
        cpu,
        source: error,
    }
}

/// Takes a record apart; its layout follows from the flags in [`open_event`].
fn parse(record_type: u32, body: &[u8]) -> Parsed<'_> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(body.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?));
    let sample = || {
        let raw_bytes = usize::try_from(u32_at(16)?).ok()?;
        let raw = body.get(SAMPLE_HEAD_BYTES..)?.get(..raw_bytes)?;
        Some(Parsed::Sample {
            pid: u32_at(0)?,
            tid: u32_at(4)?,
            time_ns: u64_at(8)?,
            raw,
        })
    };
    match record_type {
        RECORD_SAMPLE => sample().unwrap_or(Parsed::Ignored),
        RECORD_LOST => u64_at(8).map_or(Parsed::Ignored, Parsed::Lost),
        _ => Parsed::Ignored,
    }
}

/// The CPUs that are online, from sysfs ("0-2,4").
fn online_cpus() -> io::Result<Vec<usize>> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    parse_cpu_list(text.trim())
        .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("not a CPU list: {text}")))
}

pub(super) fn parse_cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_taken_apart() {
        let mut body = Vec::new();
        body.extend(7u32.to_le_bytes());
        body.extend(8u32.to_le_bytes());
        body.extend(99u64.to_le_bytes());
        body.extend(4u32.to_le_bytes());
        body.extend([1, 2, 3, 4, 0, 0, 0, 0]);
        let Parsed::Sample {
            pid: 7,
            tid: 8,
            time_ns: 99,
            raw,
        } = parse(RECORD_SAMPLE, &body)
        else {
            panic!("not a sample");
        };
        assert_eq!(raw, [1, 2, 3, 4]);
        assert!(matches!(parse(RECORD_SAMPLE, &body[..20]), Parsed::Ignored));
    }

    #[test]
    fn a_lost_record_gives_its_number() {
        let mut body = vec![0; 8];
        body.extend(12u64.to_le_bytes());
        assert!(matches!(parse(RECORD_LOST, &body), Parsed::Lost(12)));
        assert!(matches!(parse(14, &body), Parsed::Ignored));
    }

    #[test]
    fn an_event_that_stopped_with_its_cpu_has_missed_something() {
        let ms = Duration::from_millis;
        assert!(has_counted(ms(10_000), ms(10_000)));
        // Enabled before the time was taken, and by another clock.
        assert!(has_counted(ms(9_950), ms(10_000)));
        assert!(!has_counted(ms(9_500), ms(10_000)));
        assert!(!has_counted(ms(0), ms(10)));
    }

    #[test]
    fn cpu_lists_have_ranges() {
        assert_eq!(parse_cpu_list("0-2,4"), Some(vec![0, 1, 2, 4]));
        assert_eq!(parse_cpu_list("0"), Some(vec![0]));
        assert_eq!(parse_cpu_list(""), None);
    }
}
