//! Calls of one vCPU's area: taken, carried out, or left to others.

use coopvirt_spec::counter::HostCounter;
use coopvirt_spec::entry::{Completion, Submission};
use coopvirt_spec::version::Features;

use super::Served;
use crate::coop::budget::Budget;
use crate::coop::serve::{carry_out, Context, Outcome, Server, Shared};

impl Served {
    /// Takes and carries out what submissions there are, until the budget ends. Their completions
    /// become visible together.
    pub fn drain(&mut self, shared: &Shared, budget: &mut Budget, server: Server<'_>) -> u32 {
        let (mut taken, mut refused) = (0, 0);
        let mut context = Context {
            shared,
            vcpu: self.vcpu,
            budget,
            server,
        };
        let mut turn = self.ring.turn(&self.area);
        while context.budget.take_entry() {
            let Some(submission) = turn.take() else {
                break;
            };
            taken += 1;
            match carry_out(&submission, self.features, &mut context) {
                Outcome::Done(done) => {
                    refused += u64::from(done.status().is_error());
                    turn.finish(&submission, done);
                }
                Outcome::Later => self.deferred.push_back(submission),
            }
        }
        drop(turn);
        self.wake_if_broken(shared);
        if taken > 0 {
            let counter = match server {
                Server::Own(_) => HostCounter::TakenBell,
                Server::Polling | Server::Worker(_) => HostCounter::TakenPolling,
            };
            self.count(shared, counter, taken.into());
            self.count(shared, HostCounter::Refused, refused);
        }
        taken
    }

    /// Gives the completion of a call that was taken earlier.
    pub fn finish(&mut self, submission: &Submission, done: Completion) {
        self.ring.finish(&self.area, submission, done);
    }

    /// Hands out a call that was left to others, with the features it was made under.
    pub fn take_deferred(&mut self) -> Option<(Submission, Features)> {
        let submission = self.deferred.pop_front()?;
        Some((submission, self.features))
    }

    /// Carries out calls that were left to others.
    pub fn drain_deferred(&mut self, shared: &Shared, budget: &mut Budget, server: Server<'_>) {
        let mut context = Context {
            shared,
            vcpu: self.vcpu,
            budget,
            server,
        };
        // As many as there are now: who cannot carry one out puts it back.
        for _ in 0..self.deferred.len() {
            if !context.budget.take_entry() {
                return;
            }
            let Some(submission) = self.deferred.pop_front() else {
                return;
            };
            match carry_out(&submission, self.features, &mut context) {
                Outcome::Done(done) => self.ring.finish(&self.area, &submission, done),
                Outcome::Later => self.deferred.push_back(submission),
            }
        }
    }
}
