//! `cargo xtask units`: the agent and the server as services of a real systemd.

mod system;

use std::fs;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use self::system::System;
use crate::fleet::{Binaries, Directory, Profile};
use crate::workspace;

const AGENT: &str = "picket-agent.service";
const SERVER: &str = "picket-server.service";

/// The agent that the system has: its host name.
const HOST: &str = "edge-units";

/// Commands RESTART in a row. systemd gives up a unit that starts five times in ten seconds, unless it is told otherwise.
const RESTARTS: u32 = 12;

type Scene = fn(&System) -> anyhow::Result<()>;

/// What is looked at, in this order.
const SCENES: [(&str, Scene); 9] = [
    ("both are ready and say how they are", are_ready),
    ("both run in their sandboxes, as users of their own", are_in_sandboxes),
    ("all five commands; RESTART is no start to systemd", obeys),
    ("systemctl reload, of a wrong file and of a right one", reloads),
    ("an agent that hangs is ended by the watchdog, and comes back", is_watched),
    ("servers and agents that are killed come back, and nothing is lost", come_back),
    ("systemctl stop ends both in good order", stop),
    ("the server finds its secrets, as the example has them", finds_secrets),
    ("a wrong setting is not started again", is_not_started_again),
];

/// Boots a system of its own on top of this host's files, with systemd and the units of `packaging/systemd`, and looks at how the
/// programs behave in it. Only what would take minutes is set shorter: the pause before a restart and the watchdog.
///
/// # Errors
///
/// When this is not root or systemd is not to be had, and when something is not as it must be; with the journal.
pub fn run() -> anyhow::Result<()> {
    let binaries = Binaries::build(Profile::Debug)?;
    let directory = Directory::claim(&workspace::target_directory()?.join("units"), "task")?;
    fs::create_dir_all(directory.path()).with_context(|| directory.path().display().to_string())?;
    let units = workspace::root().join("packaging/systemd");
    let system = System::boot(HOST, binaries.directory(), &units, directory.path())?;
    let mut out = io::stdout().lock();
    for (name, scene) in SCENES {
        let start = Instant::now();
        scene(&system).with_context(|| format!("{name}\n{}", system.journal()))?;
        writeln!(out, "{:6.1} s  {name}", start.elapsed().as_secs_f64())?;
    }
    Ok(())
}

fn are_ready(system: &System) -> anyhow::Result<()> {
    for unit in [SERVER, AGENT] {
        system.wait_for(unit, "ActiveState", |state| state == "active")?;
    }
    system.wait_for(AGENT, "StatusText", |text| text.starts_with("connected to "))?;
    system.wait_for(SERVER, "StatusText", |text| text.contains("agents 1,"))?;
    Ok(())
}

fn are_in_sandboxes(system: &System) -> anyhow::Result<()> {
    for unit in [SERVER, AGENT] {
        let process = system.property(unit, "MainPID")?;
        let status = system.run(&["cat", &format!("/proc/{process}/status")])?;
        let field = |name: &str| {
            let line = status.lines().find(|line| line.split(':').next() == Some(name));
            line.and_then(|line| line.split_whitespace().nth(1)).unwrap_or_default().to_owned()
        };
        ensure!(field("Uid") != "0", "{unit} runs as root");
        ensure!(field("NoNewPrivs") == "1" && field("Seccomp") == "2", "{unit}:\n{status}");
        ensure!(field("CapEff").chars().all(|digit| digit == '0'), "{unit}:\n{status}");
        let memory: u64 = system.property(unit, "MemoryCurrent")?.parse().unwrap_or(0);
        let limit: u64 = system.property(unit, "MemoryMax")?.parse().unwrap_or(0);
        // Without a controller for memory there is neither, as on hosts that leave it out.
        ensure!(limit == 0 || memory < limit, "{unit} has {memory} bytes of {limit}");
    }
    Ok(())
}

/// What `picket send-command` prints of `command`.
fn command(system: &System, command: &[&str]) -> anyhow::Result<String> {
    system.run(&[&["picket", "send-command", HOST], command].concat())
}

