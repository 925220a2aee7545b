//! `config`.

use proto::{
    AgentInfo, AgentStatus, ConfigOutcome, ConfigReport, ConfigVersion, GetConfigHistoryResponse,
    GetConfigResponse, ListAgentsResponse, SetConfigResponse,
};
use tonic::Status;

use crate::picket::{run, run_with_input};
use crate::server::{Script, Server};

fn holding(response: GetConfigResponse) -> Server {
    Server::start(Script { config: Some(Ok(response)), ..Script::default() })
}

fn document() -> GetConfigResponse {
    GetConfigResponse {
        agent_id: "web-1".into(),
        document: "{\n  \"interval\": 1\n}\n".into(),
        revision: 7,
        modified_ms: 1_700_000_000_000,
        effective: r#"{"interval":1,"send_idle":true}"#.into(),
        effective_revision: 9,
        problem: String::new(),
    }
}

#[test]
fn a_document_is_printed_as_it_is() {
    let server = holding(document());
    let get = run(&server.name(), "config get web-1");
    get.check(0, "{\n  \"interval\": 1\n}\n");
    assert_eq!(get.stderr, "picket: revision 7 of 2023-11-14 22:13:20\n");
    let show = run(&server.name(), "config show web-1");
    show.check(0, "{\"interval\":1,\"send_idle\":true}\n");
    assert_eq!(show.stderr, "picket: revision 9\n");
}

#[test]
fn json_carries_document_and_revision() {
    let server = holding(document());
    run(&server.name(), "config get web-1 -o json").check(
        0,
        "{\"agent_id\":\"web-1\",\"revision\":7,\"modified\":\"2023-11-14T22:13:20.000Z\",\
         \"document\":{\"interval\":1}}\n",
    );
    run(&server.name(), "config show web-1 -o json").check(
        0,
        "{\"agent_id\":\"web-1\",\"revision\":9,\
         \"effective\":{\"interval\":1,\"send_idle\":true}}\n",
    );
}

#[test]
fn a_document_that_is_not_there_ends_with_6() {
    let server = holding(GetConfigResponse::default());
    let run = run(&server.name(), "config get _default");
    run.check(6, "");
    assert!(run.stderr.contains("_default has no document"), "{run:#?}");
}

fn changing(answer: Result<SetConfigResponse, Status>) -> Server {
    Server::start(Script { change: Some(answer), ..Script::default() })
}

fn change(outcome: ConfigOutcome) -> SetConfigResponse {
    SetConfigResponse {
        revision: 8,
        pushed: 1,
        report: Some(ConfigReport {
            revision: 8,
            outcome: outcome.into(),
            reason: "interval: below 0.1".into(),
            overridden: vec![],
            running: 8,
        }),
    }
}

#[test]
fn set_sends_a_file_or_standard_input() {
    let server = changing(Ok(change(ConfigOutcome::Applied)));
    let text = r#"{"interval": 1}"#;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let line = format!("config set web-1 {} --expected-revision 7", file.path().display());
    run(&server.name(), &line).check(0, "web-1: revision 8, applied\n");
    run_with_input(&server.name(), "config set _default", text)
        .check(0, "_default: revision 8, applied\n");

    let script = server.script.lock().unwrap();
    let sent: Vec<_> = script
        .set
        .iter()
        .map(|set| (set.agent_id.as_str(), set.document.as_str(), set.expected_revision))
        .collect();
    assert_eq!(sent, [("web-1", text, Some(7)), ("_default", text, None)]);
}

#[test]
fn unset_of_what_is_not_there_ends_with_6() {
    let server = holding(GetConfigResponse::default());
    let run = run(&server.name(), "config unset web-1");
    run.check(6, "");
    assert_eq!(run.stderr, "picket: web-1 has no document\n");
}

