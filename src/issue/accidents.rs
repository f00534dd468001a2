//! Years of accidents, in a second: whatever happens to a host, its keys keep their promises.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::ring::{RETIRED_MOST, Ring, Step};
use super::rotation::Rotation;
use super::sealed::Sealed;
use crate::clock::Timestamp;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const START: Timestamp = Timestamp::from_secs(1_700_000_000);

fn kids(ring: &Ring) -> Vec<&str> {
    ring.sealed().map(|sealed| sealed.kid.as_str()).collect()
}

/// Years of a host with restarts, crashes, a TPM that is away for days, and administrators who rotate by hand.
struct History {
    rotation: Rotation,
    now: Timestamp,
    ring: Ring,
    /// When each key was first seen in the key set; those that administrators hurried are missing.
    seen: HashMap<String, Timestamp>,
    tokens: Vec<(String, Timestamp)>,
    random: u64,
    made: u64,
    steps: [u32; 3],
}

impl History {
    fn roll(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.random >> 33) % below
    }

    fn make(&mut self) -> Sealed {
        self.made += 1;
        Sealed::named(&format!("key {}", self.made), self.now.secs())
    }

    /// Keeps a ring, as the file would, or loses it in a crash before the file was replaced.
    fn keep(&mut self, ring: Ring) {
        if self.roll(20) == 0 {
            return;
        }
        let text = serde_json::to_string(&ring).unwrap();
        self.ring = serde_json::from_str(&text).unwrap();
        assert_eq!(self.ring, ring);
        for kid in kids(&ring) {
            self.seen.entry(kid.to_owned()).or_insert(self.now);
        }
    }

    /// The schedule's turn.
    fn turn(&mut self, tpm: bool) {
        while let Some(step) = self.ring.due(&self.rotation, self.now) {
            let ring = self.ring.clone();
            let ring = match step {
                Step::Publish if !tpm => return,
                Step::Publish => ring.publish(self.make(), self.now).unwrap(),
                Step::Activate => ring.activate(self.now).unwrap(),
                Step::Destroy => ring.destroy(self.now),
            };
            self.steps[step as usize] += 1;
            self.keep(ring);
        }
    }

    fn by_hand(&mut self) {
        let fresh = self.make();
        let ring = match self.ring.clone().publish(fresh, self.now) {
            Ok(ring) => ring,
            Err(_) => self.ring.clone(),
        };
        let ring = match self.roll(3) {
            0 => ring.activate(self.now).unwrap(),
            _ => ring,
        };
        let hurried = ring.active().sealed.kid.clone();
        self.keep(ring);
        if self.ring.active().sealed.kid == hurried && self.ring.active().activated >= self.now {
            self.seen.insert(hurried, Timestamp::from_secs(0));
        }
    }

    fn check(&mut self) {
        let set = kids(&self.ring);
        assert_eq!(set.iter().collect::<HashSet<_>>().len(), set.len(), "{set:?}");
        assert!(self.ring.retired().len() <= RETIRED_MOST);
        let now = self.now;
        self.tokens.retain(|(_, expires)| *expires > now);
        for (kid, expires) in &self.tokens {
            assert!(set.contains(&kid.as_str()), "{kid} signed a token that lives until {expires}");
        }
        let active = &self.ring.active().sealed.kid;
        let known_for = now.since(self.seen[active]);
        assert!(known_for >= self.rotation.publish_before, "{active} signs, known for {known_for:?}");
    }
}

#[test]
fn through_years_of_accidents_every_token_verifies_and_every_key_was_known_before() {
    for (seed, ticks, rotation) in [
        (1, 60_000, Rotation { every: DAY * 30, publish_before: DAY }),
        (2, 4_000, Rotation { every: HOUR, publish_before: Duration::from_secs(600) }),
        (3, 20_000, Rotation { every: DAY, publish_before: HOUR * 23 }),
    ] {
        let seen = HashMap::from([("first".to_owned(), Timestamp::from_secs(0))]);
        let ring = Ring::first(Sealed::named("first", START.secs()), START);
        let (tokens, steps) = (Vec::new(), [0; 3]);
        let mut host = History { rotation, now: START, ring, seen, tokens, random: seed, made: 0, steps };
        let mut tpm_back = START;
        for _ in 0..ticks {
            let pause = match host.roll(500) {
                0 => DAY.as_secs() * host.roll(60),
                _ => 1 + host.roll(2400),
            };
            host.now = host.now.after(Duration::from_secs(pause));
            if host.roll(300) == 0 {
                tpm_back = host.now.after(Duration::from_secs(host.roll(5 * DAY.as_secs())));
            }
            host.turn(host.now >= tpm_back);
            if host.roll(400) == 0 {
                host.by_hand();
            }
            host.check();
            let expires = host.now.after(Duration::from_secs(1 + host.roll(3600)));
            host.tokens.push((host.ring.active().sealed.kid.clone(), expires));
        }
        assert!(host.steps.iter().all(|taken| *taken > 50), "{:?}", host.steps);
    }
}
