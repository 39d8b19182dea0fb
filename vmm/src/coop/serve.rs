//! Carries out one submission: decode by the spec's table, then one small function per operation, which
//! the table calls. Experiments have theirs in `experiments.rs`.
//!
//! Called with a vCPU's seat locked, by whoever serves it. It must never wait, and never trust a
//! word of the submission.

use std::sync::atomic::AtomicU32;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use coopvirt_spec::code::Status;
use coopvirt_spec::counter::HostCounter;
use coopvirt_spec::discover::DEFAULT_LIST_ITEMS;
use coopvirt_spec::entry::{Completion, Submission};
use coopvirt_spec::mark::Mark;
use coopvirt_spec::op::{
    Answer, ColdArgs, EchoArgs, Experiment, ExperimentalArgs, HugeArgs, IpiArgs, LogArgs, MarkArgs,
    NopArgs, PopulateArgs, ReleaseArgs, Request, Serve, YieldToArgs,
};
use coopvirt_spec::version::Features;
use vm_memory::{Bytes, GuestAddress};

use super::areas::Areas;
use super::backed::Backed;
use super::budget::Budget;
use super::counters::{Event, Totals};
use super::effects::Effects;
use super::log::{self, LogLimit, MAX_TEXT_BYTES};
use super::pages::{self, Pages};
use super::postbox::PostBox;
use super::ranges;
use crate::mem::GuestRam;

/// Makes second-stage mappings ahead of the guest's first touch.
pub trait Prefault {
    /// Maps what it can of this memory; says how many bytes from its start.
    fn prefault(&self, gpa: u64, len_bytes: u64) -> u64;
}

/// What all vCPUs of a machine share.
pub struct Shared {
    /// Guest memory.
    pub ram: GuestRam,
    /// vCPUs have the x2APIC ids from zero up to here.
    pub nr_vcpus: u8,
    /// Registered areas.
    pub areas: Areas,
    /// Counters.
    pub totals: Totals,
    /// Requests that devices have in hand.
    pub io_in_flight: AtomicU32,
    /// Where interrupts are posted, by x2APIC id.
    pub post_boxes: Vec<PostBox>,
    /// How often each vCPU may log, whoever serves it and however often it registers (`[TRUST-5]`).
    /// Leaf locks.
    pub log_limits: Vec<Mutex<LogLimit>>,
    /// The ways out.
    pub effects: Box<dyn Effects>,
}

impl Shared {
    /// Interrupts a vCPU: by its post box if it accepts that, else by its local APIC. False if KVM
    /// refuses.
    pub fn raise(&self, apic_id: u32, vector: u8) -> bool {
        self.post(apic_id, vector) || self.effects.raise(apic_id, vector)
    }

    /// Posts an interrupt, if the vCPU accepts that now.
    #[must_use = "what is not posted has to be raised"]
    pub fn post(&self, apic_id: u32, vector: u8) -> bool {
        let index = usize::try_from(apic_id).ok();
        let post_box = index.and_then(|index| self.post_boxes.get(index));
        let is_posted = post_box.is_some_and(|post_box| post_box.post(vector));
        self.totals.event(Event::Posted, is_posted.into());
        is_posted
    }

    /// Maps memory that is backed, on the vCPU's own thread. A hint: what KVM does not map now, it maps at the first touch.
    pub fn map(&self, vcpu: &dyn Prefault, gpa: u64, len_bytes: u64) {
        let mapped = vcpu.prefault(gpa, len_bytes);
        self.totals.event(Event::PrefaultedBytes, mapped);
    }

    /// Whether a vCPU may write another line into the log.
    fn may_log(&self, vcpu: u8) -> bool {
        self.log_limits.get(usize::from(vcpu)).is_some_and(|limit| {
            let mut limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
            limit.take(Instant::now())
        })
    }
}

/// What one call is carried out with.
pub struct Context<'a> {
    /// What all vCPUs share.
    pub shared: &'a Shared,
    /// Who asked.
    pub vcpu: u8,
    /// What may be spent.
    pub budget: &'a mut Budget,
    /// Who serves.
    pub server: Server<'a>,
}

