//! What holds for every operation and experiment of the tables, whoever adds one.

use coopvirt_spec::code::Status;
use coopvirt_spec::entry::Submission;
use coopvirt_spec::op::{self, Experiment, Operation, Request, ARG_WORDS};
use coopvirt_spec::version::Features;

const EVERYTHING: Features = Features(u64::MAX);

fn bits_of(kind: &str) -> u32 {
    kind.trim_start_matches('u').parse().expect("u and a width")
}

/// Arguments with a value of their own each, as wide as they may be.
fn words(operation: &Operation) -> [u64; ARG_WORDS] {
    let mut words = [0; ARG_WORDS];
    for (word, (seed, argument)) in words.iter_mut().zip((1..).zip(operation.arguments)) {
        *word = (u64::MAX - seed) << (64 - bits_of(argument.kind)) >> (64 - bits_of(argument.kind));
    }
    words
}

/// The words as they come out again: by the table of operations, then by that of experiments.
fn decode(operation: &Operation, args: [u64; ARG_WORDS]) -> Result<[u64; ARG_WORDS], Status> {
    let call = Submission::new(operation.opcode, 1, args);
    match Request::decode(&call, EVERYTHING)? {
        Request::Experimental(call) => {
            Experiment::decode_args(call.opcode, &call.args).map(Experiment::encode)
        }
        request => Ok(request.encode()),
    }
}

#[test]
fn op_2_what_is_encoded_is_decoded_and_every_bit_too_many_is_refused() {
    for operation in op::all() {
        let args = words(operation);
        assert_eq!(decode(operation, args), Ok(args), "{}", operation.name);
        for word in 0..ARG_WORDS {
            let width = operation.arguments.get(word).map_or(0, |a| bits_of(a.kind));
            for bit in width..64 {
                let mut bad = args;
                bad[word] |= 1 << bit;
                let refused = decode(operation, bad);
                assert_eq!(refused, Err(Status::RESERVED_BITS), "{}", operation.name);
            }
        }
    }
}

#[test]
fn op_2_no_operation_is_there_without_its_feature() {
    for operation in op::all() {
        let call = Submission::new(operation.opcode, 1, words(operation));
        let without = EVERYTHING.without(operation.feature);
        let refused = Request::decode(&call, without);
        assert_eq!(refused, Err(Status::NOT_NEGOTIATED), "{}", operation.name);
    }
}

#[test]
fn op_1_names_and_counters_are_unique() {
    for operation in op::all() {
        let same = op::all().filter(|other| {
            other.name == operation.name
                || other.counter == operation.counter
                || other.opcode == operation.opcode
        });
        assert_eq!(same.count(), 1, "{}", operation.name);
    }
}
