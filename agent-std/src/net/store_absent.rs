//! A program that was built without etcd says so when it is asked for.

use std::path::Path;

use agent_core::id::AgentId;
use anyhow::bail;

use crate::net::StoreEvent;

/// There is none.
#[derive(Debug)]
pub(crate) enum ConfigStore {}

impl ConfigStore {
    pub(crate) fn new(
        _endpoints: &str,
        _user: Option<String>,
        _password_file: Option<&Path>,
        _agent: &AgentId,
    ) -> anyhow::Result<Self> {
        bail!("this program was built without it; build with --features etcd")
    }
}

pub(super) async fn follow(store: ConfigStore, _report: impl Fn(StoreEvent)) {
    match store {}
}
