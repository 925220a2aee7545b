//! The independent checker: compares what stands on the bus with what the agents' journals say was recorded.
//!
//! It knows nothing of how records travel. Numbers such as D3 are those of the promises in `docs/simulation.md`.

use std::collections::{BTreeMap, HashMap};

use agent_core::id::{AgentId, BootId};
use agent_core::ledger::LossReason;
use bus::audit::intervals::Intervals as ReaderIntervals;
use bus::audit::{Audit, History, Place};
use bus::{Payload, Topic};
use proto::{CommandOutcome, StatusEvent};

use crate::host::{End, Journal, RecordDigest, digest_alert_record};
use crate::intervals::Intervals;
use crate::tally::Fault;
use crate::world::{Broken, Outcome, World};

/// Intervals of sequences that a reader remembers of one boot, as those of `analysis` do.
const READER_INTERVALS: usize = 128;

/// What the bus says of one boot.
#[derive(Debug)]
struct Seen {
    delivered: Intervals,
    /// What a reader that leaves out repeats remembers.
    reader: ReaderIntervals,
    delivered_count: u64,
    declared: Intervals,
    high: u64,
    session: u64,
    alerts: Intervals,
    alerts_declared: Intervals,
    alerts_high: u64,
    /// Ranges that a later boot declared, because this one ended without a word.
    crashes: u64,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            delivered: Intervals::default(),
            reader: ReaderIntervals::new(READER_INTERVALS),
            delivered_count: 0,
            declared: Intervals::default(),
            high: 0,
            session: 0,
            alerts: Intervals::default(),
            alerts_declared: Intervals::default(),
            alerts_high: 0,
            crashes: 0,
        }
    }
}

type Name = (AgentId, BootId);

/// When a command started, its place on the bus, and its id.
type Started<'a> = (u64, usize, &'a str);

impl<const RING: usize> World<RING> {
    /// Checks everything that must hold when a world is over.
    pub(crate) fn check(&mut self) -> Outcome {
        let journals: HashMap<Name, &Journal> = self
            .hosts
            .iter()
            .flat_map(|host| host.journals.iter().map(|j| ((host.id.clone(), j.boot), j)))
            .collect();
        let mut seen: HashMap<Name, Seen> = HashMap::new();
        self.read_losses(&journals, &mut seen)?;
        let mut repeats = 0;
        let mut late_writes = 0;
        let mut replayed = 0;
        for entry in self.bus.read(Topic::MonitoringData, 0) {
            let Payload::Metrics(metrics) = &entry.payload else { continue };
            let parts = metrics.boot.zip(metrics.record.as_ref());
            let Some((boot, record)) = parts else {
                return broken("a record of an agent has no boot");
            };
            let boot = BootId::from(boot);
            let name = (entry.key.clone(), boot);
            let sequence = record.sequence;
            let Some(journal) = journals.get(&name) else {
                return broken(&format!("the bus has a record of {boot}, which never was"));
            };
            let expected =
                usize::try_from(sequence - 1).ok().and_then(|at| journal.records.get(at));
            let Some(expected) = expected else {
                return broken(&format!("{} never recorded {sequence} of {boot}", entry.key));
            };
            let found = RecordDigest::of_record(record);
            let is_plain = metrics.session == 0;
            let is_equal =
                if is_plain { found.plain == expected.plain } else { found == *expected };
            if !is_equal {
                return broken(&format!("{} of {boot} has other values than recorded", sequence));
            }
            let seen = seen.entry(name).or_default();
            let is_repeat = seen.delivered.contains(sequence);
            if seen.reader.insert(sequence) == is_repeat {
                return broken(&format!(
                    "D4: a reader takes {sequence} of {boot} of {} for {}",
                    entry.key,
                    if is_repeat { "news" } else { "a repeat" }
                ));
            }
            if is_repeat {
                repeats += 1;
                continue;
            }
            seen.delivered.insert(sequence, sequence);
            seen.delivered_count += 1;
            if metrics.replayed {
                replayed += 1;
                continue;
            }
            if seen.high < sequence {
                seen.high = sequence;
                seen.session = seen.session.max(metrics.session);
                continue;
            }
            // A write of an older stream that came after a newer one had gone on, as a server that stood still or brokers
            // that were away make it. The agent had declared it lost meanwhile, or put it into its spool.
            let is_fenced = metrics.session < seen.session || is_plain;
            let is_given_up =
                seen.declared.contains(sequence) || journal.deferred.0.contains(sequence);
            if !is_fenced || !is_given_up {
                return broken(&format!(
                    "D5: {} of {boot} of {} came after {}, in session {} after {}",
                    sequence, entry.key, seen.high, metrics.session, seen.session
                ));
            }
            late_writes += 1;
        }
        self.tally.met(Fault::Repeat, repeats);
        self.tally.met(Fault::Replay, replayed);
        let crashes = seen.values().map(|seen| seen.crashes).sum();
        self.tally.met(Fault::CrashDeclared, crashes);
        self.tally.late_writes += late_writes;
        self.balance(&seen)?;
        self.audit()?;
        self.check_commands()
    }

