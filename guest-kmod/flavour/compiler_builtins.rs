// SPDX-License-Identifier: GPL-2.0
//! The crate of this name, which rustc wants behind core. Empty: what the compiler itself calls
//! (memcpy and the like) is the kernel's, and nothing else may be called.
#![feature(compiler_builtins)]
#![compiler_builtins]
#![no_builtins]
#![no_std]
