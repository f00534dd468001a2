//! `erasure.json`: the key-encryption keys of agents, encrypted under the erasure key.
//!
//! The TPM seals the erasure key to the value of a counter. To destroy the key of one agent, a new erasure key is
//! sealed to the next value, the keys of all other agents are encrypted under it, and the counter is incremented:
//! then the TPM unseals no earlier erasure key any more, so that no copy of the disk has the destroyed key. None of
//! these keys is in a recovery copy.
//!
//! ```text
//! current at N ──> current at N, next at N + 1 ──> counter N + 1 ──> current at N + 1
//! ```
//!
//! A crash at any point leaves a file of which the counter says the key that opens.

use std::collections::BTreeMap;
use std::path::Path;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::cipher;
use super::error::Error;
use super::kek::Kek;
use super::kek_report::{KekReport, KekUse};
use crate::clock::Timestamp;
use crate::store;
use crate::tpm::{CounterValue, KeyBlob};

pub(super) const FILE_NAME: &str = "erasure.json";
pub(super) const VERSION: u64 = 1;

/// Agents with a key, as many as a host has credentials.
const MAX_AGENTS: usize = 1024;
/// Erasures that the file lists, the latest.
const MAX_ERASURES: usize = 256;

const AUTH_AAD: &[u8] = b"hostbadge erasure counter authorization";

/// `erasure.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ErasureFile {
    /// The NV index of the counter.
    counter: u32,
    current: Generation,
    /// Takes the place of `current` once the counter is incremented.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<Generation>,
    erasures: Vec<Erasure>,
}

/// An erasure key, and what is encrypted under it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Generation {
    /// The value of the counter at which the TPM unseals the erasure key.
    count: u64,
    /// Seconds since the epoch.
    made: u64,
    /// TPM2B_PUBLIC and TPM2B_PRIVATE of the erasure key in base64.
    public: String,
    private: String,
    /// The counter's authorization, encrypted.
    auth: String,
    /// The key-encryption key of each agent, encrypted with the agent as associated data.
    keys: BTreeMap<String, String>,
}

/// The destruction of an agent's key-encryption key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erasure {
    /// The agent.
    pub agent: String,
    /// When, in seconds since the epoch.
    pub at: u64,
    /// The NV index of the counter.
    pub counter: u32,
    /// The counter's value at which the TPM unsealed the key that opened it.
    pub before: u64,
    /// The counter's value since.
    pub after: u64,
}

/// The key-encryption keys of agents, in memory.
#[derive(Clone, Default)]
pub struct AgentKeks(BTreeMap<String, Kek>);

/// The erasure key and what it opens, in memory.
pub(super) struct OpenErasureFile {
    pub erasure_key: Kek,
    pub auth: Zeroizing<[u8; 32]>,
    pub keks: AgentKeks,
}

impl AgentKeks {
    /// The key of an agent; `None` where it has none.
    pub fn get(&self, agent: &str) -> Option<&Kek> {
        self.0.get(agent)
    }

    /// Drops the key of an agent.
    pub fn forget(&mut self, agent: &str) {
        self.0.remove(agent);
    }
}

#[cfg(test)]
impl AgentKeks {
    /// These keys, by agent.
    pub(crate) fn for_test(keks: impl IntoIterator<Item = (String, Kek)>) -> AgentKeks {
        AgentKeks(keks.into_iter().collect())
    }
}

impl ErasureFile {
    /// The erasure key that opens, and the one that opens after the destruction that has begun.
    pub fn reports(&self) -> Vec<KekReport> {
        let report = |generation: &Generation, used_for| {
            let made = Timestamp::from_secs(generation.made);
            KekReport::new(generation.public.as_bytes(), used_for, Some(made))
        };
        let current = report(&self.current, KekUse::Erasure);
        let next = self.next.as_ref().map(|next| report(next, KekUse::NextErasure));
        std::iter::once(current).chain(next).collect()
    }

    /// Reads the file in the state directory; `None` where it does not exist.
    pub fn read(dir: &Path) -> Result<Option<ErasureFile>, Error> {
        Ok(store::read(&dir.join(FILE_NAME), VERSION)?)
    }

    /// A file without agents. The TPM has sealed `erasure_key` in `sealed` to this value of the counter, which is
    /// incremented with `auth`.
    pub fn new(
        (at, sealed): (CounterValue, &KeyBlob),
        erasure_key: &Kek,
        auth: &[u8; 32],
        erasures: Vec<Erasure>,
        now: Timestamp,
    ) -> Result<ErasureFile, Error> {
        let current = Generation::new((at.value, sealed), erasure_key, auth, &AgentKeks::default(), now)?;
        Ok(ErasureFile { counter: at.index, current, next: None, erasures })
    }

