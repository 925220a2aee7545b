//! `cargo xtask demo`: a server, an agent for this host, and its live metrics, in one terminal.

mod host;
mod screen;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::fleet::{Binaries, Directory, Group, Process, Profile, Server, Site};
use crate::{interrupt, workspace};

use self::screen::Screen;

/// How long each process may take to stop; the agent drains for at most 5 s, the server for at most 10 s.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// How often the processes and the clock are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How the live part of the demo ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Interrupted,
    TimeOver,
}

/// Builds the release binaries, runs them together, and shows metrics until Ctrl-C or for `duration`.
///
/// # Errors
///
/// When the build fails, a process ends early or does not stop, or no metric was shown.
pub fn run(duration: Option<Duration>) -> anyhow::Result<()> {
    screen::say("building picket-server, picket-agent and picket (release) ...");
    let started = Instant::now();
    let binaries = Binaries::build(Profile::Release)?;
    screen::say(&format!("built in {} s", started.elapsed().as_secs()));

    let interrupted = interrupt::flag([SIGINT, SIGTERM, SIGHUP])?;
    let directory = Directory::claim(&workspace::target_directory()?.join("demo"), "demo")?;
    let site = Site::new(binaries, directory.path(), Group::Own)?;
    let agent_id = host::agent_id();

    let mut server = site.server()?;
    let mut agent = site.agent(&agent_id, server.address(), ["--interval", "1"])?;
    let picket = site.binaries().picket();
    screen::say(&format!(
        "server on {}, agent {agent_id}, data and logs in {}",
        server.address(),
        directory.path().display()
    ));
    match duration {
        Some(duration) => screen::say(&format!("live metrics for {} s:", duration.as_secs())),
        None => screen::say("live metrics; Ctrl-C ends the demo:"),
    }

    let mut screen = Screen::start(&picket, server.address(), &agent_id)?;
    let deadline = duration.map(|duration| Instant::now() + duration);
    let end = watch(&interrupted, deadline, &mut server, &mut agent, &mut screen)?;
    let shown = screen.finish(STOP_WITHIN)?;
    // The agent first, so that the server is there to take what the agent still holds.
    let agent_status = agent.terminate(STOP_WITHIN)?;
    let server_status = server.process().terminate(STOP_WITHIN)?;
    ensure!(agent_status.success(), "the agent ended with {agent_status}\n{}", agent.log_tail());
    ensure!(
        server_status.success(),
        "the server ended with {server_status}\n{}",
        server.process().log_tail()
    );
    if shown == 0 && end == End::TimeOver {
        bail!(
            "no metric of agent {agent_id} arrived\n{}\n{}",
            agent.log_tail(),
            server.process().log_tail()
        );
    }
    screen::say(&format!("{shown} records shown; agent and server stopped cleanly"));
    screen::say(&next_steps(&site, &server, &agent_id));
    Ok(())
}

/// Waits for the end that is wanted, or for one that is not.
fn watch(
    interrupted: &AtomicBool,
    deadline: Option<Instant>,
    server: &mut Server,
    agent: &mut Process,
    screen: &mut Screen,
) -> anyhow::Result<End> {
    loop {
        if interrupted.load(Ordering::Relaxed) {
            return Ok(End::Interrupted);
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Ok(End::TimeOver);
        }
        if let Some(status) = server.process().ended()? {
            bail!("the server ended ({status})\n{}", server.process().log_tail());
        }
        if let Some(status) = agent.ended()? {
            bail!("the agent ended ({status})\n{}", agent.log_tail());
        }
        if let Some(status) = screen.ended()? {
            ensure!(status.success(), "picket get-metrics ended ({status}); its message is above");
            // Ctrl-C reaches picket too, and can reach it first.
            return Ok(End::Interrupted);
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// What to type after the demo: the same three programs by hand, on the data of the demo.
fn next_steps(site: &Site, server: &Server, agent_id: &str) -> String {
    let here = |path: PathBuf| {
        let relative = std::env::current_dir()
            .ok()
            .and_then(|current| path.strip_prefix(current).ok().map(Path::to_path_buf));
        relative.unwrap_or(path).display().to_string()
    };
    let (binaries, address) = (site.binaries(), server.address());
    let picket = format!("{} --server {address}", here(binaries.picket()));
    format!(
        "\
what to try next, in three terminals:
  1  {server} --listen {address} --data {data}
  2  {agent} --agent-id {agent_id} --server {address} --state-dir {state}
  3  {picket} get-metrics
     {picket} get-metrics --since 1h --no-follow
     {picket} agents
     {picket} send-command {agent_id} STATUS
     {picket} monitor --duration 30s
     {picket} --help",
        server = here(binaries.server()),
        agent = here(binaries.agent()),
        data = here(site.data()),
        state = here(site.state(agent_id)),
    )
}
