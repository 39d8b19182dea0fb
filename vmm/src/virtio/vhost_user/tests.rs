//! Back ends that close, lie or say nothing, and rings whose other side does; the real ones are tried
//! with guests (`tests/vhost_user.rs`).

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::tempfile::TempFile;

use super::connection::{Connection, ConnectionError, Needs};
use super::keeper::{Keeper, Search};
use super::request::{Piece, Request};
use super::ring::{Ring, RingError, RINGS_GPA, RING_BYTES};
use super::{blk, fs};
use crate::mem::shared;

const NEEDS: Needs = Needs {
    config_bytes: 60,
    min_queues: 2,
};
/// Version 1, and a reply.
const REPLY: u32 = 5;

/// What a back end says; each test changes one thing.
#[derive(Clone)]
struct Script {
    features: u64,
    protocol: u64,
    queues: u64,
    /// Size that the configuration's reply names, and its bytes.
    config: (u32, usize),
    /// Closes the connection at this message, counted from zero.
    closes_at: usize,
    /// Says nothing from this message on.
    silent_at: usize,
    /// What every acknowledgement says.
    ack: u64,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            features: 1 << 32 | 1 << 30 | 1 << 28 | 1 << 9,
            // Many queues, acknowledgements, configuration.
            protocol: 1 | 1 << 3 | 1 << 9,
            queues: 2,
            config: (60, 60),
            closes_at: usize::MAX,
            silent_at: usize::MAX,
            ack: 0,
        }
    }
}

/// Serves connections by a script, one after the other, and answers every message.
fn listen(script: Script) -> PathBuf {
    let path = TempFile::new().unwrap().as_path().to_owned();
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // Errors are the other side's end.
            let _ = answer(connection, &script);
        }
    });
    path
}

fn answer(mut connection: UnixStream, script: &Script) -> std::io::Result<()> {
    for number in 0.. {
        let mut header = [0; 12];
        connection.read_exact(&mut header)?;
        let [code, flags, len] =
            [0, 4, 8].map(|at| u32::from_le_bytes(header[at..at + 4].try_into().unwrap()));
        let mut body = vec![0; len as usize];
        connection.read_exact(&mut body)?;
        if number == script.closes_at {
            return Ok(());
        }
        if number >= script.silent_at {
            continue;
        }
        let reply = match code {
            1 => script.features.to_le_bytes().to_vec(),
            15 => script.protocol.to_le_bytes().to_vec(),
            17 => script.queues.to_le_bytes().to_vec(),
            24 => {
                let (said, len) = script.config;
                let words = [0u32, said, 0].map(u32::to_le_bytes).concat();
                [words, vec![7; len]].concat()
            }
            _ if flags & 8 != 0 => script.ack.to_le_bytes().to_vec(),
            _ => continue,
        };
        let header = [code, REPLY, u32::try_from(reply.len()).unwrap()].map(u32::to_le_bytes);
        connection.write_all(&[header.concat(), reply].concat())?;
    }
    Ok(())
}

fn open(script: Script) -> Result<Connection, ConnectionError> {
    let path = listen(script);
    let connection = Connection::open(&path, &NEEDS);
    std::fs::remove_file(path).unwrap();
    connection
}

#[test]
fn what_a_back_end_offers_is_known() {
    let connection = open(Script::default()).unwrap();
    assert_eq!(connection.offer.features, 1 << 9);
    assert_eq!(connection.offer.nr_queues, 2);
    assert_eq!(connection.offer.config, [7; 60]);
}

#[test]
fn closing_at_any_message_is_an_error() {
    for closes_at in [0, 1, 2, 3, 4, 5] {
        let script = Script {
            closes_at,
            ..Script::default()
        };
        let error = open(script).err().expect("it was closed");
        assert!(
            matches!(error, ConnectionError::Closed),
            "{closes_at}: {error}"
        );
    }
}

#[test]
fn silence_at_any_message_is_an_error_in_time() {
    for silent_at in [0, 3, 5] {
        let script = Script {
            silent_at,
            ..Script::default()
        };
        let error = open(script).err().expect("it said nothing");
        assert!(
            matches!(error, ConnectionError::Slow),
            "{silent_at}: {error}"
        );
    }
}

#[test]
fn what_is_missing_is_named() {
    let lacks = |change: fn(&mut Script)| {
        let mut script = Script::default();
        change(&mut script);
        open(script).err().expect("it is refused").to_string()
    };
    assert!(lacks(|script| script.features &= !(1 << 32)).contains("VERSION_1"));
    assert!(lacks(|script| script.features &= !(1 << 28)).contains("indirect"));
    assert!(lacks(|script| script.features &= !(1 << 30)).contains("protocol features"));
    assert!(lacks(|script| script.protocol &= !(1 << 9)).contains("another kind of device"));
    assert!(lacks(|script| script.queues = 1).contains("1 queues, 2 are needed"));
    assert!(lacks(|script| script.protocol &= !1).contains("1 queues, 2 are needed"));
}

