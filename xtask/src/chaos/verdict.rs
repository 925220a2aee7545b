//! Whether the books balance once the faults have stopped: `picket audit`, asked until it has nothing more to wait for.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde_json::Value;

use super::console::{Answer, Console};

/// How long one audit may take on a busy machine.
const AUDIT_WITHIN: Duration = Duration::from_secs(90);

/// Between two audits: agents report every 10 s.
const PAUSE: Duration = Duration::from_secs(2);

/// What `picket audit` found of one agent, summed over its boots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Account {
    pub(super) boots: u64,
    /// Distinct records on the bus.
    pub(super) delivered: u64,
    pub(super) replayed: u64,
    /// Further copies of them.
    pub(super) repeats: u64,
    /// First copies that came out of order.
    pub(super) disordered: u64,
    /// Declared lost and not on the bus, by reason; for a crash at most so many.
    pub(super) lost: BTreeMap<String, u64>,
    /// Neither on the bus nor lost, and need not be yet.
    pub(super) pending: u64,
    /// Of them, those of boots that no later boot can speak for.
    pub(super) orphaned: u64,
    /// Missing, or what the agent's own books are off by.
    pub(super) difference: u64,
}

/// All accounts at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Accounts(pub(super) BTreeMap<String, Account>);

impl Accounts {
    /// Takes the lines of `picket audit --output json`. Boots of agents in `doubled` may never be spoken for: the one that could is a
    /// second process that is gone, with its state.
    ///
    /// # Errors
    ///
    /// When a line is not of the form.
    fn read(lines: &[Value], doubled: &BTreeSet<String>) -> anyhow::Result<Self> {
        let mut accounts: BTreeMap<String, Account> = BTreeMap::new();
        for line in lines {
            let agent = line["agent_id"].as_str().context("an audit without an agent")?;
            let account = accounts.entry(agent.to_owned()).or_default();
            let number = |value: &Value| value.as_u64().unwrap_or(0);
            account.boots += 1;
            // These two are always there: their absence must not be taken for a 0.
            account.difference += line["difference"].as_u64().context("no difference")?;
            let pending = line["pending"].as_u64().context("no pending")?;
            account.pending += pending;
            if doubled.contains(agent) && line["state"] != "live" {
                account.orphaned += pending;
            }
            let records = &line["records"];
            account.delivered += number(&records["delivered"]);
            account.replayed += number(&records["replayed"]);
            account.repeats += number(&records["repeats"]);
            account.disordered += number(&records["disordered"]);
            for (reason, count) in records["lost"].as_object().into_iter().flatten() {
                *account.lost.entry(reason.clone()).or_default() += number(count);
            }
        }
        Ok(Self(accounts))
    }

    fn is_settled(&self, agents: &[String]) -> bool {
        let settled = |id: &String| {
            self.0.get(id).is_some_and(|account| {
                account.difference == 0 && account.pending == account.orphaned
            })
        };
        agents.iter().all(settled)
    }

    /// What is wrong, agent by agent.
    fn findings(&self, agents: &[String]) -> Vec<String> {
        let mut findings = Vec::new();
        for id in agents {
            let Some(account) = self.0.get(id) else {
                findings.push(format!("picket audit knows nothing of {id}"));
                continue;
            };
            if 0 < account.difference {
                findings
                    .push(format!("{id}: picket audit has a difference of {}", account.difference));
            }
            if account.orphaned < account.pending {
                let left = account.pending - account.orphaned;
                findings.push(format!("{id}: {left} are still to come"));
            }
            if 0 < account.disordered {
                findings.push(format!("{id}: {} came out of order", account.disordered));
            }
        }
        findings
    }
}

/// Audits until nothing is missing and nothing is to come, or until `limit` is over. Answers the last accounts, and what is wrong with
/// them, with what `picket` said.
///
/// # Errors
///
/// When `picket` cannot be run, or never had an answer.
pub(super) fn audit(
    console: &Console,
    server: SocketAddr,
    agents: &[String],
    doubled: &BTreeSet<String>,
    limit: Duration,
) -> anyhow::Result<(Accounts, Vec<String>)> {
    let begun = Instant::now();
    loop {
        let Answer { code, lines, stderr } = console.run(server, ["audit"], "", AUDIT_WITHIN)?;
        let accounts = Accounts::read(&lines, doubled)?;
        let is_last = limit <= begun.elapsed();
        if accounts.is_settled(agents) || is_last {
            if lines.is_empty() {
                bail!("picket audit failed ({code:?}): {stderr}");
            }
            let mut findings = accounts.findings(agents);
            if !findings.is_empty() || code != Some(0) {
                let whole: Vec<String> = lines.iter().map(Value::to_string).collect();
                let said =
                    format!("picket audit ended with {code:?}: {stderr}\n{}", whole.join("\n"));
                findings.push(said);
            }
            return Ok((accounts, findings));
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn boot(agent: &str, state: &str, difference: u64, pending: u64) -> Value {
        json!({
            "agent_id": agent, "state": state, "difference": difference, "pending": pending,
            "records": {"delivered": 5, "repeats": 1, "disordered": 0, "lost": {"crash": 2}},
        })
    }

    fn check(lines: &[Value], doubled: &[&str], settled: bool, findings: usize) {
        let doubled = doubled.iter().map(|id| (*id).to_owned()).collect();
        let accounts = Accounts::read(lines, &doubled).unwrap();
        let agents = ["a".to_owned()];
        assert_eq!(accounts.is_settled(&agents), settled, "{accounts:?}");
        assert_eq!(accounts.findings(&agents).len(), findings, "{:?}", accounts.findings(&agents));
    }

    #[test]
    fn books_balance_when_nothing_is_missing_or_to_come() {
        check(&[boot("a", "ended", 0, 0), boot("a", "live", 0, 0)], &[], true, 0);
        check(&[boot("a", "ended", 1, 0), boot("a", "live", 0, 0)], &[], false, 1);
        check(&[boot("a", "live", 0, 3)], &[], false, 1);
        check(&[boot("b", "live", 0, 0)], &[], false, 1);
        check(&[], &[], false, 1);
    }

    #[test]
    fn what_a_second_process_took_with_it_is_not_waited_for() {
        check(&[boot("a", "open", 0, 3), boot("a", "live", 0, 0)], &["a"], true, 0);
        check(&[boot("a", "open", 0, 3), boot("a", "live", 0, 1)], &["a"], false, 1);
        check(&[boot("a", "open", 1, 0), boot("a", "live", 0, 0)], &["a"], false, 1);
        check(&[boot("a", "open", 0, 3), boot("a", "live", 0, 0)], &["b"], false, 1);
    }

    #[test]
    fn boots_are_summed() {
        let lines = [boot("a", "ended", 0, 0), boot("a", "live", 0, 0)];
        let Accounts(accounts) = Accounts::read(&lines, &BTreeSet::new()).unwrap();
        let account = &accounts["a"];
        assert_eq!((account.boots, account.delivered, account.repeats), (2, 10, 2));
        assert_eq!(account.lost, BTreeMap::from([("crash".to_owned(), 4)]));
    }

    #[test]
    fn an_audit_of_another_form_is_an_error() {
        assert!(Accounts::read(&[json!({"agent_id": "a"})], &BTreeSet::new()).is_err());
    }
}
