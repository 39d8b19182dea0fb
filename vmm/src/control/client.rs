//! One request to a control socket, for `coopvirt ctl` and tests.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};

use super::routes::Problem;

/// Longer than any answer of ours takes.
const LIMIT: Duration = Duration::from_secs(20);
/// Before another try at a socket with a full backlog.
const AGAIN: Duration = Duration::from_millis(20);
/// Larger than any answer of ours.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ClientError {
    #[error("could not connect to {path:?}; is it the --control socket of a running machine?")]
    Connect { path: PathBuf, source: io::Error },
    #[error(
        "no permission to use {path:?}, which is its owner's alone; run this as the user who runs the \
         machine, or as root"
    )]
    Permission { path: PathBuf },
    #[error("{path:?} does not answer as a control socket does: {what}")]
    Broken { path: PathBuf, what: String },
    #[error("{path:?} did not answer within {} s", LIMIT.as_secs())]
    Silent { path: PathBuf },
    #[error("the machine refused: {0}")]
    Refused(String),
}

/// Sends a request and returns the body of its answer, if that is a good one.
pub fn request(
    path: &Path,
    method: &str,
    target: &str,
    body: String,
) -> Result<String, ClientError> {
    let broken = |what: String| ClientError::Broken {
        path: path.to_owned(),
        what,
    };
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| broken(error.to_string()))?;
    let silent = |_| ClientError::Silent {
        path: path.to_owned(),
    };
    runtime.block_on(async {
        // Made inside: its timer belongs to the runtime.
        timeout(LIMIT, exchange(path, method, target, body))
            .await
            .map_err(silent)
    })?
}

async fn exchange(
    path: &Path,
    method: &str,
    target: &str,
    body: String,
) -> Result<String, ClientError> {
    let broken = |what: String| ClientError::Broken {
        path: path.to_owned(),
        what,
    };
    let failed = |error: hyper::Error| broken(error.to_string());
    let stream = loop {
        match UnixStream::connect(path).await {
            Ok(stream) => break stream,
            // Too many wait already.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(AGAIN).await,
            Err(source) => {
                let path = path.to_owned();
                return Err(match source.kind() {
                    io::ErrorKind::PermissionDenied => ClientError::Permission { path },
                    _ => ClientError::Connect { path, source },
                });
            }
        }
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(HOST, "localhost")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| broken(error.to_string()))?;
    // It has nothing to say beyond the answer's own errors.
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(failed)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect();
    let body = body.await.map_err(|error| broken(error.to_string()))?;
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    if status.is_success() {
        return Ok(text);
    }
    let problem = serde_json::from_str::<Problem>(&text);
    Err(problem.map_or_else(
        |_| broken(format!("status {status}")),
        |problem| ClientError::Refused(problem.error),
    ))
}
