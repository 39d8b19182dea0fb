//! Back ends that close, lie or say nothing, and rings whose other side does (`ring`); the real ones are
//! tried with guests (`tests/vhost_user.rs`), hostile drivers in front of them in `virtio::tests`.

mod ring;
pub(in crate::virtio) mod scripted;

use std::thread;
use std::time::{Duration, Instant};

use self::scripted::{listen, Script, CONFIG_BYTES};
use super::connection::{Connection, ConnectionError, Needs};
use super::keeper::{Keeper, Search};

const NEEDS: Needs = Needs {
    config_bytes: CONFIG_BYTES,
    min_queues: 2,
};

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
