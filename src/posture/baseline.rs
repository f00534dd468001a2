//! The state of the host that later ones are compared with: `baseline.json`.

use std::collections::BTreeMap;
use std::path::Path;

use data_encoding::{BASE64, HEXLOWER};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::pcr_diff::{PcrValues, changed_pcrs};
use super::{Error, Posture};
use crate::clock::Timestamp;
use crate::store;

/// In the state directory. It is written by the vault, whose ledger knows an older one that was put back.
pub const FILE_NAME: &str = "baseline.json";
pub const VERSION: u64 = 1;
/// What `store` reads is bounded, and a firmware's log has tens of KiB. A longer one is left out: changes are then told by
/// the numbers of PCRs.
const MAX_STORED_LOG_LEN: usize = 2 * 1024 * 1024;

/// A state of the host, and whether somebody took it for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baseline {
    /// The host's id.
    pub host_id: String,
    pub recorded_at: Timestamp,
    pub pcrs: PcrValues,
    pub event_log: Option<Vec<u8>>,
    pub acceptance: Option<Acceptance>,
}

/// Who took it for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acceptance {
    pub accepted_at: Timestamp,
    /// Such as `uid 0, pid 4711`.
    pub accepted_by: String,
    /// See [`digest`].
    pub digest: String,
}

/// The file's members beside its version.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaselineFile {
    host: String,
    /// In seconds since 1970.
    recorded: u64,
    /// In hexadecimal.
    pcrs: BTreeMap<u8, String>,
    /// Base64.
    boot_log: Option<String>,
    accepted: Option<RawAcceptance>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAcceptance {
    at: u64,
    by: String,
    digest: String,
}

impl Baseline {
    /// This host's baseline; none where there is none yet. Blocking.
    pub fn read(state: &Path, host_id: &str) -> Result<Option<Baseline>, Error> {
        let path = state.join(FILE_NAME);
        let corrupt = |why: String| Error::Corrupt { path: path.clone(), why };
        let file: BaselineFile = match store::read(&path, VERSION) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(None),
            Err(store::Error::Corrupt { reason: why, .. }) => return Err(corrupt(why)),
            Err(e) => return Err(e.into()),
        };
        let baseline = Baseline::from_file(file).map_err(corrupt)?;
        if baseline.host_id != host_id {
            return Err(Error::WrongHost { path, theirs: baseline.host_id, ours: host_id.to_owned() });
        }
        Ok(Some(baseline))
    }

    /// As it is kept.
    pub fn to_file(&self) -> BaselineFile {
        let log = self.event_log.as_ref().filter(|log| log.len() <= MAX_STORED_LOG_LEN);
        BaselineFile {
            host: self.host_id.clone(),
            recorded: self.recorded_at.as_secs(),
            pcrs: self.pcrs.iter().map(|(number, value)| (*number, HEXLOWER.encode(value))).collect(),
            boot_log: log.map(|log| BASE64.encode(log)),
            accepted: self.acceptance.as_ref().map(|accepted| RawAcceptance {
                at: accepted.accepted_at.as_secs(),
                by: accepted.accepted_by.clone(),
                digest: accepted.digest.clone(),
            }),
        }
    }

    fn from_file(file: BaselineFile) -> Result<Baseline, String> {
        let mut pcrs = PcrValues::new();
        for (number, value) in file.pcrs {
            let value = HEXLOWER.decode(value.as_bytes()).ok().and_then(|value| value.try_into().ok());
            pcrs.insert(number, value.ok_or("the value of a PCR is not 64 hexadecimal digits")?);
        }
        let boot_log = file.boot_log.map(|log| BASE64.decode(log.as_bytes()));
        Ok(Baseline {
            host_id: file.host,
            recorded_at: Timestamp::from_secs(file.recorded),
            pcrs,
            event_log: boot_log.transpose().map_err(|_| "the boot log is not base64")?,
            acceptance: file.accepted.map(|accepted| Acceptance {
                accepted_at: Timestamp::from_secs(accepted.at),
                accepted_by: accepted.by,
                digest: accepted.digest,
            }),
        })
    }

    /// What a host with these values is by this baseline, and why it is not accepted. `compared` are the PCRs that count.
    pub fn compare(&self, compared: &[u8], now: &PcrValues) -> (Posture, String) {
        if self.acceptance.is_none() {
            return (
                Posture::Unaccepted,
                format!("the baseline of {} was accepted by nobody", self.recorded_at),
            );
        }
        let missing: Vec<u8> = compared.iter().copied().filter(|n| !self.pcrs.contains_key(n)).collect();
        if !missing.is_empty() {
            let reason = format!(
                "the accepted baseline does not have {}, which posture.pcrs names",
                format_pcrs(&missing)
            );
            return (Posture::Unaccepted, reason);
        }
        let differing: Vec<u8> =
            changed_pcrs(&self.pcrs, now).filter(|number| compared.contains(number)).collect();
        match differing.is_empty() {
            true => (Posture::Accepted, String::new()),
            false => (
                Posture::Changed,
                format!("{} changed since the baseline was accepted", format_pcrs(&differing)),
            ),
        }
    }
}

