//! Agent streams: from the first header to the end.
//!
//! [`session`] has the rules of one stream, [`claims`] those between two with one id, [`intake`] those of the
//! messages, [`weight`] and [`credit`] those of how much may be under way; none of them knows a clock or a socket. [`task`] drives them, and [`history`] says where a stream
//! goes on.

mod claims;
mod credit;
mod handle;
mod history;
mod intake;
mod outbox;
mod session;
mod task;
mod weight;

pub(crate) use claims::{Claimant, Claims, SessionKey};
pub(crate) use credit::{Load, Sink};
pub(crate) use handle::{Directive, SessionHandle};
pub(crate) use history::last_stored;
pub(crate) use intake::Introduction;
pub(crate) use task::{Stream, run};