    /// Reads what was declared lost, and alerts.
    fn read_losses(
        &self,
        journals: &HashMap<Name, &Journal>,
        seen: &mut HashMap<Name, Seen>,
    ) -> Outcome {
        for entry in self.bus.read(Topic::AgentStatus, 0) {
            let Payload::Status(status) = &entry.payload else { continue };
            let Some(boot) = status.boot.map(BootId::from) else { continue };
            let name = (entry.key.clone(), boot);
            let event = status.event();
            if !matches!(event, StatusEvent::Loss | StatusEvent::AlertLoss | StatusEvent::Alert) {
                continue;
            }
            let Some(journal) = journals.get(&name) else {
                return broken(&format!("the bus has losses or alerts of {boot}, which never was"));
            };
            let seen = seen.entry(name).or_default();
            for loss in &status.losses {
                let is_declared = loss.reason != i32::from(proto::LossReason::Unspecified);
                if !is_declared {
                    return broken(&format!(
                        "D6: records {} to {} of {boot} of {} never arrived and were not declared",
                        loss.first, loss.last, entry.key
                    ));
                }
                let (set, count) = match event {
                    StatusEvent::Loss => (&mut seen.declared, journal.records.len()),
                    _ => (&mut seen.alerts_declared, journal.alerts.len()),
                };
                // What a crash declares is an upper bound.
                let is_bound = loss.reason == i32::from(proto::LossReason::Crash);
                seen.crashes += u64::from(is_bound);
                if !is_bound && (count as u64) < loss.last {
                    return broken(&format!("{boot} declared {} lost and had {count}", loss.last));
                }
                set.insert(loss.first, loss.last.min(count as u64));
            }
            for alert in &status.alerts {
                let at = usize::try_from(alert.sequence - 1).ok();
                let expected = at.and_then(|at| journal.alerts.get(at));
                if expected != Some(&digest_alert_record(alert)) {
                    return broken(&format!("alert {} of {boot} is not as it was", alert.sequence));
                }
                if seen.alerts.contains(alert.sequence) {
                    continue;
                }
                seen.alerts.insert(alert.sequence, alert.sequence);
                if status.replayed {
                    // The spool brings it when it can.
                    continue;
                }
                if alert.sequence < seen.alerts_high
                    && !seen.alerts_declared.contains(alert.sequence)
                {
                    return broken(&format!("D5: alert {} of {boot} came late", alert.sequence));
                }
                seen.alerts_high = seen.alerts_high.max(alert.sequence);
            }
        }
        Ok(())
    }

