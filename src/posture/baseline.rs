//! The state of the host that later ones are compared with: `baseline.json`.

use std::collections::BTreeMap;
use std::path::Path;

use data_encoding::{BASE64, HEXLOWER};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::explain::{Pcrs, changed};
use super::{Error, Posture};
use crate::clock::Timestamp;
use crate::store;

/// In the state directory. It is written by the vault, whose ledger knows an older one that was put back.
pub const NAME: &str = "baseline.json";
pub const VERSION: u64 = 1;
/// What `store` reads is bounded, and a firmware's log has tens of KiB. A longer one is left out: changes are then told by
/// the numbers of PCRs.
const LONGEST_LOG: usize = 2 * 1024 * 1024;

/// A state of the host, and whether somebody took it for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baseline {
    /// The host's id.
    pub host: String,
    pub recorded: Timestamp,
    pub pcrs: Pcrs,
    pub boot_log: Option<Vec<u8>>,
    pub accepted: Option<Accepted>,
}

/// Who took it for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub at: Timestamp,
    /// Such as `uid 0, pid 4711`.
    pub by: String,
    /// See [`digest`].
    pub digest: String,
}

/// The file's members beside its version.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    host: String,
    /// In seconds since 1970.
    recorded: u64,
    /// In hexadecimal.
    pcrs: BTreeMap<u8, String>,
    /// Base64.
    boot_log: Option<String>,
    accepted: Option<WrittenAccepted>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenAccepted {
    at: u64,
    by: String,
    digest: String,
}

impl Baseline {
    /// This host's baseline; none where there is none yet. Blocking.
    pub fn read(state: &Path, host: &str) -> Result<Option<Baseline>, Error> {
        let path = state.join(NAME);
        let torn = |why: String| Error::Torn { path: path.clone(), why };
        let written: Written = match store::read(&path, VERSION) {
            Ok(Some(written)) => written,
            Ok(None) => return Ok(None),
            Err(store::Error::Torn { why, .. }) => return Err(torn(why)),
            Err(e) => return Err(e.into()),
        };
        let baseline = Baseline::of(written).map_err(torn)?;
        if baseline.host != host {
            return Err(Error::Foreign { path, theirs: baseline.host, ours: host.to_owned() });
        }
        Ok(Some(baseline))
    }

    /// As it is kept.
    pub fn written(&self) -> Written {
        let log = self.boot_log.as_ref().filter(|log| log.len() <= LONGEST_LOG);
        Written {
            host: self.host.clone(),
            recorded: self.recorded.secs(),
            pcrs: self.pcrs.iter().map(|(number, value)| (*number, HEXLOWER.encode(value))).collect(),
            boot_log: log.map(|log| BASE64.encode(log)),
            accepted: self.accepted.as_ref().map(|accepted| WrittenAccepted {
                at: accepted.at.secs(),
                by: accepted.by.clone(),
                digest: accepted.digest.clone(),
            }),
        }
    }

    fn of(written: Written) -> Result<Baseline, String> {
        let mut pcrs = Pcrs::new();
        for (number, value) in written.pcrs {
            let value = HEXLOWER.decode(value.as_bytes()).ok().and_then(|value| value.try_into().ok());
            pcrs.insert(number, value.ok_or("the value of a PCR is not 64 hexadecimal digits")?);
        }
        let boot_log = written.boot_log.map(|log| BASE64.decode(log.as_bytes()));
        Ok(Baseline {
            host: written.host,
            recorded: Timestamp::from_secs(written.recorded),
            pcrs,
            boot_log: boot_log.transpose().map_err(|_| "the boot log is not base64")?,
            accepted: written.accepted.map(|accepted| Accepted {
                at: Timestamp::from_secs(accepted.at),
                by: accepted.by,
                digest: accepted.digest,
            }),
        })
    }

    /// What a host with these values is by this baseline, and why it is not accepted. `compared` are the PCRs that count.
    pub fn judge(&self, compared: &[u8], now: &Pcrs) -> (Posture, String) {
        if self.accepted.is_none() {
            return (
                Posture::Unaccepted,
                format!("the baseline of {} was accepted by nobody", self.recorded),
            );
        }
        let unknown: Vec<u8> = compared.iter().copied().filter(|n| !self.pcrs.contains_key(n)).collect();
        if !unknown.is_empty() {
            let what =
                format!("the accepted baseline does not have {}, which posture.pcrs names", named(&unknown));
            return (Posture::Unaccepted, what);
        }
        let others: Vec<u8> = changed(&self.pcrs, now).filter(|number| compared.contains(number)).collect();
        match others.is_empty() {
            true => (Posture::Accepted, String::new()),
            false => {
                (Posture::Changed, format!("{} changed since the baseline was accepted", named(&others)))
            }
        }
    }
}

