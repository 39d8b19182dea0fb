//! A request in, an answer out: which path does what, without any input or output of its own.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{prometheus, Controls, ShutDownHow};
use crate::machine::RemoteError;

const JSON: &str = "application/json";

/// An answer to be sent.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: String,
    /// For status 405: what is allowed.
    pub(super) allow: Option<&'static str>,
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

/// No route here takes anything; an empty object is nothing too.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Path and the one method that it has.
const ROUTES: [(&str, &str); 6] = [
    ("/state", "GET"),
    ("/metrics", "GET"),
    ("/metrics.json", "GET"),
    ("/pause", "POST"),
    ("/resume", "POST"),
    ("/shutdown", "POST"),
];

/// Does what a request asks. Can wait for vCPUs: not for a thread that serves others.
pub(super) fn answer(controls: &dyn Controls, method: &str, path: &str, body: &[u8]) -> Answer {
    let Some((_, allowed)) = ROUTES.iter().find(|(known, _)| *known == path) else {
        let known = ROUTES.map(|(path, method)| format!("{method} {path}"));
        let known = known.join(", ");
        return problem(404, format!("there is no {path:?}; there are {known}"));
    };
    if method != *allowed {
        return Answer {
            allow: Some(allowed),
            ..problem(405, format!("{path} takes {allowed} only"))
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
            Err(error) => return problem(400, format!("the body is not understood: {error}")),
        },
    };
    match act(asked) {
        Ok(()) => json(200, &controls.state()),
        Err(error @ RemoteError::Stuck { .. }) => problem(503, error.to_string()),
        Err(error) => problem(409, error.to_string()),
    }
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
