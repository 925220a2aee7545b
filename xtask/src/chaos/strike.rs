//! How each fault begins and ends, and how one knows that it met something.

use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;

use super::console::{Answer, Console};
use super::fault::Fault;
use super::field::Field;
use super::proxy::{Cut, Direction, Passage, Proxy, Tally, Weather};
use super::random::Random;
use super::schedule::{Strike, Target};
use crate::fleet::Process;

/// How long one change of a configuration may take; a server that stands still takes it all.
const CONFIG_WITHIN: Duration = Duration::from_secs(20);

/// What `picket` ends with when a document was refused, by itself or by the server.
const REFUSED: [i32; 2] = [2, 4];

/// Words in an agent's log when its disk takes nothing.
const AGENT_NOTICES: [&str; 2] = ["takes nothing", "No space left"];

/// Words in a server's log when its disk takes nothing.
const SERVER_NOTICES: [&str; 2] = ["degraded", "No space left"];

/// A fault that has begun.
#[derive(Debug)]
pub(super) struct Active {
    strike: Strike,
    before: Tally,
    detail: Detail,
}

/// What a fault needs to remember until its end.
#[derive(Debug)]
enum Detail {
    Nothing,
    /// The newcomer; and the log of the agent that was there, with how long it was.
    Twin(Process, Log),
    Configs(JoinHandle<anyhow::Result<Vec<Attempt>>>),
    /// Of what writes to the disk.
    Disk(Log),
}

/// A log that goes on.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    /// How long it was.
    bytes: u64,
}

impl Log {
    fn of(process: &Process) -> anyhow::Result<Self> {
        let path = process.log().to_path_buf();
        let bytes = fs::metadata(&path)?.len();
        Ok(Self { path, bytes })
    }

    /// What it says since then.
    fn news(&self) -> anyhow::Result<String> {
        let text = fs::read(&self.path)?;
        let since = usize::try_from(self.bytes).unwrap_or(usize::MAX).min(text.len());
        Ok(String::from_utf8_lossy(&text[since..]).into_owned())
    }
}

/// A change of a configuration.
#[derive(Debug)]
struct Attempt {
    document: Document,
    answer: Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Document {
    Good,
    Bad(&'static str),
}

/// What came of a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Effect {
    /// Whether it met something: a process that ran, bytes under way, a write to a full disk.
    pub(super) met: bool,
    pub(super) note: String,
}

impl Effect {
    fn new(met: bool, note: impl Into<String>) -> Self {
        Self { met, note: note.into() }
    }
}

impl Active {
    pub(super) fn strike(&self) -> &Strike {
        &self.strike
    }

