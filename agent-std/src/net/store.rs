//! The agent's own watch of its configuration in etcd.

use std::fs;
use std::path::Path;

use agent_core::id::AgentId;
use anyhow::{Context as _, bail};
use etcd::{Credentials, Endpoints, Event, Key, Options, Selection, Watch};

use crate::net::StoreEvent;
use crate::net::followed::Followed;

/// Where the configuration of one agent is.
#[derive(Debug)]
pub(crate) struct ConfigStore {
    options: Options,
    agent: AgentId,
}

impl ConfigStore {
    /// `endpoints` is `HOST:PORT[,HOST:PORT...]`; the password is the first line of its file.
    ///
    /// # Errors
    ///
    /// When an address is none, the file cannot be read, or there is a user without a password or the other way round.
    pub(crate) fn new(
        endpoints: &str,
        user: Option<String>,
        password_file: Option<&Path>,
        agent: &AgentId,
    ) -> anyhow::Result<Self> {
        let mut options = Options::new(endpoints.parse::<Endpoints>()?);
        options.credentials = match (user, password_file) {
            (None, None) => None,
            (Some(user), Some(path)) => {
                let text = fs::read_to_string(path)
                    .with_context(|| format!("cannot read the password in {}", path.display()))?;
                Some(Credentials::new(user, text.lines().next().unwrap_or_default()))
            }
            (Some(_), None) => bail!("its user needs etcd_password_file, or --etcd-password-file"),
            (None, Some(_)) => bail!("its password needs etcd_user, or --etcd-user"),
        };
        Ok(Self { options, agent: agent.clone() })
    }
}

/// Reports what the store says, for ever.
pub(super) async fn follow(store: ConfigStore, report: impl Fn(StoreEvent)) {
    let ConfigStore { options, agent } = store;
    // Two exact keys: a prefix would have those of others in it.
    let keys = vec![Key::Default, Key::Agent(agent)];
    let mut watch = Watch::start(options, Selection::Keys(keys));
    let mut followed = Followed::default();
    while let Some(event) = watch.next().await {
        match &event {
            Event::Unreachable(failure) => {
                tracing::warn!(%failure, "etcd cannot be followed; the configuration in force stays");
            }
            Event::Back => tracing::info!("etcd can be followed again"),
            Event::Changed { .. }
            | Event::Deleted { .. }
            | Event::Synced
            | Event::ClusterChanged => {}
        }
        if let Some(event) = followed.handle(event, watch.cluster()) {
            report(event);
        }
    }
}
