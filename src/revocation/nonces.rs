//! Nonces that this host makes for agents, each valid once.
//!
//! A nonce is not stored until it is used: it carries its end and a MAC of a key that only this host has. The MAC
//! covers the name of the agent that asked for it, so that another agent can neither use a nonce nor use it up.
//!
//! ```text
//! end, in seconds (8) | epoch of the revocations (8) | random (16) | HMAC-SHA256 over agent, end, epoch, random (32)
//! ```

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use super::error::Error;
use super::handle::Revocations;
use super::target::Target;
use crate::agents::AgentName;
use crate::clock::Timestamp;

/// How long a nonce is valid.
pub const NONCE_TTL: Duration = Duration::from_secs(300);

/// Begins the name under which the use of a nonce is stored. No `jti` of this host has a colon.
const NAME_START: &str = "nonce:";

const CONTENT_LEN: usize = 32;
/// Bytes of a nonce, which is as long as a challenge for evidence may be.
const NONCE_LEN: usize = CONTENT_LEN + 32;
/// Longest text that is decoded.
const MAX_TEXT_LEN: usize = 128;

/// Why a nonce is not valid. The texts are for the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNonce {
    /// The text is none of this host, or of another agent.
    #[error("this host did not make the nonce for this agent")]
    Unknown,
    /// It was made too long ago.
    #[error("the nonce has expired")]
    Expired,
    /// It was made at a time that the clock has not reached.
    #[error("the nonce was made before the clock was set back")]
    NotYet,
    /// Everything was revoked since.
    #[error("everything that this host issued was revoked after the nonce was made")]
    Revoked,
    /// It was used before.
    #[error("used once already")]
    Used,
}

/// A nonce whose MAC is right.
#[derive(Debug, PartialEq, Eq)]
struct MadeNonce {
    expires: Timestamp,
    epoch: u64,
}

impl Revocations {
    /// A nonce for this agent, valid once within [`NONCE_TTL`].
    ///
    /// # Errors
    /// [`Error::NotOpen`].
    pub fn make_nonce(&self, agent: &AgentName) -> Result<String, Error> {
        let Some(key) = self.nonce_key().filter(|_| self.is_open()) else { return Err(self.not_open()) };
        let mut random = [0; 16];
        SystemRandom::new()
            .fill(&mut random)
            .map_err(|_| Error::NotOpen("the system's random number generator failed".to_owned()))?;
        let expires = self.now().ceil_to_second().after(NONCE_TTL);
        Ok(encode(&key, agent, expires, self.current().epoch(), random))
    }

    /// Uses a nonce up that was made for one of these agents. It is on disk when this returns. The error within is
    /// that the nonce is not valid, and why.
    ///
    /// # Errors
    /// As [`Revocations::use_once`]; the nonce counts as used then.
    pub async fn use_nonce(
        &self,
        agents: &[&AgentName],
        text: &str,
    ) -> Result<Result<(), InvalidNonce>, Error> {
        let Some(key) = self.nonce_key().filter(|_| self.is_open()) else { return Err(self.not_open()) };
        let Some(nonce) = agents.iter().find_map(|agent| decode(&key, agent, text)) else {
            return Ok(Err(InvalidNonce::Unknown));
        };
        if let Err(invalid) = self.check_nonce(&nonce) {
            return Ok(Err(invalid));
        }
        // A text that decodes is the only one of its bytes.
        let is_first = self.use_once(&format!("{NAME_START}{text}"), nonce.expires).await?;
        // The disk may have taken longer than the nonce was valid.
        Ok(if is_first { self.check_nonce(&nonce) } else { Err(InvalidNonce::Used) })
    }

    fn check_nonce(&self, nonce: &MadeNonce) -> Result<(), InvalidNonce> {
        let now = self.now();
        if nonce.expires <= now {
            return Err(InvalidNonce::Expired);
        }
        if nonce.expires > now.ceil_to_second().after(NONCE_TTL) {
            return Err(InvalidNonce::NotYet);
        }
        // After revocations.db was accepted as it is, the mark of a use may be missing.
        let is_revoked = self.current().get(&Target::everything()).is_some_and(|one| nonce.epoch < one.epoch);
        if is_revoked { Err(InvalidNonce::Revoked) } else { Ok(()) }
    }
}

