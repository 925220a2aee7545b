//! A program that was built without the spool has its directory all the same: the lock in it is that of the state
//! directory, so that two programs never share one, whatever they were built with.

#[path = "spool/directory.rs"]
mod directory;
#[path = "spool/disk.rs"]
mod disk;
#[path = "spool/order.rs"]
mod order;

pub use directory::{StdDisk, StdDiskError};
pub use disk::Disk;
pub use order::Order;

/// The directory of the spool within the agent's state directory.
pub const DIRECTORY_NAME: &str = "spool";
