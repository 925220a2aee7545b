//! Configurations in a real etcd, changed by this server, by another one and by anybody.

#[cfg(not(feature = "etcd"))]
#[test]
fn a_server_built_without_etcd_says_so() {
    use crate::process::{check, check_variables};

    let message = "build it with --features etcd";
    check(&["--etcd", "127.0.0.1:1"], 2, message);
    check(&["--etcd-user", "x", "--etcd-password-file", "/x"], 2, message);
    check_variables(&[("ETCD_HOST", "127.0.0.1")], 2, message);
    check_variables(&[("PICKET_ETCD_USER", "x")], 2, message);
}

#[cfg(feature = "etcd")]
#[test]
fn settings_of_etcd_that_cannot_be_used_are_refused() {
    use crate::process::check;

    check(&["--etcd", "nowhere"], 2, "cannot use the addresses of --etcd");
    let user = ["--etcd", "127.0.0.1:1", "--etcd-user", "x"];
    check(&user, 2, "--etcd-user needs a password");
    let file = ["--etcd-password-file", "/no/such/file"];
    check(&[&user[..], &file].concat(), 2, "--etcd-password-file /no/such/file");
}

#[cfg(feature = "etcd")]
mod with_etcd {
    use proto::operator_service_client::OperatorServiceClient;
    use proto::{
        AgentInfo, ConfigOutcome, ConfigPush, DeleteConfigRequest, GetConfigHistoryRequest,
        GetConfigRequest, GetConfigResponse, Hello, SetConfigRequest, SetConfigResponse,
        StatusEvent, StatusRecord, SubscribeStatusRequest, server_message,
    };
    use tempfile::TempDir;
    use tonic::transport::Channel;
    use tonic::{Code, Status};

    use crate::harness::{BOOT, Server, Stream, hello, soon};
    use crate::real_etcd::{Outsider, Private};

    type Operator = OperatorServiceClient<Channel>;

    fn server(etcd: &Private) -> Server {
        Server::start_with(TempDir::new().unwrap(), &["--etcd", &etcd.address()])
    }

    fn path(name: &str) -> String {
        format!("/monitor/config/{name}")
    }

    async fn set(
        operator: &mut Operator,
        key: &str,
        document: &str,
    ) -> Result<SetConfigResponse, Status> {
        let request = SetConfigRequest {
            agent_id: key.into(),
            document: document.into(),
            expected_revision: None,
        };
        soon("setting", operator.set_config(request)).await.map(tonic::Response::into_inner)
    }

    async fn get(operator: &mut Operator, key: &str) -> GetConfigResponse {
        let request = GetConfigRequest { agent_id: key.into() };
        soon("getting", operator.get_config(request)).await.unwrap().into_inner()
    }

    /// The next configuration that is pushed, whatever else comes before it.
    async fn pushed(agent: &mut Stream) -> ConfigPush {
        loop {
            if let server_message::Body::Config(push) = agent.hear().await {
                return push;
            }
        }
    }

    fn push(revision: u64, document: &str) -> ConfigPush {
        ConfigPush { revision, document: document.into() }
    }

