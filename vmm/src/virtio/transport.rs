//! The common configuration: features, status and queue set-up, as a state machine without I/O.
//!
//! Reads work at any width and offset. A write counts only if it is exactly one register (or both
//! halves of a 64-bit one) and allowed in the present status; everything else vanishes.

use std::sync::Arc;

use super::interrupt::Interrupts;
use super::queue::QueueSetup;

/// Length of the common configuration structure.
pub(super) const COMMON_CONFIG_LEN: usize = 0x40;

pub(super) const STATUS_ACKNOWLEDGE: u8 = 1;
pub(super) const STATUS_DRIVER: u8 = 2;
pub(super) const STATUS_DRIVER_OK: u8 = 4;
pub(super) const STATUS_FEATURES_OK: u8 = 8;
pub(super) const STATUS_NEEDS_RESET: u8 = 0x40;
pub(super) const STATUS_FAILED: u8 = 0x80;

pub(super) const FEATURE_INDIRECT: u64 = 1 << 28;
pub(super) const FEATURE_EVENT_IDX: u64 = 1 << 29;
pub(super) const FEATURE_VERSION_1: u64 = 1 << 32;

// Registers, by offset (virtio 1.2, 4.1.4.3).
const DEVICE_FEATURE_SELECT: usize = 0x00;
const DEVICE_FEATURE: usize = 0x04;
const DRIVER_FEATURE_SELECT: usize = 0x08;
const DRIVER_FEATURE: usize = 0x0c;
const CONFIG_VECTOR: usize = 0x10;
const NUM_QUEUES: usize = 0x12;
const DEVICE_STATUS: usize = 0x14;
const CONFIG_GENERATION: usize = 0x15;
const QUEUE_SELECT: usize = 0x16;
const QUEUE_SIZE: usize = 0x18;
const QUEUE_VECTOR: usize = 0x1a;
const QUEUE_ENABLE: usize = 0x1c;
const QUEUE_NOTIFY_OFF: usize = 0x1e;
const QUEUE_DESC: usize = 0x20;
const QUEUE_AVAIL: usize = 0x28;
const QUEUE_USED: usize = 0x30;

/// What a register write asks of the rest of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    None,
    /// The driver is ready: make the queues live.
    Activate,
    /// The driver wants everything forgotten.
    Reset,
    /// The driver has given up on the device.
    GiveUp,
}

pub(super) struct Transport {
    offered: u64,
    interrupts: Arc<Interrupts>,
    status: u8,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    queue_select: u16,
    queues: Vec<QueueSetup>,
}

impl Transport {
    pub(super) fn new(features: u64, queue_sizes: &[u16], interrupts: Arc<Interrupts>) -> Self {
        let setup = |&max_size| QueueSetup {
            max_size,
            size: max_size,
            ..Default::default()
        };
        Self {
            offered: features | FEATURE_VERSION_1 | FEATURE_EVENT_IDX | FEATURE_INDIRECT,
            interrupts,
            status: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            queue_select: 0,
            queues: queue_sizes.iter().map(setup).collect(),
        }
    }

    /// Forgets everything that the driver set.
    pub(super) fn reset(&mut self) {
        for queue in &mut self.queues {
            let max_size = queue.max_size;
            *queue = QueueSetup {
                max_size,
                size: max_size,
                ..Default::default()
            };
        }
        self.interrupts.reset();
        self.status = 0;
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.driver_features = 0;
        self.queue_select = 0;
    }

    /// The features that both sides have agreed on.
    pub(super) fn features(&self) -> u64 {
        self.driver_features
    }

    pub(super) fn uses_event_idx(&self) -> bool {
        self.driver_features & FEATURE_EVENT_IDX != 0
    }

    pub(super) fn queues(&self) -> &[QueueSetup] {
        &self.queues
    }

    pub(super) fn is_live(&self) -> bool {
        self.status & STATUS_DRIVER_OK != 0
    }

