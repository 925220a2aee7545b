//! docker-compose.yml: what clients are told fits what is opened, nothing is open to the network, data stay.
//!
//! The file is read, not run: that needs container images.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docker-compose.yml");

fn compose() -> Value {
    serde_yaml_ng::from_str(&fs::read_to_string(FILE).unwrap()).unwrap()
}

fn services(compose: &Value) -> impl Iterator<Item = (&String, &Value)> {
    compose["services"].as_object().unwrap().iter()
}

/// `NAME://HOST:PORT,...` by name.
fn listeners(text: &Value) -> BTreeMap<&str, (&str, &str)> {
    let listeners = text.as_str().unwrap().split(',');
    listeners
        .map(|listener| {
            let (name, address) = listener.split_once("://").unwrap();
            (name, address.rsplit_once(':').unwrap())
        })
        .collect()
}

#[test]
fn there_are_kafka_its_page_and_etcd_and_nothing_else() {
    let compose = compose();
    let images: BTreeMap<_, _> = services(&compose)
        .map(|(name, service)| (name.as_str(), service["image"].as_str().unwrap()))
        .collect();
    assert_eq!(images.keys().copied().collect::<Vec<_>>(), ["etcd", "kafka", "kafka-ui"]);
    assert!(images["kafka"].starts_with("apache/kafka:4."), "{images:?}");
    assert!(images["kafka-ui"].starts_with("kafbat/kafka-ui:v"), "{images:?}");
    assert!(images["etcd"].contains("/etcd:v3."), "{images:?}");
}

#[test]
fn each_service_has_a_health_check_and_comes_back() {
    for (name, service) in services(&compose()) {
        let test = service["healthcheck"]["test"].as_array().unwrap();
        assert_eq!(test[0], "CMD", "{name}");
        assert_eq!(service["restart"], "unless-stopped", "{name}");
    }
    assert_eq!(
        compose()["services"]["kafka-ui"]["depends_on"]["kafka"]["condition"],
        "service_healthy"
    );
}

#[test]
fn ports_are_picket_s_defaults_and_on_loopback() {
    for (name, ports) in [
        ("kafka", ["127.0.0.1:9092:9092"]),
        ("kafka-ui", ["127.0.0.1:8080:8080"]),
        ("etcd", ["127.0.0.1:2379:2379"]),
    ] {
        let compose = compose();
        let found = compose["services"][name]["ports"].as_array().unwrap().iter();
        assert!(found.eq(ports.iter()), "{name}");
    }
}

#[test]
fn a_client_is_told_an_address_that_reaches_the_listener_it_came_by() {
    let compose = compose();
    let environment = &compose["services"]["kafka"]["environment"];
    let open = listeners(&environment["KAFKA_LISTENERS"]);
    let advertised = listeners(&environment["KAFKA_ADVERTISED_LISTENERS"]);

    // From the host by the published port, from the other containers by the service's name.
    assert_eq!(advertised["HOST"], ("127.0.0.1", "9092"));
    assert_eq!(advertised["INTERNAL"].0, "kafka");
    for (name, (_, port)) in &advertised {
        assert_eq!(open[name], ("", *port), "{name} is open to its network at that port");
    }
    let internal = format!("kafka:{}", advertised["INTERNAL"].1);
    let page = &compose["services"]["kafka-ui"]["environment"];
    assert_eq!(page["KAFKA_CLUSTERS_0_BOOTSTRAPSERVERS"], internal);

    let protocols = environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].as_str().unwrap();
    for name in open.keys() {
        assert!(protocols.split(',').any(|protocol| protocol == format!("{name}:PLAINTEXT")));
    }
    let controller = environment["KAFKA_CONTROLLER_LISTENER_NAMES"].as_str().unwrap();
    let voters = environment["KAFKA_CONTROLLER_QUORUM_VOTERS"].as_str().unwrap();
    assert_eq!(voters, format!("1@kafka:{}", open[controller].1));
    assert_eq!(environment["KAFKA_INTER_BROKER_LISTENER_NAME"], "INTERNAL");
}

#[test]
fn kafka_needs_no_zookeeper_and_creates_no_topic_by_itself() {
    let compose = compose();
    let environment = &compose["services"]["kafka"]["environment"];
    assert_eq!(environment["KAFKA_PROCESS_ROLES"], "broker,controller");
    assert_eq!(environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"], "false");
    let id = environment["CLUSTER_ID"].as_str().unwrap();
    assert_eq!(id.len(), 22, "128 bits in base64 without padding");
    assert!(id.ends_with(['A', 'Q', 'g', 'w']), "the last four bits are padding: {id}");
}

#[test]
fn data_are_in_named_volumes() {
    let compose = compose();
    for (name, path) in [("kafka", "/var/lib/kafka/data"), ("etcd", "/etcd-data")] {
        assert!(compose["volumes"].as_object().unwrap().contains_key(name));
        assert_eq!(compose["services"][name]["volumes"][0], format!("{name}:{path}"));
    }
    assert_eq!(
        compose["services"]["kafka"]["environment"]["KAFKA_LOG_DIRS"],
        "/var/lib/kafka/data"
    );
    let command = compose["services"]["etcd"]["command"].as_array().unwrap();
    assert!(command.contains(&"--data-dir=/etcd-data".into()));
}
