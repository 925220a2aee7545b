//! Small worlds of every plan, in seconds.

use sim::{NAMES, Options, Tally, run};

const OPTIONS: Options = Options { agents: 3, hours: 1, plan: None, trace_lines: 40 };

#[test]
fn every_promise_holds_in_a_world_of_each_plan() {
    let mut total = Tally::default();
    for seed in 1..=NAMES.len() as u64 {
        let report = run(seed, OPTIONS);
        if let Some(broken) = report.broken {
            panic!("seed {seed} (plan {}): {broken}\n{}", report.plan, report.trace);
        }
        total.add(&report.tally);
    }
    let known = total.delivered + total.lost + total.died + total.spooled;
    assert_eq!(total.recorded, known, "\n{total}");
    assert!(NAMES.len() as u64 * 3 <= total.agent_hours(), "\n{total}");
    // A world that meets nothing proves nothing. Which faults so few worlds meet is not for this test to say.
    assert!(15 <= total.faults.len(), "\n{total}");
}

#[test]
fn the_same_seed_makes_the_same_world() {
    let (first, second) = (run(8, OPTIONS), run(8, OPTIONS));
    assert_eq!(first.digest, second.digest);
    assert_eq!(first.tally, second.tally);
    assert_eq!(first.trace, second.trace);
    assert_ne!(first.digest, run(15, OPTIONS).digest, "the same plan, another seed");
}

#[test]
fn a_plan_can_be_chosen() {
    let report = run(3, Options { plan: Some("network"), ..OPTIONS });
    assert_eq!(report.plan, "network");
    assert_eq!(report.broken, None, "\n{}", report.trace);
}
