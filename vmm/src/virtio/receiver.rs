//! Who receives a queue's notifications: the I/O thread, or the vCPU thread that makes them.
//!
//! To the I/O thread they come by an eventfd (ioeventfd): the guest goes on at once, another thread
//! wakes up. That pays for what takes time, and for queues with many requests at once, of which one
//! notification tells and which are served beside the guest. A single small read that is a copy of
//! memory is served sooner than that thread wakes up, and meanwhile the guest has nothing better to do
//! than to halt. So the vCPU had better serve it itself: then the write to the notify address exits to
//! userspace, the interrupt is pending before the guest is entered again, and there is no halt and no
//! second thread.
//!
//! [`Choice`] finds out which it is, for each queue, by what was found after each notification. It only
//! counts. Each change of the binding waits for the kernel, so it takes a streak to change, the longer
//! the less earlier changes have paid. While the vCPU receives, it finds a queue with one request
//! also where a driver would have published more by the time another thread comes; so now and then a
//! few notifications are left to the I/O thread, on trial.
//!
//! Changes under the backend's lock. What is bound follows in `bindings.rs`.

use super::counters::Work;

/// Who shall receive the notifications of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NotifyPolicy {
    /// The I/O thread, or the vCPU while it can serve what it notifies of.
    Auto,
    /// The I/O thread.
    #[default]
    Thread,
    /// The vCPU, which leaves to the I/O thread what it cannot serve.
    Vcpu,
}

/// Who receives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiver {
    Thread,
    Vcpu,
}

/// Notifications in a row after which the vCPU receives, at first: few beside any work that is worth it,
/// and more than a driver makes that looks at a disk.
const STREAK: u32 = 16;
const MAX_STREAK: u32 = 1 << 16;
/// How many more the vCPU has to leave than it serves until the I/O thread receives again.
const CREDIT: u32 = 16;
/// A stay that has served so many has paid for two changes of the binding.
const PAYS: u64 = 256;
/// Between two trials, at first and at most; and notifications of one.
const TRIAL_AFTER: u64 = 256;
const MAX_TRIAL_AFTER: u64 = 1 << 15;
const TRIAL: u32 = 8;

/// What is known of one queue.
#[derive(Debug)]
pub(super) struct Choice {
    policy: NotifyPolicy,
    receiver: Receiver,
    /// While the I/O thread receives: lone copies in a row, and how many are wanted.
    streak: u32,
    wanted: u32,
    /// While the vCPU receives.
    credit: u32,
    served: u64,
    trial_at: u64,
    trial_after: u64,
    trial: Option<Trial>,
}

/// A few notifications that are left to the I/O thread, to see what it finds.
#[derive(Clone, Copy, Debug)]
struct Trial {
    /// Still to be left.
    left: u32,
    /// Requests that it found together with others.
    together: u64,
}

impl Choice {
    pub(super) fn new(policy: NotifyPolicy) -> Self {
        Self {
            policy,
            receiver: match policy {
                NotifyPolicy::Vcpu => Receiver::Vcpu,
                NotifyPolicy::Auto | NotifyPolicy::Thread => Receiver::Thread,
            },
            streak: 0,
            wanted: STREAK,
            credit: CREDIT,
            served: 0,
            trial_at: TRIAL_AFTER,
            trial_after: TRIAL_AFTER,
            trial: None,
        }
    }

    /// Who is to receive now.
    pub(super) fn receiver(&self) -> Receiver {
        self.receiver
    }

    /// The I/O thread has done this for the queue.
    pub(super) fn thread_did(&mut self, work: Work) {
        if self.policy != NotifyPolicy::Auto || work.requests == 0 {
            return;
        }
        let is_lone_copy = (work.requests, work.copies) == (1, 1);
        match self.receiver {
            Receiver::Vcpu if work.requests > 1 => self.found_together(work.requests),
            Receiver::Vcpu => {}
            Receiver::Thread if is_lone_copy => {
                self.streak += 1;
                if self.streak >= self.wanted {
                    self.go_to_vcpu();
                }
            }
            Receiver::Thread => self.streak = 0,
        }
    }