#[test]
fn unknown_keys_are_told_and_stored() {
    let server = changing(Ok(change(ConfigOutcome::Applied)));
    let run = run_with_input(&server.name(), "config set web-1", r#"{"intervall": 1}"#);
    run.check(0, "web-1: revision 8, applied\n");
    assert!(run.stderr.contains("unknown keys have no effect: intervall; known"), "{run:#?}");
}

#[test]
fn a_server_without_space_is_not_a_lost_one() {
    let full = "the configuration store cannot be used now: No space left on device (os error 28)";
    let server = changing(Err(Status::unavailable(full)));
    let run = run_with_input(&server.name(), "config set web-1", "{}");
    run.check(1, "");
    let expected = format!(
        "picket: the server cannot do it now: {full}; free space in the server's data directory\n"
    );
    assert_eq!(run.stderr, expected);
}

#[test]
fn refusals_end_with_4() {
    let agent_refuses = changing(Ok(change(ConfigOutcome::Rejected)));
    run_with_input(&agent_refuses.name(), "config set web-1 -o json", "{}").check(
        4,
        "{\"agent_id\":\"web-1\",\"revision\":8,\"pushed\":1,\"report\":{\"revision\":8,\
         \"outcome\":\"REJECTED\",\"running\":8,\"reason\":\"interval: below 0.1\"}}\n",
    );

    let conflict = Status::failed_precondition("the document is at revision 9, not 7");
    let server_refuses = Server::start(Script {
        config: Some(Ok(document())),
        change: Some(Err(conflict)),
        ..Script::default()
    });
    let run = run(&server_refuses.name(), "config unset web-1");
    run.check(4, "");
    assert_eq!(run.stderr, "picket: the server refuses: the document is at revision 9, not 7\n");
}

fn version(revision: u64, document: Option<&str>) -> ConfigVersion {
    ConfigVersion {
        revision,
        modified_ms: if revision == 3 { 0 } else { 1_700_000_000_000 },
        deleted: document.is_none(),
        document: document.unwrap_or_default().into(),
    }
}

fn remembering(change: Result<SetConfigResponse, Status>) -> Server {
    let versions = vec![
        version(7, Some("{\n  \"interval\": 1\n}\n")),
        version(5, None),
        version(3, Some(r#"{"interval": 9, "window_size": 2}"#)),
    ];
    Server::start(Script {
        config: Some(Ok(document())),
        history: Some(Ok(GetConfigHistoryResponse { versions })),
        change: Some(change),
        ..Script::default()
    })
}

#[test]
fn history_lists_versions_and_marks_the_stored_one() {
    let server = remembering(Ok(change(ConfigOutcome::Applied)));
    run(&server.name(), "config history web-1").check(
        0,
        "REVISION  MODIFIED             BYTES  CURRENT  DOCUMENT\n\
         \u{20}      7  2023-11-14 22:13:20     20  *        {\"interval\":1}\n\
         \u{20}      5  2023-11-14 22:13:20      0           (removed)\n\
         \u{20}      3  -                       33           {\"interval\":9,\"window_size\":2}\n",
    );
    run(&server.name(), "config history web-1 -o json").check(
        0,
        "{\"agent_id\":\"web-1\",\"revision\":7,\"modified\":\"2023-11-14T22:13:20.000Z\",\"current\":true,\
         \"deleted\":false,\"document\":{\"interval\":1}}\n\
         {\"agent_id\":\"web-1\",\"revision\":5,\"modified\":\"2023-11-14T22:13:20.000Z\",\"current\":false,\
         \"deleted\":true}\n\
         {\"agent_id\":\"web-1\",\"revision\":3,\"current\":false,\"deleted\":false,\
         \"document\":{\"interval\":9,\"window_size\":2}}\n",
    );
}

#[test]
fn rollback_stores_the_version_before_and_says_what_the_agent_said() {
    let server = remembering(Ok(change(ConfigOutcome::Applied)));
    run(&server.name(), "config rollback web-1").check(
        0,
        "- \"interval\": 1\n+ \"interval\": 9\n+ \"window_size\": 2\n\
         web-1: revision 8, applied; as it was at revision 3\n",
    );
    let sent = server.script.lock().unwrap().set.pop().unwrap();
    assert_eq!(sent.document, r#"{"interval": 9, "window_size": 2}"#);
    assert_eq!(sent.expected_revision, Some(7), "no change of somebody else is lost");

    let named = run(&server.name(), "config rollback web-1 --to 5");
    named.check(2, "");
    assert!(named.stderr.contains("picket config unset web-1"), "{named:#?}");
    run(&server.name(), "config rollback web-1 --to 4").check(6, "");

    let refusing = remembering(Ok(change(ConfigOutcome::Rejected)));
    assert_eq!(run(&refusing.name(), "config rollback web-1 -o json").code, 4);
}

#[test]
fn show_names_the_origin_of_each_value() {
    let agent = AgentInfo {
        agent_id: "web-1".into(),
        status: Some(AgentStatus {
            last_config: Some(ConfigReport {
                overridden: vec!["metrics".into()],
                ..ConfigReport::default()
            }),
            ..AgentStatus::default()
        }),
        ..AgentInfo::default()
    };
    let server = Server::start(Script {
        config: Some(Ok(document())),
        agents: ListAgentsResponse { agents: vec![agent] },
        ..Script::default()
    });
    let table = run(&server.name(), "config show web-1 --origin");
    for line in [
        "interval                   1                    web-1",
        "metrics                    ?                    agent's flag, variable or file",
        "send_idle                  true                 _default",
        "thresholds.cpu_percent     80                   default",
    ] {
        assert!(table.stdout.lines().any(|found| found == line), "{line}\n{}", table.stdout);
    }
    let json = run(&server.name(), "config show web-1 --origin -o json");
    for line in [
        r#"{"key":"interval","value":1,"origin":"own"}"#,
        r#"{"key":"metrics","value":null,"origin":"local"}"#,
    ] {
        assert!(json.stdout.lines().any(|found| found == line), "{line}\n{}", json.stdout);
    }
}

#[test]
fn a_document_that_is_not_in_force_is_told() {
    let mut spoilt = document();
    spoilt.document = "{".into();
    spoilt.problem = ".: EOF while parsing".into();
    let server = holding(spoilt);
    for line in ["config show web-1", "config get web-1", "config show web-1 --origin"] {
        let run = run(&server.name(), line);
        assert_eq!(run.code, 0, "{run:#?}");
        assert!(run.stderr.contains("not in force"), "{run:#?}");
    }
    let json = run(&server.name(), "config show web-1 -o json");
    assert!(json.stdout.contains(r#""problem":".: EOF while parsing""#), "{json:#?}");
}
