//! The control socket's thread: HTTP/1 by hyper, on a runtime of one thread.
//!
//! Whoever can connect is the machine's owner, but may be broken: each connection carries one
//! request, whose size and time are bounded, and so is the number of connections. More wait in the
//! socket's backlog. What may wait for vCPUs runs on a few threads beside it.

use std::convert::Infallible;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{oneshot, Semaphore};
use tokio::time::{sleep, timeout};

use super::routes::{self, Answer};
use super::socket::{ControlSocket, SocketError};
use super::Controls;
use crate::socket_file::SocketFile;

/// Connections that are served at the same time.
pub(super) const MAX_CONNECTIONS: usize = 8;
/// A request's line and header lines together.
pub(super) const MAX_HEAD_BYTES: usize = 16 << 10;
/// A request's body.
pub(super) const MAX_BODY_BYTES: usize = 16 << 10;
/// For these to arrive.
pub(super) const HEAD_LIMIT: Duration = Duration::from_secs(2);
pub(super) const BODY_LIMIT: Duration = Duration::from_secs(2);
/// For a whole connection, a pause and the answer's way out included.
const CONNECTION_LIMIT: Duration = Duration::from_secs(15);
/// Before another try where the process is out of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// For answers on their way when the machine ends.
const END_LIMIT: Duration = Duration::from_millis(500);

/// The running server. Dropping it ends the thread and removes the socket's file.
pub struct ControlServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    file: Option<SocketFile>,
}

impl ControlServer {
    /// Answers on `socket` from now on.
    pub fn start(socket: ControlSocket, controls: Arc<dyn Controls>) -> Result<Self, SocketError> {
        let ControlSocket {
            runtime,
            listener,
            file,
        } = socket;
        let (stop, stopped) = oneshot::channel();
        let thread = Builder::new()
            .name("control".into())
            .spawn(move || {
                let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
                runtime.block_on(async {
                    let accepting = accept(listener, Arc::clone(&connections), controls);
                    let accepting = tokio::spawn(accepting);
                    // Either way the server is no longer wanted.
                    let _ = stopped.await;
                    accepting.abort();
                    let _ = accepting.await;
                    // All of them at hand: every connection has ended.
                    let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
                    let _ = timeout(END_LIMIT, connections.acquire_many(all)).await;
                });
                runtime.shutdown_timeout(END_LIMIT);
            })
            .map_err(SocketError::Thread)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
            file: Some(file),
        })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.file = None;
        // Dropping the sender says the same as a message.
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: UnixListener, connections: Arc<Semaphore>, controls: Arc<dyn Controls>) {
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let controls = Arc::clone(&controls);
                tokio::spawn(async move {
                    // The client sees the connection end; there is nobody else to tell.
                    let _ = timeout(CONNECTION_LIMIT, serve(stream, controls)).await;
                    drop(permit);
                });
            }
            Err(_) => sleep(ACCEPT_AGAIN).await,
        }
    }
}

/// Serves the one request of a connection.
async fn serve(stream: UnixStream, controls: Arc<dyn Controls>) -> Result<(), hyper::Error> {
    let service = service_fn(move |request| handle(request, Arc::clone(&controls)));
    http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn handle(
    request: Request<Incoming>,
    controls: Arc<dyn Controls>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = match timeout(BODY_LIMIT, Limited::new(body, MAX_BODY_BYTES).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let what = format!("the body is larger than {MAX_BODY_BYTES} bytes");
            return Ok(response(routes::problem(413, what)));
        }
        Ok(Err(error)) => {
            let what = format!("the body did not arrive: {error}");
            return Ok(response(routes::problem(400, what)));
        }
        Err(_) => {
            let what = "the body did not arrive in time".into();
            return Ok(response(routes::problem(408, what)));
        }
    };
    let work = move || routes::answer(&*controls, head.method.as_str(), head.uri.path(), &body);
    let answer = tokio::task::spawn_blocking(work).await;
    let failed = |error| routes::problem(500, format!("it failed: {error}"));
    Ok(response(answer.unwrap_or_else(failed)))
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut builder = Response::builder()
        .status(answer.status)
        .header(CONTENT_TYPE, answer.content_type);
    if let Some(allow) = answer.allow {
        builder = builder.header(ALLOW, allow);
    }
    builder
        .body(Full::new(Bytes::from(answer.body)))
        .unwrap_or_default()
}