#[test]
fn replies_that_are_wrong_are_errors() {
    for (what, script) in [
        (
            "a size that is not its own",
            Script {
                config: (61, 60),
                ..Script::default()
            },
        ),
        (
            "a size that overflows",
            Script {
                config: (u32::MAX, 60),
                ..Script::default()
            },
        ),
        (
            "more bytes than were asked for",
            Script {
                config: (60, 4096),
                ..Script::default()
            },
        ),
        (
            "queues without end",
            Script {
                queues: u64::MAX,
                ..Script::default()
            },
        ),
        (
            "a refusal",
            Script {
                ack: 1,
                ..Script::default()
            },
        ),
    ] {
        let error = open(script).err().expect(what);
        assert!(
            matches!(error, ConnectionError::Protocol(_) | ConnectionError::Slow),
            "{what}: {error}"
        );
    }
    // Fewer bytes than it says: the rest never comes.
    let short = Script {
        config: (60, 10),
        ..Script::default()
    };
    let error = open(short).err().expect("it is too short");
    assert!(!matches!(error, ConnectionError::Connect(_)), "{error}");
}

#[test]
fn a_lost_back_end_is_found_again() {
    let path = listen(Script::default());
    let connection = Connection::open(&path, &NEEDS).unwrap();
    let search = Search {
        path: path.clone(),
        needs: NEEDS,
        patience: Duration::ZERO,
    };
    let keeper = Keeper::start(search, &connection).unwrap();
    std::fs::rename(&path, path.with_extension("away")).unwrap();
    connection.close();
    let (mut is_lost, mut has_given_up) = (false, false);
    // Returns whether another one has been found.
    let mut look = || {
        let news = keeper.take_news();
        is_lost |= news.is_lost;
        has_given_up |= news.given_up.is_some();
        (is_lost && has_given_up, news.found.is_some())
    };
    let until = Instant::now() + Duration::from_secs(60);
    while !look().0 {
        assert!(Instant::now() < until, "it is not missed");
        thread::sleep(Duration::from_millis(10));
    }
    std::fs::rename(path.with_extension("away"), &path).unwrap();
    while !look().1 {
        assert!(Instant::now() < until, "it is not found");
        thread::sleep(Duration::from_millis(10));
    }
    std::fs::remove_file(path).unwrap();
}

/// A ring, and its memory as the back end sees it.
struct Bench {
    memory: Arc<GuestMemoryMmap<()>>,
    ring: Ring,
}

const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;

impl Bench {
    fn new() -> Self {
        let memory = Arc::new(shared::map(RINGS_GPA, RING_BYTES).unwrap());
        let ring = Ring::new(&memory, 0).unwrap();
        Self { memory, ring }
    }

    fn submit(&mut self, head: u16) {
        self.ring
            .submit(request(head, &[(0, 16, false), (64, 8, true)]))
            .unwrap();
    }

    fn read<T: vm_memory::ByteValued>(&self, offset: u64) -> T {
        let at = GuestAddress(RINGS_GPA.0 + offset);
        self.memory.read_obj(at).unwrap()
    }

    fn write<T: vm_memory::ByteValued>(&self, offset: u64, value: T) {
        let at = GuestAddress(RINGS_GPA.0 + offset);
        self.memory.write_obj(value, at).unwrap();
    }

    /// Descriptors that have been made available, in order.
    fn offered(&self) -> Vec<u16> {
        let count: u16 = self.read(AVAIL + 2);
        (0..u64::from(count))
            .map(|index| self.read(AVAIL + 4 + index * 2))
            .collect()
    }

    fn answer(&self, place: u16, id: u32, len: u32) {
        self.write(USED + 4 + u64::from(place) * 8, [id, len]);
        self.write(USED + 2, place + 1);
    }

    fn answered(&mut self) -> Vec<(u16, u32)> {
        std::iter::from_fn(|| self.ring.take_answered()).collect()
    }
}

fn request(head: u16, pieces: &[(u64, u32, bool)]) -> Request {
    let pieces = pieces.iter().map(|&(gpa, len_bytes, is_written)| Piece {
        gpa,
        len_bytes,
        is_written,
    });
    Request::from_pieces(head, pieces.collect())
}

#[test]
fn a_request_is_one_descriptor_with_a_table_of_the_guests_buffers() {
    let mut bench = Bench::new();
    bench.submit(77);
    let id = u64::from(bench.offered()[0]);
    let (table, len, flags): (u64, u32, u16) = (
        bench.read(id * 16),
        bench.read(id * 16 + 8),
        bench.read(id * 16 + 12),
    );
    assert_eq!((len, flags), (32, 4), "indirect, two entries");
    let entries: [u64; 4] = bench.read(table - RINGS_GPA.0);
    let word = |len: u64, flags: u64, next: u64| len | flags << 32 | next << 48;
    assert_eq!(entries, [0, word(16, 1, 1), 64, word(8, 2, 2)]);
}

