//! A socket device of this process: what the guest's AF_VSOCK sockets are joined to are UNIX sockets.
//!
//! For hosts without vhost-vsock, and for users who want a guest's ports to be files with owners. The
//! rules of the files are those that other VMMs have too: PATH is listened to, and a program that says
//! `CONNECT <port>` there is joined to the guest's listener on that port; a connection of the guest's
//! to the host's port P goes to whoever listens on PATH_P.
//!
//! - [`UnixVsock`] is the device: rings in, rings out (`device.rs`).
//! - `Hub` has all connections, hears the guest's packets and makes those for it (`hub.rs`).
//! - `Connection` is one of them: credit both ways, data on its way, who has shut what (`connection.rs`).
//! - `Host` opens and watches sockets (`host.rs`), `Greeting` reads the first line (`greeting.rs`).
//!
//! Everything runs on the I/O thread (a reset on a vCPU's), and nothing waits for a socket. What a guest
//! can make this process hold is bounded by the constants below: 64 MiB on their way to programs that do
//! not read, as many descriptors as connections, and a fixed number of answers.

mod connection;
mod device;
mod gauges;
mod greeting;
mod header;
mod host;
mod hub;

use std::time::Duration;

pub use self::device::UnixVsock;
pub use self::gauges::{VsockCounts, VsockGauges};
pub use self::host::UnixVsockError;

/// Connections at one time, half-open ones and greetings included. What the guest opens beyond is reset,
/// what the host opens is closed. Fits the usual limit of 1024 open files.
const MAX_CONNECTIONS: usize = 512;
/// Bytes of one connection that this side holds for a program that does not read: what the guest is
/// given as `buf_alloc`.
const WINDOW_BYTES: usize = 128 << 10;
/// The guest is told of room when it has used up so much of it.
const UPDATE_BYTES: u32 = 32 << 10;
/// Answers without a connection that wait for the guest's buffers. With so many nothing of the guest's
/// is taken any more until it has fetched some (virtio 1.2, 5.10.6.1.2).
const MAX_REPLIES: usize = 256;
/// The most bytes of one packet to the guest, and of one step from it (Linux: VIRTIO_VSOCK_MAX_PKT_BUF_SIZE).
const PACKET_BYTES: usize = 64 << 10;
/// How long a connection may be half-open: a greeting without its line, a request without an answer, an
/// end without a reset, data left for a program that does not read when the guest has closed.
const HALF_OPEN: Duration = Duration::from_secs(10);