fn encode(key: &hmac::Key, agent: &AgentName, expires: Timestamp, epoch: u64, random: [u8; 16]) -> String {
    let mut nonce = Vec::with_capacity(NONCE_LEN);
    nonce.extend_from_slice(&expires.as_secs().to_be_bytes());
    nonce.extend_from_slice(&epoch.to_be_bytes());
    nonce.extend_from_slice(&random);
    let mac = hmac::sign(key, &message(agent, &nonce));
    nonce.extend_from_slice(mac.as_ref());
    BASE64URL_NOPAD.encode(&nonce)
}

/// The nonce, if the key made it for this agent.
fn decode(key: &hmac::Key, agent: &AgentName, text: &str) -> Option<MadeNonce> {
    let text = Some(text).filter(|text| text.len() <= MAX_TEXT_LEN)?;
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok().filter(|bytes| bytes.len() == NONCE_LEN)?;
    let (content, mac) = bytes.split_at_checked(CONTENT_LEN)?;
    hmac::verify(key, &message(agent, content), mac).ok()?;
    let (expires, rest) = content.split_first_chunk()?;
    let expires = Timestamp::from_secs(u64::from_be_bytes(*expires));
    Some(MadeNonce { expires, epoch: u64::from_be_bytes(*rest.first_chunk()?) })
}

/// An agent's name has no zero byte.
fn message(agent: &AgentName, content: &[u8]) -> Vec<u8> {
    [agent.as_str().as_bytes(), &[0], content].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn key(byte: u8) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32])
    }

    fn name(text: &str) -> AgentName {
        AgentName::parse(text).unwrap()
    }

    #[test]
    fn only_the_same_key_agent_and_bits_decode() {
        let text = encode(&key(1), &name("a"), NOW, 7, [9; 16]);
        assert_eq!(text.len(), 86);
        assert_eq!(decode(&key(1), &name("a"), &text), Some(MadeNonce { expires: NOW, epoch: 7 }));
        assert_eq!(decode(&key(2), &name("a"), &text), None);
        assert_eq!(decode(&key(1), &name("b"), &text), None);
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&key(1), &name("a"), &BASE64URL_NOPAD.encode(&changed)), None, "{bit}");
        }
        let mut last = text.clone().into_bytes();
        last[85] = if last[85] == b'A' { b'B' } else { b'A' };
        let other_end = String::from_utf8(last).unwrap();
        for malformed in ["", "x", &text[1..], &format!("{text}A"), &format!("{text}="), &other_end] {
            assert_eq!(decode(&key(1), &name("a"), malformed), None, "{malformed}");
        }
        assert_eq!(decode(&key(1), &name("a"), &"A".repeat(100_000)), None);
    }

    #[test]
    fn a_nonce_is_valid_for_five_minutes_by_a_clock_that_is_not_set_back() {
        let clock = Clock::manual(NOW);
        let revocations = Revocations::of_test(clock.clone());
        let check = |expires: Timestamp| revocations.check_nonce(&MadeNonce { expires, epoch: 0 });
        let expires = NOW.after(NONCE_TTL);
        assert_eq!(check(expires), Ok(()));
        clock.advance(NONCE_TTL - Duration::from_secs(1));
        assert_eq!(check(expires), Ok(()));
        clock.advance(Duration::from_secs(1));
        assert_eq!(check(expires), Err(InvalidNonce::Expired));
        clock.set(NOW.before(Duration::from_secs(60)));
        assert_eq!(check(expires), Err(InvalidNonce::NotYet));
    }

    #[test]
    fn nothing_is_made_or_used_without_the_key() {
        let revocations = Revocations::of_test(Clock::manual(NOW));
        assert!(matches!(revocations.make_nonce(&name("a")), Err(Error::NotOpen(_))));
    }
}
