//! Tests of the whole spool on the simulated disk.

mod crash;
mod damage;
mod model;
mod room;
mod world;
