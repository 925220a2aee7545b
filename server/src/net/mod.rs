//! Connections: accepted up to a limit, served as HTTP/2, closed when their peer does not play by the rules.
//!
//! [`listener`] lets them in, [`connection`] serves one of them, [`line`] is what a stream knows of the one that it is on.
//! What is served on them is none of this room's business: it is given a service.

mod connection;
mod line;
mod listener;
mod open_files;

pub(crate) use line::Line;
pub(crate) use listener::{Listener, serve};
pub(crate) use open_files::connections_max;
