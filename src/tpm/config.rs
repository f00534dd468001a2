//! How the room reaches its TPM, and how long it waits for it.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tss_esapi::tcti_ldr::DeviceConfig;
use tss_esapi::tcti_ldr::TctiNameConf;

/// What [`super::Tpm::open`] needs to know.
#[derive(Clone, Debug)]
pub struct TpmConfig {
    /// Where the TPM is.
    pub tcti: Tcti,
    /// Whether a TPM that is a program (swtpm) will do.
    pub allow_emulator: bool,
    /// How many calls may wait for the TPM; one more is refused at once.
    pub queue_capacity: usize,
    /// How long a caller waits for an answer, its time in the queue included.
    pub deadline: Duration,
    /// How often the TPM is asked whether it is there, the same, and well. One that stalls or dies while nobody calls
    /// is named so this long and a deadline later.
    pub probe_every: Duration,
    /// First pause before another attempt to reach a TPM; it doubles up to ten seconds.
    pub initial_retry_delay: Duration,
}

impl TpmConfig {
    /// Refuses what cannot work, in words for the person who wrote the configuration.
    pub(super) fn validate(&self) -> io::Result<()> {
        let invalid = |text: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, text.to_owned()));
        if matches!(self.tcti, Tcti::Swtpm { .. }) && !self.allow_emulator {
            return invalid(
                "a software TPM (swtpm) proves nothing about this host; allow emulators to use it anyway",
            );
        }
        if self.queue_capacity == 0 {
            return invalid("the TPM queue must have room for at least one call");
        }
        if self.deadline.is_zero() || self.probe_every.is_zero() || self.initial_retry_delay.is_zero() {
            return invalid("the TPM's deadline, probe and retry intervals must be longer than zero");
        }
        Ok(())
    }
}

impl Default for TpmConfig {
    fn default() -> Self {
        TpmConfig {
            tcti: Tcti::default(),
            allow_emulator: false,
            queue_capacity: 16,
            deadline: Duration::from_secs(5),
            probe_every: Duration::from_millis(1500),
            initial_retry_delay: Duration::from_secs(1),
        }
    }
}

/// The way to a TPM. Written `device:/dev/tpmrm0` or `swtpm:host=127.0.0.1,port=2321`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Tcti {
    /// A character device, normally the kernel's resource manager.
    Device(PathBuf),
    /// swtpm on TCP: commands on `port`, control on the port after it.
    Swtpm { host: Ipv4Addr, port: u16 },
}

impl Tcti {
    /// The same in the words of tss-esapi.
    pub(super) fn to_name_conf(&self) -> tss_esapi::Result<TctiNameConf> {
        match self {
            // Not by way of its text, which tss-esapi would read with half a dozen regular expressions.
            Tcti::Device(path) => Ok(TctiNameConf::Device(DeviceConfig::from_str(&path.to_string_lossy())?)),
            Tcti::Swtpm { .. } => TctiNameConf::from_str(&self.to_string()),
        }
    }
}

impl Default for Tcti {
    /// The resource manager's device: `/dev/tpm0` would shut every other program out.
    fn default() -> Self {
        Tcti::Device(PathBuf::from("/dev/tpmrm0"))
    }
}

impl fmt::Display for Tcti {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tcti::Device(path) => write!(f, "device:{}", path.display()),
            Tcti::Swtpm { host, port } => write!(f, "swtpm:host={host},port={port}"),
        }
    }
}

impl FromStr for Tcti {
    type Err = TctiError;

    fn from_str(text: &str) -> Result<Self, TctiError> {
        let invalid = || TctiError(text.to_owned());
        if let Some(path) = text.strip_prefix("device:") {
            let is_valid = path.len() > 1 && path.starts_with('/') && !path.contains('\0');
            return if is_valid { Ok(Tcti::Device(PathBuf::from(path))) } else { Err(invalid()) };
        }
        let settings = text.strip_prefix("swtpm:").ok_or_else(invalid)?;
        let (mut host, mut port) = (None, None);
        for setting in settings.split(',') {
            match setting.split_once('=').ok_or_else(invalid)? {
                ("host", value) if host.is_none() => host = Some(value.parse().map_err(|_| invalid())?),
                ("port", value) if port.is_none() => port = Some(value.parse().map_err(|_| invalid())?),
                _ => return Err(invalid()),
            }
        }
        match (host, port) {
            // The control channel is on the port after, so the last port cannot be the first of a pair.
            (Some(host), Some(port)) if port != 0 && port != u16::MAX => Ok(Tcti::Swtpm { host, port }),
            _ => Err(invalid()),
        }
    }
}

/// A TPM address that was not understood.
#[derive(Debug, thiserror::Error)]
#[error(
    "\"{0}\" names no TPM; write device:PATH with an absolute path, such as device:/dev/tpmrm0, or \
     swtpm:host=ADDRESS,port=NUMBER with an IPv4 address, such as swtpm:host=127.0.0.1,port=2321"
)]
pub struct TctiError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_round_trips() {
        for text in ["device:/dev/tpmrm0", "device:/dev/tpm0", "swtpm:host=127.0.0.1,port=2321"] {
            assert_eq!(text.parse::<Tcti>().unwrap().to_string(), text);
        }
        let reordered = "swtpm:port=9,host=10.0.0.1".parse::<Tcti>().unwrap();
        assert_eq!(reordered, Tcti::Swtpm { host: Ipv4Addr::new(10, 0, 0, 1), port: 9 });
        assert_eq!(Tcti::default().to_string(), "device:/dev/tpmrm0");
    }

    #[test]
    fn parse_error_names_accepted_forms() {
        let invalid = [
            "",
            "device",
            "device:",
            "device:/",
            "device:tpmrm0",
            "swtpm",
            "swtpm:",
            "swtpm:host=127.0.0.1",
            "swtpm:port=2321",
            "swtpm:host=localhost,port=2321",
            "swtpm:host=127.0.0.1,port=65536",
            "swtpm:host=127.0.0.1,port=65535",
            "swtpm:host=127.0.0.1,port=0",
            "swtpm:host=127.0.0.1,port=1,port=2",
            "swtpm:host=127.0.0.1,port=1,path=/x",
            "mssim:host=127.0.0.1,port=2321",
            "tabrmd:",
        ];
        for text in invalid {
            let error = text.parse::<Tcti>().expect_err(text).to_string();
            assert!(error.contains("device:/dev/tpmrm0") && error.contains("swtpm:host="), "{error}");
        }
    }

    #[test]
    fn emulator_requires_allow_emulator() {
        let emulator =
            TpmConfig { tcti: "swtpm:host=127.0.0.1,port=1".parse().unwrap(), ..Default::default() };
        assert!(emulator.validate().unwrap_err().to_string().contains("allow emulators"));
        assert!(TpmConfig { allow_emulator: true, ..emulator.clone() }.validate().is_ok());
        assert!(TpmConfig { allow_emulator: true, queue_capacity: 0, ..emulator }.validate().is_err());
        assert!(TpmConfig::default().validate().is_ok());
    }
}