/// Who carries a call out, which decides what it can afford.
#[derive(Clone, Copy)]
pub enum Server<'a> {
    /// The vCPU's own thread, within an exit.
    Own(&'a dyn Prefault),
    /// A thread that polls for several vCPUs: what can wait is left to others.
    Polling,
    /// The worker, to whom it was left. What it has backed is noted here for the vCPU's own thread, which alone can
    /// map it.
    Worker(&'a Backed),
}

/// What became of a call.
#[derive(Debug)]
pub enum Outcome {
    /// It is done.
    Done(Completion),
    /// Somebody else has to do it.
    Later,
}

/// Carries out a call that was made under the `negotiated` features.
pub fn carry_out(
    submission: &Submission,
    negotiated: Features,
    context: &mut Context<'_>,
) -> Outcome {
    let request = Request::decode(submission, negotiated);
    // Whatever can wait, for memory or for whoever reads our log; experiments too, who knows them?
    let is_slow = matches!(
        request,
        Ok(Request::Populate(_) | Request::Release(_) | Request::Log(_) | Request::Experimental(_))
    );
    if is_slow && matches!(context.server, Server::Polling) {
        context.shared.totals.event(Event::Deferred, 1);
        return Outcome::Later;
    }
    let answer = request.and_then(|request| request.serve(context));
    let done = Answer::completion(answer, submission.tag);
    let totals = &context.shared.totals;
    totals.call(submission.opcode, done.status());
    Outcome::Done(done)
}

/// One function per operation; a new one is missing here until it is written.
impl Serve for Context<'_> {
    fn nop(&mut self, _: NopArgs) -> Result<Answer, Status> {
        Ok(Answer::from(0))
    }

    fn echo(&mut self, args: EchoArgs) -> Result<Answer, Status> {
        Ok(args.value.into())
    }

    /// Checks all targets before it sends to the first (`[IPI-3]`).
    fn ipi(&mut self, args: IpiArgs) -> Result<Answer, Status> {
        args.check()?;
        let shared = self.shared;
        if args.targets().any(|id| id >= u32::from(shared.nr_vcpus)) {
            return Err(Status::BAD_TARGET);
        }
        let mut sent = 0;
        for apic_id in args.targets() {
            if !shared.raise(apic_id, args.vector) {
                return Err(Status::HOST_FAILED);
            }
            sent += 1;
        }
        shared.totals.host(HostCounter::IpiRaised, sent);
        Ok(sent.into())
    }

    /// The host's scheduler knows better than we do which thread waits; giving up the CPU is all.
    fn yield_to(&mut self, args: YieldToArgs) -> Result<Answer, Status> {
        if args.apic_id >= u32::from(self.shared.nr_vcpus) {
            return Err(Status::BAD_TARGET);
        }
        if matches!(self.server, Server::Own(_)) {
            std::thread::yield_now();
        }
        Ok(Answer::from(0))
    }

    fn log(&mut self, args: LogArgs) -> Result<Answer, Status> {
        if args.len_bytes == 0 || args.len_bytes > MAX_TEXT_BYTES || args.level > 7 {
            return Err(Status::BAD_ARGUMENT);
        }
        let shared = self.shared;
        let len = usize::try_from(args.len_bytes).map_err(|_| Status::BAD_ARGUMENT)?;
        let mut text = [0; MAX_TEXT_BYTES as usize];
        let text = text.get_mut(..len).ok_or(Status::BAD_ARGUMENT)?;
        let address = GuestAddress(args.text_gpa);
        // Read first: an address that was read cannot wrap.
        let is_readable = shared.ram.read_slice(text, address).is_ok();
        if !is_readable || (shared.areas).overlaps(args.text_gpa, args.len_bytes.into()) {
            return Err(Status::BAD_ADDRESS);
        }
        if !shared.may_log(self.vcpu) {
            shared.totals.event(Event::LogDropped, 1);
            return Err(Status::BUSY);
        }
        let line = log::line(self.vcpu, args.level, text);
        shared.effects.log(&line);
        Ok(u64::from(args.len_bytes).into())
    }

    fn mark(&mut self, args: MarkArgs) -> Result<Answer, Status> {
        let mark = Mark::decode(args.value).ok_or(Status::BAD_ARGUMENT)?;
        self.shared.effects.mark(self.vcpu, mark);
        Ok(Answer::from(0))
    }

    fn populate(&mut self, args: PopulateArgs) -> Result<Answer, Status> {
        let shared = self.shared;
        let server = self.server;
        let pages = pages_of(shared);
        let done = ranges::walk(
            args.into(),
            DEFAULT_LIST_ITEMS,
            &pages,
            self.budget,
            Budget::BACKING_WEIGHT,
            |gpa, len| {
                pages::populate(&shared.ram, gpa, len).map_err(|_| Status::HOST_FAILED)?;
                shared.totals.event(Event::PopulatedBytes, len);
                match server {
                    Server::Own(vcpu) => shared.map(vcpu, gpa, len),
                    Server::Worker(backed) => backed.note(gpa, len),
                    Server::Polling => {}
                }
                Ok(())
            },
        );
        Ok(done)
    }

    fn release(&mut self, args: ReleaseArgs) -> Result<Answer, Status> {
        let shared = self.shared;
        let pages = pages_of(shared);
        let done = ranges::walk(
            args.into(),
            DEFAULT_LIST_ITEMS,
            &pages,
            self.budget,
            1,
            |gpa, len| {
                pages::release(&shared.ram, gpa, len).map_err(|_| Status::HOST_FAILED)?;
                shared.totals.event(Event::ReleasedBytes, len);
                Ok(())
            },
        );
        Ok(done)
    }

    // Never offered, so never negotiated.
    fn huge_collapse(&mut self, _: HugeArgs) -> Result<Answer, Status> {
        Err(Status::UNSUPPORTED)
    }

    fn cold(&mut self, _: ColdArgs) -> Result<Answer, Status> {
        Err(Status::UNSUPPORTED)
    }

    fn experimental(&mut self, call: ExperimentalArgs) -> Result<Answer, Status> {
        Experiment::decode_args(call.opcode, &call.args)?.serve(self)
    }
}

pub(super) fn pages_of(shared: &Shared) -> Pages<'_> {
    Pages {
        ram: &shared.ram,
        areas: &shared.areas,
    }
}

#[cfg(test)]
mod tests;
