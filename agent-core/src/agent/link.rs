//! The link: when to dial, which form to speak, when to say that the agent is alive.

use core::time::Duration;

use crate::limits::{
    BACKOFF_MAX, BACKOFF_MIN, BACKOFF_RESET_AFTER, HEARTBEAT_DEFAULT, PLAIN_AFTER,
    PLAIN_AFTER_WELCOME, TRANSMIT_SLOTS,
};
use crate::random::SplitMix64;
use crate::time::Instant;

/// Shortest heartbeat that a server can ask for.
const HEARTBEAT_MIN: Duration = Duration::from_secs(1);
/// Longest heartbeat that a server can ask for.
const HEARTBEAT_MAX: Duration = Duration::from_secs(3600);

/// How far the link to the server has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// There is none; the next attempt is made at this time.
    Down {
        /// When to dial. Waking late delays delivery, nothing else.
        retry_at: Instant,
    },
    /// The shell is connecting.
    Dialling,
    /// A stream is open and the server has not said which forms it knows.
    Undecided {
        /// When to take it for a plain one. Waking late delays delivery.
        plain_at: Instant,
    },
    /// The server knows only the fixed facts.
    Plain,
    /// A byte link on which nobody answers.
    OneWay,
    /// The server takes batches and acknowledges them.
    Full {
        /// When a status is due. Waking late lets the server doubt that the agent lives.
        heartbeat_at: Instant,
    },
}

/// The link of one sender: an [`super::Agent`] has one, and so has whoever forwards for a device.
///
/// It is told what happens, and says when to dial, whether a message may be sent, and when a status is due.
#[derive(Clone, Debug)]
pub struct Link {
    state: LinkState,
    opened_at: Instant,
    heartbeat: Duration,
    // Messages handed to the shell that the transport has not taken: slots_used <= TRANSMIT_SLOTS.
    slots_used: u8,
    // Whether the peer of this stream was asked to hear this side out.
    finishes: bool,
    // Whether a peer of this boot has welcomed the agent.
    welcomed: bool,
    attempt: u32,
    sessions: u64,
    random: SplitMix64,
}

impl Link {
    /// A link that dials at once.
    pub const fn new(now: Instant, seed: u64) -> Self {
        Self {
            state: LinkState::Down { retry_at: now },
            opened_at: now,
            heartbeat: HEARTBEAT_DEFAULT,
            slots_used: 0,
            finishes: false,
            welcomed: false,
            attempt: 0,
            sessions: 0,
            random: SplitMix64::new(seed),
        }
    }

    /// How far it has come.
    pub const fn state(&self) -> LinkState {
        self.state
    }

    /// Whether there is no stream, and none is being opened.
    pub const fn is_down(&self) -> bool {
        matches!(self.state, LinkState::Down { .. })
    }

    /// Streams dialled.
    pub const fn sessions(&self) -> u64 {
        self.sessions
    }

    /// Whether it is time to dial; then the link counts as dialling.
    pub fn poll_dial(&mut self, now: Instant) -> bool {
        let due = matches!(self.state, LinkState::Down { retry_at } if retry_at <= now);
        if due {
            self.state = LinkState::Dialling;
            self.sessions += 1;
        }
        due
    }

    /// A stream is open; what the peer speaks is not known yet.
    pub fn handle_opened(&mut self, now: Instant) {
        self.opened_at = now;
        self.slots_used = 0;
        self.finishes = false;
        let patience = if self.welcomed { PLAIN_AFTER_WELCOME } else { PLAIN_AFTER };
        self.state = LinkState::Undecided { plain_at: now + patience };
    }

    /// A byte link is open, on which nobody answers.
    pub const fn handle_one_way(&mut self) {
        self.slots_used = 0;
        self.state = LinkState::OneWay;
    }

    /// The peer answered without a welcome.
    pub fn handle_plain(&mut self) {
        if matches!(self.state, LinkState::Undecided { .. }) {
            self.state = LinkState::Plain;
        }
    }

    /// The peer answered with a welcome, which names the longest silence that it wants to see. Answers whether there is
    /// a stream that can be welcomed.
    pub fn handle_welcome(&mut self, now: Instant, heartbeat: Option<Duration>) -> bool {
        if !matches!(self.state, LinkState::Undecided { .. } | LinkState::Plain) {
            return false;
        }
        self.heartbeat = heartbeat.unwrap_or(HEARTBEAT_DEFAULT).clamp(HEARTBEAT_MIN, HEARTBEAT_MAX);
        self.welcomed = true;
        // The first status goes out at once, so that the server knows the agent's state.
        self.state = LinkState::Full { heartbeat_at: now };
        true
    }

    /// The stream has ended, or could not be opened: back off with full jitter.
    ///
    /// Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: sleep = random(0, min(cap,
    /// base * 2^attempt)).
    pub fn handle_closed(&mut self, now: Instant) {
        let was_open = !matches!(self.state, LinkState::Down { .. } | LinkState::Dialling);
        if was_open && BACKOFF_RESET_AFTER <= now - self.opened_at {
            self.attempt = 0;
        }
        let ceiling = BACKOFF_MIN.saturating_mul(1 << self.attempt.min(16)).min(BACKOFF_MAX);
        self.attempt = self.attempt.saturating_add(1);
        let ceiling_ms = u64::try_from(ceiling.as_millis()).unwrap_or(u64::MAX);
        let delay = Duration::from_millis(self.random.up_to(ceiling_ms));
        self.slots_used = 0;
        self.state = LinkState::Down { retry_at: now + delay };
    }