    pub(super) fn read(&self, offset: usize, data: &mut [u8]) {
        let image = self.image();
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = image
                .get(offset.saturating_add(index))
                .copied()
                .unwrap_or(0);
        }
    }

    pub(super) fn write(&mut self, offset: usize, data: &[u8]) -> Action {
        match *data {
            [value] if offset == DEVICE_STATUS => return self.write_status(value),
            [b0, b1] => self.write2(offset, u16::from_le_bytes([b0, b1])),
            [b0, b1, b2, b3] => self.write4(offset, u32::from_le_bytes([b0, b1, b2, b3])),
            [b0, b1, b2, b3, b4, b5, b6, b7]
                if matches!(offset, QUEUE_DESC | QUEUE_AVAIL | QUEUE_USED) =>
            {
                self.write4(offset, u32::from_le_bytes([b0, b1, b2, b3]));
                self.write4(offset + 4, u32::from_le_bytes([b4, b5, b6, b7]));
            }
            _ => {}
        }
        Action::None
    }

    fn write2(&mut self, offset: usize, value: u16) {
        let selected = usize::from(self.queue_select);
        match offset {
            CONFIG_VECTOR => self.interrupts.set_config_vector(value),
            QUEUE_SELECT => self.queue_select = value,
            QUEUE_VECTOR => self.interrupts.set_queue_vector(selected, value),
            QUEUE_SIZE => self.set_up_queue(|queue| queue.size = value),
            // Only a reset disables a queue.
            QUEUE_ENABLE if value == 1 => self.set_up_queue(|queue| queue.is_enabled = true),
            _ => {}
        }
    }

    fn write4(&mut self, offset: usize, value: u32) {
        match offset {
            DEVICE_FEATURE_SELECT => self.device_feature_select = value,
            DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            DRIVER_FEATURE => self.write_driver_feature(value),
            QUEUE_DESC => self.set_up_queue(|queue| set_low(&mut queue.descriptors, value)),
            0x24 => self.set_up_queue(|queue| set_high(&mut queue.descriptors, value)),
            QUEUE_AVAIL => self.set_up_queue(|queue| set_low(&mut queue.avail, value)),
            0x2c => self.set_up_queue(|queue| set_high(&mut queue.avail, value)),
            QUEUE_USED => self.set_up_queue(|queue| set_low(&mut queue.used, value)),
            0x34 => self.set_up_queue(|queue| set_high(&mut queue.used, value)),
            _ => {}
        }
    }

    fn write_driver_feature(&mut self, value: u32) {
        if self.status & STATUS_FEATURES_OK != 0 {
            return;
        }
        match self.driver_feature_select {
            0 => set_low(&mut self.driver_features, value),
            1 => set_high(&mut self.driver_features, value),
            _ => {}
        }
    }

    /// Changes the selected queue, unless it is in use or about to be.
    fn set_up_queue(&mut self, change: impl FnOnce(&mut QueueSetup)) {
        let may_change = self.status & STATUS_FEATURES_OK != 0 && !self.is_live();
        match self.queues.get_mut(usize::from(self.queue_select)) {
            Some(queue) if may_change && !queue.is_enabled => change(queue),
            _ => {}
        }
    }

    fn write_status(&mut self, value: u8) -> Action {
        if value == 0 {
            return Action::Reset;
        }
        // Bits only ever come, in their order; DEVICE_NEEDS_RESET is ours alone.
        let added = value & !self.status;
        if value & self.status & !STATUS_NEEDS_RESET != self.status {
            return Action::None;
        }
        self.status |= added & (STATUS_FAILED | STATUS_ACKNOWLEDGE);
        if added & STATUS_FAILED != 0 {
            return Action::GiveUp;
        }
        if self.status & STATUS_ACKNOWLEDGE != 0 {
            self.status |= added & STATUS_DRIVER;
        }
        if self.status & STATUS_DRIVER != 0 && self.features_are_acceptable() {
            self.status |= added & STATUS_FEATURES_OK;
        }
        let may_start = self.status & STATUS_FEATURES_OK != 0 && self.status & STATUS_FAILED == 0;
        if may_start && added & STATUS_DRIVER_OK != 0 {
            self.status |= STATUS_DRIVER_OK;
            return Action::Activate;
        }
        Action::None
    }

    fn features_are_acceptable(&self) -> bool {
        let unknown = self.driver_features & !self.offered;
        unknown == 0 && self.driver_features & FEATURE_VERSION_1 != 0
    }

    /// All registers as they read now.
    fn image(&self) -> [u8; COMMON_CONFIG_LEN] {
        let mut image = [0; COMMON_CONFIG_LEN];
        let mut put = |offset: usize, bytes: &[u8]| {
            image[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(
            DEVICE_FEATURE_SELECT,
            &self.device_feature_select.to_le_bytes(),
        );
        put(
            DEVICE_FEATURE,
            &half(self.offered, self.device_feature_select),
        );
        put(
            DRIVER_FEATURE_SELECT,
            &self.driver_feature_select.to_le_bytes(),
        );
        put(
            DRIVER_FEATURE,
            &half(self.driver_features, self.driver_feature_select),
        );
        put(
            CONFIG_VECTOR,
            &self.interrupts.config_vector().to_le_bytes(),
        );
        put(
            NUM_QUEUES,
            &u16::try_from(self.queues.len())
                .unwrap_or(u16::MAX)
                .to_le_bytes(),
        );
        put(DEVICE_STATUS, &[self.read_status()]);
        put(CONFIG_GENERATION, &[self.interrupts.generation()]);
        put(QUEUE_SELECT, &self.queue_select.to_le_bytes());
        // A queue that does not exist has size 0 and zeros everywhere.
        if let Some(queue) = self.queues.get(usize::from(self.queue_select)) {
            let vector = self.interrupts.queue_vector(usize::from(self.queue_select));
            put(QUEUE_SIZE, &queue.size.to_le_bytes());
            put(QUEUE_VECTOR, &vector.to_le_bytes());
            put(QUEUE_ENABLE, &u16::from(queue.is_enabled).to_le_bytes());
            put(QUEUE_NOTIFY_OFF, &self.queue_select.to_le_bytes());
            put(QUEUE_DESC, &queue.descriptors.to_le_bytes());
            put(QUEUE_AVAIL, &queue.avail.to_le_bytes());
            put(QUEUE_USED, &queue.used.to_le_bytes());
        }
        image
    }

    fn read_status(&self) -> u8 {
        let needs_reset = if self.interrupts.needs_reset() {
            STATUS_NEEDS_RESET
        } else {
            0
        };
        self.status | needs_reset
    }
}

fn half(value: u64, select: u32) -> [u8; 4] {
    let [b0, b1, b2, b3, b4, b5, b6, b7] = value.to_le_bytes();
    match select {
        0 => [b0, b1, b2, b3],
        1 => [b4, b5, b6, b7],
        _ => [0; 4],
    }
}

fn set_low(target: &mut u64, value: u32) {
    *target = *target & !u64::from(u32::MAX) | u64::from(value);
}

fn set_high(target: &mut u64, value: u32) {
    *target = *target & u64::from(u32::MAX) | u64::from(value) << 32;
}