/// One name for the values of these PCRs: SHA-256 over each number, one byte, and its value, 32 bytes; in hexadecimal.
pub fn digest(compared: &[u8], pcrs: &Pcrs) -> String {
    let mut context = Context::new(&SHA256);
    for (number, value) in pcrs.iter().filter(|(number, _)| compared.contains(number)) {
        context.update(&[*number]);
        context.update(value);
    }
    HEXLOWER.encode(context.finish().as_ref())
}

/// `PCR 7`, `PCRs 4 and 9`.
fn named(numbers: &[u8]) -> String {
    let texts: Vec<String> = numbers.iter().map(u8::to_string).collect();
    match texts.as_slice() {
        [one] => format!("PCR {one}"),
        [most @ .., last] => format!("PCRs {} and {last}", most.join(", ")),
        [] => "no PCR".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Baseline {
        Baseline {
            host: "us".into(),
            recorded: Timestamp::from_secs(1_700_000_000),
            pcrs: [(0, [0; 32]), (7, [7; 32]), (11, [11; 32])].into(),
            boot_log: Some(b"log".to_vec()),
            accepted: None,
        }
    }

    fn write(baseline: &Baseline, dir: &Path) {
        store::write(&dir.join(NAME), VERSION, &baseline.written()).unwrap();
    }

    fn accepted() -> Baseline {
        let at = Timestamp::from_secs(1_700_000_001);
        Baseline {
            accepted: Some(Accepted { at, by: "uid 0, pid 1".into(), digest: "00".into() }),
            ..sample()
        }
    }

    #[test]
    fn what_is_written_is_read_and_a_log_too_long_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Baseline::read(dir.path(), "us").unwrap(), None);
        for baseline in [sample(), accepted()] {
            write(&baseline, dir.path());
            assert_eq!(Baseline::read(dir.path(), "us").unwrap(), Some(baseline));
        }
        let long = Baseline { boot_log: Some(vec![0; LONGEST_LOG + 1]), ..sample() };
        write(&long, dir.path());
        assert_eq!(Baseline::read(dir.path(), "us").unwrap().unwrap().boot_log, None);
        let longest = Baseline { boot_log: Some(vec![0; LONGEST_LOG]), ..sample() };
        write(&longest, dir.path());
        assert_eq!(Baseline::read(dir.path(), "us").unwrap(), Some(longest));
    }

    #[test]
    fn a_torn_a_foreign_and_a_later_baseline_are_none_and_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        write(&accepted(), dir.path());
        let said = |host: &str| Baseline::read(dir.path(), host).unwrap_err().to_string();
        assert!(said("them").contains("baseline of host us, and this is them"));
        let file = dir.path().join(NAME);
        let whole = std::fs::read_to_string(&file).unwrap();
        for torn in
            [&whole[..whole.len() / 2], "", "{}", &whole.replace("0000", "zzzz"), &whole.replace("bG9n", "!")]
        {
            std::fs::write(&file, torn).unwrap();
            assert!(said("us").contains("hostbadge posture accept"), "{}", said("us"));
        }
        std::fs::write(&file, whole.replace("\"version\": 1", "\"version\": 2")).unwrap();
        assert!(said("us").contains("written in format 2"));
    }

    #[test]
    fn only_what_is_compared_counts() {
        let same = sample().pcrs;
        assert_eq!(sample().judge(&[0, 7], &same).0, Posture::Unaccepted);
        assert_eq!(accepted().judge(&[0, 7], &same), (Posture::Accepted, String::new()));
        let mut other = same.clone();
        other.insert(11, [0; 32]);
        assert_eq!(accepted().judge(&[0, 7], &other).0, Posture::Accepted);
        let (posture, why) = accepted().judge(&[0, 7, 11], &other);
        assert_eq!(
            (posture, why.as_str()),
            (Posture::Changed, "PCR 11 changed since the baseline was accepted")
        );
        other.remove(&7);
        other.insert(0, [1; 32]);
        assert!(accepted().judge(&[0, 7], &other).1.starts_with("PCRs 0 and 7 changed"));
        let (posture, why) = accepted().judge(&[0, 7, 12], &same);
        assert!(posture == Posture::Unaccepted && why.contains("does not have PCR 12"), "{why}");
        assert_ne!(digest(&[0, 7], &same), digest(&[0, 7], &other));
        assert_eq!(digest(&[0], &same).len(), 64);
    }
}
