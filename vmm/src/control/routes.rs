//! A request in, an answer out: which path does what, without any input or output of its own.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{prometheus, Controls, ShutDownHow};
use crate::machine::RemoteError;
use crate::virtio::{BalloonError, BalloonState};

const JSON: &str = "application/json";

/// An answer to be sent.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: String,
    /// For status 405: what is allowed.
    pub(super) allow: Option<String>,
}

/// The body of every answer that says something went wrong.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Problem {
    pub(super) error: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ShutDownRequest {
    how: ShutDownHow,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BalloonRequest {
    target_mib: u64,
}

/// What most routes take; an empty object is nothing too.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Path and method.
const ROUTES: [(&str, &str); 8] = [
    ("/state", "GET"),
    ("/metrics", "GET"),
    ("/metrics.json", "GET"),
    ("/pause", "POST"),
    ("/resume", "POST"),
    ("/shutdown", "POST"),
    ("/balloon", "GET"),
    ("/balloon", "PUT"),
];

/// Does what a request asks. Can wait for vCPUs: not for a thread that serves others.
pub(super) fn answer(controls: &dyn Controls, method: &str, path: &str, body: &[u8]) -> Answer {
    let methods = ROUTES.iter().filter(|(known, _)| *known == path);
    let methods: Vec<&str> = methods.map(|(_, method)| *method).collect();
    if methods.is_empty() {
        let known = ROUTES.map(|(path, method)| format!("{method} {path}"));
        let known = known.join(", ");
        return problem(404, format!("there is no {path:?}; there are {known}"));
    }
    if !methods.contains(&method) {
        let allowed = methods.join(", ");
        let problem = problem(405, format!("{path} takes {allowed} only"));
        return Answer {
            allow: Some(allowed),
            ..problem
        };
    }
    match path {
        "/state" => json(200, &controls.state()),
        "/metrics.json" => json(200, &controls.metrics()),
        "/metrics" => Answer {
            status: 200,
            content_type: prometheus::CONTENT_TYPE,
            body: prometheus::text(&controls.metrics()),
            allow: None,
        },
        "/pause" => steer::<Nothing>(controls, body, |_| controls.pause()),
        "/resume" => steer::<Nothing>(controls, body, |_| controls.resume()),
        "/balloon" if method == "GET" => balloon(controls.balloon()),
        "/balloon" => match serde_json::from_slice::<BalloonRequest>(body) {
            Ok(asked) => {
                let set = controls.set_balloon(asked.target_mib);
                balloon(set.and_then(|()| controls.balloon()))
            }
            Err(error) => not_understood(&error),
        },
        _ => steer(controls, body, |asked: ShutDownRequest| {
            controls.shut_down(asked.how)
        }),
    }
}

/// Takes the body (none is the default), acts, and says the state afterwards.
fn steer<T: DeserializeOwned + Default>(
    controls: &dyn Controls,
    body: &[u8],
    act: impl FnOnce(T) -> Result<(), RemoteError>,
) -> Answer {
    let asked = match body {
        [] => T::default(),
        body => match serde_json::from_slice(body) {
            Ok(asked) => asked,
            Err(error) => return not_understood(&error),
        },
    };
    match act(asked) {
        Ok(()) => json(200, &controls.state()),
        Err(error @ RemoteError::Stuck { .. }) => problem(503, error.to_string()),
        Err(error) => problem(409, error.to_string()),
    }
}

fn balloon(state: Result<BalloonState, BalloonError>) -> Answer {
    match state {
        Ok(state) => json(200, &state),
        Err(error @ BalloonError::None) => problem(409, error.to_string()),
        Err(error @ BalloonError::TooLarge { .. }) => problem(400, error.to_string()),
    }
}

fn not_understood(error: &serde_json::Error) -> Answer {
    problem(400, format!("the body is not understood: {error}"))
}

/// An answer that says what is wrong.
pub(super) fn problem(status: u16, error: String) -> Answer {
    json(status, &Problem { error })
}

fn json(status: u16, value: &impl Serialize) -> Answer {
    match serde_json::to_string(value) {
        Ok(body) => Answer {
            status,
            content_type: JSON,
            body: body + "\n",
            allow: None,
        },
        // Plain structures with text keys: it does not fail.
        Err(error) => Answer {
            status: 500,
            content_type: "text/plain",
            body: format!("could not write JSON: {error}\n"),
            allow: None,
        },
    }
}
