//! What the agent says of its settings: which are in force, where they are from, and what is wrong with them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::process::command;

/// Runs `check-config` with these variables set.
fn run_check(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = command(&[&["check-config"], arguments].concat());
    command.envs(variables.iter().copied());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
}

/// What `check-config --json` says of valid settings, by key.
pub(crate) fn settings(arguments: &[&str], variables: &[(&str, &str)]) -> BTreeMap<String, Value> {
    let output = run_check(&[arguments, &["--json"]].concat(), variables);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""));
    let mut findings = serde_json::from_slice::<Value>(&output.stdout).unwrap();
    assert_eq!((&findings["valid"], &findings["problems"]), (&json!(true), &json!([])));
    let Value::Array(settings) = findings["settings"].take() else { panic!("{findings}") };
    settings.into_iter().map(|s| (s["key"].as_str().unwrap().to_owned(), s)).collect()
}

/// All values in force.
fn values(arguments: &[&str]) -> BTreeMap<String, Value> {
    let of = |(key, mut setting): (String, Value)| (key, setting["value"].take());
    settings(arguments, &[]).into_iter().map(of).collect()
}

fn write(directory: &Path, text: &str) -> String {
    let path = directory.join("agent.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Each layer that says something of a key wins over all below it, and what it shadows is told.
fn check_precedence(
    key: &str,
    [flag, in_flag]: [&str; 2],
    [variable, in_variable]: [&str; 2],
    (line, in_file): (&str, Value),
    default: &Value,
) {
    let directory = tempfile::tempdir().unwrap();
    let said = |value: &str, shown: &Value| match shown {
        Value::Number(_) => json!(value.parse::<f64>().unwrap()),
        _ => json!(value),
    };
    let same = |found: &Value, expected: &Value| match (found.as_f64(), expected.as_f64()) {
        (Some(found), Some(expected)) => (found - expected).abs() < 1e-9,
        _ => found == expected,
    };
    for layers in 0..8_u8 {
        let (has_flag, has_variable, has_file) =
            (layers & 4 != 0, layers & 2 != 0, layers & 1 != 0);
        let file = write(directory.path(), if has_file { line } else { "" });
        let flags = [flag, in_flag];
        let mut arguments = vec!["--config", &file];
        arguments.extend(flags.iter().filter(|_| has_flag));
        let variables = [(variable, in_variable)];
        let variables = if has_variable { &variables[..] } else { &[] };
        let found = settings(&arguments, variables).remove(key).unwrap();
        let (value, from) = match (has_flag, has_variable, has_file) {
            (true, _, _) => (said(in_flag, &in_file), "flag"),
            (_, true, _) => (said(in_variable, &in_file), "variable"),
            (_, _, true) => (in_file.clone(), "file"),
            _ => (default.clone(), "default"),
        };
        assert!(same(&found["value"], &value) && found["from"] == from, "{layers:03b}: {found}");
        let shadowed = found["shadows"].as_array().unwrap().iter();
        let shadowed = shadowed.map(|said| said["from"].as_str().unwrap()).collect::<Vec<_>>();
        let all = [(has_flag, "flag"), (has_variable, "variable"), (has_file, "file")];
        let expected = all.iter().filter(|(has, _)| *has).map(|(_, name)| *name).skip(1);
        assert_eq!(shadowed, expected.collect::<Vec<_>>(), "{layers:03b}: {found}");
    }
}

#[test]
fn flags_win_over_variables_over_the_file_over_defaults() {
    check_precedence(
        "baud",
        ["--baud", "1200"],
        ["PICKET_BAUD", "2400"],
        ("baud = 4800", json!(4800)),
        &json!(115_200),
    );
    check_precedence(
        "server",
        ["--server", "flag:1"],
        ["PICKET_SERVER", "variable:2"],
        ("server = \"file:3\"", json!("file:3")),
        &json!("localhost:50051"),
    );
    check_precedence(
        "log_level",
        ["--log-level", "error"],
        ["PICKET_LOG", "debug"],
        ("log_level = \"off\"", json!("off")),
        &json!("info"),
    );
    check_precedence(
        "config.interval",
        ["--interval", "1"],
        ["PICKET_INTERVAL", "2"],
        ("[config]\ninterval = 3", json!(3)),
        &json!(5),
    );
}

#[test]
fn origins_are_printed_with_their_places() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(
        directory.path(),
        "nice = 3\n[config]\ninterval = 2\n[config.thresholds]\ncpu_percent = 70\n",
    );
    let arguments = ["--origin", "--config", &file, "--interval", "0.5"];
    let output = run_check(&arguments, &[("PICKET_INTERVAL", "3"), ("STATE_DIRECTORY", "/s")]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |key: &str| {
        let found = text.lines().find(|line| line.split(' ').next() == Some(key));
        found
            .unwrap_or_else(|| panic!("{key}: {text}"))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let shadows = format!("shadows variable PICKET_INTERVAL: 3, file {file}:3: 2");
    assert_eq!(line("config.interval"), format!("config.interval 0.5 flag --interval; {shadows}"));
    assert_eq!(line("nice"), format!("nice 3 file {file}:1"));
    assert_eq!(
        line("config.thresholds.cpu_percent"),
        format!("config.thresholds.cpu_percent 70 file {file}:5")
    );
    assert_eq!(line("state_dir"), "state_dir /s variable STATE_DIRECTORY");
    assert_eq!(line("etcd"), "etcd none default");
}

#[test]
fn of_several_directories_of_systemd_the_first_is_taken() {
    let found = settings(&[], &[("STATE_DIRECTORY", "/no/a:/no/b")]);
    let state_dir = &found["state_dir"];
    assert_eq!((&state_dir["value"], &state_dir["from"]), (&json!("/no/a"), &json!("variable")));
}

#[test]
fn a_threshold_that_is_replaced_as_a_whole_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(
        directory.path(),
        "[config.thresholds]\ncpu_percent = { below = 3, for = 9 }\ndisk_read_mb = false\n",
    );
    let found = values(&["--config", &file]);
    assert_eq!(found.get("config.thresholds.cpu_percent"), None);
    assert_eq!(found["config.thresholds.cpu_percent.below"], json!(3));
    assert_eq!(found["config.thresholds.disk_read_mb"], json!(false));
    assert_eq!(found["config.thresholds.net_in_mb"], json!(50));
}

#[test]
fn all_that_is_wrong_is_said_at_once_by_a_check_and_by_a_start() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(directory.path(), "baud = 0\n[config]\nintervall = 1\nplugins = [\"spy\"]\n");
    let output = run_check(&["--config", &file, "--metrics", "gpu"], &[]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    let expected = [
        format!("{file}:1: baud = 0: "),
        format!("{file}:3: config.intervall: unknown key (did you mean `interval`?)"),
        format!("{file}:4: config.plugins[0] = \"spy\": "),
        "--metrics = gpu: unknown metric \"gpu\"".to_owned(),
    ];
    assert_eq!(said.lines().count(), expected.len(), "{said}");
    for (line, expected) in said.lines().zip(&expected) {
        assert!(line.starts_with(&format!("picket-agent: {expected}")), "{line}");
    }
    let started = command(&["--config", &file, "--metrics", "gpu"]);
    let output = { started }.stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), said);
    let output = run_check(&["--config", &file, "--json"], &[]);
    assert_eq!(output.status.code(), Some(2));
    let findings = serde_json::from_slice::<Value>(&output.stdout).unwrap();
    assert_eq!((&findings["valid"], &findings["file"]), (&json!(false), &json!(file)));
    assert_eq!(findings["file_from"], json!({ "from": "flag", "name": "--config" }));
    assert_eq!(findings["problems"].as_array().unwrap().len(), 3);
}