    /// D1, D3, D9: of each boot, what must be accounted for is, and the agent's own books say the same.
    fn balance(&mut self, seen: &HashMap<Name, Seen>) -> Outcome {
        let nothing = Seen::default();
        for host in &self.hosts {
            for (index, journal) in host.journals.iter().enumerate() {
                let boot = journal.boot;
                let seen = seen.get(&(host.id.clone(), boot)).unwrap_or(&nothing);
                let recorded = journal.records.len() as u64;
                let alerts = journal.alerts.len() as u64;
                // The next boot tells what this one may have lost.
                let is_told = host.disk.is_some() && !journal.is_unsure;
                let (required, alerts_required) = match &journal.end {
                    End::Running => (recorded, alerts),
                    End::Killed if is_told => (recorded, alerts),
                    // What was held went with the process.
                    End::Killed => journal.acknowledged,
                    End::Ended(ledger) => {
                        let gave_up = ledger.lost.by(LossReason::Shutdown) > 0
                            || ledger.alerts.lost.by(LossReason::Shutdown) > 0;
                        if !gave_up && ledger.delivered > seen.delivered_count {
                            return broken(&format!(
                                "{} says that {} records of {boot} were delivered, the bus has {}",
                                host.id, ledger.delivered, seen.delivered_count
                            ));
                        }
                        // Without a state directory nobody is left to declare what a shutdown gave up.
                        if gave_up && !is_told { journal.acknowledged } else { (recorded, alerts) }
                    }
                };
                // What the last boot left on its disk is still there.
                let is_last = index + 1 == host.journals.len();
                let (mut in_spool, mut alerts_in_spool) = match &journal.end {
                    End::Ended(ledger) if is_last => (ledger.spooled, ledger.alerts.spooled),
                    End::Ended(_) | End::Killed | End::Running => (0, 0),
                };
                for sequence in 1..=recorded {
                    if seen.delivered.contains(sequence) {
                        self.tally.delivered += 1;
                    } else if seen.declared.contains(sequence) {
                        self.tally.lost += 1;
                    } else if 0 < in_spool {
                        in_spool -= 1;
                        self.tally.spooled += 1;
                    } else if sequence <= required {
                        return broken(&format!(
                            "D3: record {sequence} of {boot} of {} is neither delivered nor declared lost; {recorded} were recorded, {:?} acknowledged, the boot {:?}",
                            host.id, journal.acknowledged, journal.end
                        ));
                    } else {
                        self.tally.died += 1;
                    }
                }
                for sequence in 1..=alerts_required {
                    let known = seen.alerts.contains(sequence);
                    if !known && !seen.alerts_declared.contains(sequence) {
                        if 0 < alerts_in_spool {
                            alerts_in_spool -= 1;
                            continue;
                        }
                        return broken(&format!(
                            "D3: alert {sequence} of {boot} of {} is neither delivered nor declared lost",
                            host.id
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives the bus to the audit that operators use: it must find nothing.
    fn audit(&self) -> Outcome {
        let mut audit = Audit::new(History::Whole);
        let place =
            |entry: &bus::Entry| Place { partition: entry.partition, stored_ms: entry.stored_ms };
        for entry in self.bus.read(Topic::AgentStatus, 0) {
            if let Payload::Status(status) = &entry.payload {
                audit.handle_status(place(entry), status);
            }
        }
        for entry in self.bus.read(Topic::MonitoringData, 0) {
            if let Payload::Metrics(metrics) = &entry.payload {
                audit.handle_metrics(place(entry), metrics);
            }
        }
        let report = audit.report();
        if report.difference() == 0 && report.unaudited == 0 {
            return Ok(());
        }
        let boots = report
            .agents
            .iter()
            .flat_map(|agent| agent.boots.iter().map(move |boot| (agent, boot)));
        let off = boots.filter(|(_, boot)| boot.difference() > 0);
        let off: Vec<_> = off.map(|(agent, boot)| (&agent.agent_id, boot)).take(2).collect();
        broken(&format!("the audit finds a difference of {}: {off:?}", report.difference()))
    }

    /// C1, C2, C4: each command that is on the bus ends once, and what it says is what it did.
    fn check_commands(&mut self) -> Outcome {
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        for (place, entry) in self.bus.read(Topic::Commands, 0).iter().enumerate() {
            if let Payload::Command(command) = &entry.payload {
                places.entry(&command.command_id).or_insert(place);
            }
        }
        let mut ends: BTreeMap<&str, Vec<CommandOutcome>> = BTreeMap::new();
        for entry in self.bus.read(Topic::CommandResponses, 0) {
            if let Payload::Response(response) = &entry.payload {
                ends.entry(&response.command_id).or_default().push(response.outcome());
            }
        }
        for (id, issued) in &self.operator.commands {
            let agent = &self.hosts[issued.agent].id;
            let Some(outcomes) = ends.get(id.as_str()) else {
                if places.contains_key(id.as_str()) {
                    return broken(&format!("C2: {id} to {agent} has no terminal state"));
                }
                if !issued.effects.is_empty() {
                    return broken(&format!("{id} ran and is not on the bus"));
                }
                continue;
            };
            let Some((first, rest)) = outcomes.split_first() else { continue };
            *self.tally.outcomes.entry((*first).into()).or_default() += 1;
            for later in rest {
                match (first, later) {
                    (first, later) if first == later => self.tally.answers_repeated += 1,
                    (CommandOutcome::Unknown, _) => self.tally.amendments += 1,
                    // Two servers say that it did nothing, each for its own reason.
                    (
                        CommandOutcome::Expired | CommandOutcome::Rejected,
                        CommandOutcome::Expired | CommandOutcome::Rejected,
                    ) => self.tally.answers_repeated += 1,
                    // The agent had answered, which is what readers show: the first end counts. A server that could not
                    // know says what it knows.
                    (_, CommandOutcome::Unknown) => self.tally.answers_repeated += 1,
                    _ => {
                        return broken(&format!("C2: {id} to {agent} ended as {outcomes:?}"));
                    }
                }
            }
            let never_ran = matches!(first, CommandOutcome::Expired | CommandOutcome::Rejected);
            if never_ran && !issued.effects.is_empty() {
                return broken(&format!("C2: {id} to {agent} ended as {first:?}, and ran"));
            }
        }
        self.check_order(&places)
    }

    /// C4: in each boot, commands took effect in the order of the bus.
    fn check_order(&self, places: &BTreeMap<&str, usize>) -> Outcome {
        let mut started: BTreeMap<(usize, u64, u64), Vec<Started<'_>>> = BTreeMap::new();
        for (id, issued) in &self.operator.commands {
            let Some(place) = places.get(id.as_str()) else { continue };
            for effect in &issued.effects {
                let boot = (issued.agent, effect.boot.counter, effect.boot.nonce);
                started.entry(boot).or_default().push((effect.at, *place, id));
            }
        }
        for of_boot in started.values_mut() {
            of_boot.sort_unstable();
            for pair in of_boot.windows(2) {
                let [(at, place, id), (later, next, next_id)] = pair else { continue };
                if next < place && at < later {
                    return broken(&format!("C4: {id} started before {next_id}, which came first"));
                }
            }
        }
        Ok(())
    }
}

fn broken(text: &str) -> Outcome {
    Err(Broken(text.to_owned()))
}
