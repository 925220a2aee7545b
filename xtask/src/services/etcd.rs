//! The command line of etcd.

use std::env;
use std::path::Path;
use std::process::Command;

use super::port::Claim;

/// One member that keeps its data in `directory`, for clients at `client` and, as it insists, peers at `peer`.
pub(super) fn command(program: &Path, directory: &Path, client: &Claim, peer: &Claim) -> Command {
    let client = format!("http://{}", client.address());
    let peer = format!("http://{}", peer.address());
    let mut command = Command::new(program);
    // Each flag has a variable, and one that the user has set for something else would change this one.
    for (name, _) in env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"ETCD_") {
            command.env_remove(name);
        }
    }
    if env::consts::ARCH == "aarch64" {
        // Version 3.4 does not start there unless it is told that this is meant.
        command.env("ETCD_UNSUPPORTED_ARCH", "arm64");
    }
    command.args(["--name", "picket", "--logger", "zap", "--log-level", "warn"]);
    command.args(["--log-outputs", "stderr", "--initial-cluster-token", "picket"]);
    command.arg("--data-dir").arg(directory.join("data"));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.arg(format!("--initial-cluster=picket={peer}"));
    command
}
