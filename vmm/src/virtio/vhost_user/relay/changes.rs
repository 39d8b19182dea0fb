//! Drivers and back ends that come and go.
//!
//! A back end that has gone leaves requests behind which it may or may not have carried out. A device
//! whose requests can be made twice (`is_repeatable`) has them made again by the next back end; any
//! other fails them, and begins afresh when its driver does; one that came while there was no back end
//! gets the next. Nothing is answered twice.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use super::{regions, Relay};
use crate::virtio::vhost_user::connection::{Connection, ConnectionError};
use crate::virtio::vhost_user::ring::{Ring, RingError};

/// How long a reset waits for answers.
const ANSWERED: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 10_000 });
const POLL: Duration = Duration::from_millis(1);

impl Relay {
    /// A driver is there.
    pub(in crate::virtio::vhost_user) fn activate(&mut self, features: u64) {
        self.features = Some(features);
        if self.connection.is_some() {
            self.is_failing = false;
            self.start();
        }
    }

    /// The driver is gone, with all its requests.
    pub(in crate::virtio::vhost_user) fn reset(&mut self) {
        if std::mem::take(&mut self.is_started) {
            self.await_answers();
            let nr_rings = self.rings.len();
            let stopped = self.connection.as_mut().map(|c| c.stop(nr_rings));
            if let Some(Err(error)) = stopped {
                self.distrust(error);
            }
        }
        self.rings.iter_mut().for_each(Ring::forget);
        self.features = None;
        self.has_served = false;
    }

    /// Looks at what the keeper has found out. All queues have to be processed next.
    pub(in crate::virtio::vhost_user) fn news_came(&mut self) {
        let news = self.keeper.take_news();
        if news.is_lost {
            self.lose();
        }
        if let Some(error) = news.given_up {
            let waited = self.patience.as_secs();
            self.is_failing = true;
            self.say(format_args!(
                "no other back end within {waited} s ({error}): requests fail until there is one"
            ));
        }
        if let Some(connection) = news.found {
            self.take_over(connection);
        }
    }

    fn lose(&mut self) {
        self.connection = None;
        self.is_started = false;
        // What it had answered it has answered.
        let collected = self.rings.iter_mut().map(Ring::collect);
        let errors: Vec<RingError> = collected.filter_map(Result::err).collect();
        errors.into_iter().for_each(|error| self.say(error));
        let waiting: usize = self.rings.iter().map(Ring::nr_in_flight).sum();
        if self.kind.is_repeatable {
            let patience = self.patience.as_secs();
            self.say(format_args!(
                "its back end is gone; {waiting} requests without an answer, and all new ones, wait {patience} s \
                 for another"
            ));
        } else {
            self.is_failing = true;
            self.say(format_args!(
                "its back end is gone, and what it knew with it: {waiting} requests without an answer, and all \
                 new ones, fail"
            ));
        }
    }

    fn take_over(&mut self, connection: Connection) {
        let new = &connection.offer;
        let lacks = self.offer.features & !new.features;
        if lacks != 0 || usize::from(new.nr_queues) < self.rings.len() {
            let (has, needed) = (new.nr_queues, self.rings.len());
            // The keeper goes on looking.
            connection.close();
            self.say(format_args!(
                "a back end has come that cannot take over (features {lacks:#x} are missing, {has} of {needed} \
                 queues)"
            ));
            return;
        }
        self.has_new_config |= self.offer.config != new.config;
        self.offer.config.clone_from(&new.config);
        self.connection = Some(connection);
        if self.features.is_none() || self.has_served && !self.kind.is_repeatable {
            self.say(format_args!("a back end is there again"));
            return;
        }
        let again: usize = self.rings.iter().map(Ring::nr_in_flight).sum();
        self.is_failing = false;
        self.start();
        if self.is_started {
            self.say(format_args!(
                "a back end is there again, and has got {again} requests once more"
            ));
        }
    }

    /// Lets the back end begin, with what is in flight.
    fn start(&mut self) {
        let started = self.try_start();
        self.is_started = started.is_ok();
        self.has_served |= self.is_started;
        if let Err(error) = started {
            self.distrust(error);
        }
    }

    fn try_start(&mut self) -> Result<(), ConnectionError> {
        let (Some(features), Some(connection)) = (self.features, &mut self.connection) else {
            return Err(ConnectionError::Closed);
        };
        for ring in &mut self.rings {
            ring.begin().map_err(ConnectionError::Memory)?;
        }
        let places = self.rings.iter().map(Ring::place);
        let places: Vec<_> = places
            .collect::<Result<_, RingError>>()
            .map_err(ConnectionError::Memory)?;
        let mut memory = regions(&self.ram).unwrap_or_default();
        memory.extend(regions(&self.rings_memory).unwrap_or_default());
        connection.start(features, &memory, &places)?;
        self.rings.iter().for_each(Ring::notify);
        Ok(())
    }

    /// Waits until the back end has answered everything: until then it writes to the guest's memory.
    fn await_answers(&mut self) {
        let until = Instant::now() + ANSWERED;
        loop {
            // A ring that is corrupt has no more answers.
            let is_bad = self.rings.iter_mut().any(|ring| ring.collect().is_err());
            let left: usize = self.rings.iter().map(Ring::nr_in_flight).sum();
            if left == 0 {
                return;
            }
            let is_gone = self.keeper.has_lost();
            if is_bad || is_gone || Instant::now() >= until {
                self.distrust(format_args!("{left} requests were not answered at a reset"));
                return;
            }
            thread::sleep(POLL);
        }
    }

    /// Parts from a back end that cannot be trusted; the keeper sees that and looks for another one.
    pub(super) fn distrust(&mut self, why: impl Display) {
        self.is_started = false;
        if let Some(connection) = self.connection.take() {
            connection.close();
            self.say(format_args!("its back end is given up: {why}"));
        }
    }
}