    /// Whether it can end without keeping the others waiting.
    pub(super) fn can_end(&self) -> bool {
        match &self.detail {
            Detail::Configs(changing) => changing.is_finished(),
            Detail::Nothing | Detail::Twin(..) | Detail::Disk(_) => true,
        }
    }
}

impl Field {
    /// Lets a fault begin.
    ///
    /// # Errors
    ///
    /// When it cannot be brought about, which is not the fault of what it strikes.
    pub(super) fn begin(&mut self, strike: Strike, console: &Console) -> anyhow::Result<Active> {
        let mut random = Random::new(strike.seed);
        let before = self.tally_of(strike.target);
        let mut detail = Detail::Nothing;
        match (strike.fault, strike.target) {
            (Fault::AgentKill, Target::Agent(index)) => self.agents[index].kill()?,
            (Fault::AgentFreeze, Target::Agent(index)) => self.agents[index].process()?.pause()?,
            (Fault::AgentRestart, Target::Agent(index)) => {
                if let Err(error) = self.agents[index].stop() {
                    self.findings.push(format!("{error:#}"));
                }
            }
            (Fault::ServerKill, Target::Server(index)) => self.nodes[index].kill()?,
            (Fault::ServerFreeze, Target::Server(index)) => self.nodes[index].process()?.pause()?,
            (Fault::ServerRestart, Target::Server(index)) => {
                if let Err(error) = self.nodes[index].stop() {
                    self.findings.push(format!("{error:#}"));
                }
            }
            (Fault::ServerDisk, Target::Server(index)) => {
                let node = &mut self.nodes[index];
                detail = Detail::Disk(Log::of(node.process()?)?);
                node.disk.as_ref().context("the server has no small disk")?.fill()?;
            }
            (Fault::HalfOpen, Target::Agent(index)) => self.agents[index].busiest_link().forget(),
            (Fault::Slow, Target::Agent(index)) => {
                for direction in Direction::ALL {
                    let weather = slow(&mut random);
                    self.set_weather(index, direction, weather);
                }
            }
            (Fault::Cut, Target::Agent(index)) => {
                let how = *random.choose(&[Cut::Ended, Cut::Reset]);
                cut_all(&self.agents[index].links, how);
            }
            (Fault::Herd, Target::Fleet) => {
                cut_all(self.agents.iter().flat_map(|agent| &agent.links), Cut::Reset);
            }
            (Fault::Damage, Target::Agent(index)) => {
                let direction = *random.choose(&Direction::ALL);
                self.agents[index].busiest_link().damage(direction, 1);
            }
            (Fault::OneWay, Target::Agent(index)) => {
                let held = Weather { passage: Passage::Held, ..Weather::default() };
                let direction = *random.choose(&Direction::ALL);
                self.agents[index].busiest_link().set_weather(direction, held);
            }
            (Fault::Partition, Target::Agent(index)) => self.part(index),
            (Fault::SpoolDamage, Target::Agent(index)) => self.isolate(index),
            (Fault::AgentDisk, Target::Agent(index)) => {
                self.isolate(index);
                let agent = &mut self.agents[index];
                detail = Detail::Disk(Log::of(agent.process()?)?);
                agent.disk.as_ref().context("the agent has no small disk")?.fill()?;
            }
            (Fault::Config, Target::Agent(index)) => {
                detail = Detail::Configs(self.configure(index, console, random)?);
            }
            (Fault::Twin | Fault::Clone, Target::Agent(index)) => {
                let log = Log::of(self.agents[index].process()?)?;
                let copy = strike.fault == Fault::Clone;
                detail = Detail::Twin(self.twin(index, copy)?, log);
            }
            (Fault::KafkaKill, Target::Kafka) => kafka(self)?.kill()?,
            (Fault::KafkaStop, Target::Kafka) => kafka(self)?.stop()?,
            (Fault::EtcdKill, Target::Etcd) => {
                self.etcd.as_mut().context("there is no etcd")?.kill()?;
            }
            (fault, target) => anyhow::bail!("{fault} does not strike {target}"),
        }
        Ok(Active { strike, before, detail })
    }

    /// Lets a fault end, and says what came of it.
    ///
    /// # Errors
    ///
    /// When what was down does not come back.
    pub(super) fn end(&mut self, active: Active) -> anyhow::Result<Effect> {
        let Active { strike, before, detail } = active;
        let done = self.tally_of(strike.target).since(before);
        let effect = match (strike.fault, strike.target) {
            (Fault::AgentKill | Fault::AgentRestart, Target::Agent(index)) => {
                self.agents[index].start()?;
                Effect::new(true, "started again")
            }
            (Fault::AgentFreeze, Target::Agent(index)) => {
                self.agents[index].process()?.resume()?;
                Effect::new(true, "goes on")
            }
            (Fault::ServerKill | Fault::ServerRestart, Target::Server(index)) => {
                self.nodes[index].start()?;
                Effect::new(true, "started again")
            }
            (Fault::ServerFreeze, Target::Server(index)) => {
                self.nodes[index].process()?.resume()?;
                Effect::new(true, "goes on")
            }
            (Fault::ServerDisk, Target::Server(index)) => {
                let disk = self.nodes[index].disk.as_ref().context("it has no small disk")?;
                let effect = disk_effect(&detail, &SERVER_NOTICES)?;
                disk.free()?;
                effect
            }
            (Fault::AgentDisk, Target::Agent(index)) => {
                let disk = self.agents[index].disk.as_ref().context("it has no small disk")?;
                let effect = disk_effect(&detail, &AGENT_NOTICES)?;
                disk.free()?;
                self.calm(index);
                effect
            }
            (Fault::SpoolDamage, Target::Agent(index)) => {
                self.agents[index].kill()?;
                let damaged = damage_files(&self.agents[index].state(), strike.seed)?;
                self.calm(index);
                self.agents[index].start()?;
                Effect::new(!damaged.is_empty(), format!("damaged: {}", damaged.join(", ")))
            }
            (Fault::HalfOpen, _) => {
                let bytes = done.swallowed_bytes;
                Effect::new(0 < bytes, format!("{bytes} bytes went nowhere"))
            }
            (Fault::Slow, Target::Agent(index)) => {
                self.calm(index);
                let bytes = done.delayed_bytes;
                Effect::new(0 < bytes, format!("{bytes} bytes were late"))
            }
            (Fault::Damage, Target::Agent(index)) => {
                self.calm(index);
                Effect::new(0 < done.flipped_bits, format!("{} bits flipped", done.flipped_bits))
            }
            (Fault::OneWay | Fault::Partition, Target::Agent(index)) => {
                self.calm(index);
                Effect::new(0 < done.held_bytes, format!("{} bytes were held", done.held_bytes))
            }
            (Fault::Cut | Fault::Herd, _) => {
                let Tally { cuts, cuts_in_flight, .. } = done;
                let note = format!("{cuts} connections cut, {cuts_in_flight} with data under way");
                Effect::new(0 < cuts_in_flight, note)
            }
            (Fault::KafkaKill | Fault::KafkaStop, _) => {
                kafka(self)?.restart()?;
                Effect::new(true, "started again")
            }
            (Fault::EtcdKill, _) => {
                self.etcd.as_mut().context("there is no etcd")?.restart()?;
                Effect::new(true, "started again")
            }
            (Fault::Config, _) => self.judge_configs(detail)?,
            (Fault::Twin | Fault::Clone, _) => self.judge_twin(detail)?,
            (fault, target) => anyhow::bail!("{fault} does not strike {target}"),
        };
        Ok(effect)
    }