#[test]
fn settings_that_do_not_go_together_are_all_said() {
    let many = (1..=17).map(|port| format!("--serial=tcp:h:{port}")).collect::<Vec<_>>();
    let many = many.iter().map(String::as_str).collect::<Vec<_>>();
    let more = ["--spool-max-bytes", "1M", "--agent-id", "a/b"];
    let output = run_check(&[many.as_slice(), &more].concat(), &[]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 3, "{said}");
    for part in ["no agent id", "a spool needs a state directory", "17 serial links"] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn settings_of_the_file_that_do_not_go_together_are_said_with_the_others_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let text = "spool_max_bytes = \"16M\"\nagent_id = \"_default\"\nbaud = 11520\n\
                serial = [\"tcp:h:1\", \"tcp:h:1\"]\n[config]\ninterval = 0.01\n";
    let file = write(directory.path(), text);
    let output = run_check(&["--config", &file], &[]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    let expected = [
        "1: spool_max_bytes = \"16M\": a spool needs a state directory: set state_dir, or --state-dir",
        "2: agent_id = \"_default\": ",
        "3: baud = 11520: it must be a rate that serial ports have: 50, 75, ",
        "4: serial = [\"tcp:h:1\", \"tcp:h:1\"]: tcp:h:1 is listed twice",
        "6: config.interval = 0.01: interval is 0.01 s, it must be 0.1 to 86400 s",
    ];
    assert_eq!(said.lines().count(), expected.len(), "{said}");
    for (line, expected) in said.lines().zip(expected) {
        assert!(line.starts_with(&format!("picket-agent: {file}:{expected}")), "{line}");
    }
    // One mistake does not make others.
    let file = write(directory.path(), "state_dir = 5\nspool_max_bytes = \"16M\"\n");
    let said = String::from_utf8(run_check(&["--config", &file], &[]).stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// What a check says to these variables, which are wrong.
fn complaint(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let output = run_check(arguments, variables);
    assert_eq!(output.status.code(), Some(2));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_variable_is_blamed_by_its_own_name() {
    let said = complaint(&[], &[("PICKET_INTERVAL", "x")]);
    assert!(said.contains("invalid value 'x' for 'PICKET_INTERVAL'"), "{said}");
    let said = complaint(&[], &[("PICKET_INTERVAL", "0.01"), ("PICKET_METRICS", "gpu")]);
    let expected = [
        "picket-agent: PICKET_INTERVAL = 0.01: interval is 0.01 s",
        "picket-agent: PICKET_METRICS = gpu: unknown metric \"gpu\"",
    ];
    assert_eq!(said.lines().count(), expected.len(), "{said}");
    assert!(said.lines().zip(expected).all(|(line, part)| line.starts_with(part)), "{said}");
    let said = complaint(&["--baud", "y"], &[("PICKET_INTERVAL", "x")]);
    assert!(said.contains("invalid value 'y' for '--baud <RATE>'"), "{said}");
    let said = complaint(&[], &[("PICKET_SPOOL_MAX_BYTES", "1M")]);
    assert!(said.contains("PICKET_SPOOL_MAX_BYTES = 1M: a spool needs"), "{said}");
}

#[test]
fn an_empty_variable_is_as_good_as_not_set() {
    let names = variables();
    let empty = names.iter().map(|name| (name.as_str(), "")).collect::<Vec<_>>();
    assert!(10 < empty.len());
    // That of the file too; there is none in the standard place, or one that is valid.
    let found = settings(&["--config", "/dev/null"], &empty);
    assert!(found.values().all(|setting| setting["from"] == "default"), "{found:?}");
}

/// The variables that the help names.
fn variables() -> Vec<String> {
    let help = crate::process::output(&["--help"]);
    let help = String::from_utf8(help.stdout).unwrap();
    let named = help.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next());
    named.map(str::to_owned).collect()
}

#[cfg(not(feature = "etcd"))]
#[test]
fn a_setting_of_a_part_that_is_not_built_in_is_refused_wherever_it_is_from() {
    let directory = tempfile::tempdir().unwrap();
    let text = "etcd = \"h:1\"\netcd_user = \"u\"\n";
    let file = write(directory.path(), text);
    let said = complaint(&["--config", &file], &[("PICKET_ETCD_PASSWORD_FILE", "/p")]);
    let reason = "this program was built without etcd; build with --features etcd";
    let expected = [
        format!("picket-agent: {file}:1: etcd = \"h:1\": {reason}"),
        format!("picket-agent: {file}:2: etcd_user = \"u\": {reason}"),
        format!("picket-agent: PICKET_ETCD_PASSWORD_FILE = /p: {reason}"),
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    let said = complaint(&["--etcd-user", "u"], &[]);
    assert_eq!(said, format!("picket-agent: --etcd-user = u: {reason}\n"));
}

#[test]
fn a_limit_that_nothing_can_pass_is_a_warning_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let text = "[config.thresholds]\ncpu_percent = 200\nmemory_percent = 99\n\
                agent_cpu_percent = 200\ndisk_percent = { below = 0 }\n";
    let file = write(directory.path(), text);
    let output = run_check(&["--json"], &[("PICKET_CONFIG", &file)]);
    assert_eq!(output.status.code(), Some(0));
    let findings = serde_json::from_slice::<Value>(&output.stdout).unwrap();
    let warnings = findings["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 2, "{findings}");
    let place = format!("{file}:2: config.thresholds.cpu_percent: no value of");
    assert!(warnings[0].as_str().unwrap().starts_with(&place), "{findings}");
    assert!(warnings[1].as_str().unwrap().contains("disk_percent"), "{findings}");
    assert_eq!(findings["file_from"], json!({ "from": "variable", "name": "PICKET_CONFIG" }));
    let output = run_check(&[], &[("PICKET_CONFIG", &file)]);
    let text = String::from_utf8(output.stdout).unwrap();
    let head = format!("# configuration file {file} (variable PICKET_CONFIG)\n");
    assert!(text.starts_with(&head), "{text}");
}

#[test]
fn a_check_makes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let found = settings(&["--state-dir", state.to_str().unwrap(), "--spool-max-bytes", "1M"], &[]);
    assert_eq!(found["spool_max_bytes"]["value"], json!(1 << 20));
    assert!(!state.exists());
}

#[cfg(all(feature = "serial", feature = "spool"))]
#[test]
fn the_packaged_file_with_every_key_uncovered_means_the_defaults() {
    let packaged = fs::read_to_string("../packaging/agent.toml").unwrap();
    let uncover = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    let directory = tempfile::tempdir().unwrap();
    let file = write(directory.path(), &packaged.lines().map(uncover).collect::<String>());
    let found = settings(&["--config", &file], &[]);
    // Whatever has a default is set by the file.
    for (key, setting) in &found {
        let is_optional = setting["value"] == Value::Null || key == "agent_id";
        assert_eq!(setting["from"], if is_optional { "default" } else { "file" }, "{setting}");
    }
    let mut expected = values(&[]);
    // Where it is not for Linux, the packaged file is not either.
    if cfg!(not(target_os = "linux")) {
        expected.insert("collector".to_owned(), json!("proc"));
    }
    assert_eq!(values(&["--config", &file]), expected);
}

#[test]
fn a_host_is_measured_once() {
    let run = |arguments: &[&str]| {
        let mut command = command(&[&["once"], arguments].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
    };
    let output = run(&["--json", "--metrics", "cpu,memory,net_in,uptime,agent"]);
    assert_eq!(output.status.code(), Some(0));
    let found = serde_json::from_slice::<Value>(&output.stdout).unwrap();
    // Rates are there from the second look on.
    for name in ["cpu_percent", "memory_total_mb", "net_in_mb", "uptime_seconds"] {
        assert!(found["metrics"][name].as_f64().is_some(), "{name}: {found}");
    }
    assert_eq!(found["metrics"].get("disk_read_mb"), None);
    // No agent runs here.
    assert_eq!(found["metrics"].get("agent_buffer_percent"), Some(&Value::Null));
    assert!(1.0 <= found["seconds"].as_f64().unwrap());
    let output = run(&["--collector", "sysinfo", "--metrics", "memory"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("# measured with sysinfo"), "{text}");
    assert!(text.contains("memory_total_mb"), "{text}");
    let output = run(&["--metrics", "gpu"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &b""[..]));
    assert!(String::from_utf8_lossy(&output.stderr).contains("known are cpu"));
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn all_threads_have_the_nice_value() {
    use crate::process::Agent;
    use crate::scripted::{Headers, ScriptedServer};

    let mut server = ScriptedServer::start(Headers::WithFirstCommand).await;
    let address = server.address();
    let directory = tempfile::tempdir().unwrap();
    let file = write(directory.path(), "nice = 7\n");
    let agent = Agent::start(&["--agent-id", "nice-1", "--server", &address, "--config", &file]);
    // By then all its threads run.
    server.stream().await.message().await.unwrap();
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.id())).unwrap();
    let nice = |path: &Path| {
        let stat = fs::read_to_string(path.join("stat")).unwrap();
        // Behind the name, which may have blanks, field 19 of all is the nice value: proc_pid_stat(5).
        let rest = stat.rsplit_once(')').unwrap().1;
        rest.split_whitespace().nth(16).unwrap().parse::<i32>().unwrap()
    };
    let values = tasks.map(|task| nice(&task.unwrap().path())).collect::<Vec<_>>();
    assert!(2 < values.len(), "{values:?}");
    assert!(values.iter().all(|value| *value == 7), "{values:?}");
}

/// When the second snapshot of an agent with an interval of a second was taken, in milliseconds from its start.
async fn second_snapshot(more: &[&str]) -> u64 {
    use crate::full_server::batch;
    use crate::process::Agent;
    use crate::scripted::{Headers, ScriptedServer, welcome};

    let mut server = ScriptedServer::start(Headers::Welcome(welcome())).await;
    let address = server.address();
    // Its place is at 0.447 of the interval.
    let arguments = ["--agent-id", "place-9", "--server", &address, "--interval", "1"];
    let _agent = Agent::start(&[&arguments, more].concat());
    let mut stream = server.stream().await;
    let mut records = Vec::new();
    while records.len() < 2 {
        records.extend(batch(&mut stream).await.records);
    }
    records[1].uptime_ms
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_taken_at_the_place_of_the_agent_unless_told_otherwise() {
    // A machine that stalls makes them later, never earlier.
    assert!(1_400 <= second_snapshot(&[]).await);
    let mut tries = 0;
    while 1_400 <= second_snapshot(&["--start-jitter", "false"]).await {
        tries += 1;
        assert!(tries < 10, "it waits for a place all the same");
    }
}
