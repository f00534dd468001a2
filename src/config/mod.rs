//! The daemon's configuration: one TOML file, every key optional.

mod checks;
mod dev;
mod fault;
mod posture;
mod sections;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use toml::Spanned;

use checks::{check_certificates, check_issuer, check_keys, check_limits, check_seal, check_trust_domain};
pub use dev::lay_out as lay_out_dev;
pub use fault::{Fault, Source, writable_by_others};
use posture::check_posture;
pub use posture::{Posture, PostureMode};
pub use sections::{Admin, Certificates, Keys, Limits, Log, LogLevel, LogTarget, Paths, Seal, Tpm};

/// Where the daemon looks when it is told nothing else.
pub const SYSTEM_FILE: &str = "/etc/hostbadge/hostbadged.toml";

/// What the daemon runs with.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// SPIFFE trust domain; none means `<host-id>.internal`.
    pub trust_domain: Option<String>,
    /// `iss` of every token; none means `https://<trust-domain>`.
    pub issuer: Option<String>,
    pub paths: Paths,
    pub tpm: Tpm,
    pub keys: Keys,
    pub certificates: Certificates,
    pub seal: Seal,
    pub limits: Limits,
    pub posture: Posture,
    pub log: Log,
    pub admin: Admin,
}

/// The file as written. `paths` has defaults of its own, so it is kept apart until they are known.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    trust_domain: Option<Spanned<String>>,
    issuer: Option<Spanned<String>>,
    #[serde(default)]
    paths: WrittenPaths,
    #[serde(default)]
    tpm: Tpm,
    #[serde(default)]
    keys: OptionalSpan<Keys>,
    #[serde(default)]
    certificates: OptionalSpan<Certificates>,
    #[serde(default)]
    seal: OptionalSpan<Seal>,
    #[serde(default)]
    limits: OptionalSpan<Limits>,
    #[serde(default)]
    posture: OptionalSpan<Posture>,
    #[serde(default)]
    log: Log,
    #[serde(default)]
    admin: Admin,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenPaths {
    agents: Option<Spanned<PathBuf>>,
    federation: Option<Spanned<PathBuf>>,
    state: Option<Spanned<PathBuf>>,
    audit: Option<Spanned<PathBuf>>,
    run: Option<Spanned<PathBuf>>,
}

/// A table with its place in the file, or its defaults with none.
#[derive(Default)]
struct OptionalSpan<T>(Option<Spanned<T>>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OptionalSpan<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(|table| OptionalSpan(Some(table)))
    }
}

impl<T: Default> OptionalSpan<T> {
    /// The table, or its defaults; what `check` finds is a fault of the table as a whole.
    fn checked(self, source: &Source, check: fn(&T) -> Vec<String>, faults: &mut Vec<Fault>) -> T {
        let Some(table) = self.0 else { return T::default() };
        faults.extend(check(table.get_ref()).into_iter().map(|what| source.fault(table.span(), what)));
        table.into_inner()
    }
}

impl Config {
    /// Reads a configuration whose unset paths are `paths`. All faults at once, not the first alone.
    pub fn read(file: &Path, paths: Paths) -> Result<Config, Vec<Fault>> {
        let source = Source::read(file).map_err(|fault| vec![fault])?;
        let written: Written = source.parse().map_err(|fault| vec![fault])?;
        let mut faults = Vec::new();

        if let Some(domain) = &written.trust_domain {
            if let Err(what) = check_trust_domain(domain.get_ref()) {
                faults.push(source.fault(domain.span(), what));
            }
        }
        if let Some(issuer) = &written.issuer {
            if let Err(what) = check_issuer(issuer.get_ref()) {
                faults.push(source.fault(issuer.span(), what));
            }
        }
        let mut place = |given: Option<Spanned<PathBuf>>, default: PathBuf| match given {
            Some(path) if !path.get_ref().is_absolute() => {
                faults.push(source.fault(path.span(), "must be an absolute path"));
                default
            }
            Some(path) => path.into_inner(),
            None => default,
        };
        let paths = Paths {
            agents: place(written.paths.agents, paths.agents),
            federation: place(written.paths.federation, paths.federation),
            state: place(written.paths.state, paths.state),
            audit: place(written.paths.audit, paths.audit),
            run: place(written.paths.run, paths.run),
        };
        let keys = written.keys.checked(&source, check_keys, &mut faults);
        let certificates = written.certificates.checked(&source, check_certificates, &mut faults);
        let seal = written.seal.checked(&source, check_seal, &mut faults);
        let limits = written.limits.checked(&source, check_limits, &mut faults);
        let posture = written.posture.checked(&source, check_posture, &mut faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Config {
            trust_domain: written.trust_domain.map(Spanned::into_inner),
            issuer: written.issuer.map(|i| i.into_inner()),
            paths,
            tpm: written.tpm,
            keys,
            certificates,
            seal,
            limits,
            posture,
            log: written.log,
            admin: written.admin,
        })
    }

    /// How much of a SPIFFE ID the trust domain takes; `<host-id>.internal` is known in length before the host is.
    pub fn trust_domain_length(&self) -> usize {
        self.trust_domain.as_ref().map_or(26 + ".internal".len(), String::len)
    }

