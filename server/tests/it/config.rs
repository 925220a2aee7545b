//! Configurations: validated, stored, pushed, reported back.

use proto::agent_message::Body;
use proto::operator_service_client::OperatorServiceClient;
use proto::{
    ConfigOutcome, ConfigPush, ConfigReport, DeleteConfigRequest, GetConfigRequest,
    GetConfigResponse, Hello, SetConfigRequest, SetConfigResponse, server_message,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::{BOOT, Server, Stream, hello, soon};

type Operator = OperatorServiceClient<Channel>;

async fn set(
    operator: &mut Operator,
    key: &str,
    document: &str,
    expected_revision: Option<u64>,
) -> Result<SetConfigResponse, Status> {
    let request =
        SetConfigRequest { agent_id: key.into(), document: document.into(), expected_revision };
    soon("setting", operator.set_config(request)).await.map(tonic::Response::into_inner)
}

async fn get(operator: &mut Operator, key: &str) -> GetConfigResponse {
    let request = GetConfigRequest { agent_id: key.into() };
    soon("getting", operator.get_config(request)).await.unwrap().into_inner()
}

async fn pushed(agent: &mut Stream) -> ConfigPush {
    match agent.hear().await {
        server_message::Body::Config(push) => push,
        other => panic!("{other:?} is no configuration"),
    }
}

#[tokio::test]
async fn layers_are_merged_and_revisions_rise() {
    let server = Server::start();
    let mut operator = server.operator().await;
    let nothing = get(&mut operator, "edge-01").await;
    assert_eq!((nothing.revision, nothing.effective_revision), (0, 0));
    assert_eq!(nothing.effective, "{}");

    let text = r#"{ "interval": 5,  "window_size": 7 }"#;
    let below = set(&mut operator, "_default", text, Some(0)).await.unwrap();
    let above = set(&mut operator, "edge-01", r#"{"interval": 1}"#, None).await.unwrap();
    assert!(below.revision < above.revision);
    let both = get(&mut operator, "edge-01").await;
    assert_eq!(both.document, r#"{"interval": 1}"#);
    assert_eq!(both.revision, above.revision);
    assert_eq!(both.effective, r#"{"interval":1,"window_size":7}"#);
    assert_eq!(both.effective_revision, above.revision);
    assert!(both.modified_ms > 0);
    assert_eq!(get(&mut operator, "_default").await.document, text, "as it was given");

    let request = DeleteConfigRequest { agent_id: "edge-01".into() };
    let deleted = operator.delete_config(request).await.unwrap().into_inner();
    assert!(above.revision < deleted.revision);
    let without = get(&mut operator, "edge-01").await;
    assert_eq!((without.revision, without.document.as_str()), (0, ""));
    assert_eq!(without.effective, r#"{"interval":5,"window_size":7}"#);
    assert_eq!(without.effective_revision, deleted.revision);

    let server = Server::start_in(server.kill());
    let mut operator = server.operator().await;
    assert_eq!(get(&mut operator, "_default").await.revision, below.revision);
}

#[tokio::test]
async fn a_connected_agent_gets_the_change_and_says_what_became_of_it() {
    let server = Server::start();
    let mut agent = server.agent("edge-01").await;
    server.until("edge-01", |info| info.connected).await;
    let mut operator = server.operator().await;
    let reporting = tokio::spawn(async move {
        let push = pushed(&mut agent).await;
        let report = ConfigReport {
            revision: push.revision,
            outcome: ConfigOutcome::Applied.into(),
            overridden: vec!["metrics".into()],
            ..ConfigReport::default()
        };
        agent.say(Body::Config(report.clone())).await;
        (agent, push, report)
    });
    let answer = set(&mut operator, "edge-01", r#"{"interval": 1}"#, None).await.unwrap();
    let (agent, push, report) = soon("the agent", reporting).await.unwrap();
    assert_eq!(push.document, r#"{"interval":1}"#);
    assert_eq!(push.revision, answer.revision);
    assert_eq!(answer.pushed, 1);
    assert_eq!(answer.report, Some(report));
    let info = server.until("edge-01", |info| info.config_applied > 0).await;
    assert_eq!(info.config_wanted, answer.revision);
    assert_eq!(info.config_applied, answer.revision);

    let rejected = ConfigReport {
        revision: answer.revision + 1,
        outcome: ConfigOutcome::Rejected.into(),
        reason: "plugins[0]: not built in".into(),
        ..ConfigReport::default()
    };
    agent.say(Body::Config(rejected)).await;
    let info = server.until("edge-01", |info| !info.config_error.is_empty()).await;
    assert!(info.config_error.ends_with(": plugins[0]: not built in"), "{}", info.config_error);
    assert_eq!(info.config_applied, answer.revision, "it keeps the last good one");
}

#[tokio::test]
async fn an_agent_that_was_away_gets_it_when_it_connects() {
    let server = Server::start();
    let mut operator = server.operator().await;
    let stored = set(&mut operator, "_default", r#"{"interval": 2}"#, None).await.unwrap();
    assert_eq!((stored.pushed, stored.report), (0, None));
    let mut agent = server.agent("edge-01").await;
    assert_eq!(pushed(&mut agent).await.revision, stored.revision);
    drop(agent);

    let informed = Hello { config_revision: stored.revision, ..hello("edge-01", BOOT, 2) };
    let mut agent = server.open(Some(informed)).await.unwrap();
    agent.send_records([1]).await;
    let first = agent.hear().await;
    assert!(matches!(first, server_message::Body::Ack(_)), "nothing new: {first:?}");
    let everyone = set(&mut operator, "_default", r#"{"interval": 3}"#, None).await.unwrap();
    assert_eq!(everyone.pushed, 1);
    assert_eq!(pushed(&mut agent).await.document, r#"{"interval":3}"#);
}

#[tokio::test]
async fn bad_documents_are_refused_and_nothing_changes() {
    let server = Server::start();
    let mut operator = server.operator().await;
    let good = set(&mut operator, "edge-01", r#"{"interval": 1}"#, None).await.unwrap();
    for (bad, path) in [
        ("{", ""),
        ("[]", "."),
        (r#"{"interval": -1}"#, "interval"),
        (r#"{"interval": "fast"}"#, "interval"),
        (r#"{"plugins": ["no_such"]}"#, "plugins[0]"),
        (r#"{"thresholds": {"cpu_percent": 1e400}}"#, ""),
    ] {
        let refused = set(&mut operator, "edge-01", bad, None).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{bad}");
        assert!(refused.message().starts_with(path), "{bad}: {refused}");
    }
    let large = format!(r#"{{"note": "{}"}}"#, "x".repeat(65_536));
    let refused = set(&mut operator, "edge-01", &large, None).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(server.counter("rejected.config").await, 7);
    assert_eq!(get(&mut operator, "edge-01").await.revision, good.revision);

    let conflict = set(&mut operator, "edge-01", "{}", Some(good.revision + 1)).await;
    assert_eq!(conflict.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(server.counter("rejected.config_conflict").await, 1);
    assert!(set(&mut operator, "edge-01", "{}", Some(good.revision)).await.is_ok());

    for key in ["", "_other", "../x", "a/b"] {
        let refused = set(&mut operator, key, "{}", None).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{key:?}");
    }
}

#[tokio::test]
async fn a_document_that_is_no_object_is_told_so() {
    let server = Server::start();
    let mut operator = server.operator().await;
    for text in ["[]", "", "1"] {
        let refused = set(&mut operator, "edge-01", text, None).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(refused.message(), ".: the document must be a JSON object", "{text:?}");
    }
}
