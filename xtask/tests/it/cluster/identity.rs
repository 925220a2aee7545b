//! Two hosts with one id that come to different servers are told apart, and the one that came first keeps the id.

use std::collections::BTreeSet;

use xtask::fleet::{Group, Site};

use super::Cluster;
use crate::deployment::{FAST, binaries, wait_for};

#[test]
fn two_hosts_with_one_id_at_two_servers_are_noticed() {
    let test = "cluster::identity::two_hosts_with_one_id_at_two_servers_are_noticed";
    let Some(cluster) = Cluster::start(test) else { return };
    let mut metrics = cluster.reader("monitoring-data");
    let agent = cluster.id("twin");
    let _first = cluster.agents.agent(&agent, cluster.a.address(), FAST).unwrap();
    cluster.wait_until_at(&agent, &cluster.a);
    let boot = cluster.a.console().status(&agent)["boot"].clone();
    let elsewhere = cluster.directory.path().join("other-host");
    let elsewhere = Site::new(binaries().clone(), &elsewhere, Group::Shared).unwrap();
    let second = elsewhere.agent(&agent, cluster.b.address(), FAST).unwrap();

    for node in cluster.nodes() {
        wait_for("the servers tell of it", || {
            let troubles = node.console().agent_info(&agent)["troubles"].to_string();
            troubles.contains("duplicate id: ").then_some(())
        });
    }
    wait_for("the second is told why it is refused", || {
        let log = std::fs::read_to_string(second.log()).unwrap();
        log.contains("is refused").then_some(())
    });
    // The first one has kept its stream, and what both sent is told apart.
    assert_eq!(cluster.a.console().command(&agent, &["STATUS", "--force"]).json()["boot"], boot);
    let records = metrics.read_of(&agent);
    let boots = records.iter().map(|record| record["boot"].to_string()).collect::<BTreeSet<_>>();
    assert!(boots.contains(&boot.to_string()), "{boots:?}");
}
