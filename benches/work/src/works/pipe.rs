//! `pipe`: two threads on two CPUs exchange one byte over two pipes. Operation: one round trip.
//!
//! Costs two wake-ups of a sleeping CPU, each an interrupt from the other CPU. The answer is the
//! byte plus one; each is checked. Whoever fails closes its ends, which the other sees.

use super::bench::{in_phase, Bench, Failure, Measured};
use crate::helper::Helper;
use crate::latency::Samples;
use coopvirt_spec::work::Work;
use std::io::{PipeReader, PipeWriter, Read, Write};

/// At scale 1: so many that how an exchange begins, some exits on any guest, does not decide.
const ROUND_TRIPS: u64 = 3_000;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<Measured, Failure> {
    let [here, there, ..] = *bench.cpus() else {
        return Err(Failure::Skip("needs two CPUs".to_string()));
    };
    let round_trips = bench.scaled(ROUND_TRIPS);
    let _pinned = bench.pin(here)?;
    let mut samples = Samples::with_room(round_trips);
    let new_pipe =
        || std::io::pipe().map_err(|error| Failure::Error(format!("cannot make a pipe: {error}")));
    let (request_reader, mut requests) = new_pipe()?;
    let (mut answers, answer_writer) = new_pipe()?;
    let partner = Helper::start(there, move || answer_all(request_reader, answer_writer))?;

    let phase = bench.phase(Work::Pipe, || {
        (0..=u8::MAX)
            .cycle()
            .zip(0..round_trips)
            .try_for_each(|(token, _)| {
                let answer = samples.time(|| exchange(token, &mut requests, &mut answers))?;
                if answer != token.wrapping_add(1) {
                    return Err(format!("sent {token}, got {answer}"));
                }
                Ok(())
            })
    });

    drop((requests, answers));
    let ended = partner.finish();
    let ((), span) = phase?;
    Ok(Measured::with_samples(round_trips, span, samples).checked(ended))
}

fn exchange(token: u8, requests: &mut PipeWriter, answers: &mut PipeReader) -> Result<u8, String> {
    let mut answer = [0];
    // Plain calls: the "all" and "exact" forms would go on after the alarm.
    requests
        .write(&[token])
        .map_err(in_phase("write to the pipe"))?;
    match answers
        .read(&mut answer)
        .map_err(in_phase("read from the pipe"))?
    {
        0 => Err("the other thread has gone".to_string()),
        _ => Ok(answer[0]),
    }
}

/// The other thread: answers until the pipe is closed.
fn answer_all(mut requests: PipeReader, mut answers: PipeWriter) -> Result<(), String> {
    let mut token = [0];
    loop {
        match requests.read(&mut token) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(format!("the other thread cannot read: {error}")),
        }
        answers
            .write(&[token[0].wrapping_add(1)])
            .map_err(|error| format!("the other thread cannot write: {error}"))?;
    }
}