/// One name for the values of these PCRs: SHA-256 over each number, one byte, and its value, 32 bytes; in hexadecimal.
pub fn pcr_digest(compared: &[u8], pcrs: &PcrValues) -> String {
    let mut context = Context::new(&SHA256);
    for (number, value) in pcrs.iter().filter(|(number, _)| compared.contains(number)) {
        context.update(&[*number]);
        context.update(value);
    }
    HEXLOWER.encode(context.finish().as_ref())
}

/// `PCR 7`, `PCRs 4 and 9`.
fn format_pcrs(numbers: &[u8]) -> String {
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
            host_id: "us".into(),
            recorded_at: Timestamp::from_secs(1_700_000_000),
            pcrs: [(0, [0; 32]), (7, [7; 32]), (11, [11; 32])].into(),
            event_log: Some(b"log".to_vec()),
            acceptance: None,
        }
    }

    fn write(baseline: &Baseline, dir: &Path) {
        store::write(&dir.join(FILE_NAME), VERSION, &baseline.to_file()).unwrap();
    }

    fn accepted() -> Baseline {
        let at = Timestamp::from_secs(1_700_000_001);
        Baseline {
            acceptance: Some(Acceptance {
                accepted_at: at,
                accepted_by: "uid 0, pid 1".into(),
                digest: "00".into(),
            }),
            ..sample()
        }
    }

    #[test]
    fn baseline_round_trips_and_omits_an_oversized_log() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Baseline::read(dir.path(), "us").unwrap(), None);
        for baseline in [sample(), accepted()] {
            write(&baseline, dir.path());
            assert_eq!(Baseline::read(dir.path(), "us").unwrap(), Some(baseline));
        }
        let long = Baseline { event_log: Some(vec![0; MAX_STORED_LOG_LEN + 1]), ..sample() };
        write(&long, dir.path());
        assert_eq!(Baseline::read(dir.path(), "us").unwrap().unwrap().event_log, None);
        let longest = Baseline { event_log: Some(vec![0; MAX_STORED_LOG_LEN]), ..sample() };
        write(&longest, dir.path());
        assert_eq!(Baseline::read(dir.path(), "us").unwrap(), Some(longest));
    }

    #[test]
    fn unusable_baseline_errors_name_the_fix() {
        let dir = tempfile::tempdir().unwrap();
        write(&accepted(), dir.path());
        let read_error = |host: &str| Baseline::read(dir.path(), host).unwrap_err().to_string();
        assert!(read_error("them").contains("baseline of host us, and this is them"));
        let file = dir.path().join(FILE_NAME);
        let whole = std::fs::read_to_string(&file).unwrap();
        for corrupt in
            [&whole[..whole.len() / 2], "", "{}", &whole.replace("0000", "zzzz"), &whole.replace("bG9n", "!")]
        {
            std::fs::write(&file, corrupt).unwrap();
            assert!(read_error("us").contains("hostbadge posture accept"), "{}", read_error("us"));
        }
        std::fs::write(&file, whole.replace("\"version\": 1", "\"version\": 2")).unwrap();
        assert!(read_error("us").contains("written in format 2"));
    }

    #[test]
    fn only_compared_pcrs_count() {
        let same = sample().pcrs;
        assert_eq!(sample().compare(&[0, 7], &same).0, Posture::Unaccepted);
        assert_eq!(accepted().compare(&[0, 7], &same), (Posture::Accepted, String::new()));
        let mut other = same.clone();
        other.insert(11, [0; 32]);
        assert_eq!(accepted().compare(&[0, 7], &other).0, Posture::Accepted);
        let (posture, why) = accepted().compare(&[0, 7, 11], &other);
        assert_eq!(
            (posture, why.as_str()),
            (Posture::Changed, "PCR 11 changed since the baseline was accepted")
        );
        other.remove(&7);
        other.insert(0, [1; 32]);
        assert!(accepted().compare(&[0, 7], &other).1.starts_with("PCRs 0 and 7 changed"));
        let (posture, why) = accepted().compare(&[0, 7, 12], &same);
        assert!(posture == Posture::Unaccepted && why.contains("does not have PCR 12"), "{why}");
        assert_ne!(pcr_digest(&[0, 7], &same), pcr_digest(&[0, 7], &other));
        assert_eq!(pcr_digest(&[0], &same).len(), 64);
    }
}
