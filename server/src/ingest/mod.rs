//! Agent streams: from the first header to the end.
//!
//! [`session`] has the rules of one stream, [`claims`] those between two with one id, [`intake`] those of the
//! messages; none of them knows a clock or a socket. [`task`] drives them, and [`history`] says where a stream
//! goes on. [`rivals`] tells of two live agents with one id.

mod claims;
mod handle;
mod history;
mod intake;
mod outbox;
pub(crate) mod rivals;
mod session;
mod task;

pub(crate) use claims::{Claimant, Claims, SessionKey};
pub(crate) use handle::{Directive, SessionHandle};
pub(crate) use history::last_stored;
pub(crate) use intake::Introduction;
pub(crate) use task::{Stream, run};