#[test]
fn answers_come_in_any_order_and_the_rest_is_made_again_in_its_own() {
    let mut bench = Bench::new();
    (0..6).for_each(|head| bench.submit(100 + head));
    let ids = bench.offered();
    bench.answer(0, ids[4].into(), 8);
    // More than there is room for.
    bench.answer(1, ids[1].into(), 4096);
    bench.ring.collect().unwrap();
    bench.submit(106);
    bench.ring.begin().unwrap();
    // What was answered before the end of the first back end stays so.
    assert_eq!(bench.answered(), [(104, 8), (101, 8)]);
    assert_eq!(bench.ring.nr_in_flight(), 5);
    let again = bench.offered();
    (0u16..)
        .zip(&again)
        .for_each(|(place, &id)| bench.answer(place, id.into(), 1));
    bench.ring.collect().unwrap();
    let heads: Vec<u16> = bench.answered().into_iter().map(|(head, _)| head).collect();
    assert_eq!(heads, [100, 102, 103, 105, 106]);
    assert_eq!(bench.ring.nr_in_flight(), 0);
}

#[test]
fn a_full_ring_is_emptied_and_filled_again() {
    let mut bench = Bench::new();
    for round in 0..3u16 {
        while !bench.ring.is_full() {
            bench.submit(1);
        }
        for index in 0..256u16 {
            let place = round.wrapping_mul(256).wrapping_add(index);
            let id: u16 = bench.read(AVAIL + 4 + u64::from(place % 256) * 2);
            bench.write(USED + 4 + u64::from(place % 256) * 8, [u32::from(id), 0]);
            bench.write(USED + 2, place.wrapping_add(1));
        }
        bench.ring.collect().unwrap();
        assert_eq!(bench.answered().len(), 256);
    }
}

#[test]
fn answers_to_nothing_are_errors_and_lose_no_request() {
    let mut bench = Bench::new();
    bench.submit(5);
    let id = u32::from(bench.offered()[0]);
    for wrong in [id ^ 1, 256, u32::MAX] {
        bench.answer(0, wrong, 0);
        assert!(matches!(bench.ring.collect(), Err(RingError::Answer(w)) if w == wrong));
    }
    for index in [2u16, 0x8000, u16::MAX] {
        bench.write(USED + 2, index);
        assert!(matches!(bench.ring.collect(), Err(RingError::Index { .. })));
    }
    assert_eq!(bench.ring.nr_in_flight(), 1);
    // The same answer twice.
    bench.submit(6);
    bench.answer(0, id, 0);
    bench.answer(1, id, 0);
    assert!(matches!(bench.ring.collect(), Err(RingError::Answer(_))));
    assert_eq!(bench.answered(), [(5, 0)]);
    assert_eq!(bench.ring.nr_in_flight(), 1);
}

#[test]
fn a_disk_fails_with_an_io_error_and_a_folder_with_its_own() {
    let ram = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
    let disk = request(0, &[(0, 16, false), (0x100, 512, true), (0x500, 1, true)]);
    assert_eq!(blk::fail(&disk, &ram), 1);
    assert_eq!(ram.read_obj::<u8>(GuestAddress(0x500)).unwrap(), 1);
    assert_eq!(blk::fail(&request(0, &[(0, 16, false)]), &ram), 0);

    ram.write_obj(0x1234_5678_9abc_def0_u64, GuestAddress(0x608))
        .unwrap();
    // An answer's header in two pieces.
    let folder = request(
        0,
        &[(0x600, 40, false), (0x700, 10, true), (0x800, 64, true)],
    );
    assert_eq!(fs::fail(&folder, &ram), 16);
    let mut answer = [0; 16];
    ram.read_slice(&mut answer[..10], GuestAddress(0x700))
        .unwrap();
    ram.read_slice(&mut answer[10..], GuestAddress(0x800))
        .unwrap();
    assert_eq!(answer[..4], 16u32.to_le_bytes());
    assert_eq!(answer[4..8], (-107i32).to_le_bytes());
    assert_eq!(answer[8..], 0x1234_5678_9abc_def0_u64.to_le_bytes());
    let without_room: [&[(u64, u32, bool)]; 4] = [
        &[(0x600, 40, false)],
        &[(0x700, 16, true)],
        &[(0x600, 8, false), (0x700, 16, true)],
        &[(0x600, 40, false), (0x700, 15, true)],
    ];
    for none in without_room {
        assert_eq!(fs::fail(&request(0, none), &ram), 0);
    }
}
