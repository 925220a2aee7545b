//! Commands to all agents, all along: what an operator asks for while everything fails.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;

use super::console::{Answer, Console};
use super::random::Random;

/// How many operators there are; each sends one command at a time.
const OPERATORS: usize = 2;

/// How long a command may wait for its agent.
pub(super) const TTL: &str = "--timeout=8s";

/// How long `picket` may take to say what became of one; a server that stands still keeps it waiting.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Between two commands of one operator.
const PAUSE: Duration = Duration::from_millis(400);

/// How often START is sent until it is done.
const START_TRIES_MAX: usize = 30;

/// What is sent, one after the other: an agent is told to collect again soon after it was told to stop.
const REQUESTS: [&[&[&str]]; 7] = [
    &[&["STATUS"]],
    &[&["STATUS"]],
    &[&["STOP"], &["START"]],
    &[&["START"]],
    &[&["RESTART"]],
    &[&["UPDATE_CONFIG", "--param=interval=0.1"]],
    &[&["UPDATE_CONFIG", "--param=interval=-1"]],
];

/// A command that was sent, and what its sender heard.
#[derive(Clone, Debug)]
pub(super) struct Issued {
    pub(super) agent: String,
    pub(super) request: String,
    /// None: its sender lost the server before the answer came.
    pub(super) heard: Option<Heard>,
}

/// What became of a command, as its sender was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) id: String,
    pub(super) outcome: String,
}

impl Issued {
    /// What a sender can say of an answer: none unless it is whole.
    fn new(agent: &str, request: &[&str], answer: &Answer) -> Self {
        let heard = match answer.lines.as_slice() {
            [line] => line["command_id"]
                .as_str()
                .zip(line["outcome"].as_str())
                .map(|(id, outcome)| Heard { id: id.to_owned(), outcome: outcome.to_owned() }),
            _ => None,
        };
        Self { agent: agent.to_owned(), request: request.join(" "), heard }
    }
}

/// Operators at work. Dropping them lets them end after the command at hand.
#[derive(Debug)]
pub(super) struct Issuer {
    is_over: Arc<AtomicBool>,
    operators: Vec<JoinHandle<anyhow::Result<Vec<Issued>>>>,
}

impl Issuer {
    /// Begins to send commands to `agents` through any of `servers`.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub(super) fn start(
        console: &Console,
        servers: &[SocketAddr],
        agents: &[String],
        random: &mut Random,
    ) -> anyhow::Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut issuer = Self { is_over: Arc::clone(&is_over), operators: Vec::new() };
        for _ in 0..OPERATORS {
            let operator = Operator {
                console: console.clone(),
                servers: servers.to_vec(),
                agents: agents.to_vec(),
                random: random.split(),
                is_over: Arc::clone(&is_over),
            };
            let thread = thread::Builder::new().name("operator".to_owned());
            let working = thread.spawn(|| operator.work()).context("cannot start a thread")?;
            issuer.operators.push(working);
        }
        Ok(issuer)
    }

    /// Ends the sending, and gives all that was sent.
    ///
    /// # Errors
    ///
    /// When `picket` could not be run.
    pub(super) fn finish(mut self) -> anyhow::Result<Vec<Issued>> {
        self.is_over.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for operator in self.operators.drain(..) {
            let issued = operator.join().map_err(|_| anyhow::anyhow!("an operator panicked"))?;
            all.extend(issued?);
        }
        Ok(all)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

struct Operator {
    console: Console,
    servers: Vec<SocketAddr>,
    agents: Vec<String>,
    random: Random,
    is_over: Arc<AtomicBool>,
}

impl Operator {
    fn work(mut self) -> anyhow::Result<Vec<Issued>> {
        let mut all = Vec::new();
        while !self.is_over.load(Ordering::Relaxed) {
            let agent = self.random.choose(&self.agents).clone();
            for request in *self.random.choose(&REQUESTS) {
                // What was stopped is to go on, or faults would meet agents that do nothing.
                let tries = if *request == ["START"] { START_TRIES_MAX } else { 1 };
                for _ in 0..tries {
                    let issued = self.send(&agent, request)?;
                    let is_done = issued.heard.as_ref().is_some_and(|at| at.outcome == "SUCCEEDED");
                    all.push(issued);
                    thread::sleep(PAUSE);
                    if is_done || self.is_over.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
        }
        Ok(all)
    }

    fn send(&mut self, agent: &str, request: &[&str]) -> anyhow::Result<Issued> {
        let server = *self.random.choose(&self.servers);
        let arguments = ["send-command", agent].into_iter().chain(request.iter().copied());
        let answer = self.console.run(server, arguments.chain([TTL]), "", ANSWER_WITHIN)?;
        Ok(Issued::new(agent, request, &answer))
    }
}

/// How many commands had each outcome, and what contradicts that each has one. `unheard` are those whose sender lost its server.
pub(super) fn outcomes(issued: &[Issued]) -> (BTreeMap<String, u64>, Vec<String>) {
    let mut counts = BTreeMap::new();
    let mut findings = Vec::new();
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for Issued { agent, request, heard } in issued {
        let name = heard.as_ref().map_or("unheard", |heard| &heard.outcome);
        *counts.entry(name.to_owned()).or_insert(0) += 1;
        let Some(Heard { id, outcome }) = heard else { continue };
        if !TERMINAL.contains(&outcome.as_str()) {
            findings.push(format!("{request} to {agent} was answered with {outcome} ({id})"));
        }
        if seen.insert(id, outcome).is_some() {
            findings.push(format!("the command {id} was answered to two senders"));
        }
    }
    (counts, findings)
}

/// What a command may end with.
pub(super) const TERMINAL: [&str; 5] = ["SUCCEEDED", "FAILED", "REJECTED", "EXPIRED", "UNKNOWN"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn issued(lines: &[serde_json::Value]) -> Issued {
        let answer = Answer { code: Some(0), lines: lines.to_vec(), stderr: String::new() };
        Issued::new("a", &["STATUS"], &answer)
    }

    #[test]
    fn an_answer_is_one_line_with_an_outcome() {
        let line = json!({"command_id": "1", "outcome": "SUCCEEDED"});
        assert_eq!(issued(std::slice::from_ref(&line)).heard.unwrap().outcome, "SUCCEEDED");
        assert_eq!(issued(&[]).heard, None);
        assert_eq!(issued(&[line.clone(), line]).heard, None);
    }

    #[test]
    fn an_outcome_is_final_and_of_one_command() {
        let of = |id: &str, outcome: &str| issued(&[json!({"command_id": id, "outcome": outcome})]);
        let (counts, findings) = outcomes(&[of("1", "EXPIRED"), of("2", "EXPIRED"), issued(&[])]);
        assert_eq!(counts, BTreeMap::from([("EXPIRED".into(), 2), ("unheard".into(), 1)]));
        assert_eq!(findings, Vec::<String>::new());
        assert_eq!(outcomes(&[of("1", "RUNNING")]).1.len(), 1);
        assert_eq!(outcomes(&[of("1", "EXPIRED"), of("1", "SUCCEEDED")]).1.len(), 1);
    }
}
