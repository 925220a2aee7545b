//! Wrong arguments, help, completions, and a server that is not there.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::picket::{Run, command, run};
use crate::server::{Script, Server};

#[test]
fn wrong_arguments_end_with_2_and_say_why() {
    let check = |line: &str, message: &str| {
        let run = run("", line);
        assert_eq!(run.code, 2, "{line}: {run:#?}");
        assert!(run.stderr.contains(message), "{line}: {run:#?}");
        assert_eq!(run.stdout, "", "{line}");
    };
    check("get-metrics --metric gpu", "is none of cpu, memory");
    check("get-metrics --since tomorrowish", "neither a duration");
    check("get-metrics --agent ../x", "agent id has a character");
    check("get-metrics --until 5m", "--since");
    check("send-command web-1 EXPLODE", "[possible values: STATUS, STOP");
    check("send-command web-1 STATUS --param a=b", "UPDATE_CONFIG only");
    check("send-command web-1 UPDATE_CONFIG --config /none", "cannot use /none: ");
    check("config get _other", "must begin and end");
    check("config get a -o csv", "use --output json");
    check(
        "get-metrics --metric gpu",
        "load, swap, disk_usage, temperature, uptime, agent, standard",
    );
    check("alerts --severity bad", "[possible values: info, warning, critical]");
    check("alerts --since tomorrowish", "neither a duration");
    check("alerts --active --follow", "cannot be used with");
    check("alerts ../x", "agent id has a character");
    check("events --event gone", "[possible values: connected, disconnected, heartbeat");
    check("events --since 1furlong", "neither a duration");
    check("nonsense", "unrecognized subcommand");
    check("agents --server a:b", "the port is no number from 1 to 65535");
}

#[test]
fn a_bad_variable_is_told_by_name() {
    let output = command("", "agents").env("GRPC_SERVER_PORT", "x").output();
    let run = Run::of(output.unwrap());
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("GRPC_SERVER_PORT"), "{run:#?}");
}

#[test]
fn the_variables_name_the_server_and_the_flag_wins() {
    let server = Server::start(Script::default());
    let (host, port) =
        server.name().split_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let by_variables = command("", "server-status -o json")
        .env("GRPC_SERVER_HOST", &host)
        .env("GRPC_SERVER_PORT", &port)
        .output();
    assert_eq!(Run::of(by_variables.unwrap()).code, 0);
    let by_flag =
        command(&server.name(), "server-status -o json").env("GRPC_SERVER_PORT", "1").output();
    assert_eq!(Run::of(by_flag.unwrap()).code, 0);
}

#[test]
fn an_unreachable_server_ends_with_3_and_a_remedy() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let server = format!("127.0.0.1:{port}");
    for line in [
        "get-metrics",
        "monitor",
        "alerts",
        "alerts --active",
        "events --follow",
        "agents",
        "server-status",
        "send-command a STATUS",
    ] {
        let run = run(&server, line);
        assert_eq!(run.code, 3, "{line}: {run:#?}");
        assert_eq!(
            run.stderr,
            format!(
                "picket: cannot reach the server at {server}: connection refused; \
                 is picket-server running? set --server HOST:PORT\n"
            )
        );
    }
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap().to_string();
    let started = Instant::now();
    let run = run(&server, "agents");
    assert!(run.code == 3 || run.code == 5, "{run:#?}");
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[test]
fn an_end_before_the_beginning_ends_with_2() {
    let run = run("127.0.0.1:1", "get-metrics --since 1m --until 1h");
    run.check(2, "");
    assert!(run.stderr.starts_with("picket: --until is before --since; "), "{run:#?}");
}

#[test]
fn help_is_enough() {
    let root = run("", "--help");
    assert_eq!(root.code, 0);
    for word in ["get-metrics", "GRPC_SERVER_HOST", "Examples:", "Exit codes:", "  6  "] {
        assert!(root.stdout.contains(word), "{word}: {}", root.stdout);
    }
    for line in [
        "get-metrics",
        "monitor",
        "alerts",
        "events",
        "send-command",
        "agents",
        "config",
        "config set",
    ] {
        let run = run("", &format!("{line} --help"));
        assert_eq!(run.code, 0, "{line}");
        assert!(run.stdout.contains("Examples:"), "{line}: {}", run.stdout);
    }
    assert!(run("", "--version").stdout.starts_with("picket "));
}

#[test]
fn completions_are_printed_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let run = run("", &format!("completions {shell}"));
        assert_eq!(run.code, 0, "{shell}");
        assert!(run.stdout.contains("get-metrics"), "{shell}");
    }
}
