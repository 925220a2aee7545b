//! `cargo xtask chaos`: real agents, real servers, and everything that can happen to them.
//!
//! A seed decides which fault strikes what and when. Agents reach their servers through relays on loopback ([`proxy`]) that delay,
//! cut and damage; processes are killed, stopped and started; disks are full. When the faults have stopped and the fleet has
//! settled, `picket audit` must find a difference of 0, every command one outcome, and no process may have ended by itself. A
//! class of faults counts only when it has met something.

mod console;
mod disk;
mod fault;
mod field;
mod history;
mod issuer;
mod logs;
mod proxy;
mod random;
mod report;
mod schedule;
mod strike;
mod verdict;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::fleet::{Binaries, Directory, Profile};
use crate::{interrupt, workspace};

pub use self::fault::Fault;

use self::console::{Answer, Console};
use self::disk::Disk;
use self::field::{Field, Plan};
use self::issuer::{Issued, Issuer};
use self::random::Random;
use self::report::Report;
use self::schedule::{Schedule, Shape, Strike};
use self::strike::{Active, Effect};

/// How often the schedule and the processes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long agents stand without a server at first.
const SERVERS_ABSENT: Duration = Duration::from_secs(2);

/// How often a class that has met nothing strikes once more, alone.
const ENCORES_MAX: u64 = 3;

/// How long an agent may take to be heard of again after the last fault: it waits up to 30 s between two tries.
const HEARD_WITHIN: Duration = Duration::from_secs(180);

/// Between two tries of what is not there yet.
const PAUSE: Duration = Duration::from_millis(500);

/// How long one command to a fleet at peace may take.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);

/// What a run is to be like.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long faults strike; starting and settling come on top.
    pub duration: Duration,
    /// Decides the schedule; none takes another one each time.
    pub seed: Option<u64>,
    /// How many agents.
    pub agents: usize,
    /// Which faults; none means all that fit the bus.
    pub faults: Vec<Fault>,
    /// How long the fleet may take, once the faults have stopped, until nothing is to come any more.
    pub settle: Duration,
    /// Which bus, and with it how many servers.
    pub bus: Bus,
    /// Whether to end with one JSON object in place of tables.
    pub json: bool,
    /// Where the binaries are; none builds them, unoptimised.
    pub binaries: Option<PathBuf>,
    /// Where the run stands; none is in the target directory.
    pub directory: Option<PathBuf>,
}

/// What the servers put their records on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// One server with a bus of its own.
    Embedded,
    /// Two servers on a real Kafka, with a real etcd.
    Kafka,
}

impl Bus {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Embedded, Self::Kafka];

    fn servers(self) -> usize {
        match self {
            Self::Embedded => 1,
            Self::Kafka => 2,
        }
    }

    /// What it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Kafka => "kafka",
        }
    }
}

/// Runs the fleet under faults, and prints what came of it.
///
/// # Errors
///
/// When anything is not as it must be; the message has the seed and the place of the logs. Also when the run itself could not be
/// carried out.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let binaries = match &options.binaries {
        Some(directory) => Binaries::at(directory.clone()),
        None => Binaries::build(Profile::Debug)?,
    };
    let interrupted = interrupt::flag([SIGINT, SIGTERM, SIGHUP])?;
    let parent = match &options.directory {
        // Agents and servers are given this path.
        Some(directory) => std::path::absolute(directory)?,
        None => workspace::target_directory()?.join("chaos"),
    };
    let directory = Directory::lock(&parent, "chaos")?;
    disk::clear(directory.path())?;
    directory.empty()?;
    let seed = options.seed.unwrap_or_else(seed_of_now);
    let mut run = Run::prepare(options, seed, &binaries, directory.path(), &interrupted)?;
    let report = run
        .carry_out()
        .with_context(|| format!("seed {seed}, logs in {}", directory.path().display()))?;
    // Its processes are stopped and its disks unmounted before anything is said to have passed.
    drop(run);
    let mut out = io::stdout();
    if options.json {
        report.write_json(&mut out)?;
    } else {
        report.write_tables(&mut out)?;
    }
    let count = report.findings.len();
    ensure!(
        count == 0,
        "{count} findings with --bus {} --seed {seed}; logs in {}",
        options.bus.name(),
        directory.path().display()
    );
    Ok(())
}

