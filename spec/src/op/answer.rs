//! What carrying out a call gives, before it becomes a completion.

use crate::code::Status;
use crate::entry::Completion;

/// How a call ended, by the one who carried it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How it ended. An error here is one that came after a part was done.
    pub status: Status,
    /// List items done.
    pub items_done: u32,
    /// The result.
    pub result: u64,
}

impl Answer {
    /// The completion for the call with this tag; a refusal has neither items nor result.
    pub fn completion(answer: Result<Answer, Status>, tag: u64) -> Completion {
        match answer {
            Ok(answer) => Completion {
                items_done: answer.items_done,
                ..Completion::new(tag, answer.status, answer.result)
            },
            Err(status) => Completion::new(tag, status, 0),
        }
    }
}

impl From<u64> for Answer {
    /// Done, all of it, with this result.
    fn from(result: u64) -> Answer {
        Answer {
            status: Status::OK,
            items_done: 0,
            result,
        }
    }
}
