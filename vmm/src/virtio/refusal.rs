//! What the user is told when a guest's driver gives up on a device (virtio 1.2, 2.1, FAILED).
//!
//! Without its console or its disk a guest often cannot say so itself.

/// What is known of the drivers that a function has had.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    /// MSI-X has been enabled at least once.
    pub(super) had_interrupts: bool,
    was_told: bool,
}

impl Refusal {
    /// The line for the user: one in a machine's life, for a guest may give up as often as it likes.
    pub(super) fn line(&mut self, name: &str) -> Option<String> {
        if std::mem::replace(&mut self.was_told, true) {
            return None;
        }
        let why = match self.had_interrupts {
            true => "its log says why",
            false => {
                "it never enabled MSI-X, and devices have no other interrupts here: leave out pci=nomsi, or use a kernel \
                 with CONFIG_PCI_MSI"
            }
        };
        Some(format!(
            "coopvirt: the guest's driver gave up on {name}: {why}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_without_msix_is_told_of_once_and_why() {
        let mut refusal = Refusal::default();
        let line = refusal.line("virtio-console").expect("the first");
        assert!(line.contains("gave up on virtio-console: it never enabled MSI-X"));
        refusal.had_interrupts = true;
        assert_eq!(refusal.line("virtio-console"), None);
        let mut other = Refusal {
            had_interrupts: true,
            ..Default::default()
        };
        assert!(other
            .line("disk")
            .expect("one")
            .ends_with("its log says why"));
    }
}
