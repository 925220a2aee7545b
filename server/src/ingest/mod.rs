//! Agent streams: from the first header to the end.
//!
//! [`session`] has the rules of one stream, [`claims`] those between two with one id, [`intake`] those of the
//! messages, [`weight`] and [`credit`] those of how much may be under way; none of them knows a clock or a socket.
//! [`task`] drives them, and [`history`] says where a stream goes on. [`rivals`] tells of two live agents with one id.

mod claims;
mod credit;
mod handle;
mod history;
mod intake;
mod outbox;
pub(crate) mod rivals;
mod session;
mod task;
mod weight;

pub(crate) use claims::{Claimant, Claims, SessionKey};
pub(crate) use credit::{Load, Sink};
pub(crate) use handle::{Directive, SessionHandle};
pub(crate) use history::last_stored;
pub(crate) use intake::Introduction;
pub(crate) use task::{Stream, run};

#[cfg(feature = "simulation")]
pub(crate) use {
    claims::Verdict,
    session::{Fact, Opening, Session},
    task::{CLAIM_ATTEMPTS, FAREWELL_MAX, LAST_STORE_MAX},
};
