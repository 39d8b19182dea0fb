//! The host's side: the socket that is listened to, those that are connected, and who has news.
//!
//! News of all of them come through one epoll file, which the I/O thread watches. Sockets are watched edge
//! by edge: who has heard of one goes on until it would have to wait.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::net::{
    accept_with, bind, connect, listen, socket_with, AddressFamily, SocketAddrUnix, SocketFlags,
    SocketType,
};
use rustix::time::{
    timerfd_create, timerfd_settime, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags,
};

use crate::socket_file::{keep_private, make_way, PathTaken, SocketFile};

/// Programs that wait to be accepted.
const BACKLOG: i32 = 128;
/// Looks at the clock, while something has a deadline.
const TICK: Duration = Duration::from_secs(1);
/// Longest path of a socket (`sun_path` with its terminating zero).
const MAX_PATH_BYTES: usize = 107;
/// `_` and the largest port.
const PORT_BYTES: usize = 11;
/// News that are fetched at once.
const MAX_NEWS: usize = 64;

const TOKEN_LISTENER: u64 = 0;
const TOKEN_TICK: u64 = 1;
/// Those of connections begin here, and are never used twice.
pub(super) const FIRST_TOKEN: u64 = 2;

/// Why there is no socket device of this kind.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum UnixVsockError {
    #[error("{path:?} is in use by a running program; give another path to --vsock socket=")]
    InUse { path: PathBuf },
    #[error("{path:?} exists and is no socket; give another path to --vsock socket=")]
    NotASocket { path: PathBuf },
    #[error(
        "{path:?} is too long for a socket; give one of at most {} bytes to --vsock socket=",
        MAX_PATH_BYTES - PORT_BYTES
    )]
    TooLong { path: PathBuf },
    #[error("could not make the socket {path:?}; check the path given to --vsock socket=")]
    Make { path: PathBuf, source: io::Error },
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Somebody wants to be accepted.
    Caller,
    /// The clock has ticked.
    Tick,
    /// A socket can be read or written, or has gone.
    Socket { token: u64, has_gone: bool },
}

/// The host's sockets.
pub(super) struct Host {
    // The first to be dropped.
    _file: SocketFile,
    path: PathBuf,
    epoll: Arc<File>,
    listener: OwnedFd,
    timer: OwnedFd,
    is_ticking: bool,
}

impl Host {
    /// Listens on this path.
    pub(super) fn listen(path: &Path) -> Result<Self, UnixVsockError> {
        let owned = || path.to_owned();
        if path.as_os_str().len() > MAX_PATH_BYTES - PORT_BYTES {
            return Err(UnixVsockError::TooLong { path: owned() });
        }
        let _claim = make_way(path).map_err(|why| match why {
            PathTaken::InUse => UnixVsockError::InUse { path: owned() },
            PathTaken::NotASocket => UnixVsockError::NotASocket { path: owned() },
            PathTaken::Io(source) => UnixVsockError::Make {
                path: owned(),
                source,
            },
        })?;
        Self::make(path).map_err(|source| UnixVsockError::Make {
            path: owned(),
            source,
        })
    }

    fn make(path: &Path) -> io::Result<Self> {
        let listener = new_socket()?;
        keep_private(&listener)?;
        bind(&listener, &SocketAddrUnix::new(path)?)?;
        let file = SocketFile::of(path)?;
        listen(&listener, BACKLOG)?;
        let epoll = File::from(epoll::create(CreateFlags::CLOEXEC)?);
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        watch(&epoll, &listener, TOKEN_LISTENER, EventFlags::IN)?;
        watch(&epoll, &timer, TOKEN_TICK, EventFlags::IN)?;
        Ok(Self {
            path: path.to_owned(),
            epoll: Arc::new(epoll),
            listener,
            timer,
            is_ticking: false,
            _file: file,
        })
    }

    /// Readable when there is news.
    pub(super) fn news_file(&self) -> Arc<File> {
        Arc::clone(&self.epoll)
    }

    /// Fetches some news; none: there is no more.
    pub(super) fn fetch(&self) -> Vec<News> {
        let nothing = Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        };
        let mut events = [nothing; MAX_NEWS];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let count = epoll::wait(&self.epoll, &mut events, Some(&at_once)).unwrap_or(0);
        let gone = EventFlags::HUP | EventFlags::ERR;
        let news = events.iter().take(count).map(|event| {
            let (flags, data) = (event.flags, event.data);
            match data.u64() {
                TOKEN_LISTENER => News::Caller,
                TOKEN_TICK => News::Tick,
                token => News::Socket {
                    token,
                    has_gone: flags.intersects(gone),
                },
            }
        });
        news.collect()
    }

    /// Takes the next caller. None: there is none now.
    pub(super) fn accept(&self) -> io::Result<Option<UnixStream>> {
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match accept_with(&self.listener, flags) {
                Ok(socket) => return Ok(Some(socket.into())),
                Err(Errno::AGAIN) => return Ok(None),
                // Its caller has gone.
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Connects to who listens for this port of the host's. Where it would have to wait, because too
    /// many do already, it fails.
    pub(super) fn call(&self, port: u32) -> io::Result<UnixStream> {
        let mut path = OsString::from(&self.path);
        path.push(format!("_{port}"));
        let address = SocketAddrUnix::new(&*path)?;
        let socket = new_socket()?;
        connect(&socket, &address)?;
        Ok(socket.into())
    }

    /// Tells of this socket from now on, until it is closed.
    pub(super) fn watch(&self, stream: &UnixStream, token: u64) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP;
        watch(&self.epoll, stream, token, flags)
    }

    /// Lets the clock tick from now on, or not.
    pub(super) fn set_ticking(&mut self, is_ticking: bool) {
        if self.is_ticking == is_ticking {
            return;
        }
        let seconds = if is_ticking { TICK.as_secs() } else { 0 };
        let every = Timespec {
            tv_sec: i64::try_from(seconds).unwrap_or(1),
            tv_nsec: 0,
        };
        let times = Itimerspec {
            it_interval: every,
            it_value: every,
        };
        // It takes any time that is one.
        let set = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &times);
        self.is_ticking = is_ticking && set.is_ok();
    }

    /// Has heard the tick.
    pub(super) fn hear_tick(&self) {
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

fn watch(epoll: &File, source: impl AsFd, token: u64, flags: EventFlags) -> io::Result<()> {
    let data = EventData::new_u64(token);
    Ok(epoll::add(epoll, source, data, flags | EventFlags::ET)?)
}
