//! The console.

use std::io::{self, Write};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::rig::{Rig, BUFFERS};
use crate::console::writer::ConsoleOutput;
use crate::virtio::{Console, ConsoleInput};

const SOON: Duration = Duration::from_secs(5);

#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Broken;

impl Write for Broken {
    fn write(&mut self, _data: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Blocks each write until it is let through.
struct Gate {
    permits: Receiver<()>,
    paper: Paper,
}

impl Write for Gate {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.permits.recv().map_err(io::Error::other)?;
        self.paper.write(data)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn rig(writer: impl Write + Send + 'static) -> (Rig, ConsoleInput, ConsoleOutput) {
    let (console, input, output) = Console::new(Box::new(writer)).unwrap();
    let mut rig = Rig::new(console);
    rig.start(super::rig::F_EVENT_IDX, 16);
    (rig, input, output)
}

/// Linux waits for its last line in a loop, with interrupts off.
#[test]
fn without_bus_master_the_last_line_is_taken_and_no_key_is_given() {
    let paper = Paper::default();
    let (mut rig, input, output) = rig(paper.clone());
    rig.add(0, &[(BUFFERS + 0x100, 16, true)]);
    rig.set_config(4, &6u16.to_le_bytes());
    rig.set_config(4, &2u16.to_le_bytes());
    rig.put(BUFFERS, b"bye\n");
    rig.add(1, &[(BUFFERS, 4, false)]);
    rig.notify(1);
    assert_eq!(rig.take_used(1), Some((0, 0)));
    assert!(output.finish(SOON));
    assert_eq!(*paper.0.lock().unwrap(), b"bye\n");
    input.push(b"key");
    rig.run();
    assert_eq!(rig.take_used(0), None);
    assert_eq!(rig.get::<3>(BUFFERS + 0x100), [0; 3]);
}

#[test]
fn output_arrives_in_order() {
    let paper = Paper::default();
    let (mut rig, _input, output) = rig(paper.clone());
    rig.put(BUFFERS, b"hello, world\n");
    rig.add(1, &[(BUFFERS, 7, false), (BUFFERS + 7, 6, false)]);
    rig.add(1, &[(BUFFERS, 5, false)]);
    rig.notify(1);
    assert_eq!(rig.take_used(1), Some((0, 0)));
    assert_eq!(rig.take_used(1), Some((2, 0)));
    assert!(output.finish(SOON));
    assert_eq!(*paper.0.lock().unwrap(), b"hello, world\nhello");
}

#[test]
fn input_waits_for_buffers_and_buffers_wait_for_input() {
    let (mut rig, input, _output) = rig(Paper::default());
    assert_eq!(input.push(b"early"), 5);
    rig.run();
    assert_eq!(rig.take_used(0), None);
    rig.add(0, &[(BUFFERS, 3, true)]);
    rig.add(0, &[(BUFFERS + 0x100, 64, true)]);
    rig.add(0, &[(BUFFERS + 0x200, 64, true)]);
    rig.notify(0);
    assert_eq!(rig.take_used(0), Some((0, 3)));
    assert_eq!(rig.take_used(0), Some((1, 2)));
    assert_eq!(&rig.get::<3>(BUFFERS), b"ear");
    assert_eq!(rig.take_used(0), None);
    assert_eq!(rig.interrupts.take(1), 1);
    input.push(b"late");
    rig.run();
    assert_eq!(rig.take_used(0), Some((2, 4)));
    assert_eq!(&rig.get::<4>(BUFFERS + 0x200), b"late");
}

#[test]
fn input_that_nobody_reads_is_bounded() {
    let (_rig, input, _output) = rig(Paper::default());
    assert_eq!(input.push(&[b'x'; 60 << 10]), 60 << 10);
    assert_eq!(input.push(&[b'x'; 60 << 10]), 4 << 10);
    assert_eq!(input.push(b"x"), 0);
}

#[test]
fn failing_output_is_dropped_and_the_guest_goes_on() {
    let (mut rig, _input, output) = rig(Broken);
    for _ in 0..100 {
        rig.add(1, &[(BUFFERS, 32 << 10, false)]);
        rig.notify(1);
        assert!(output.finish(SOON));
        assert!(rig.take_used(1).is_some());
    }
    assert!(output.has_failed());
    assert_eq!(rig.status(), 15);
}

fn gate() -> (Sender<()>, Paper, Gate) {
    let (sender, permits) = channel();
    let paper = Paper::default();
    (sender, paper.clone(), Gate { permits, paper })
}

#[test]
fn slow_output_leaves_buffers_in_the_queue_and_loses_nothing() {
    let (sender, paper, gate) = gate();
    let (mut rig, _input, output) = rig(gate);
    // Room for at most one piece being written and a full buffer: not all of these.
    for _ in 0..12 {
        rig.add(1, &[(BUFFERS, 32 << 10, false)]);
    }
    rig.notify(1);
    let early = std::iter::from_fn(|| rig.take_used(1)).count();
    assert!((4..=9).contains(&early), "{early}");
    assert!(!output.finish(Duration::from_millis(1)));
    let mut done = early;
    while done < 12 {
        sender.send(()).unwrap();
        rig.run_blocking();
        done += std::iter::from_fn(|| rig.take_used(1)).count();
    }
    (0..12).for_each(|_| sender.send(()).unwrap());
    assert!(output.finish(SOON));
    assert_eq!(paper.0.lock().unwrap().len(), 12 * (32 << 10));
}

#[test]
fn reset_does_not_wait_for_slow_output() {
    let (_sender, _paper, gate) = gate();
    let (mut rig, _input, _output) = rig(gate);
    for _ in 0..12 {
        rig.add(1, &[(BUFFERS, 32 << 10, false)]);
    }
    rig.notify(1);
    rig.set_status(0);
    assert_eq!(rig.status(), 0);
    rig.run();
}

#[test]
fn overlong_message_is_cut_off() {
    let paper = Paper::default();
    let (mut rig, _input, output) = rig(paper.clone());
    rig.add(1, &[(BUFFERS, 2 << 20, false)]);
    rig.notify(1);
    assert!(rig.take_used(1).is_some());
    assert!(output.finish(SOON));
    assert_eq!(paper.0.lock().unwrap().len(), 64 << 10);
}