    /// Whether the vCPU is to leave the one request that it finds to the I/O thread, on trial.
    pub(super) fn is_trial(&mut self) -> bool {
        if self.policy != NotifyPolicy::Auto || self.receiver != Receiver::Vcpu {
            return false;
        }
        match &mut self.trial {
            Some(trial) if trial.left > 0 => {
                trial.left -= 1;
                true
            }
            // The vCPU it is, and the longer until this is asked again.
            Some(_) => {
                self.trial = None;
                self.trial_after = (self.trial_after * 2).min(MAX_TRIAL_AFTER);
                self.trial_at = self.served + self.trial_after;
                false
            }
            None if self.served >= self.trial_at => {
                self.trial = Some(Trial {
                    left: TRIAL - 1,
                    together: 0,
                });
                true
            }
            None => false,
        }
    }

    /// The vCPU has served the one request that it found.
    pub(super) fn vcpu_served(&mut self) {
        self.served += 1;
        self.credit = (self.credit + 1).min(CREDIT);
    }

    /// The vCPU has left what it found to the I/O thread, because it cannot be served so.
    pub(super) fn vcpu_left(&mut self) {
        self.credit = self.credit.saturating_sub(1);
        if self.credit == 0 && self.policy == NotifyPolicy::Auto {
            self.go_to_thread(self.served >= PAYS);
        }
    }

    /// The I/O thread has found so many requests at once. If most of a trial's are, it pays.
    fn found_together(&mut self, requests: u64) {
        let Some(trial) = &mut self.trial else {
            return;
        };
        trial.together += requests;
        if trial.together * 2 >= u64::from(TRIAL) {
            self.go_to_thread(false);
        }
    }

    fn go_to_vcpu(&mut self) {
        self.receiver = Receiver::Vcpu;
        self.credit = CREDIT;
        self.served = 0;
        self.trial_after = TRIAL_AFTER;
        self.trial_at = TRIAL_AFTER;
        self.trial = None;
    }