    /// Waits until the server knows what is stored, by a document that is put last.
    async fn until_read(server: &Server, outsider: &Outsider) {
        let name = "canary";
        let mut agent = server.agent(name).await;
        let revision = outsider.put(&path(name), r#"{"interval": 60}"#);
        while pushed(&mut agent).await.revision < revision {}
    }

    async fn until_degraded(server: &Server, wanted: impl Fn(&[String]) -> bool) {
        let looking = async {
            while !wanted(&server.status().await.degraded) {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        soon("the server's word on how it is", looking).await;
    }

    async fn rejections(server: &Server, agent: &str) -> Vec<StatusRecord> {
        let mut operator = server.operator().await;
        let request = SubscribeStatusRequest {
            agents: vec![agent.into()],
            start: Some(proto::subscribe_status_request::Start::Cursor(proto::Cursor::default())),
            ..SubscribeStatusRequest::default()
        };
        let stream = soon("subscribing", operator.subscribe_status(request)).await;
        let mut stream = stream.unwrap().into_inner();
        let mut records = Vec::new();
        while let Some(batch) = soon("a batch", stream.message()).await.unwrap() {
            records.extend(batch.entries.into_iter().filter_map(|entry| entry.status));
        }
        records.retain(|record| record.event() == StatusEvent::ConfigRejected);
        records
    }

    #[tokio::test]
    async fn a_server_starts_without_etcd_and_goes_on_when_it_comes() {
        let name = "etcd::a_server_starts_without_etcd_and_goes_on_when_it_comes";
        let Some(mut etcd) = Private::prepare(name) else {
            return;
        };
        let server = server(&etcd);
        assert_eq!(server.status().await.config_store, "etcd");
        until_degraded(&server, |degraded| degraded.iter().any(|text| text.contains("etcd"))).await;
        let mut operator = server.operator().await;
        let refused = set(&mut operator, "edge-01", "{}").await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(refused.message().contains("agents keep what they have"), "{refused}");

        // Agents are served all the same.
        let mut agent = server.agent("edge-01").await;
        agent.send_records([1]).await;
        agent.acknowledged(1).await;

        etcd.restart();
        let revision = etcd.outsider().put(&path("edge-01"), r#"{"interval": 2}"#);
        assert_eq!(pushed(&mut agent).await, push(revision, r#"{"interval":2}"#));
        until_degraded(&server, <[String]>::is_empty).await;
        assert!(set(&mut operator, "edge-01", r#"{"interval": 3}"#).await.is_ok());
    }

    #[tokio::test]
    async fn changes_by_anybody_reach_the_agents_of_every_server_once() {
        let name = "etcd::changes_by_anybody_reach_the_agents_of_every_server_once";
        let Some(etcd) = Private::start(name) else {
            return;
        };
        let outsider = etcd.outsider();
        let (first, second) = (server(&etcd), server(&etcd));
        let mut one = first.agent("one").await;
        let mut two = second.agent("two").await;
        first.until("one", |info| info.connected).await;
        second.until("two", |info| info.connected).await;
        until_read(&first, &outsider).await;
        until_read(&second, &outsider).await;

        let revision = outsider.put(&path("_default"), r#"{"window_size": 7}"#);
        let everyone = push(revision, r#"{"window_size":7}"#);
        assert_eq!(pushed(&mut one).await, everyone);
        assert_eq!(pushed(&mut two).await, everyone);

        // Through the server that the agent is not at, and through the one that it is at.
        let mut operator = first.operator().await;
        let revision = set(&mut operator, "two", r#"{"interval": 2}"#).await.unwrap().revision;
        let merged = r#"{"window_size":7,"interval":2}"#;
        assert_eq!(pushed(&mut two).await, push(revision, merged));
        for interval in 3..8 {
            let document = format!(r#"{{"interval": {interval}}}"#);
            let setting = set(&mut operator, "one", &document);
            let hearing = async {
                let push = pushed(&mut one).await;
                let report = proto::ConfigReport {
                    revision: push.revision,
                    outcome: ConfigOutcome::Applied.into(),
                    running: push.revision,
                    ..proto::ConfigReport::default()
                };
                one.say(proto::agent_message::Body::Config(report)).await;
                push
            };
            let (answer, push) = tokio::join!(setting, hearing);
            let answer = answer.unwrap();
            // Were it pushed twice, the next round would hear this one again.
            assert_eq!(push.revision, answer.revision);
            assert_eq!(answer.report.unwrap().outcome(), ConfigOutcome::Applied);
        }
        let info = second.until("two", |info| info.config_wanted == revision).await;
        assert!(info.config_error.is_empty());
    }

    #[tokio::test]
    async fn a_bad_document_changes_nothing_and_is_told() {
        let Some(etcd) = Private::start("etcd::a_bad_document_changes_nothing_and_is_told") else {
            return;
        };
        let outsider = etcd.outsider();
        let server = server(&etcd);
        let mut agent = server.agent("edge-01").await;
        let good = outsider.put(&path("edge-01"), r#"{"interval": 2}"#);
        assert_eq!(pushed(&mut agent).await, push(good, r#"{"interval":2}"#));

        let too_large = format!(r#"{{"note": "{}"}}"#, "x".repeat(70_000));
        let mut bad_revisions = Vec::new();
        for (bad, reason) in [
            ("{", ".: "),
            (r#"{"interval": "soon"}"#, "interval: "),
            (r#"{"plugins": ["no_such"]}"#, "plugins[0]: "),
            (too_large.as_str(), ".: document has 700"),
        ] {
            let revision = outsider.put(&path("edge-01"), bad);
            bad_revisions.push(revision);
            let is_told = |info: &AgentInfo| info.config_error.contains(reason);
            let info = server.until("edge-01", is_told).await;
            assert_eq!(info.config_wanted, good);
            let mut operator = server.operator().await;
            let shown = get(&mut operator, "edge-01").await;
            assert!(shown.problem.starts_with(reason), "{shown:?}");
            assert_eq!((shown.revision, shown.effective_revision), (revision, good));
            assert_eq!(shown.effective, r#"{"interval":2}"#);
        }
        until_degraded(&server, |degraded| {
            degraded.iter().any(|text| text.contains("edge-01") && text.contains("not in force"))
        })
        .await;
        // One that connects now gets the last good one; other agents are not concerned.
        drop(agent);
        server.until("edge-01", |info| !info.connected).await;
        let mut agent = server.open(Some(hello("edge-01", BOOT, 2))).await.unwrap();
        assert_eq!(pushed(&mut agent).await, push(good, r#"{"interval":2}"#));
        let told = rejections(&server, "edge-01").await;
        let told = told.into_iter().map(|record| record.config.unwrap().revision);
        assert_eq!(told.collect::<Vec<_>>(), bad_revisions, "each once");

        let mended = outsider.put(&path("edge-01"), r#"{"interval": 4}"#);
        assert_eq!(pushed(&mut agent).await, push(mended, r#"{"interval":4}"#));
        until_degraded(&server, <[String]>::is_empty).await;
    }

    #[tokio::test]
    async fn a_deleted_key_changes_nothing_and_a_removal_does() {
        let name = "etcd::a_deleted_key_changes_nothing_and_a_removal_does";
        let Some(etcd) = Private::start(name) else {
            return;
        };
        let outsider = etcd.outsider();
        let server = server(&etcd);
        let mut agent = server.agent("edge-01").await;
        outsider.put(&path("_default"), r#"{"window_size": 7}"#);
        let good = outsider.put(&path("edge-01"), r#"{"interval": 2}"#);
        while pushed(&mut agent).await.revision != good {}

        outsider.delete(&path("edge-01"));
        server.until("edge-01", |info| info.config_error.contains("deleted")).await;
        let mut operator = server.operator().await;
        let shown = get(&mut operator, "edge-01").await;
        assert!(shown.problem.contains("deleted"), "{shown:?}");
        assert_eq!((shown.revision, shown.effective_revision), (0, good));
        let below = outsider.put(&path("_default"), r#"{"window_size": 8}"#);
        let both = r#"{"window_size":8,"interval":2}"#;
        assert_eq!(pushed(&mut agent).await, push(below, both), "the layer is still in force");

        let request = DeleteConfigRequest { agent_id: "edge-01".into() };
        let removed = operator.delete_config(request.clone()).await.unwrap().into_inner();
        let expected = push(removed.revision, r#"{"window_size":8}"#);
        assert_eq!(pushed(&mut agent).await, expected);
        let again = operator.delete_config(request).await.unwrap().into_inner();
        assert_eq!(again.revision, removed.revision, "there is nothing more to remove");
        let shown = get(&mut operator, "edge-01").await;
        assert_eq!((shown.revision, shown.problem.as_str()), (0, ""));
    }

    #[tokio::test]
    async fn nothing_is_missed_when_etcd_is_killed() {
        let Some(mut etcd) = Private::start("etcd::nothing_is_missed_when_etcd_is_killed") else {
            return;
        };
        let server = server(&etcd);
        let mut agent = server.agent("edge-01").await;
        for interval in 2..5 {
            let document = format!(r#"{{"interval":{interval}}}"#);
            let revision = etcd.outsider().put(&path("edge-01"), &document);
            assert_eq!(pushed(&mut agent).await, push(revision, &document));
            etcd.kill();
            // Known configurations are at hand meanwhile.
            let other = server.open(Some(hello("other", BOOT, interval))).await.unwrap();
            drop(other);
            etcd.restart();
        }
        let compacted = etcd.outsider().put(&path("edge-01"), r#"{"interval":9}"#);
        etcd.outsider().compact(compacted);
        assert_eq!(pushed(&mut agent).await, push(compacted, r#"{"interval":9}"#));
    }

    #[tokio::test]
    async fn an_agent_that_reads_etcd_itself_is_left_to_it() {
        let name = "etcd::an_agent_that_reads_etcd_itself_is_left_to_it";
        let Some(etcd) = Private::start(name) else {
            return;
        };
        let server = server(&etcd);
        let own = Hello { own_config: true, ..hello("own", BOOT, 1) };
        let mut own = server.open(Some(own)).await.unwrap();
        let mut other = server.agent("other").await;
        let revision = etcd.outsider().put(&path("_default"), r#"{"interval": 2}"#);
        assert_eq!(pushed(&mut other).await.revision, revision);
        own.send_records([1]).await;
        let first = own.hear().await;
        assert!(matches!(first, server_message::Body::Ack(_)), "{first:?}");
    }

    #[tokio::test]
    async fn versions_are_remembered_by_etcd() {
        let Some(etcd) = Private::start("etcd::versions_are_remembered_by_etcd") else {
            return;
        };
        let server = server(&etcd);
        let mut operator = server.operator().await;
        let first = set(&mut operator, "edge-01", r#"{"interval": 1}"#).await.unwrap().revision;
        let second = etcd.outsider().put(&path("edge-01"), r#"{"interval": 2}"#);
        let request = GetConfigHistoryRequest { agent_id: "edge-01".into(), limit: 0 };
        let history = soon("history", operator.get_config_history(request)).await.unwrap();
        let versions = history.into_inner().versions;
        let told: Vec<(u64, &str)> =
            versions.iter().map(|v| (v.revision, v.document.as_str())).collect();
        assert_eq!(told, [(second, r#"{"interval": 2}"#), (first, r#"{"interval": 1}"#)]);
        assert!(versions.iter().all(|version| version.modified_ms == 0));
    }
}
