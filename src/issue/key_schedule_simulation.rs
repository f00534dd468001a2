//! A simulation of the key schedule over years, with crashes, TPM outages and manual rotations.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::encrypted_key::EncryptedKey;
use super::key_schedule::{KeySchedule, MAX_RETIRED_KEYS, RotationStep};
use super::rotation::RotationPolicy;
use crate::clock::Timestamp;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const START: Timestamp = Timestamp::from_secs(1_700_000_000);

fn kids(schedule: &KeySchedule) -> Vec<&str> {
    schedule.encrypted_keys().map(|sealed| sealed.kid.as_str()).collect()
}

/// A host with restarts, crashes, a TPM that is unavailable for days, and administrators who rotate manually.
struct Simulation {
    policy: RotationPolicy,
    now: Timestamp,
    schedule: KeySchedule,
    /// When each key was first in the key set; time 0 for keys that administrators activated at once.
    first_seen: HashMap<String, Timestamp>,
    tokens: Vec<(String, Timestamp)>,
    rng_state: u64,
    keys_created: u64,
    step_counts: [u32; 3],
}

impl Simulation {
    fn random_below(&mut self, bound: u64) -> u64 {
        self.rng_state = self.rng_state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.rng_state >> 33) % bound
    }

    fn create_key(&mut self) -> EncryptedKey {
        self.keys_created += 1;
        EncryptedKey::for_test(&format!("key {}", self.keys_created), self.now.as_secs())
    }

    /// Stores a schedule as the file would, or drops it in one of 20 cases: a crash before the file was
    /// replaced.
    fn persist(&mut self, schedule: KeySchedule) {
        if self.random_below(20) == 0 {
            return;
        }
        let text = serde_json::to_string(&schedule).unwrap();
        self.schedule = serde_json::from_str(&text).unwrap();
        assert_eq!(self.schedule, schedule);
        for kid in kids(&schedule) {
            self.first_seen.entry(kid.to_owned()).or_insert(self.now);
        }
    }

    /// Takes every step that is due.
    fn advance(&mut self, tpm_available: bool) {
        while let Some(step) = self.schedule.next_due(&self.policy, self.now) {
            let schedule = self.schedule.clone();
            let schedule = match step {
                RotationStep::Publish if !tpm_available => return,
                RotationStep::Publish => schedule.publish(self.create_key(), self.now).unwrap(),
                RotationStep::Activate => schedule.activate(self.now).unwrap(),
                RotationStep::Destroy => schedule.destroy(self.now),
            };
            self.step_counts[step as usize] += 1;
            self.persist(schedule);
        }
    }

    fn manual_rotation(&mut self) {
        let new_key = self.create_key();
        let schedule = match self.schedule.clone().publish(new_key, self.now) {
            Ok(schedule) => schedule,
            Err(_) => self.schedule.clone(),
        };
        let schedule = match self.random_below(3) {
            0 => schedule.activate(self.now).unwrap(),
            _ => schedule,
        };
        let active_kid = schedule.active().encrypted_key.kid.clone();
        self.persist(schedule);
        if self.schedule.active().encrypted_key.kid == active_kid
            && self.schedule.active().activated >= self.now
        {
            self.first_seen.insert(active_kid, Timestamp::from_secs(0));
        }
    }

    fn check_invariants(&mut self) {
        let key_set = kids(&self.schedule);
        assert_eq!(key_set.iter().collect::<HashSet<_>>().len(), key_set.len(), "{key_set:?}");
        assert!(self.schedule.retired().len() <= MAX_RETIRED_KEYS);
        let now = self.now;
        self.tokens.retain(|(_, expires)| *expires > now);
        for (kid, expires) in &self.tokens {
            assert!(key_set.contains(&kid.as_str()), "{kid} signed a token that lives until {expires}");
        }
        let active = &self.schedule.active().encrypted_key.kid;
        let published_for = now.since(self.first_seen[active]);
        assert!(published_for >= self.policy.publish_before, "{active} signs, known for {published_for:?}");
    }
}

#[test]
fn tokens_verify_and_keys_are_published_before_use() {
    for (seed, ticks, policy) in [
        (1, 60_000, RotationPolicy::new(DAY * 30, DAY)),
        (2, 4_000, RotationPolicy::new(HOUR, Duration::from_secs(600))),
        (3, 20_000, RotationPolicy::new(DAY, HOUR * 23)),
    ] {
        let first_seen = HashMap::from([("first".to_owned(), Timestamp::from_secs(0))]);
        let schedule = KeySchedule::with_first_key(EncryptedKey::for_test("first", START.as_secs()), START);
        let (tokens, step_counts) = (Vec::new(), [0; 3]);
        let mut simulation = Simulation {
            policy,
            now: START,
            schedule,
            first_seen,
            tokens,
            rng_state: seed,
            keys_created: 0,
            step_counts,
        };
        let mut tpm_returns_at = START;
        for _ in 0..ticks {
            let pause = match simulation.random_below(500) {
                0 => DAY.as_secs() * simulation.random_below(60),
                _ => 1 + simulation.random_below(2400),
            };
            simulation.now = simulation.now.after(Duration::from_secs(pause));
            if simulation.random_below(300) == 0 {
                tpm_returns_at =
                    simulation.now.after(Duration::from_secs(simulation.random_below(5 * DAY.as_secs())));
            }
            simulation.advance(simulation.now >= tpm_returns_at);
            if simulation.random_below(400) == 0 {
                simulation.manual_rotation();
            }
            simulation.check_invariants();
            let expires = simulation.now.after(Duration::from_secs(1 + simulation.random_below(3600)));
            simulation.tokens.push((simulation.schedule.active().encrypted_key.kid.clone(), expires));
        }
        assert!(simulation.step_counts.iter().all(|taken| *taken > 50), "{:?}", simulation.step_counts);
    }
}