    /// The system's configuration: defaults where there is no file and none was asked for by name.
    pub fn system(file: Option<&Path>) -> Result<Config, Vec<Fault>> {
        match file {
            Some(file) => Config::read(file, Paths::default()),
            None if !Path::new(SYSTEM_FILE).exists() => Ok(Config::default()),
            None => Config::read(Path::new(SYSTEM_FILE), Paths::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::checks::{DAY, YEAR};
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, text).unwrap();
        Config::read(&file, Paths::default()).map_err(|faults| {
            let lines: Vec<String> = faults.iter().map(|f| f.to_string()).collect();
            lines.join("\n").replace(dir.path().to_str().unwrap(), "")
        })
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        let config = read("").unwrap();
        assert_eq!(config.limits.rate, 50);
        assert_eq!(config.limits.burst, 200);
        assert_eq!(config.paths, Paths::default());
        assert_eq!(config.tpm.tcti, "device:/dev/tpmrm0");
    }

    #[test]
    fn every_fault_is_reported_with_its_line() {
        let faults =
            read("trust_domain = \"Example Org\"\nissuer = \"http://x\"\n[paths]\nstate = \"var\"\n")
                .unwrap_err();
        let lines: Vec<&str> = faults.lines().collect();
        assert!(lines[0].starts_with("/c.toml:1: trust_domain is"), "{faults}");
        assert!(lines[1].starts_with("/c.toml:2: issuer is"), "{faults}");
        assert!(lines[2].starts_with("/c.toml:4: must be an absolute path"), "{faults}");
    }

    #[test]
    fn units_and_unknown_keys_are_faults() {
        assert!(
            read("[tpm]\ndeadline = \"5 parsecs\"").unwrap_err().contains(":2: \"5 parsecs\" is no duration")
        );
        let hasty = read("[tpm]\nprobe_every = \"1ms\"").unwrap_err();
        assert!(hasty.contains(":2: \"1ms\" is no duration; give one like \"1500ms\""), "{hasty}");
        assert!(read("[limits]\nrate = -1").unwrap_err().contains(":2:"));
        assert!(read("[limits]\nrate = 0").unwrap_err().contains("limits.rate is 0"));
        assert!(read("[limits]\ntpm_burst = 0").unwrap_err().contains("limits.tpm_burst is 0"));
        assert!(read("[tmp]\n").unwrap_err().contains("unknown field `tmp`"));
    }

    #[test]
    fn what_is_compared_of_a_host_can_be_compared_and_in_time() {
        let posture = read("").unwrap().posture;
        assert_eq!((posture.mode, posture.every().as_secs()), (PostureMode::Off, 24));
        let posture =
            read("[posture]\nmode = \"enforce\"\npcrs = [0, 7]\nmax_age = \"10s\"").unwrap().posture;
        assert_eq!((posture.mode, posture.every().as_secs()), (PostureMode::Enforce, 4));
        for (text, wanted) in [
            ("\nmode = \"on\"", ":3: unknown variant"),
            ("\npcrs = [7, 0]", ":2: posture.pcrs are numbers"),
            ("\npcrs = []", ":2: posture.pcrs are numbers"),
            ("\npcrs = [0, 10]", ":2: posture.pcrs: PCR 10 changes"),
            ("\npcrs = [23]", ":2: posture.pcrs: PCR 23 can be reset"),
            ("\npcrs = [24]", ":2: posture.pcrs: there is no PCR 24"),
            ("\npcrs = [256]", ":3: invalid value"),
            ("\nmax_age = \"10ms\"", ":2: posture.max_age is at least"),
            ("\nevery = \"31s\"", ":2: posture.every is from"),
        ] {
            let fault = read(&format!("\n[posture]{text}")).unwrap_err();
            assert!(fault.contains(wanted), "{text}: {fault}");
        }
    }

    #[test]
    fn certificates_live_from_a_minute_to_a_day() {
        assert_eq!(read("").unwrap().certificates.ttl.as_secs(), 3600);
        assert_eq!(read("[certificates]\nttl = \"1d\"").unwrap().certificates.ttl, DAY);
        for ttl in ["59s", "25h"] {
            let fault = read(&format!("\n[certificates]\nttl = \"{ttl}\"")).unwrap_err();
            assert!(fault.contains(":2: certificates.ttl is from"), "{fault}");
        }
    }

    #[test]
    fn keys_rotate_every_hour_to_year_and_are_published_before() {
        let keys = read("").unwrap().keys;
        assert_eq!((keys.rotate_every, keys.publish_before), (DAY * 30, DAY));
        let keys = read("[keys]\nrotate_every = \"1y\"\npublish_before = \"90d\"").unwrap().keys;
        assert_eq!((keys.rotate_every, keys.publish_before), (YEAR, DAY * 90));
        for (text, wanted) in [
            ("\nrotate_every = \"59m\"\npublish_before = \"1m\"", ":2: keys.rotate_every is"),
            ("\nrotate_every = \"2y\"", ":3: \"2y\" is no duration"),
            ("\nrotate_every = \"0s\"", ":3: \"0s\" is no duration"),
            ("\nrotate_every = 30", ":3: invalid type"),
            ("\nrotate_every = \"20h\"", ":2: keys.publish_before is shorter"),
            ("\nrotate_each = \"20h\"", ":3: unknown field `rotate_each`"),
        ] {
            let fault = read(&format!("\n[keys]{text}")).unwrap_err();
            assert!(fault.contains(wanted), "{text}: {fault}");
        }
    }
}