fn obeys(system: &System) -> anyhow::Result<()> {
    let process = system.property(AGENT, "MainPID")?;
    for words in [&["UPDATE_CONFIG", "--param", "interval=1"][..], &["STOP"], &["START"]] {
        command(system, words)?;
    }
    for number in 0..RESTARTS {
        let said = command(system, &["RESTART"])?;
        ensure!(said.contains("restarted: boot"), "RESTART {number}: {said}");
    }
    let said = command(system, &["STATUS"])?;
    ensure!(said.contains("running"), "{said}");
    ensure!(system.property(AGENT, "MainPID")? == process, "it is another process");
    ensure!(system.property(AGENT, "NRestarts")? == "0", "systemd has started it");
    system.wait_for(AGENT, "ActiveState", |state| state == "active")?;
    Ok(())
}

fn reloads(system: &System) -> anyhow::Result<()> {
    system.write("/etc/picket/agent.toml", "interval = 7\n")?;
    system.run(&["systemctl", "reload", AGENT])?;
    system.wait_for(AGENT, "StatusText", |text| text.contains("not reloaded"))?;
    system.write("/etc/picket/agent.toml", "[config]\ninterval = 2\n")?;
    system.run(&["systemctl", "reload", AGENT])?;
    system.wait_for(AGENT, "StatusText", |text| !text.contains("not reloaded"))?;
    let status = command(system, &["STATUS"])?;
    ensure!(status.contains("2s"), "the interval is not that of the file: {status}");
    Ok(())
}

fn is_watched(system: &System) -> anyhow::Result<()> {
    let process = system.property(AGENT, "MainPID")?;
    system.run(&["kill", "-STOP", &process])?;
    system.wait_for(AGENT, "NRestarts", |number| number == "1")?;
    are_ready(system)?;
    let journal = system.run(&["journalctl", "--no-pager", "--unit", AGENT])?;
    ensure!(journal.contains("Watchdog timeout"), "it was not the watchdog");
    Ok(())
}

fn come_back(system: &System) -> anyhow::Result<()> {
    for unit in [SERVER, AGENT, SERVER] {
        let process = system.property(unit, "MainPID")?;
        system.run(&["kill", "-KILL", &process])?;
        system.wait_for(unit, "MainPID", |id| id != process && id != "0")?;
        are_ready(system)?;
    }
    let wait = Duration::from_secs(30);
    system.run(&["picket", "audit", HOST, "--wait", &format!("{}s", wait.as_secs())])?;
    Ok(())
}

fn stop(system: &System) -> anyhow::Result<()> {
    for unit in [AGENT, SERVER] {
        system.run(&["systemctl", "stop", unit])?;
        ensure!(system.property(unit, "ActiveState")? == "inactive", "{unit} is not stopped");
        ensure!(system.property(unit, "Result")? == "success", "{unit} did not end in good order");
    }
    let journal = system.run(&["journalctl", "--no-pager", "--unit", AGENT])?;
    let last = journal.lines().rfind(|line| line.contains(" stopped "));
    ensure!(last.is_some_and(|line| line.contains("lost=0")), "the agent did not drain: {last:?}");
    Ok(())
}

/// Below `packaging/systemd` and, without its ending, below `/etc/systemd/system`.
const SECRETS: &str = "picket-server.service.d/secrets.conf.example";

/// Neither etcd nor Kafka is there, which is no reason not to start.
fn finds_secrets(system: &System) -> anyhow::Result<()> {
    let example = workspace::root().join("packaging/systemd").join(SECRETS);
    let text = fs::read_to_string(&example).with_context(|| example.display().to_string())?;
    let drop_in = SECRETS.trim_end_matches(".example");
    system.write(&format!("/etc/systemd/system/{drop_in}"), &text)?;
    system.write("/etc/picket/etcd-password", "secret\n")?;
    system.write("/etc/picket/kafka.properties", "security.protocol=plaintext\n")?;
    let places = "ETCD_HOST=127.0.0.1\nKAFKA_BOOTSTRAP_SERVERS=127.0.0.1:1\n";
    system.write("/etc/picket/server.env", places)?;
    system.run(&["systemctl", "daemon-reload"])?;
    system.run(&["systemctl", "start", SERVER])?;
    for part in ["etcd", "Kafka"] {
        system.wait_for(SERVER, "StatusText", |text| text.contains(part))?;
    }
    Ok(())
}

fn is_not_started_again(system: &System) -> anyhow::Result<()> {
    system.write("/etc/picket/server.env", "PICKET_CONNECTIONS_MAX=\nPICKET_LOG=loud\n")?;
    system.run(&["systemctl", "restart", "--no-block", SERVER])?;
    system.wait_for(SERVER, "ActiveState", |state| state == "failed")?;
    ensure!(system.property(SERVER, "ExecMainStatus")? == "2", "it ended with another code");
    Ok(())
}
