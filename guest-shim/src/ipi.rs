//! Interrupts to other vCPUs without an exit (`[LEASE-3]`, `[LEASE-5]`, `[BELL-6]`).

use coopvirt_spec::counter::GuestCounter;
use coopvirt_spec::lease;
use coopvirt_spec::op::IpiArgs;
use coopvirt_spec::version::Features;

use crate::platform::Cpu;
use crate::session::Session;

/// What became of the attempt to spare the stock path.
enum Attempt {
    /// The host will send it.
    Elided,
    /// Not this interrupt, or not now: no room, no area.
    NotPossible,
    /// Nobody listens.
    NotHeard,
}

impl<C: Cpu> Session<C> {
    /// Sends an interrupt: through the ring while somebody listens, else by the stock path.
    ///
    /// If the lease ends in between, it may arrive twice; vectors for which that matters are not in
    /// the set of elidable ones and always take the stock path.
    pub fn send_ipi(&mut self, ipi: &IpiArgs) {
        if !self.try_send_ipi(ipi) {
            self.cpu.send_stock_ipi(ipi);
        }
    }

    /// As [`Session::send_ipi`], for a caller that has a stock path of its own: it has to take it if
    /// this is `false`. Where many had to, a doorbell now and then asks the host to listen.
    #[must_use = "the stock path has to be taken"]
    pub fn try_send_ipi(&mut self, ipi: &IpiArgs) -> bool {
        let attempt = self.elide_ipi(ipi);
        if let Attempt::Elided = attempt {
            self.asking.elided();
            self.count(GuestCounter::IpiElided, 1);
            return true;
        }
        self.count(GuestCounter::IpiFallback, 1);
        if let Attempt::NotHeard = attempt {
            self.ask_to_listen();
        }
        false
    }

    /// Notes that nobody listened, and rings if that is worth it (`[BELL-6]`).
    fn ask_to_listen(&mut self) {
        if !self.asking.fell_back() {
            return;
        }
        if let Some(active) = &self.active {
            self.cpu.write_port(active.offer.async_port, 0);
            self.count(GuestCounter::AsyncBell, 1);
        }
    }

    fn elide_ipi(&mut self, ipi: &IpiArgs) -> Attempt {
        if !self.options.elidable.contains(ipi.vector) || ipi.check().is_err() {
            return Attempt::NotPossible;
        }
        if self
            .with_feature(Features::IPI | Features::SIDECORE)
            .is_none()
        {
            return Attempt::NotPossible;
        }
        let (cpu, Some(active)) = (&self.cpu, self.active.as_mut()) else {
            return Attempt::NotPossible;
        };
        let mem = cpu.area();
        let mut has_room = true;
        let is_heard = lease::publish_elided(
            mem,
            || cpu.read_tsc(),
            || {
                let call = ipi.submission(0).quiet();
                has_room = active.ring.stage(mem, &call).is_ok();
                active.ring.publish(mem);
            },
        );
        match (is_heard, has_room) {
            (true, true) => Attempt::Elided,
            (true, false) => Attempt::NotPossible,
            (false, _) => Attempt::NotHeard,
        }
    }
}
