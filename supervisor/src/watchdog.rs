//! When the manager may be told that the program is alive: after each of its parts has shown that it is.
//!
//! The program is made of parts that can hang one by one, threads most of all. In rounds, each part is asked for a sign of
//! life, and gives it where it does its work: between two measurements, in the loop that drives the connections. Only
//! when all of them have, the round is over and the manager is told. So what counts as progress is that a part came back
//! to take the next thing, not that there was something to do. An agent that is stopped, that measures once a day, or that
//! finds no server is as alive as any; one whose measurement never returns is not.
//!
//! Whoever drives this is a part too, and need not be asked: without it nothing is told.

use std::time::Duration;

use agent_core::time::Instant;

/// The rule. `P` names the parts.
#[derive(Debug)]
pub struct Watchdog<P> {
    parts: Vec<P>,
    /// From the beginning of one round to that of the next; none: there is one round only.
    period: Option<Duration>,
    state: State,
    /// Those that have not answered in this round.
    missing: Vec<P>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A round begins at this time.
    Due(Instant),
    /// It began then. `asked` of the parts were asked; whether it was said that some keep silent.
    Asked { since: Instant, asked: usize, is_said: bool },
    /// All has been asked that was to be.
    Done,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<P> {
    /// Have this part show that it is alive, and say so with [`Watchdog::handle_alive`].
    Ask(P),
    /// All parts have: tell the manager.
    Alive,
    /// This part, the first of those that have not, keeps silent for so long that the manager will soon end the program: say
    /// so where people look. Once a round at most.
    Silent(P),
    /// Nothing until this time, or until a part answers.
    Wait(Option<Instant>),
}

/// How many rounds fit in the time that the manager waits. Half of it is what managers ask for; a round more leaves
/// time for the answers of a loaded machine.
const ROUNDS: u32 = 4;

/// How long the first round may take without being called silent, where the manager has no watchdog.
const SILENCE: Duration = Duration::from_secs(10);

impl<P: Copy + PartialEq> Watchdog<P> {
    /// The first round begins at `now`. `limit` is how long the manager waits for a sign of life; without one there is
    /// only the first round, by which a start is known to have worked.
    pub fn new(parts: &[P], limit: Option<Duration>, now: Instant) -> Self {
        // The clock counts milliseconds.
        let period = limit.map(|limit| (limit / ROUNDS).max(Duration::from_millis(1)));
        Self { parts: parts.to_vec(), period, state: State::Due(now), missing: Vec::new() }
    }

    /// `part` answered. What nobody asked for is ignored.
    pub fn handle_alive(&mut self, part: P) {
        self.missing.retain(|missing| *missing != part);
    }

