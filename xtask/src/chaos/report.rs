//! What a run has found, as tables for people or as one JSON object.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::fault::Fault;
use super::proxy::Tally;
use super::strike::Effect;
use super::verdict::Account;

/// What came of one class of faults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Struck {
    pub(super) struck: u64,
    /// Of them, those that met something.
    pub(super) met: u64,
    /// Of the latest one that met something.
    pub(super) note: String,
}

/// What a run has found.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) bus: &'static str,
    /// Seconds of faults, and of what came after.
    pub(super) fault_seconds: u64,
    pub(super) settle_seconds: u64,
    pub(super) faults: BTreeMap<&'static str, Struck>,
    /// Classes that found no place in the schedule, or that this host does not allow.
    pub(super) left_out: Vec<String>,
    pub(super) links: Tally,
    pub(super) agents: BTreeMap<String, Account>,
    /// Commands by how they ended, as their history says.
    pub(super) commands: BTreeMap<String, u64>,
    /// Commands by what their senders heard; `unheard` are those whose sender did not reach a server, or lost it.
    pub(super) heard: BTreeMap<String, u64>,
    /// What should not be.
    pub(super) findings: Vec<String>,
}

/// Counts by name, in words.
fn list(counts: &BTreeMap<String, u64>) -> String {
    let counts = counts.iter().map(|(name, count)| format!("{count} {name}"));
    counts.collect::<Vec<_>>().join(", ")
}

impl Report {
    pub(super) fn count(&mut self, fault: Fault, effect: &Effect) {
        let struck = self.faults.entry(fault.name()).or_default();
        struck.struck += 1;
        if effect.met {
            struck.met += 1;
            struck.note.clone_from(&effect.note);
        }
    }

    /// Classes that were to strike and met nothing.
    pub(super) fn unmet(&self) -> Vec<Fault> {
        let met = |fault: &Fault| self.faults.get(fault.name()).is_none_or(|struck| 0 < struck.met);
        Fault::ALL.into_iter().filter(|fault| !met(fault)).collect()
    }

    pub(super) fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", serde_json::json!(self))
    }

    pub(super) fn write_tables(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "\n{:<14} {:>6} {:>5}  the latest", "fault", "struck", "met")?;
        for (name, Struck { struck, met, note }) in &self.faults {
            writeln!(out, "{name:<14} {struck:>6} {met:>5}  {note:.90}")?;
        }
        for name in &self.left_out {
            writeln!(out, "LEFT OUT  {name}")?;
        }
        writeln!(
            out,
            "\n{:<10} {:>5} {:>9} {:>8} {:>7} {:>8} {:>10}  lost",
            "agent", "boots", "delivered", "replayed", "repeats", "orphaned", "difference"
        )?;
        for (id, account) in &self.agents {
            let Account { boots, delivered, replayed, repeats, orphaned, difference, .. } = account;
            writeln!(
                out,
                "{id:<10} {boots:>5} {delivered:>9} {replayed:>8} {repeats:>7} {orphaned:>8} {difference:>10}  {}",
                list(&account.lost)
            )?;
        }
        writeln!(out, "\ncommands ended: {}", list(&self.commands))?;
        writeln!(out, "their senders heard: {}", list(&self.heard))?;
        let Tally { connections, refused, passed_bytes, .. } = self.links;
        writeln!(
            out,
            "links: {connections} connections, {refused} without a server, {passed_bytes} bytes passed"
        )?;
        writeln!(
            out,
            "seed {}, {} s of faults, settled after {} s",
            self.seed, self.fault_seconds, self.settle_seconds
        )?;
        for finding in &self.findings {
            writeln!(out, "\nFINDING  {finding}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_met_nothing_is_told() {
        let mut report = Report::default();
        let effect = |met| Effect { met, note: "n".to_owned() };
        report.count(Fault::Cut, &effect(false));
        report.count(Fault::Slow, &effect(false));
        report.count(Fault::Slow, &effect(true));
        assert_eq!(report.unmet(), [Fault::Cut]);
        let mut text = Vec::new();
        report.write_tables(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("cut                 1     0"), "{text}");
        assert!(text.contains("slow                2     1  n"), "{text}");
    }

    #[test]
    fn json_is_one_object() {
        let mut text = Vec::new();
        Report { seed: 7, ..Report::default() }.write_json(&mut text).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["seed"], 7);
        assert_eq!(value["findings"], serde_json::json!([]));
    }
}
