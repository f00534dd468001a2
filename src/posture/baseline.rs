//! The baseline: the state of the host that later ones are compared with, in `baseline.json`.

use std::collections::BTreeMap;
use std::path::Path;

use data_encoding::{BASE64, HEXLOWER};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::kind::Posture;
use super::pcr_diff::changed_pcrs;
use crate::clock::Timestamp;
use crate::store;
use crate::tpm::PcrValues;

/// The file's name in the state directory. The keystore writes it and lists it in its manifest, which detects
/// an older version that was restored.
pub const FILE_NAME: &str = "baseline.json";
/// The format of the file.
pub const VERSION: u64 = 1;
/// The longest event log that is stored, in bytes: `store` bounds the size of files, and firmware logs have
/// tens of KiB. A longer log is omitted, and changes are then described by the numbers of PCRs.
const MAX_STORED_LOG_LEN: usize = 2 * 1024 * 1024;

/// A state of the host, and who accepted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baseline {
    /// The host's id.
    pub host_id: String,
    /// When the PCRs were read.
    pub recorded_at: Timestamp,
    /// The values of the quoted PCRs.
    pub pcrs: PcrValues,
    /// The boot event log, if the host has one.
    pub event_log: Option<Vec<u8>>,
    /// The acceptance by an administrator; `None` for a state that was only recorded.
    pub acceptance: Option<Acceptance>,
}

/// The acceptance of a state by an administrator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acceptance {
    /// When the state was accepted.
    pub accepted_at: Timestamp,
    /// The administrator's process, such as `uid 0, pid 4711`.
    pub accepted_by: String,
    /// The digest of the accepted state. See `pcr_digest`.
    pub digest: String,
}

/// The members of the file, without its version.
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
    /// Reads this host's baseline; `None` if there is no file. Blocking.
    ///
    /// # Errors
    ///
    /// If the file is corrupt, of another host, of an unsupported format, or unreadable.
    pub fn read(state: &Path, host_id: &str) -> Result<Option<Baseline>, Error> {
        let path = state.join(FILE_NAME);
        let corrupt = |reason: String| Error::Corrupt { path: path.clone(), reason };
        let file: BaselineFile = match store::read(&path, VERSION) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(None),
            Err(store::Error::Corrupt { reason, .. }) => return Err(corrupt(reason)),
            Err(e) => return Err(e.into()),
        };
        let baseline = Baseline::from_file(file).map_err(corrupt)?;
        if baseline.host_id != host_id {
            let (baseline_host, this_host) = (baseline.host_id, host_id.to_owned());
            return Err(Error::WrongHost { path, baseline_host, this_host });
        }
        Ok(Some(baseline))
    }

    /// The members of the file. An event log longer than 2 MiB is omitted.
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

    /// The posture of a host whose PCRs have the values `current`, and the reason if it is not accepted. Only
    /// the PCRs in `compared` matter.
    pub fn compare(&self, compared: &[u8], current: &PcrValues) -> (Posture, String) {
        if self.acceptance.is_none() {
            let reason = format!("the baseline of {} has not been accepted", self.recorded_at);
            return (Posture::Unaccepted, reason);
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
            changed_pcrs(&self.pcrs, current).filter(|number| compared.contains(number)).collect();
        if differing.is_empty() {
            return (Posture::Accepted, String::new());
        }
        (Posture::Changed, format!("{} changed since the baseline was accepted", format_pcrs(&differing)))
    }
}

/// A digest that identifies the values of the compared PCRs: SHA-256 over each number (1 byte) and value (32
/// bytes), in hexadecimal.
pub fn pcr_digest(compared: &[u8], pcrs: &PcrValues) -> String {
    let mut context = Context::new(&SHA256);
    for (number, value) in pcrs.iter().filter(|(number, _)| compared.contains(number)) {
        context.update(&[*number]);
        context.update(value);
    }
    HEXLOWER.encode(context.finish().as_ref())
}

/// Formats numbers as "PCR 7" or "PCRs 4 and 9".
fn format_pcrs(numbers: &[u8]) -> String {
    let texts: Vec<String> = numbers.iter().map(u8::to_string).collect();
    match texts.as_slice() {
        [one] => format!("PCR {one}"),
        [others @ .., last] => format!("PCRs {} and {last}", others.join(", ")),
        [] => "no PCR".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Baseline {
        Baseline {
            host_id: "this-host".into(),
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
        assert_eq!(Baseline::read(dir.path(), "this-host").unwrap(), None);
        for baseline in [sample(), accepted()] {
            write(&baseline, dir.path());
            assert_eq!(Baseline::read(dir.path(), "this-host").unwrap(), Some(baseline));
        }
        let long = Baseline { event_log: Some(vec![0; MAX_STORED_LOG_LEN + 1]), ..sample() };
        write(&long, dir.path());
        assert_eq!(Baseline::read(dir.path(), "this-host").unwrap().unwrap().event_log, None);
        let longest = Baseline { event_log: Some(vec![0; MAX_STORED_LOG_LEN]), ..sample() };
        write(&longest, dir.path());
        assert_eq!(Baseline::read(dir.path(), "this-host").unwrap(), Some(longest));
    }

    #[test]
    fn unusable_baseline_errors_name_the_fix() {
        let dir = tempfile::tempdir().unwrap();
        write(&accepted(), dir.path());
        let read_error = |host: &str| Baseline::read(dir.path(), host).unwrap_err().to_string();
        assert!(read_error("other-host").contains("baseline of host this-host, and this is other-host"));
        let file = dir.path().join(FILE_NAME);
        let whole = std::fs::read_to_string(&file).unwrap();
        for corrupt in
            [&whole[..whole.len() / 2], "", "{}", &whole.replace("0000", "zzzz"), &whole.replace("bG9n", "!")]
        {
            std::fs::write(&file, corrupt).unwrap();
            assert!(
                read_error("this-host").contains("hostbadge posture accept"),
                "{}",
                read_error("this-host")
            );
        }
        std::fs::write(&file, whole.replace("\"version\": 1", "\"version\": 2")).unwrap();
        assert!(read_error("this-host").contains("written in format 2"));
    }

    #[test]
    fn only_compared_pcrs_count() {
        let same = sample().pcrs;
        assert_eq!(sample().compare(&[0, 7], &same).0, Posture::Unaccepted);
        assert_eq!(accepted().compare(&[0, 7], &same), (Posture::Accepted, String::new()));
        let mut other = same.clone();
        other.insert(11, [0; 32]);
        assert_eq!(accepted().compare(&[0, 7], &other).0, Posture::Accepted);
        let (posture, reason) = accepted().compare(&[0, 7, 11], &other);
        assert_eq!(
            (posture, reason.as_str()),
            (Posture::Changed, "PCR 11 changed since the baseline was accepted")
        );
        other.remove(&7);
        other.insert(0, [1; 32]);
        assert!(accepted().compare(&[0, 7], &other).1.starts_with("PCRs 0 and 7 changed"));
        let (posture, reason) = accepted().compare(&[0, 7, 12], &same);
        assert!(posture == Posture::Unaccepted && reason.contains("does not have PCR 12"), "{reason}");
        assert_ne!(pcr_digest(&[0, 7], &same), pcr_digest(&[0, 7], &other));
        assert_eq!(pcr_digest(&[0], &same).len(), 64);
    }
}