    fn tally_of(&self, target: Target) -> Tally {
        match target {
            Target::Agent(index) => self.agents[index].tally(),
            Target::Server(_) | Target::Fleet | Target::Kafka | Target::Etcd => self.tally(),
        }
    }

    fn set_weather(&self, index: usize, direction: Direction, weather: Weather) {
        for link in &self.agents[index].links {
            link.set_weather(direction, weather);
        }
    }

    /// Keeps an agent from all servers.
    fn part(&self, index: usize) {
        let held = Weather { passage: Passage::Held, ..Weather::default() };
        for direction in Direction::ALL {
            self.set_weather(index, direction, held);
        }
    }

    /// The same, and lets it know at once: what it cannot send goes to its disk soon.
    fn isolate(&self, index: usize) {
        self.part(index);
        self.agents[index].links.iter().for_each(Proxy::reset);
    }

    fn calm(&self, index: usize) {
        self.agents[index].links.iter().for_each(Proxy::calm);
    }

    /// Changes the configuration of an agent in another thread, to bad ones and a good one.
    fn configure(
        &self,
        index: usize,
        console: &Console,
        mut random: Random,
    ) -> anyhow::Result<JoinHandle<anyhow::Result<Vec<Attempt>>>> {
        let node = self.nodes.iter().find(|node| node.is_up()).unwrap_or(&self.nodes[0]);
        let (server, agent) = (node.address(), self.agents[index].id.clone());
        let console = console.clone();
        let mut bad = BAD_DOCUMENTS.to_vec();
        random.shuffle(&mut bad);
        let cpu_percent = 1 + random.below(90);
        let change = move || {
            let set = |text: &str| {
                let arguments = ["config", "set", &agent, "-"];
                console.run(server, arguments, text, CONFIG_WITHIN)
            };
            let mut attempts = Vec::new();
            for text in &bad[..2] {
                let answer = set(text)?;
                attempts.push(Attempt { document: Document::Bad(text), answer });
            }
            let good = format!(r#"{{"thresholds": {{"cpu_percent": {cpu_percent}}}}}"#);
            attempts.push(Attempt { document: Document::Good, answer: set(&good)? });
            Ok(attempts)
        };
        thread::Builder::new()
            .name("config".to_owned())
            .spawn(change)
            .context("cannot start a thread")
    }

    fn judge_configs(&mut self, detail: Detail) -> anyhow::Result<Effect> {
        let Detail::Configs(changing) = detail else { return Ok(Effect::new(false, "")) };
        let attempts = changing.join().map_err(|_| anyhow::anyhow!("the thread panicked"))??;
        let (mut taken, mut refused) = (0, 0);
        for Attempt { document, answer } in attempts {
            match (document, answer.code) {
                (Document::Bad(text), Some(0)) => {
                    self.findings.push(format!("a bad configuration was taken: {text:.60}"));
                }
                (Document::Bad(_), Some(code)) if REFUSED.contains(&code) => refused += 1,
                (Document::Good, Some(0)) => taken += 1,
                // The server was away.
                (Document::Bad(_) | Document::Good, _) => {}
            }
        }
        Ok(Effect::new(0 < refused, format!("{refused} bad ones refused, {taken} good ones taken")))
    }

    fn judge_twin(&mut self, detail: Detail) -> anyhow::Result<Effect> {
        let Detail::Twin(mut newcomer, log) = detail else { return Ok(Effect::new(false, "")) };
        if let Some(status) = newcomer.ended()? {
            let tail = newcomer.log_tail();
            self.findings.push(format!("a twin ended by itself ({status})\n{tail}"));
            return Ok(Effect::new(false, "it ended by itself"));
        }
        let said = fs::read_to_string(newcomer.log())?;
        // At once, as a host is switched off when somebody notices.
        newcomer.kill()?;
        // The one that was there may have been between two connections: then it is the one to be refused.
        let refused = [said, log.news()?].map(|text| text.matches(REFUSAL).count());
        let note =
            format!("the newcomer was refused {} times, the other {}", refused[0], refused[1]);
        Ok(Effect::new(refused != [0, 0], note))
    }
}

/// What an agent logs when it is refused because of its id.
const REFUSAL: &str = "another";

/// What `picket config set` is to refuse.
const BAD_DOCUMENTS: [&str; 7] = [
    r#"{"interval": -1}"#,
    r#"{"interval": NaN}"#,
    r#"{"interval": 1e400}"#,
    r#"{"metrics": 5}"#,
    r#"{"plugins": ["nonsense"]}"#,
    r#"{"window_size": 0}"#,
    r#"{"interval": 5"#,
];

fn kafka(field: &mut Field) -> anyhow::Result<&mut crate::services::Instance> {
    field.kafka.as_mut().context("there is no Kafka")
}

/// From a little slow to less room than an agent needs.
fn slow(random: &mut Random) -> Weather {
    let milliseconds = |from, to| Duration::from_millis(from)..=Duration::from_millis(to);
    Weather {
        delay: random.between(milliseconds(20, 2_000)),
        jitter: random.between(milliseconds(0, 500)),
        bytes_per_second: NonZeroU32::new(*random.choose(&[300, 1_000, 5_000, 125_000])),
        passage: Passage::Open,
    }
}

/// Cuts them at the same time.
fn cut_all<'a>(links: impl IntoIterator<Item = &'a Proxy>, how: Cut) {
    thread::scope(|scope| {
        for link in links {
            scope.spawn(move || link.cut(how));
        }
    });
}

/// A full disk has met something when the log says so.
fn disk_effect(detail: &Detail, notices: &[&str]) -> anyhow::Result<Effect> {
    let Detail::Disk(log) = detail else { return Ok(Effect::new(false, "")) };
    let said = log.news()?;
    let line = said.lines().find(|line| notices.iter().any(|notice| line.contains(notice)));
    Ok(match line {
        Some(line) => Effect::new(true, format!("it was noticed: {}", line.trim())),
        None => Effect::new(false, "it was full, and nobody noticed"),
    })
}

/// Damages one file of a spool: flips a bit or cuts it short. Answers what was done.
fn damage_files(state: &Path, seed: u64) -> anyhow::Result<Vec<String>> {
    let mut random = Random::new(seed);
    let mut files = files_below(&state.join(SPOOL))?;
    files.retain(|file| fs::metadata(file).is_ok_and(|metadata| 0 < metadata.len()));
    if files.is_empty() {
        return Ok(Vec::new());
    }
    files.sort();
    let file = random.choose(&files);
    let mut bytes = fs::read(file)?;
    let at = random.below(bytes.len());
    let name = file.file_name().unwrap_or_default().display().to_string();
    let done = if random.below(3) == 0 {
        bytes.truncate(at);
        format!("{name} cut to {at} bytes")
    } else {
        bytes[at] ^= 1 << random.below(8);
        format!("a bit of byte {at} of {name}")
    };
    fs::write(file, bytes).with_context(|| format!("cannot damage {}", file.display()))?;
    Ok(vec![done])
}

/// Where an agent keeps its spool, in its state directory.
const SPOOL: &str = "spool";

fn files_below(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(error.into()),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_is_damaged_in_one_place() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(damage_files(state.path(), 1).unwrap(), Vec::<String>::new());
        let spool = state.path().join(SPOOL).join("records");
        fs::create_dir_all(&spool).unwrap();
        let file = spool.join("1.seg");
        for seed in 0..20 {
            fs::write(&file, [0; 64]).unwrap();
            assert_eq!(damage_files(state.path(), seed).unwrap().len(), 1);
            let bytes = fs::read(&file).unwrap();
            let flipped: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
            assert!(bytes.len() < 64 || flipped == 1, "{bytes:?}");
        }
    }

    #[test]
    fn a_full_disk_that_nobody_noticed_has_met_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        fs::write(&log, "degraded before\n").unwrap();
        let bytes = fs::metadata(&log).unwrap().len();
        let detail = Detail::Disk(Log { path: log.clone(), bytes });
        assert!(!disk_effect(&detail, &SERVER_NOTICES).unwrap().met);
        fs::write(&log, "degraded before\ndegraded: the disk is full\n").unwrap();
        assert!(disk_effect(&detail, &SERVER_NOTICES).unwrap().met);
    }
}
