//! Which drivers get the back end that comes after another one.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use vm_memory::GuestAddress;

use super::Relay;
use crate::config::FsConfig;
use crate::mem::shared;
use crate::virtio::vhost_user::tests::scripted;
use crate::virtio::VhostUserFs;

const LIMIT: Duration = Duration::from_secs(60);

fn wait(relay: &mut Relay, what: &str, holds: fn(&Relay) -> bool) {
    let until = Instant::now() + LIMIT;
    while !holds(relay) {
        assert!(Instant::now() < until, "not in time: {what}");
        thread::sleep(Duration::from_millis(10));
        relay.news_came();
    }
}

/// A folder whose back end goes, is missed, and comes again. Returns whether the driver is served then.
fn is_served_by_another(
    mut before: impl FnMut(&mut Relay),
    mut missed: impl FnMut(&mut Relay),
) -> bool {
    let path = scripted::listen(scripted::folder());
    let config = FsConfig {
        socket: path.clone(),
        tag: "share".to_owned(),
        queues: None,
    };
    let ram = Arc::new(shared::map(GuestAddress(0), 1 << 20).unwrap());
    let mut relay = VhostUserFs::open(&config, 1, &ram).unwrap().relay;
    before(&mut relay);
    let away = path.with_extension("away");
    std::fs::rename(&path, &away).unwrap();
    relay.distrust("a test");
    wait(&mut relay, "it is missed", |relay| relay.is_failing);
    missed(&mut relay);
    std::fs::rename(&away, &path).unwrap();
    wait(&mut relay, "another one", |relay| {
        relay.connection.is_some()
    });
    std::fs::remove_file(path).unwrap();
    assert_eq!(relay.is_started, !relay.is_failing);
    relay.is_started
}

#[test]
fn a_folder_is_not_handed_to_a_back_end_that_does_not_know_it() {
    assert!(!is_served_by_another(|relay| relay.activate(0), |_| ()));
}

#[test]
fn a_driver_that_came_while_there_was_no_back_end_gets_the_next() {
    assert!(is_served_by_another(|_| (), |relay| relay.activate(0)));
    // The one before it had been served.
    assert!(is_served_by_another(
        |relay| relay.activate(0),
        |relay| {
            relay.reset();
            relay.activate(0);
        }
    ));
}