    /// Whether to end this side's half of the stream now: a plain peer that then ends its own in good order has read everything.
    /// Asked once a stream.
    pub fn poll_finish(&mut self) -> bool {
        self.state == LinkState::Plain && !core::mem::replace(&mut self.finishes, true)
    }

    /// The stream has ended in good order. Answers whether that proves that a plain peer has read everything.
    pub fn handle_finished(&mut self, now: Instant) -> bool {
        let is_proof = self.state == LinkState::Plain && self.finishes;
        self.handle_closed(now);
        is_proof
    }

    /// What time alone changes.
    pub fn advance(&mut self, now: Instant) {
        if matches!(self.state, LinkState::Undecided { plain_at } if plain_at <= now) {
            self.state = LinkState::Plain;
        }
    }

    /// Whether the transport can be handed one more message.
    pub const fn has_slot(&self) -> bool {
        self.slots_used < TRANSMIT_SLOTS
    }

    /// A message was handed to the transport.
    pub const fn take_slot(&mut self) {
        self.slots_used += 1;
    }

    /// The transport took a message.
    pub const fn free_slot(&mut self) {
        self.slots_used = self.slots_used.saturating_sub(1);
    }

    /// Whether a status is due; then the next one is due a heartbeat later.
    pub fn poll_heartbeat(&mut self, now: Instant) -> bool {
        match &mut self.state {
            LinkState::Full { heartbeat_at } if *heartbeat_at <= now => {
                *heartbeat_at = now + self.heartbeat;
                true
            }
            _ => false,
        }
    }

    /// Makes a status due at once.
    pub const fn hasten_heartbeat(&mut self, now: Instant) {
        if let LinkState::Full { heartbeat_at } = &mut self.state {
            *heartbeat_at = now;
        }
    }

    /// When time alone will change something.
    pub const fn deadline(&self) -> Option<Instant> {
        match self.state {
            LinkState::Down { retry_at } => Some(retry_at),
            LinkState::Undecided { plain_at } => Some(plain_at),
            // Without a free slot nothing can be sent; the shell will say when one is free.
            LinkState::Full { heartbeat_at } if self.has_slot() => Some(heartbeat_at),
            LinkState::Full { .. } | LinkState::Dialling | LinkState::Plain | LinkState::OneWay => {
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry_delay(link: &mut Link, now_ms: u64) -> u64 {
        link.handle_closed(Instant::from_ms(now_ms));
        let LinkState::Down { retry_at } = link.state() else { panic!("{:?}", link.state()) };
        retry_at.as_ms() - now_ms
    }

    #[test]
    fn the_back_off_grows_to_its_cap_and_jitters_over_its_whole_range() {
        let mut highest = [0; 10];
        for seed in 0..200 {
            let mut link = Link::new(Instant::from_ms(0), seed);
            for (attempt, highest) in highest.iter_mut().enumerate() {
                let delay = retry_delay(&mut link, 0);
                assert!(delay <= (500 << attempt).min(30_000));
                *highest = delay.max(*highest);
            }
        }
        assert!(400 < highest[0] && 27_000 < highest[9], "{highest:?}");
    }

    #[test]
    fn a_session_of_a_minute_resets_the_back_off_and_a_shorter_one_does_not() {
        let mut link = Link::new(Instant::from_ms(0), 1);
        for _ in 0..10 {
            retry_delay(&mut link, 0);
        }
        link.handle_opened(Instant::from_ms(0));
        retry_delay(&mut link, 59_999);
        assert_eq!(link.attempt, 11);
        link.handle_opened(Instant::from_ms(60_000));
        assert!(retry_delay(&mut link, 120_000) <= 500);
    }

    #[test]
    fn silence_says_little_once_a_peer_has_welcomed() {
        let mut link = Link::new(Instant::from_ms(0), 1);
        link.handle_opened(Instant::from_ms(0));
        assert!(link.handle_welcome(Instant::from_ms(0), None));
        link.handle_closed(Instant::from_ms(0));
        link.handle_opened(Instant::from_ms(1000));
        link.advance(Instant::from_ms(30_999));
        assert_eq!(link.state(), LinkState::Undecided { plain_at: Instant::from_ms(31_000) });
        link.advance(Instant::from_ms(31_000));
        assert_eq!(link.state(), LinkState::Plain);
    }

    #[test]
    fn a_silent_peer_is_taken_for_a_plain_one_and_can_still_be_welcomed() {
        let mut link = Link::new(Instant::from_ms(0), 1);
        assert!(link.poll_dial(Instant::from_ms(0)));
        link.handle_opened(Instant::from_ms(10));
        link.advance(Instant::from_ms(1009));
        assert_eq!(link.deadline(), Some(Instant::from_ms(1010)));
        link.advance(Instant::from_ms(1010));
        assert_eq!(link.state(), LinkState::Plain);
        assert!(link.handle_welcome(Instant::from_ms(5000), None));
        assert!(link.poll_heartbeat(Instant::from_ms(5000)));
        assert!(!link.poll_heartbeat(Instant::from_ms(14_999)));
        assert!(link.poll_heartbeat(Instant::from_ms(15_000)));
    }
}
