//! The server over a real socket, with clients that behave and clients that do not.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use vmm_sys_util::tempdir::TempDir;

use super::client::{self, ClientError};
use super::metrics::{CauseSource, Causes, DeviceMetrics, ExitSource, Metrics, VcpuMetrics};
use super::server::{HEAD_LIMIT, MAX_BODY_BYTES, MAX_CONNECTIONS, MAX_HEAD_BYTES};
use super::{ControlServer, ControlSocket, Controls, ShutDownHow, SocketError, State};
use crate::coop::counters::CoopCounts;
use crate::coop::{AreaCounts, CoopGauges, PollingState};
use crate::machine::{RemoteError, RunState};
use crate::virtio::{BalloonError, BalloonState, DeviceCounts, Latency, VsockCounts};

/// A machine that only remembers what it was told.
struct Recorder {
    state: Mutex<RunState>,
    ended: Mutex<Vec<ShutDownHow>>,
    balloon_mib: Mutex<Option<u64>>,
}

/// What the recorder's guest has.
const MEMORY_MIB: u64 = 256;

impl Controls for Recorder {
    fn state(&self) -> State {
        State {
            state: *self.state.lock().unwrap(),
            mode: "kvm".into(),
            vcpus: 2,
            memory_bytes: MEMORY_MIB << 20,
            pid: 1,
            version: "0".into(),
        }
    }

    fn metrics(&self) -> Metrics {
        let device = |index| DeviceMetrics {
            device: "virtio-blk".into(),
            index,
            counts: DeviceCounts {
                requests: 9,
                notifies: 4,
                notifies_suppressed: 5,
                ..Default::default()
            },
            latency: Some(Latency {
                below_us: [(4, 3), (64, 5)].into(),
                longer: 1,
                sum_ns: 1_500_000_007,
            }),
        };
        Metrics {
            state: *self.state.lock().unwrap(),
            vcpus: vec![VcpuMetrics {
                vcpu: 0,
                source: ExitSource::KvmStats,
                exits: 70,
                exits_by_reason: [("halt".into(), 7)].into(),
                returns: 3,
                returns_by_kind: [("port-out".into(), 3)].into(),
            }],
            devices: vec![device(0), device(1)],
            causes: Causes {
                source: CauseSource::Vmm,
                by_reason: BTreeMap::new(),
                by_cause: [("OUT 0x3f8 serial".into(), 3)].into(),
            },
            thread_cpu_ns: [("coop-poll".into(), 2_000_000_001)].into(),
            coop: Some(CoopGauges {
                polling: PollingState::Polling,
                areas: vec![AreaCounts {
                    vcpu: 1,
                    is_registered: true,
                    guest: [("ipi_elided".into(), 8)].into(),
                    ..Default::default()
                }],
                totals: CoopCounts::default(),
            }),
            balloon: Some(BalloonState {
                target_bytes: 1 << 20,
                ..Default::default()
            }),
            vsock: Some(VsockCounts {
                connections: 3,
                ..Default::default()
            }),
        }
    }

    fn pause(&self) -> Result<(), RemoteError> {
        *self.state.lock().unwrap() = RunState::Paused;
        Ok(())
    }

    fn resume(&self) -> Result<(), RemoteError> {
        *self.state.lock().unwrap() = RunState::Running;
        Ok(())
    }

    fn shut_down(&self, how: ShutDownHow) -> Result<(), RemoteError> {
        if *self.state.lock().unwrap() == RunState::Paused {
            return Err(RemoteError::Paused);
        }
        self.ended.lock().unwrap().push(how);
        Ok(())
    }

    fn balloon(&self) -> Result<BalloonState, BalloonError> {
        let target_mib = self.balloon_mib.lock().unwrap().ok_or(BalloonError::None)?;
        Ok(BalloonState {
            target_bytes: target_mib << 20,
            ..Default::default()
        })
    }

    fn set_balloon(&self, target_mib: u64) -> Result<(), BalloonError> {
        let mut balloon_mib = self.balloon_mib.lock().unwrap();
        let balloon_mib = balloon_mib.as_mut().ok_or(BalloonError::None)?;
        if target_mib >= MEMORY_MIB {
            return Err(BalloonError::TooLarge {
                target_mib,
                memory_mib: MEMORY_MIB,
            });
        }
        *balloon_mib = target_mib;
        Ok(())
    }
}

struct Rig {
    machine: Arc<Recorder>,
    server: Option<ControlServer>,
    path: PathBuf,
    _folder: TempDir,
}

