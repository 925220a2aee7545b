//! What the server says of itself: status, health, reflection.

use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::harness::{Server, soon};

#[tokio::test]
async fn status_names_the_server_and_its_topics() {
    let server = Server::start();
    let mut agent = server.agent("edge-01").await;
    agent.send_records(1..=3).await;
    agent.acknowledged(3).await;
    let status = server.status().await;
    assert!(!status.server_id.is_empty());
    assert!(status.started_ms > 0);
    assert_eq!((status.agents_connected, status.agents_known), (1, 1));
    assert_eq!(status.bus, "embedded");
    assert!(!status.insecure);
    let names: Vec<&str> = status.topics.iter().map(|topic| topic.name.as_str()).collect();
    assert_eq!(names, ["monitoring-data", "commands", "command-responses", "agent-status"]);
    assert!(status.topics[0].first_offset < status.topics[0].next_offset);
}

#[tokio::test]
async fn health_is_serving_for_the_server_and_each_service() {
    let server = Server::start();
    let mut client = HealthClient::new(server.channel().await);
    let mut check = async |service: &str| {
        let request = HealthCheckRequest { service: service.into() };
        let answer = soon("health", client.check(request)).await;
        answer.map(|answer| answer.into_inner().status())
    };
    for service in ["", "monitoring.MonitoringService", "monitoring.OperatorService"] {
        assert_eq!(check(service).await.unwrap(), ServingStatus::Serving, "{service}");
    }
    assert_eq!(check("other").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let server = Server::start();
    let mut client = ServerReflectionClient::new(server.channel().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = soon("reflection", client.server_reflection_info(tokio_stream::once(request)));
    let mut answers = answers.await.unwrap().into_inner();
    let answer = soon("reflection", answers.message()).await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?} is no list of services");
    };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["monitoring.MonitoringService", "monitoring.OperatorService"] {
        assert!(names.iter().any(|listed| listed == name), "{names:?}");
    }
}