    fn go_to_thread(&mut self, has_paid: bool) {
        self.wanted = match has_paid {
            true => (self.wanted / 2).max(STREAK),
            false => (self.wanted * 2).min(MAX_STREAK),
        };
        self.receiver = Receiver::Thread;
        self.streak = 0;
        self.trial = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONE_COPY: Work = work(1, 1);
    const LONE_OTHER: Work = work(1, 0);

    const fn work(requests: u64, copies: u64) -> Work {
        Work {
            requests,
            copies,
            bytes_from_guest: 0,
            bytes_to_guest: 0,
        }
    }

    fn auto() -> Choice {
        Choice::new(NotifyPolicy::Auto)
    }

    /// Plays lone copies until the vCPU receives; how many.
    fn streak_until_vcpu(choice: &mut Choice) -> u32 {
        for count in 0..=MAX_STREAK {
            if choice.receiver() == Receiver::Vcpu {
                return count;
            }
            choice.thread_did(LONE_COPY);
        }
        panic!("never");
    }

    /// Plays a driver with one small read at a time, the vCPU being the receiver. Returns how many
    /// were left to the I/O thread.
    fn reads_one_by_one(choice: &mut Choice, count: u64) -> u64 {
        let mut left = 0;
        for _ in 0..count {
            if choice.is_trial() {
                choice.thread_did(LONE_COPY);
                left += 1;
            } else {
                choice.vcpu_served();
            }
        }
        left
    }

    #[test]
    fn only_copies_in_a_row_bring_the_vcpu() {
        let mut choice = auto();
        for other in [LONE_OTHER, work(2, 2), work(40, 40)] {
            for _ in 0..100 {
                (1..STREAK).for_each(|_| choice.thread_did(LONE_COPY));
                choice.thread_did(other);
            }
            assert_eq!(choice.receiver(), Receiver::Thread, "{other:?}");
        }
        // Rings for nothing, and requests that only begin, say nothing.
        choice.thread_did(LONE_COPY);
        choice.thread_did(Work::default());
        assert_eq!(streak_until_vcpu(&mut choice), STREAK - 1);
    }

    #[test]
    fn vcpu_keeps_what_it_mostly_serves_and_gives_up_what_it_does_not() {
        let mut choice = auto();
        streak_until_vcpu(&mut choice);
        for _ in 0..10_000 {
            choice.vcpu_left();
            choice.vcpu_served();
        }
        assert_eq!(choice.receiver(), Receiver::Vcpu);
        (0..CREDIT).for_each(|_| choice.vcpu_left());
        assert_eq!(choice.receiver(), Receiver::Thread);
    }

    #[test]
    fn changes_that_do_not_pay_get_rarer_and_those_that_do_cost_nothing_later() {
        let mut choice = auto();
        let mut streaks = Vec::new();
        for _ in 0..4 {
            streaks.push(streak_until_vcpu(&mut choice));
            (0..CREDIT).for_each(|_| choice.vcpu_left());
        }
        assert_eq!(streaks, [1, 2, 4, 8].map(|times| times * STREAK));
        for _ in 0..40 {
            streak_until_vcpu(&mut choice);
            (0..CREDIT).for_each(|_| choice.vcpu_left());
        }
        assert_eq!(streak_until_vcpu(&mut choice), MAX_STREAK);
        for _ in 0..40 {
            streak_until_vcpu(&mut choice);
            (0..PAYS).for_each(|_| choice.vcpu_served());
            (0..CREDIT).for_each(|_| choice.vcpu_left());
        }
        assert_eq!(streak_until_vcpu(&mut choice), STREAK);
    }

    #[test]
    fn trials_of_lone_reads_get_rare_and_the_vcpu_stays() {
        let mut choice = auto();
        streak_until_vcpu(&mut choice);
        assert_eq!(reads_one_by_one(&mut choice, TRIAL_AFTER), 0);
        let left = reads_one_by_one(&mut choice, TRIAL_AFTER);
        assert_eq!(left, u64::from(TRIAL));
        let reads = 1_000_000;
        let left = reads_one_by_one(&mut choice, reads);
        assert!((u64::from(TRIAL)..=reads / 1_000).contains(&left), "{left}");
        assert_eq!(choice.receiver(), Receiver::Vcpu);
    }

    #[test]
    fn trial_finds_requests_that_come_together_if_they_are_given_the_time() {
        let mut choice = auto();
        streak_until_vcpu(&mut choice);
        reads_one_by_one(&mut choice, TRIAL_AFTER);
        assert!(choice.is_trial() && choice.is_trial());
        // One that is no trial's has no say: a write after the trial, or nothing at all.
        choice.thread_did(LONE_OTHER);
        choice.thread_did(work(3, 3));
        assert_eq!(choice.receiver(), Receiver::Vcpu);
        choice.thread_did(work(2, 2));
        assert_eq!(choice.receiver(), Receiver::Thread);
        assert_eq!(streak_until_vcpu(&mut choice), 2 * STREAK);
        // Outside of trials, many at once are what the vCPU has left.
        choice.thread_did(work(40, 40));
        assert_eq!(choice.receiver(), Receiver::Vcpu);
    }

    #[test]
    fn what_the_user_has_said_stays() {
        for (policy, receiver) in [
            (NotifyPolicy::Thread, Receiver::Thread),
            (NotifyPolicy::Vcpu, Receiver::Vcpu),
        ] {
            let mut choice = Choice::new(policy);
            for _ in 0..100_000 {
                choice.thread_did(LONE_COPY);
                choice.vcpu_served();
                assert!(!choice.is_trial());
            }
            for _ in 0..100_000 {
                choice.thread_did(work(5, 5));
                choice.vcpu_left();
            }
            assert_eq!(choice.receiver(), receiver);
        }
    }
}