    /// The NV index of the counter.
    pub fn counter(&self) -> u32 {
        self.counter
    }

    /// The counter's value at which the key in use is unsealed, and that key as the TPM has sealed it.
    pub fn current(&self) -> Result<(CounterValue, KeyBlob), Error> {
        Ok((CounterValue { index: self.counter, value: self.current.count }, self.current.blob()?))
    }

    /// The counter's value of the generation that takes the place of the current one, if an erasure has begun.
    pub fn next_count(&self) -> Option<u64> {
        self.next.as_ref().map(|next| next.count)
    }

    /// The file once the counter is incremented.
    pub fn promoted(mut self) -> ErasureFile {
        if let Some(next) = self.next.take() {
            self.current = next;
        }
        self
    }

    /// Decrypts what is under the current erasure key.
    ///
    /// # Errors
    /// [`Error::InvalidFile`].
    pub fn open(&self, erasure_key: Kek) -> Result<OpenErasureFile, Error> {
        let invalid = || Error::InvalidFile {
            path: FILE_NAME.into(),
            reason: "has a key that does not decrypt".to_owned(),
        };
        let Generation { auth, keys, .. } = &self.current;
        let auth = cipher::decrypt_key(&erasure_key, AUTH_AAD, auth).ok_or_else(invalid)?;
        let decrypt = |(agent, text): (&String, &String)| {
            let kek = cipher::decrypt_key(&erasure_key, &key_aad(agent), text).ok_or_else(invalid)?;
            Ok((agent.clone(), kek))
        };
        let keks = AgentKeks(keys.iter().map(decrypt).collect::<Result<_, Error>>()?);
        Ok(OpenErasureFile { erasure_key, auth, keks })
    }

    /// Adds the key of an agent that has none.
    ///
    /// # Errors
    /// [`Error::TooManyAgentKeks`].
    pub fn add(&mut self, open: &mut OpenErasureFile, agent: &str, kek: Kek) -> Result<(), Error> {
        if self.current.keys.len() >= MAX_AGENTS {
            return Err(Error::TooManyAgentKeks { max: MAX_AGENTS });
        }
        let text = cipher::encrypt(&open.erasure_key, &key_aad(agent), kek.as_slice())?;
        self.current.keys.insert(agent.to_owned(), text);
        open.keks.0.insert(agent.to_owned(), kek);
        Ok(())
    }

    /// Prepares the erasure of an agent's key: all other keys under `erasure_key`, which the TPM has sealed in
    /// `sealed` to the next value of the counter.
    pub fn with_erasure(
        mut self,
        open: &OpenErasureFile,
        agent: &str,
        (erasure_key, sealed): (&Kek, &KeyBlob),
        now: Timestamp,
    ) -> Result<ErasureFile, Error> {
        let (before, after) = (self.current.count, self.current.count + 1);
        let mut others = open.keks.clone();
        others.forget(agent);
        self.next = Some(Generation::new((after, sealed), erasure_key, &open.auth, &others, now)?);
        let erasure =
            Erasure { agent: agent.to_owned(), at: now.as_secs(), counter: self.counter, before, after };
        self.erasures.push(erasure);
        let surplus = self.erasures.len().saturating_sub(MAX_ERASURES);
        self.erasures.drain(..surplus);
        Ok(self)
    }

    /// The erasures that the file lists, the latest last.
    pub fn erasures(&self) -> &[Erasure] {
        &self.erasures
    }
}

impl Generation {
    fn new(
        (count, sealed): (u64, &KeyBlob),
        erasure_key: &Kek,
        auth: &[u8; 32],
        keks: &AgentKeks,
        now: Timestamp,
    ) -> Result<Generation, Error> {
        let encrypt = |(agent, kek): (&String, &Kek)| {
            Ok((agent.clone(), cipher::encrypt(erasure_key, &key_aad(agent), kek.as_slice())?))
        };
        Ok(Generation {
            count,
            made: now.as_secs(),
            public: BASE64.encode(&sealed.public),
            private: BASE64.encode(&sealed.private),
            auth: cipher::encrypt(erasure_key, AUTH_AAD, auth)?,
            keys: keks.0.iter().map(encrypt).collect::<Result<_, Error>>()?,
        })
    }