/// A run with all it stands on.
struct Run<'a> {
    options: &'a Options,
    schedule: Schedule,
    shape: Shape,
    random: Random,
    field: Field,
    console: Console,
    agents: Vec<String>,
    report: Report,
    interrupted: &'a AtomicBool,
    begun: Instant,
}

impl<'a> Run<'a> {
    fn prepare(
        options: &'a Options,
        seed: u64,
        binaries: &Binaries,
        directory: &Path,
        interrupted: &'a AtomicBool,
    ) -> anyhow::Result<Self> {
        let mut report = Report { seed, bus: options.bus.name(), ..Report::default() };
        let mut faults = chosen(options)?;
        fs::create_dir_all(directory)?;
        let disks = match Disk::mount(&directory.join("probe"), 64) {
            Ok(_) => true,
            Err(error) => {
                let needs_disk =
                    |fault: &Fault| matches!(fault, Fault::AgentDisk | Fault::ServerDisk);
                for fault in faults.iter().filter(|fault| needs_disk(fault)) {
                    report.left_out.push(format!("{fault}: {error:#}"));
                }
                faults.retain(|fault| !needs_disk(fault));
                false
            }
        };
        let shape = Shape { agents: options.agents, servers: options.bus.servers() };
        let schedule = Schedule::draw(seed, options.duration, &faults, shape);
        let no_room =
            schedule.left_out.iter().map(|fault| format!("{fault}: the run is too short"));
        report.left_out.extend(no_room);
        // Not the numbers of the schedule: what runs beside it must not change it.
        let mut random = Random::new(seed.rotate_left(32));
        let plan = Plan { binaries, directory, bus: options.bus, agents: options.agents, disks };
        let field = Field::prepare(&plan, &mut random)?;
        let console = Console::new(binaries.picket());
        let agents = (0..options.agents).map(schedule::agent_id).collect();
        let begun = Instant::now();
        let run = Self {
            options,
            schedule,
            shape,
            random,
            field,
            console,
            agents,
            report,
            interrupted,
            begun,
        };
        run.say(&format!(
            "seed {seed}: {} faults of {} classes in {} s; {} agents, {} servers, bus {}; logs in {}",
            run.schedule.strikes.len(),
            faults.len(),
            options.duration.as_secs(),
            shape.agents,
            shape.servers,
            options.bus.name(),
            directory.display()
        ));
        for left_out in &run.report.left_out {
            run.say(&format!("LEFT OUT  {left_out}"));
        }
        Ok(run)
    }

    fn carry_out(&mut self) -> anyhow::Result<Report> {
        self.start()?;
        let servers: Vec<_> = self.field.nodes.iter().map(field::Node::address).collect();
        let issuer = Issuer::start(&self.console, &servers, &self.agents, &mut self.random)?;
        self.begun = Instant::now();
        let strikes = std::mem::take(&mut self.schedule.strikes);
        self.strike_all(strikes, self.options.duration)?;
        for encore in 0..ENCORES_MAX {
            let again = |fault| Schedule::again(fault, self.shape, self.report.seed + encore);
            let unmet: Vec<Strike> = self.report.unmet().into_iter().map(again).collect();
            for strike in unmet {
                self.say(&format!("{} has met nothing yet: once more, alone", strike.fault));
                self.strike_all(vec![strike], Duration::ZERO)?;
            }
        }
        self.report.fault_seconds = self.begun.elapsed().as_secs();
        self.say("the faults have stopped; the last commands are waited for");
        let issued = issuer.finish()?;
        let (heard, findings) = issuer::outcomes(&issued);
        self.report.heard = heard;
        self.report.findings.extend(findings);
        let calm = Instant::now();
        self.settle()?;
        self.judge_commands(&issued)?;
        self.report.settle_seconds = calm.elapsed().as_secs();
        self.stop()?;
        let mut report = std::mem::take(&mut self.report);
        for fault in report.unmet() {
            report.findings.push(format!("{fault} has met nothing, so nothing is known of it"));
        }
        report.findings.append(&mut self.field.findings);
        report.findings.extend(logs::panics(&self.field.logs()?)?);
        report.links = self.field.tally();
        Ok(report)
    }

