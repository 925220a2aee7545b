//! etcd as the store of configurations.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use bus::DocumentStore;
use bus::etcd::{Credentials, EtcdDocuments, Options};

use crate::cli::Args;
use crate::refusal::Refusal;

/// Where the password may be instead of a file.
const PASSWORD_VARIABLE: &str = "PICKET_ETCD_PASSWORD";

/// Opens the store. Nobody needs to be there yet.
pub(super) fn open(args: &Args, endpoints: &str) -> anyhow::Result<Arc<dyn DocumentStore>> {
    let unusable = || Refusal::Unusable("cannot use the addresses of --etcd".to_owned());
    let endpoints = endpoints.parse().with_context(unusable)?;
    let mut options = Options::new(endpoints);
    if let Some(user) = &args.etcd_user {
        let password = password(args.etcd_password_file.as_deref())?;
        options.credentials = Some(Credentials::new(user, password));
    }
    Ok(Arc::new(EtcdDocuments::new(options)))
}

fn password(file: Option<&Path>) -> anyhow::Result<String> {
    if let Some(file) = file {
        let text = std::fs::read_to_string(file).with_context(|| {
            let file = file.display();
            Refusal::Unusable(format!("cannot read the password of --etcd-password-file {file}"))
        })?;
        return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
    }
    let password = std::env::var(PASSWORD_VARIABLE).ok().filter(|password| !password.is_empty());
    password.ok_or_else(|| {
        let text = format!(
            "--etcd-user needs a password: give --etcd-password-file, or set {PASSWORD_VARIABLE}"
        );
        Refusal::Unusable(text).into()
    })
}
