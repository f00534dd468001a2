//! Where the TPM is, and the deadlines and intervals for using it.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tss_esapi::tcti_ldr::DeviceConfig;
use tss_esapi::tcti_ldr::TctiNameConf;

/// Settings of [`super::Tpm::open`].
#[derive(Clone, Debug)]
pub struct TpmConfig {
    /// Where the TPM is.
    pub tcti: Tcti,
    /// Whether a software TPM (swtpm) is accepted. Default: no.
    pub allow_emulator: bool,
    /// How many requests may wait for the TPM; further ones fail at once with [`super::Error::QueueFull`].
    /// Default: 16.
    pub queue_capacity: usize,
    /// How long a caller waits for a result, time in the queue included. Default: 5 s.
    pub deadline: Duration,
    /// Interval between probes: whether the TPM responds, is the same, and is not locked out. Default: 1.5 s.
    /// A TPM that fails while no request is made is reported at most this long and a deadline later.
    pub probe_every: Duration,
    /// Delay before the second attempt to connect. Default: 1 s; it doubles with each attempt, up to 10 s.
    pub initial_retry_delay: Duration,
}

impl TpmConfig {
    /// Checks the settings; the errors are for the administrator.
    pub(super) fn validate(&self) -> io::Result<()> {
        let invalid = |text: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, text.to_owned()));
        if self.tcti.is_emulator() && !self.allow_emulator {
            return invalid(
                "a software TPM (swtpm) proves nothing about this host; allow emulators to use it anyway",
            );
        }
        if self.queue_capacity == 0 {
            return invalid("the TPM queue must have a capacity of at least one");
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

/// The address of a TPM, in text `device:/dev/tpmrm0` or `swtpm:host=127.0.0.1,port=2321`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Tcti {
    /// A character device, normally the kernel's resource manager `/dev/tpmrm0`.
    Device(PathBuf),
    /// swtpm on TCP: commands on `port`, control on the port after it.
    Swtpm {
        /// The address that swtpm listens on.
        host: Ipv4Addr,
        /// The port for commands, 1 to 65534.
        port: u16,
    },
}

impl Tcti {
    pub(super) fn is_emulator(&self) -> bool {
        matches!(self, Tcti::Swtpm { .. })
    }

    /// The address in tss-esapi's type.
    pub(super) fn to_name_conf(&self) -> tss_esapi::Result<TctiNameConf> {
        match self {
            // Parsing the text form would make tss-esapi compile half a dozen regular expressions.
            Tcti::Device(path) => Ok(TctiNameConf::Device(DeviceConfig::from_str(&path.to_string_lossy())?)),
            Tcti::Swtpm { .. } => TctiNameConf::from_str(&self.to_string()),
        }
    }
}

impl Default for Tcti {
    /// `/dev/tpmrm0`: opening `/dev/tpm0` would lock out other programs.
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
            // The control channel is on the next port, so 65535 is not possible.
            (Some(host), Some(port)) if port != 0 && port != u16::MAX => Ok(Tcti::Swtpm { host, port }),
            _ => Err(invalid()),
        }
    }
}

/// A TPM address that cannot be parsed.
#[derive(Debug, thiserror::Error)]
#[error(
    "\"{0}\" is not a TPM address; write device:PATH with an absolute path, such as device:/dev/tpmrm0, or \
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