    /// Agents first, then servers, then what the servers want: each finds the next one absent.
    fn start(&mut self) -> anyhow::Result<()> {
        self.say("agents start without a server");
        self.field.agents.iter_mut().try_for_each(field::Agent::start)?;
        thread::sleep(SERVERS_ABSENT);
        let services = if self.field.kafka.is_some() { ", without Kafka and etcd" } else { "" };
        self.say(&format!("servers start{services}"));
        // A server that finds no Kafka waits for it a while before it listens.
        thread::scope(|scope| {
            let starting: Vec<_> =
                self.field.nodes.iter_mut().map(|node| scope.spawn(|| node.start())).collect();
            let join = |node: thread::ScopedJoinHandle<'_, anyhow::Result<()>>| {
                node.join().unwrap_or_else(|_| bail!("the start of a server panicked"))
            };
            starting.into_iter().try_for_each(join)
        })?;
        for service in [&mut self.field.kafka, &mut self.field.etcd].into_iter().flatten() {
            service.restart()?;
        }
        self.hear_of_all("STATUS")
    }

    /// Lets faults begin and end by the schedule, for at least so long.
    fn strike_all(&mut self, strikes: Vec<Strike>, length: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut waiting = strikes;
        let mut active: Vec<(Duration, Active)> = Vec::new();
        while !waiting.is_empty() || !active.is_empty() || begun.elapsed() < length {
            ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
            let now = begun.elapsed();
            let is_over = |(ends, at): &(Duration, Active)| *ends <= now && at.can_end();
            if let Some(index) = active.iter().position(is_over) {
                let (_, ending) = active.swap_remove(index);
                self.end(ending)?;
                continue;
            }
            // On a slow machine a fault may last longer than drawn, and then the next one of its target is late.
            let is_free = |strike: &Strike| active.iter().all(|(_, at)| !strike.meets(at.strike()));
            let next = waiting.iter().position(|strike| strike.at <= now && is_free(strike));
            if let Some(index) = next {
                let strike = waiting.remove(index);
                self.say(&format!(
                    "{:<14} {:<10} for {:.1} s",
                    strike.fault,
                    strike.target,
                    strike.lasts.as_secs_f64()
                ));
                let lasts = strike.lasts;
                let beginning = self.field.begin(strike, &self.console)?;
                active.push((begun.elapsed() + lasts, beginning));
                continue;
            }
            self.field.watch()?;
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn end(&mut self, ending: Active) -> anyhow::Result<()> {
        let strike = ending.strike().clone();
        let effect = self.field.end(ending)?;
        let Effect { met, note } = &effect;
        let met = if *met { "" } else { "(nothing met) " };
        self.say(&format!("{:<14} {:<10} over: {met}{note}", strike.fault, strike.target));
        self.report.count(strike.fault, &effect);
        Ok(())
    }

    /// Waits until all is told, and audits: first with agents that are stopped, then with agents that are gone.
    fn settle(&mut self) -> anyhow::Result<()> {
        self.say("every agent is to collect again");
        self.hear_of_all("START")?;
        self.hear_of_all("STOP")?;
        self.say("picket audit, while the agents stand by");
        self.audit()?;
        self.hear_of_all("START")?;
        self.say("agents stop in order");
        for agent in &mut self.field.agents {
            if let Err(error) = agent.stop() {
                self.field.findings.push(format!("{error:#}"));
            }
        }
        self.say("picket audit, after the agents");
        self.audit()
    }

    fn audit(&mut self) -> anyhow::Result<()> {
        let doubled: BTreeSet<String> = self
            .field
            .agents
            .iter()
            .filter(|agent| 0 < agent.twins)
            .map(|agent| agent.id.clone())
            .collect();
        let server = self.field.nodes[0].address();
        let (accounts, findings) =
            verdict::audit(&self.console, server, &self.agents, &doubled, self.options.settle)?;
        self.report.agents = accounts.0;
        self.report.findings.extend(findings);
        self.field.watch()
    }

    /// Waits until each command has an end, and sees that it has one.
    fn judge_commands(&mut self, issued: &[Issued]) -> anyhow::Result<()> {
        self.say("picket commands list");
        let begun = Instant::now();
        let server = self.field.nodes[0].address();
        loop {
            let arguments = ["commands", "list", history::LIST_MAX];
            let answer = self.console.run(server, arguments, "", COMMAND_WITHIN)?;
            let found = history::judge(&answer.lines, issued);
            let is_last = self.options.settle <= begun.elapsed();
            if answer.code == Some(0) && found.unfinished.is_empty() || is_last {
                if answer.code != Some(0) {
                    let Answer { code, stderr, .. } = answer;
                    self.report
                        .findings
                        .push(format!("picket commands ended with {code:?}: {stderr}"));
                }
                self.report.commands = found.ends;
                self.report.findings.extend(found.findings);
                let endless =
                    found.unfinished.into_iter().map(|at| format!("no end of a command: {at}"));
                self.report.findings.extend(endless);
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
    }

    /// Sends a command to each agent until it is done, so that each is known to be there and at work.
    fn hear_of_all(&mut self, request: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + HEARD_WITHIN;
        for id in self.agents.clone() {
            loop {
                ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
                let server = self.field.nodes[0].address();
                // An agent whose disk was copied takes no other command.
                let arguments = ["send-command", &id, request, issuer::TTL, "--force"];
                let answer = self.console.run(server, arguments, "", COMMAND_WITHIN)?;
                self.field.watch()?;
                if answer.code == Some(0) {
                    break;
                }
                if deadline <= Instant::now() {
                    let said = answer.stderr;
                    let finding =
                        format!("{id} did not do {request} within {HEARD_WITHIN:?}: {said}");
                    self.report.findings.push(finding);
                    return Ok(());
                }
                thread::sleep(PAUSE);
            }
        }
        Ok(())
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        for node in &mut self.field.nodes {
            if let Err(error) = node.stop() {
                self.field.findings.push(format!("{error:#}"));
            }
        }
        for service in [&mut self.field.kafka, &mut self.field.etcd].into_iter().flatten() {
            service.kill()?;
        }
        Ok(())
    }

    /// A line of progress. It goes to stderr, so that stdout has the report alone.
    fn say(&self, line: &str) {
        let seconds = self.begun.elapsed().as_secs_f64();
        // Without a terminal there is nobody to tell.
        writeln!(io::stderr(), "{seconds:6.1}  {line}").ok();
    }
}

/// Those that are wanted.
fn chosen(options: &Options) -> anyhow::Result<Vec<Fault>> {
    let bus = options.bus;
    if options.faults.is_empty() {
        return Ok(Fault::ALL.into_iter().filter(|fault| fault.fits(bus)).collect());
    }
    let misfit = options.faults.iter().find(|fault| !fault.fits(bus));
    if let Some(fault) = misfit {
        bail!("{fault} does not happen with --bus {}", bus.name());
    }
    Ok(options.faults.clone())
}

/// Another one each time.
fn seed_of_now() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};

    // Short enough to be typed again.
    RandomState::new().build_hasher().finish() % 1_000_000
}
