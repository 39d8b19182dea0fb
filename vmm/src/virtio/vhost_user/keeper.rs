//! Keeps a back end: a thread that sees its connection end, and looks for another one.
//!
//! It only opens connections. What it finds out goes into a mailbox, and an eventfd makes the I/O
//! thread look into it: that one starts rings and talks to the guest, under the device's lock. The
//! thread ends with the device; a back end that accepts and then says nothing delays that end only by
//! itself, as nobody waits for it.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::connection::{Connection, ConnectionError, Needs};

/// Pauses between two tries grow from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(2);
/// A connection that lasted so long was a good one: the next search begins afresh.
const GOOD: Duration = Duration::from_secs(10);

/// Which back end, and for how long it is missed.
#[derive(Clone, Debug)]
pub(super) struct Search {
    pub(super) path: PathBuf,
    pub(super) needs: Needs,
    /// After that its absence is told; the search goes on.
    pub(super) patience: Duration,
}

/// What has happened, in this order, since it was asked last.
#[derive(Default)]
pub(super) struct News {
    /// The connection has ended.
    pub(super) is_lost: bool,
    /// There was no other one in time, for this reason.
    pub(super) given_up: Option<ConnectionError>,
    /// There is another one.
    pub(super) found: Option<Connection>,
}

struct Shared {
    search: Search,
    news: Mutex<News>,
    has_news: Arc<EventFd>,
    stop: EventFd,
}

/// The keeper's handle, for the device; the thread ends when it is dropped.
pub(super) struct Keeper(Arc<Shared>);

impl Keeper {
    /// Starts to watch this connection.
    pub(super) fn start(search: Search, connection: &Connection) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            search,
            news: Mutex::default(),
            has_news: Arc::new(EventFd::new(EFD_NONBLOCK)?),
            stop: EventFd::new(EFD_NONBLOCK)?,
        });
        let socket = connection.socket()?;
        let keeper = shared.clone();
        thread::Builder::new()
            .name("vhost-user".into())
            .stack_size(256 << 10)
            .spawn(move || keeper.run(socket))?;
        Ok(Self(shared))
    }

    /// Signalled when there are news.
    pub(super) fn has_news(&self) -> Arc<EventFd> {
        self.0.has_news.clone()
    }

    /// Whether the connection has ended, as far as it is known.
    pub(super) fn has_lost(&self) -> bool {
        let news = self.0.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.is_lost
    }

    /// Takes the news.
    pub(super) fn take_news(&self) -> News {
        let mut news = self.0.news.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *news)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // It cannot be full.
        let _ = self.0.stop.write(1);
    }
}

/// A time without a good connection.
struct Trouble {
    since: Instant,
    pause: Duration,
}

impl Shared {
    fn run(&self, mut socket: UnixStream) {
        let mut trouble: Option<Trouble> = None;
        loop {
            let begun = Instant::now();
            if !self.wait_for_end(&socket) {
                return;
            }
            if begun.elapsed() >= GOOD {
                trouble = None;
            }
            self.tell(|news| {
                // One that was found and lost before anybody looked was never there.
                *news = News {
                    is_lost: true,
                    ..News::default()
                };
            });
            let trouble = trouble.get_or_insert_with(|| Trouble {
                since: Instant::now(),
                pause: FIRST_PAUSE,
            });
            let Some(next) = self.find(trouble) else {
                return;
            };
            socket = next;
        }
    }

    /// Waits for the end of a connection; false: for ours.
    fn wait_for_end(&self, socket: &UnixStream) -> bool {
        let wait = || {
            let epoll = Epoll::new()?;
            let ends = EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR;
            for (fd, events, tag) in [
                (socket.as_raw_fd(), ends, 0),
                (self.stop.as_raw_fd(), EventSet::IN, 1),
            ] {
                epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(events, tag))?;
            }
            let mut events = [EpollEvent::default(); 2];
            loop {
                match epoll.wait(-1, &mut events) {
                    Ok(count) if count > 0 => {
                        return Ok(events[..count].iter().all(|event| event.data() == 0));
                    }
                    Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                    _ => {}
                }
            }
        };
        wait().unwrap_or_else(|error: io::Error| {
            complain!(
                "coopvirt: the vhost-user back end at {} is no longer watched: {error}",
                self.search.path.display()
            );
            false
        })
    }

    /// Tries to connect until it goes well. `None`: the device is gone.
    fn find(&self, trouble: &mut Trouble) -> Option<UnixStream> {
        let mut has_given_up = false;
        loop {
            let error = match Connection::open(&self.search.path, &self.search.needs) {
                Ok(connection) => match connection.socket() {
                    Ok(socket) => {
                        self.tell(|news| news.found = Some(connection));
                        // A connection that does not last must not be the next at once.
                        return (!self.pause(trouble)).then_some(socket);
                    }
                    Err(error) => ConnectionError::Connect(error),
                },
                Err(error) => error,
            };
            if !has_given_up && trouble.since.elapsed() >= self.search.patience {
                has_given_up = true;
                self.tell(|news| news.given_up = Some(error));
            }
            if self.pause(trouble) {
                return None;
            }
        }
    }

    /// Lets some time pass; more the next time. Returns whether the device is gone.
    fn pause(&self, trouble: &mut Trouble) -> bool {
        let until = Instant::now() + trouble.pause;
        trouble.pause = (trouble.pause * 2).min(LAST_PAUSE);
        loop {
            if self.stop.read().is_ok() {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            thread::sleep(left.min(FIRST_PAUSE));
        }
    }

    fn tell(&self, change: impl FnOnce(&mut News)) {
        change(&mut self.news.lock().unwrap_or_else(PoisonError::into_inner));
        // It cannot be full.
        let _ = self.has_news.write(1);
    }
}
