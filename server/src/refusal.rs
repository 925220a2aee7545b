//! Settings with which a server does not start, today or later.

use std::net::SocketAddr;

use crate::cli::Args;

/// Why a server does not start, when the command line or a variable is to blame.
///
/// It stands for the exit code 2, also as the context of another error.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// `--insecure` was not given.
    #[error(
        "refusing to listen on {address}: it is reachable from other hosts, and there is no encryption or \
         authentication; listen on 127.0.0.1, or accept that with --insecure"
    )]
    BeyondLoopback {
        /// What `--listen` says.
        address: SocketAddr,
    },
    /// Settings of a part that is a feature of cargo, which this server was built without.
    #[error(
        "this server was built without {part}: leave out {settings}, or build it with --features {feature}"
    )]
    NotBuiltIn {
        /// For people.
        part: &'static str,
        /// The name of the feature.
        feature: &'static str,
        /// Those that were given.
        settings: String,
    },
    /// Settings that a part of the server refuses; why is the error that this is the context of.
    #[error("{0}")]
    Unusable(String),
}

/// Checks what can be checked of the settings alone.
///
/// # Errors
///
/// When the address is beyond loopback and `--insecure` was not given, and when there is a setting of a part that is not built in.
pub fn check(args: &Args) -> Result<(), Refusal> {
    let address = args.listen;
    if !address.ip().is_loopback() && !args.insecure {
        return Err(Refusal::BeyondLoopback { address });
    }
    if !cfg!(feature = "kafka") {
        refuse("Kafka", "kafka", &kafka_settings(args))?;
    }
    if !cfg!(feature = "etcd") {
        refuse("etcd", "etcd", &etcd_settings(args))?;
    }
    Ok(())
}

/// A setting by its names, and whether it is given.
type Setting = (&'static str, bool);

fn kafka_settings(args: &Args) -> [Setting; 4] {
    [
        ("--kafka (KAFKA_BOOTSTRAP_SERVERS)", args.kafka().is_some()),
        ("--kafka-config (PICKET_KAFKA_CONFIG)", args.kafka_config.is_some()),
        ("--kafka-partitions", args.kafka_partitions.is_some()),
        ("--kafka-replication", args.kafka_replication.is_some()),
    ]
}

/// Without those of the port: it has a default, and alone it asks for nothing.
fn etcd_settings(args: &Args) -> [Setting; 4] {
    [
        ("--etcd", args.etcd.is_some()),
        ("--etcd-host (ETCD_HOST)", args.etcd_host.as_ref().is_some_and(|host| !host.is_empty())),
        ("--etcd-user (PICKET_ETCD_USER)", args.etcd_user.is_some()),
        ("--etcd-password-file (PICKET_ETCD_PASSWORD_FILE)", args.etcd_password_file.is_some()),
    ]
}

fn refuse(part: &'static str, feature: &'static str, settings: &[Setting]) -> Result<(), Refusal> {
    let given: Vec<_> =
        settings.iter().filter_map(|&(name, is_given)| is_given.then_some(name)).collect();
    if given.is_empty() {
        return Ok(());
    }
    Err(Refusal::NotBuiltIn { part, feature, settings: given.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    use clap::Parser as _;

    fn args(flags: &[&str]) -> Args {
        Args::parse_from(["picket-server"].iter().chain(flags))
    }

    fn check_address(flags: &[&str], allowed: bool) {
        assert_eq!(check(&args(flags)).is_ok(), allowed, "{flags:?}");
    }

    #[test]
    fn only_loopback_is_served_without_asking() {
        check_address(&[], true);
        check_address(&["--listen", "127.9.9.9:1"], true);
        check_address(&["--listen", "[::1]:1"], true);
        check_address(&["--listen", "0.0.0.0:1"], false);
        check_address(&["--listen", "[::]:1"], false);
        check_address(&["--listen", "192.0.2.1:1"], false);
        check_address(&["--listen", "0.0.0.0:1", "--insecure"], true);
    }

    #[test]
    fn settings_of_a_part_that_is_not_built_in_are_named() {
        let check = |flags: &[&str], kafka: &str, etcd: &str| {
            let args = args(flags);
            let refused = |feature, settings: &[Setting]| {
                let refusal = refuse("a part", feature, settings).err();
                refusal.map_or_else(String::new, |refusal| refusal.to_string())
            };
            assert_eq!(refused("kafka", &kafka_settings(&args)), kafka, "{flags:?}");
            assert_eq!(refused("etcd", &etcd_settings(&args)), etcd, "{flags:?}");
        };
        check(&[], "", "");
        check(&["--kafka=", "--etcd-host=", "--etcd-port=1"], "", "");
        check(
            &["--kafka=a:1", "--kafka-config=/x"],
            "this server was built without a part: leave out --kafka (KAFKA_BOOTSTRAP_SERVERS), \
             --kafka-config (PICKET_KAFKA_CONFIG), or build it with --features kafka",
            "",
        );
        check(
            &["--etcd-user=x", "--etcd-password-file=/x"],
            "",
            "this server was built without a part: leave out --etcd-user (PICKET_ETCD_USER), \
             --etcd-password-file (PICKET_ETCD_PASSWORD_FILE), or build it with --features etcd",
        );
    }
}
