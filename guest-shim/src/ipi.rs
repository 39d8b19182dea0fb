//! Interrupts to other vCPUs without an exit (`[LEASE-3]`, `[LEASE-5]`).

use coopvirt_spec::counter::GuestCounter;
use coopvirt_spec::lease;
use coopvirt_spec::op::IpiArgs;
use coopvirt_spec::version::Features;

use crate::platform::Cpu;
use crate::session::Session;

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
    /// this is `false`.
    #[must_use = "the stock path has to be taken"]
    pub fn try_send_ipi(&mut self, ipi: &IpiArgs) -> bool {
        let is_elided = self.elide_ipi(ipi);
        let counter = if is_elided {
            GuestCounter::IpiElided
        } else {
            GuestCounter::IpiFallback
        };
        self.count(counter, 1);
        is_elided
    }

    fn elide_ipi(&mut self, ipi: &IpiArgs) -> bool {
        if !self.options.elidable.contains(ipi.vector) || ipi.check().is_err() {
            return false;
        }
        if self
            .with_feature(Features::IPI | Features::SIDECORE)
            .is_none()
        {
            return false;
        }
        let (cpu, Some(active)) = (&self.cpu, self.active.as_mut()) else {
            return false;
        };
        let mem = cpu.area();
        let mut is_published = false;
        let is_heard = lease::publish_elided(
            mem,
            || cpu.read_tsc(),
            || {
                let call = ipi.submission(0).quiet();
                is_published = active.ring.stage(mem, &call).is_ok();
                active.ring.publish(mem);
            },
        );
        is_published && is_heard
    }
}