    /// What is to be done at `now`. To be called until it answers [`Step::Wait`].
    pub fn poll(&mut self, now: Instant) -> Step<P> {
        match self.state {
            State::Done => Step::Wait(None),
            State::Due(at) if now < at => Step::Wait(Some(at)),
            State::Due(_) => {
                self.missing.clone_from(&self.parts);
                self.state = State::Asked { since: now, asked: 0, is_said: false };
                self.poll(now)
            }
            State::Asked { since, asked, is_said } => {
                if let Some(part) = self.parts.get(asked) {
                    self.state = State::Asked { since, asked: asked + 1, is_said };
                    return Step::Ask(*part);
                }
                let Some(missing) = self.missing.first() else {
                    self.state =
                        self.period.map_or(State::Done, |period| State::Due(since + period));
                    return Step::Alive;
                };
                let said_at = since + self.period.map_or(SILENCE, |period| period * 2);
                if is_said {
                    return Step::Wait(None);
                }
                if now < said_at {
                    return Step::Wait(Some(said_at));
                }
                self.state = State::Asked { since, asked, is_said: true };
                Step::Silent(*missing)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Part {
        Collector,
        Network,
    }

    use Part::{Collector, Network};

    const LIMIT: Duration = Duration::from_secs(8);

    fn at(ms: u64) -> Instant {
        Instant::from_ms(ms)
    }

    fn watchdog(limit: Option<Duration>) -> Watchdog<Part> {
        Watchdog::new(&[Collector, Network], limit, at(0))
    }

    /// All steps up to the wait, which is the last.
    fn steps(watchdog: &mut Watchdog<Part>, ms: u64) -> Vec<Step<Part>> {
        let mut steps = Vec::new();
        for _ in 0..10 {
            let step = watchdog.poll(at(ms));
            steps.push(step);
            if matches!(step, Step::Wait(_)) {
                return steps;
            }
        }
        panic!("it never waits: {steps:?}");
    }

    fn answer_all(watchdog: &mut Watchdog<Part>) {
        watchdog.handle_alive(Collector);
        watchdog.handle_alive(Network);
    }

    #[test]
    fn the_manager_is_told_once_a_round_and_only_after_all_have_answered() {
        let mut watchdog = watchdog(Some(LIMIT));
        let asked = [Step::Ask(Collector), Step::Ask(Network), Step::Wait(Some(at(4000)))];
        assert_eq!(steps(&mut watchdog, 0), asked);
        watchdog.handle_alive(Network);
        assert_eq!(steps(&mut watchdog, 100), [Step::Wait(Some(at(4000)))]);
        watchdog.handle_alive(Collector);
        assert_eq!(steps(&mut watchdog, 200), [Step::Alive, Step::Wait(Some(at(2000)))]);
        assert_eq!(steps(&mut watchdog, 1999), [Step::Wait(Some(at(2000)))]);
        let asked = [Step::Ask(Collector), Step::Ask(Network), Step::Wait(Some(at(6000)))];
        assert_eq!(steps(&mut watchdog, 2000), asked);
    }

    #[test]
    fn a_healthy_program_is_told_more_than_twice_in_the_time_of_the_manager() {
        let mut watchdog = watchdog(Some(LIMIT));
        let mut told = Vec::new();
        // Answers come 500 ms after the questions.
        for ms in (0..60_000).step_by(100) {
            for step in steps(&mut watchdog, ms) {
                match step {
                    Step::Alive => told.push(ms),
                    Step::Silent(part) => panic!("{part:?}"),
                    Step::Ask(_) | Step::Wait(_) => {}
                }
            }
            if ms % 2000 == 500 {
                answer_all(&mut watchdog);
            }
        }
        assert!(told.windows(2).all(|pair| pair[1] - pair[0] < 4000), "{told:?}");
        assert!(28 <= told.len(), "{told:?}");
    }

    #[test]
    fn one_part_that_hangs_is_enough_and_is_named_once() {
        for silent in [Collector, Network] {
            let mut watchdog = watchdog(Some(LIMIT));
            steps(&mut watchdog, 0);
            answer_all(&mut watchdog);
            assert_eq!(steps(&mut watchdog, 1)[0], Step::Alive);
            steps(&mut watchdog, 2000);
            let other = if silent == Collector { Network } else { Collector };
            // However often the other one is heard.
            watchdog.handle_alive(other);
            watchdog.handle_alive(other);
            assert_eq!(steps(&mut watchdog, 6000), [Step::Silent(silent), Step::Wait(None)]);
            for ms in (7000..100_000).step_by(1000) {
                assert_eq!(steps(&mut watchdog, ms), [Step::Wait(None)]);
            }
            // It was slow, not dead: the manager hears it at once, and the next round begins.
            watchdog.handle_alive(silent);
            let steps = steps(&mut watchdog, 100_000);
            assert_eq!(steps[..3], [Step::Alive, Step::Ask(Collector), Step::Ask(Network)]);
        }
    }

    #[test]
    fn an_answer_counts_for_its_own_round_only() {
        let mut watchdog = watchdog(Some(LIMIT));
        answer_all(&mut watchdog);
        steps(&mut watchdog, 0);
        assert_eq!(steps(&mut watchdog, 1), [Step::Wait(Some(at(4000)))]);
        answer_all(&mut watchdog);
        steps(&mut watchdog, 2);
        answer_all(&mut watchdog);
        steps(&mut watchdog, 2000);
        assert_eq!(steps(&mut watchdog, 2001), [Step::Wait(Some(at(6000)))]);
    }

    #[test]
    fn without_a_watchdog_there_is_one_round() {
        let mut watchdog = watchdog(None);
        assert_eq!(steps(&mut watchdog, 0).len(), 3);
        assert_eq!(steps(&mut watchdog, 10_000), [Step::Silent(Collector), Step::Wait(None)]);
        answer_all(&mut watchdog);
        assert_eq!(steps(&mut watchdog, 10_001), [Step::Alive, Step::Wait(None)]);
        answer_all(&mut watchdog);
        assert_eq!(steps(&mut watchdog, 1_000_000), [Step::Wait(None)]);
    }

    #[test]
    fn the_shortest_limit_does_not_spin() {
        let mut watchdog = watchdog(Some(Duration::from_micros(1)));
        steps(&mut watchdog, 0);
        answer_all(&mut watchdog);
        assert_eq!(steps(&mut watchdog, 0), [Step::Alive, Step::Wait(Some(at(1)))]);
    }
}