impl Rig {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.as_path().join("vm.sock");
        let machine = Arc::new(Recorder {
            state: Mutex::new(RunState::Running),
            ended: Mutex::default(),
            balloon_mib: Mutex::new(Some(0)),
        });
        let socket = ControlSocket::bind(&path).unwrap();
        let server = ControlServer::start(socket, machine.clone()).unwrap();
        Self {
            machine,
            server: Some(server),
            path,
            _folder: folder,
        }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).unwrap();
        stream.set_write_timeout(limit).unwrap();
        stream
    }

    /// Sends these bytes and returns all that comes back until the server closes.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // The server may have closed before it has seen everything.
        let _ = stream.write_all(bytes);
        answer(&mut stream)
    }

    fn get(&self, target: &str) -> Result<String, ClientError> {
        client::request(&self.path, "GET", target, String::new())
    }

    fn post(&self, target: &str, body: &str) -> Result<String, ClientError> {
        client::request(&self.path, "POST", target, body.into())
    }

    #[track_caller]
    fn assert_answers(&self) {
        assert!(self.get("/state").unwrap().contains("\"vcpus\":2"));
    }
}

fn answer(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    // A reset after the answer is no matter; a time-out is, and leaves the answer empty.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[test]
fn pause_resume_and_state_agree() {
    let rig = Rig::new();
    for (target, state) in [("/pause", "paused"), ("/resume", "running")] {
        let wanted = format!("\"state\":\"{state}\"");
        assert!(rig.post(target, "").unwrap().contains(&wanted));
        assert!(rig.get("/state").unwrap().contains(&wanted));
    }
    rig.post("/pause", "{}").unwrap();
    let refused = rig.post("/shutdown", "").unwrap_err().to_string();
    assert!(refused.contains("resume it first"), "{refused}");
}

#[test]
fn a_shutdown_presses_the_button_unless_told_otherwise() {
    let rig = Rig::new();
    for body in ["", "{}", r#"{"how":"power-button"}"#, r#"{"how":"stop"}"#] {
        rig.post("/shutdown", body).unwrap();
    }
    let ended = rig.machine.ended.lock().unwrap();
    use ShutDownHow::{PowerButton, Stop};
    assert_eq!(*ended, [PowerButton, PowerButton, PowerButton, Stop]);
}

#[test]
fn metrics_say_the_same_in_both_forms() {
    let rig = Rig::new();
    let json: Metrics = serde_json::from_str(&rig.get("/metrics.json").unwrap()).unwrap();
    assert_eq!(json, rig.machine.metrics());
    let text = rig.get("/metrics").unwrap();
    for line in [
        "coopvirt_running 1",
        "coopvirt_vcpu_exits_total{vcpu=\"0\",source=\"kvm-stats\"} 70",
        "coopvirt_vcpu_exits_by_reason_total{vcpu=\"0\",reason=\"halt\",source=\"kvm-stats\"} 7",
        "coopvirt_vcpu_returns_total{vcpu=\"0\",kind=\"port-out\"} 3",
        "coopvirt_device_requests_total{device=\"virtio-blk\",index=\"1\"} 9",
        "coopvirt_device_latency_seconds_bucket{device=\"virtio-blk\",index=\"1\",le=\"0.000002\"} 0",
        "coopvirt_device_latency_seconds_bucket{device=\"virtio-blk\",index=\"1\",le=\"0.000032\"} 3",
        "coopvirt_device_latency_seconds_bucket{device=\"virtio-blk\",index=\"1\",le=\"8.388608\"} 8",
        "coopvirt_device_latency_seconds_bucket{device=\"virtio-blk\",index=\"1\",le=\"+Inf\"} 9",
        "coopvirt_device_latency_seconds_sum{device=\"virtio-blk\",index=\"1\"} 1.500000007",
        "coopvirt_device_latency_seconds_count{device=\"virtio-blk\",index=\"1\"} 9",
        "coopvirt_exits_by_cause_total{cause=\"OUT 0x3f8 serial\",source=\"vmm\"} 3",
        "coopvirt_thread_cpu_seconds_total{thread=\"coop-poll\"} 2.000000001",
        "coopvirt_sidecore_polling 1",
        "coopvirt_coop_guest_total{vcpu=\"1\",counter=\"ipi_elided\"} 8",
        "coopvirt_balloon_target_bytes 1048576",
        "coopvirt_vsock_connections 3",
        "coopvirt_device_notifies_total{device=\"virtio-blk\",index=\"0\",what=\"suppressed\"} 5",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    // Every family has its type before its first value, and every value is a number.
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let family = name.split('{').next().unwrap();
        let parts = ["_bucket", "_sum", "_count"];
        let whole = parts.iter().find_map(|part| family.strip_suffix(part));
        let family = whole.filter(|whole| text.contains(&format!("# TYPE {whole} histogram")));
        let family = family.unwrap_or(name.split('{').next().unwrap());
        assert!(text.contains(&format!("# TYPE {family} ")), "{line}");
        value.parse::<f64>().unwrap();
    }
}

#[test]
fn a_balloon_has_a_target_that_is_read_and_set() {
    let rig = Rig::new();
    let put = |body: &str| client::request(&rig.path, "PUT", "/balloon", body.into());
    assert!(rig.get("/balloon").unwrap().contains("\"target_bytes\":0"));
    let wanted = format!("\"target_bytes\":{}", 64 << 20);
    assert!(put(r#"{"target_mib":64}"#).unwrap().contains(&wanted));
    for (body, complaint) in [
        ("", "not understood"),
        ("{}", "target_mib"),
        (r#"{"target_mib":-1}"#, "not understood"),
        (r#"{"target_mib":1.5}"#, "not understood"),
        (r#"{"target_mib":1,"x":1}"#, "unknown field"),
        (r#"{"target_mib":256}"#, "give a smaller target"),
        (
            r#"{"target_mib":18446744073709551615}"#,
            "give a smaller target",
        ),
    ] {
        let error = put(body).unwrap_err().to_string();
        assert!(error.contains(complaint), "{body}: {error}");
    }
    assert!(rig.get("/balloon").unwrap().contains(&wanted));
    let answer = rig.raw(b"POST /balloon HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(status(&answer), "405", "{answer}");
    assert!(
        answer.to_lowercase().contains("allow: get, put"),
        "{answer}"
    );
    *rig.machine.balloon_mib.lock().unwrap() = None;
    for error in [rig.get("/balloon"), put(r#"{"target_mib":1}"#)] {
        let error = error.unwrap_err().to_string();
        assert!(error.contains("--balloon"), "{error}");
    }
}

#[test]
fn what_is_not_there_is_told_with_what_is() {
    let rig = Rig::new();
    let answer = rig.raw(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(status(&answer), "404", "{answer}");
    assert!(answer.contains("POST /pause"), "{answer}");
    let answer = rig.raw(b"GET /pause HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(status(&answer), "405", "{answer}");
    assert!(answer.to_lowercase().contains("allow: post"), "{answer}");
    assert_eq!(rig.machine.state().state, RunState::Running);
}

#[test]
fn bad_json_is_refused_and_changes_nothing() {
    let rig = Rig::new();
    for body in [
        "{",
        "[1]",
        "null",
        r#"{"how":"burn"}"#,
        r#"{"hwo":"stop"}"#,
        "\u{0}",
        "{}{}",
    ] {
        for target in ["/shutdown", "/pause"] {
            let error = rig.post(target, body).unwrap_err().to_string();
            assert!(error.contains("not understood"), "{body:?}: {error}");
        }
    }
    assert!(rig.machine.ended.lock().unwrap().is_empty());
    assert_eq!(rig.machine.state().state, RunState::Running);
}

#[test]
fn what_is_not_http_is_refused() {
    let rig = Rig::new();
    for bytes in [
        b"\x16\x03\x01\x02\x00\x01\x00".as_slice(),
        b"hello\r\n\r\n",
        &[0; 4096],
    ] {
        let answer = rig.raw(bytes);
        assert_eq!(status(&answer), "400", "{answer}");
    }
    rig.assert_answers();
}

#[test]
fn a_huge_head_is_refused() {
    let rig = Rig::new();
    let huge = "x".repeat(4 * MAX_HEAD_BYTES);
    for head in [
        format!("GET /state HTTP/1.1\r\nHost: x\r\nX-A: {huge}\r\n\r\n"),
        format!("GET /{huge} HTTP/1.1\r\nHost: x\r\n\r\n"),
        format!("GET /state HTTP/1.1\r\n{}\r\n", "X-A: y\r\n".repeat(5000)),
    ] {
        let answer = rig.raw(head.as_bytes());
        // Where the server closes before it has read everything, its answer may be lost.
        assert!(
            ["431", "414", "none"].contains(&status(&answer)),
            "{answer}"
        );
    }
    rig.assert_answers();
}

#[test]
fn a_huge_body_is_refused() {
    let rig = Rig::new();
    let head = |length: &str| format!("POST /shutdown HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n");
    let mut told = head(&format!("Content-Length: {}", 1_u64 << 40)).into_bytes();
    told.resize(told.len() + 2 * MAX_BODY_BYTES, b' ');
    let mut chunked = head("Transfer-Encoding: chunked").into_bytes();
    for _ in 0..40 {
        chunked.extend(format!("400\r\n{}\r\n", " ".repeat(0x400)).bytes());
    }
    for request in [told, chunked] {
        let answer = rig.raw(&request);
        assert!(["413", "none"].contains(&status(&answer)), "{answer}");
    }
    assert!(rig.machine.ended.lock().unwrap().is_empty());
    rig.assert_answers();
}

#[test]
fn slow_and_silent_clients_cannot_keep_others_out() {
    let rig = Rig::new();
    let begun = Instant::now();
    // More than are served at once: silent ones, half a head, a body that never comes.
    let mut idle = Vec::new();
    for index in 0..2 * MAX_CONNECTIONS {
        let mut stream = rig.connect();
        let beginnings: [&[u8]; 3] = [
            b"",
            b"GET /state HTTP/1.1\r\nHo",
            b"POST /pause HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
        ];
        let _ = stream.write_all(beginnings[index % 3]);
        idle.push(stream);
    }
    rig.assert_answers();
    // Two rounds of them had to be thrown out first.
    assert!(begun.elapsed() < 6 * HEAD_LIMIT, "{:?}", begun.elapsed());
    assert_eq!(rig.machine.state().state, RunState::Running);
    for mut stream in idle {
        let answer = answer(&mut stream);
        assert!(["none", "408"].contains(&status(&answer)), "{answer}");
    }
}

#[test]
fn a_client_that_sends_byte_by_byte_has_the_same_time() {
    let rig = Rig::new();
    let mut stream = rig.connect();
    let begun = Instant::now();
    let mut sent = 0;
    // Never the end of the head.
    while begun.elapsed() < 3 * HEAD_LIMIT && stream.write_all(b"G").is_ok() {
        sent += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(begun.elapsed() < 3 * HEAD_LIMIT, "{sent} bytes were taken");
    rig.assert_answers();
}

#[test]
fn many_clients_one_after_the_other_and_at_once() {
    let rig = Rig::new();
    for _ in 0..200 {
        drop(rig.connect());
    }
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                for _ in 0..5 {
                    rig.assert_answers();
                }
            });
        }
    });
}

#[test]
fn a_connection_carries_one_request() {
    let rig = Rig::new();
    let one = "GET /state HTTP/1.1\r\nHost: x\r\n\r\n";
    let answer = rig.raw(one.repeat(3).as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
}

#[test]
fn a_client_that_leaves_before_its_answer_is_no_matter() {
    let rig = Rig::new();
    for _ in 0..20 {
        let mut stream = rig.connect();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        let _ = stream.shutdown(Shutdown::Both);
    }
    rig.assert_answers();
}

#[test]
fn the_file_is_its_owners_alone_and_goes_with_the_server() {
    let mut rig = Rig::new();
    let mode = std::fs::metadata(&rig.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Clients that still hang on do not hold up the end.
    let _silent = rig.connect();
    let begun = Instant::now();
    rig.server = None;
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert!(!rig.path.exists());
    let error = rig.get("/state").unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
}

fn refused(path: &Path) -> SocketError {
    match ControlSocket::bind(path) {
        Ok(_) => panic!("{path:?} was taken"),
        Err(error) => error,
    }
}

#[test]
fn a_socket_of_a_dead_machine_is_replaced_and_a_living_ones_is_not() {
    let folder = TempDir::new().unwrap();
    let path = folder.as_path().join("vm.sock");
    // Its listener is gone, its file is not: a machine that was killed.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let socket = ControlSocket::bind(&path).unwrap();
    assert!(matches!(refused(&path), SocketError::InUse { .. }));
    // Another one's file at the same place is not removed with ours.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "mine").unwrap();
    drop(socket);
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    assert!(matches!(refused(&path), SocketError::NotASocket { .. }));
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

#[test]
fn paths_that_cannot_be_sockets_are_named() {
    let folder = TempDir::new().unwrap();
    for name in ["none/vm.sock", &"x".repeat(200)] {
        let path = folder.as_path().join(name);
        let text = refused(&path).to_string();
        assert!(text.contains("--control") && text.contains(name), "{text}");
    }
}
