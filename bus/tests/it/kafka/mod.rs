//! The Kafka bus: the contract on librdkafka's mock cluster and on a real broker, and what only it promises.

mod broker;
mod faults;
mod foreign;
mod mock;
mod publish;
mod read;
mod wanted;
