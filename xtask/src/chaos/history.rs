//! Whether each command has one end, as `picket commands list` tells the life of them all.

use std::collections::BTreeMap;

use serde_json::Value;

use super::issuer::{Heard, Issued, TERMINAL};

/// The most that one list has; a run of some minutes has fewer.
pub(super) const LIST_MAX: &str = "--limit=1000";

/// What the lists have found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Histories {
    /// How many commands ended in which way.
    pub(super) ends: BTreeMap<String, u64>,
    /// Those that have no end yet.
    pub(super) unfinished: Vec<String>,
    pub(super) findings: Vec<String>,
}

/// Judges the lines of `picket commands list --output json`, beside what the senders heard.
pub(super) fn judge(lines: &[Value], issued: &[Issued]) -> Histories {
    let mut found = Histories::default();
    let mut ends_by_id = BTreeMap::new();
    for line in lines {
        let id = line["command_id"].as_str().unwrap_or_default();
        let ends = ends(line);
        match ends.as_slice() {
            [] => found.unfinished.push(format!("{id} is {}", line["state"])),
            [end] => *found.ends.entry((*end).to_owned()).or_default() += 1,
            [..] => {
                found.findings.push(format!("the command {id} has ended as {}", ends.join(", ")))
            }
        }
        if ends_by_id.insert(id, ends).is_some() {
            found.findings.push(format!("the command {id} is listed twice"));
        }
    }
    for Issued { agent, request, heard } in issued {
        let Some(Heard { id, outcome }) = heard else { continue };
        match ends_by_id.get(id.as_str()).map(Vec::as_slice) {
            // What a server refuses at its door has no history.
            None if outcome == "REJECTED" => {}
            None => found.findings.push(format!("{request} to {agent} has no history ({id})")),
            Some(ends) if ends.contains(&outcome.as_str()) => {}
            Some(ends) => found.findings.push(format!(
                "{request} to {agent} was answered with {outcome}, and its history says {} ({id})",
                ends.join(", ")
            )),
        }
    }
    found
}

/// The final states of a command, but for those that were learnt after all when the first one had said that nobody knows.
fn ends(line: &Value) -> Vec<&str> {
    let steps = line["steps"].as_array().map_or(&[][..], Vec::as_slice);
    let firsts = steps.iter().filter(|step| step["amendment"] != true);
    firsts.filter_map(|step| step["state"].as_str()).filter(|at| TERMINAL.contains(at)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(id: &str, states: &[&str]) -> Value {
        let steps: Vec<Value> = states.iter().map(|state| json!({"state": state})).collect();
        json!({"command_id": id, "agent_id": "a", "state": states.last(), "steps": steps})
    }

    fn heard(id: &str, outcome: &str) -> Issued {
        let heard = Heard { id: id.to_owned(), outcome: outcome.to_owned() };
        Issued { agent: "a".to_owned(), request: "STATUS".to_owned(), heard: Some(heard) }
    }

    #[track_caller]
    fn check(lines: &[Value], issued: &[Issued], unfinished: usize, findings: usize) {
        let found = judge(lines, issued);
        assert_eq!(
            (found.unfinished.len(), found.findings.len()),
            (unfinished, findings),
            "{found:?}"
        );
    }

    #[test]
    fn a_command_has_one_end() {
        check(&[line("1", &["QUEUED", "DELIVERED", "SUCCEEDED"])], &[], 0, 0);
        check(&[line("1", &["QUEUED", "DELIVERED"])], &[], 1, 0);
        check(&[line("1", &["QUEUED", "SUCCEEDED", "EXPIRED"])], &[], 0, 1);
        check(&[line("1", &["EXPIRED"]), line("1", &["EXPIRED"])], &[], 0, 1);
    }

    #[test]
    fn what_is_learnt_later_is_no_second_end() {
        let mut amended = line("1", &["QUEUED", "UNKNOWN", "SUCCEEDED"]);
        amended["steps"][2]["amendment"] = true.into();
        check(std::slice::from_ref(&amended), &[heard("1", "UNKNOWN")], 0, 0);
        assert_eq!(judge(&[amended], &[]).ends, BTreeMap::from([("UNKNOWN".to_owned(), 1)]));
    }

    #[test]
    fn senders_heard_what_the_history_says() {
        let lines = [line("1", &["QUEUED", "SUCCEEDED"])];
        check(&lines, &[heard("1", "SUCCEEDED")], 0, 0);
        check(&lines, &[heard("1", "FAILED")], 0, 1);
        check(&lines, &[heard("2", "SUCCEEDED")], 0, 1);
        check(&lines, &[heard("2", "REJECTED")], 0, 0);
    }
}