    fn blob(&self) -> Result<KeyBlob, Error> {
        let decode = |text: &String| {
            BASE64.decode(text.as_bytes()).map_err(|_| Error::InvalidFile {
                path: FILE_NAME.into(),
                reason: "has a sealed key that is not base64".to_owned(),
            })
        };
        Ok(KeyBlob { public: decode(&self.public)?, private: decode(&self.private)? })
    }
}

/// The associated data names the purpose and the agent, so that one key cannot be put in place of another.
fn key_aad(agent: &str) -> Vec<u8> {
    format!("hostbadge agent key-encryption key\0{agent}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
    const AT: CounterValue = CounterValue { index: 0x0180_4872, value: 5 };

    fn key(byte: u8) -> Kek {
        Zeroizing::new([byte; 32])
    }

    fn blob(byte: u8) -> KeyBlob {
        KeyBlob { public: vec![byte; 90], private: vec![byte; 150] }
    }

    fn file() -> (ErasureFile, OpenErasureFile) {
        let mut file = ErasureFile::new((AT, &blob(1)), &key(1), &[9; 32], Vec::new(), NOW).unwrap();
        let mut open = file.open(key(1)).unwrap();
        for (agent, byte) in [("a", 10), ("b", 20), ("c", 30)] {
            file.add(&mut open, agent, key(byte)).unwrap();
        }
        (file, open)
    }

    #[test]
    fn keys_decrypt_under_the_erasure_key_and_for_their_own_agent() {
        let (file, _) = file();
        let open = file.open(key(1)).unwrap();
        assert_eq!((open.keks.get("a"), open.keks.get("d")), (Some(&key(10)), None));
        assert_eq!(*open.auth, [9; 32]);
        assert!(file.open(key(2)).is_err());
        let mut swapped = file;
        let a = swapped.current.keys["a"].clone();
        swapped.current.keys.insert("b".into(), a);
        assert!(swapped.open(key(1)).is_err());
    }

    #[test]
    fn an_erasure_keeps_the_keys_of_all_other_agents_under_another_key() {
        let (file, open) = file();
        let both = file.clone().with_erasure(&open, "b", (&key(2), &blob(2)), NOW).unwrap();
        // Until the counter is incremented, the file opens as before.
        assert_eq!((both.next_count(), both.current().unwrap()), (Some(6), (AT, blob(1))));
        assert_eq!(both.open(key(1)).unwrap().keks.get("b"), Some(&key(20)));
        let ids: Vec<String> = both.reports().into_iter().map(|report| report.id).collect();
        let used_for = |file: &ErasureFile| -> Vec<KekUse> {
            file.reports().into_iter().map(|report| report.used_for).collect()
        };
        assert_eq!(used_for(&both), [KekUse::Erasure, KekUse::NextErasure]);
        let after = both.promoted();
        assert_eq!((used_for(&after), &after.reports()[0].id), (vec![KekUse::Erasure], &ids[1]));
        assert_eq!(after.next_count(), None);
        assert_eq!(after.current().unwrap(), (CounterValue { value: 6, ..AT }, blob(2)));
        assert!(after.open(key(1)).is_err());
        let open = after.open(key(2)).unwrap();
        assert_eq!((open.keks.get("a"), open.keks.get("b")), (Some(&key(10)), None));
        assert_eq!((open.keks.get("c"), *open.auth), (Some(&key(30)), [9; 32]));
        let erasure =
            Erasure { agent: "b".into(), at: NOW.as_secs(), counter: AT.index, before: 5, after: 6 };
        assert_eq!(after.erasures(), [erasure]);
    }

    #[test]
    fn the_file_is_read_as_it_was_written_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ErasureFile::read(dir.path()).unwrap(), None);
        let (mut file, mut open) = file();
        for number in 0..MAX_AGENTS - 3 {
            file.add(&mut open, &format!("{number:063}"), key(1)).unwrap();
        }
        assert!(matches!(file.add(&mut open, "more", key(1)), Err(Error::TooManyAgentKeks { .. })));
        for number in 0..=MAX_ERASURES as u64 {
            file = file.with_erasure(&open, "b", (&key(1), &blob(2)), Timestamp::from_secs(number)).unwrap();
        }
        assert_eq!((file.erasures().len(), file.erasures()[0].at), (MAX_ERASURES, 1));
        store::write(&dir.path().join(FILE_NAME), VERSION, &file).unwrap();
        assert_eq!(ErasureFile::read(dir.path()).unwrap(), Some(file));
    }
}
