// SPDX-License-Identifier: GPL-2.0
//! For kernels with Rust: what their `kernel` crate offers.

use kernel::ThisModule;

pub(crate) use kernel::error::code::{EBUSY, EINVAL, EIO, ENODEV, ENOMEM};
pub(crate) use kernel::error::{to_result, Result};
pub(crate) use kernel::{pr_err, pr_info, pr_warn};

impl kernel::Module for crate::Module {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        Self::load()
    }
}
